"""A revision that extends another: its files hold the differences, merged into the other's.

Two values are merged as follows:

* objects are merged member by member;
* lists of named rows (methods, families, errors) are merged by name; the elements of any other list
  are appended to the base's;
* any other value replaces the base's.

An extension therefore adds and rewords, but removes nothing. Releases of methods and members belong
to the base alone and are not inherited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exec_server_codegen.json_documents import JsonObject, Where

_RELEASES_OF_A_METHOD: Final = frozenset(("since", "until", "changes"))
_RELEASES_OF_A_TYPE: Final = frozenset(("x-since", "x-until"))


@dataclass(frozen=True)
class Extension:
    """The files of a revision, and those of the revision that it extends, each by file name."""

    base: str
    """Name of the extended revision."""

    base_documents: Mapping[str, JsonObject]
    own_documents: Mapping[str, JsonObject]

    @cached_property
    def documents(self) -> dict[str, JsonObject]:
        """Merged files of the revision."""
        base = {file: _without_releases(one) for file, one in self.base_documents.items()}
        return dict(sorted(united(base, dict(self.own_documents)).items()))

    def own_place(self, file: str, where: Where) -> Where | None:
        """Map a place of the merged file to the own file; None if it is the base's."""
        if file not in self.own_documents:
            return None
        base, own = self.base_documents.get(file), self.own_documents[file]
        found: list[str | int] = []
        for part in where:
            if isinstance(own, dict) and part in own:
                base = base.get(part) if isinstance(base, dict) else None
                own = own[part]
                found.append(part)
            elif isinstance(own, list) and isinstance(part, int):
                index = _own_index(base, own, part)
                if index is None:
                    return None
                base = base[part] if isinstance(base, list) and part < len(base) else None
                own = own[index]
                found.append(index)
            else:
                return None if base is not None else tuple(found)
        return tuple(found)

    def repetitions(self) -> Iterator[tuple[str, Where]]:
        """Yield what the own files repeat from the base: file and place in the own file."""
        for file, own in self.own_documents.items():
            if file in self.base_documents:
                for where in _repetitions(self.base_documents[file], own):
                    yield file, where


def place(revision: str, extension: Extension | None, file: str, where: Where) -> tuple[str, Where]:
    """Return the revision whose file holds a place of a merged file, and the place in that file."""
    if extension is None:
        return revision, where
    own = extension.own_place(file, where)
    return (extension.base, where) if own is None else (revision, own)


def united(base: Any, own: Any) -> Any:
    """Return an own value merged into the base's."""
    if isinstance(base, dict) and isinstance(own, dict):
        changed = {key: united(base[key], own[key]) if key in base else own[key] for key in own}
        return {**base, **changed}
    if isinstance(base, list) and isinstance(own, list):
        rows = {_row_name(row): row for row in own if _row_name(row) is not None}
        known = [_row_name(row) for row in base]
        return [
            *(united(row, rows[_row_name(row)]) if _row_name(row) in rows else row for row in base),
            *(row for row in own if _row_name(row) is None or _row_name(row) not in known),
        ]
    return own


def _row_name(row: Any) -> str | None:
    """Return the name that identifies a row of a table; None for elements of other lists."""
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _own_index(base: Any, own: list[Any], index: int) -> int | None:
    """Return the index in the own list of an element of the merged list; None if it has none."""
    if not isinstance(base, list):
        return index
    if index < len(base):
        name = _row_name(base[index])
        names = [_row_name(row) for row in own]
        return names.index(name) if name is not None and name in names else None
    known = [_row_name(row) for row in base]
    added = [
        place
        for place, row in enumerate(own)
        if _row_name(row) is None or _row_name(row) not in known
    ]
    return added[index - len(base)]


def _repetitions(base: Any, own: Any, *where: str | int) -> Iterator[Where]:
    if isinstance(base, dict) and isinstance(own, dict):
        is_row = _row_name(own) is not None
        for key in (key for key in own if key in base):
            if base[key] == own[key]:
                if not (is_row and key == "name"):
                    yield (*where, key)
            else:
                yield from _repetitions(base[key], own[key], *where, key)
    elif isinstance(base, list) and isinstance(own, list):
        rows = {_row_name(row): row for row in base}
        for index, row in enumerate(own):
            if row in base:
                yield (*where, index)
            elif _row_name(row) is not None and _row_name(row) in rows:
                yield from _repetitions(rows[_row_name(row)], row, *where, index)


def _without_releases(document: JsonObject) -> JsonObject:
    """Return a file without the members about releases."""
    stripped: JsonObject = _without_keys(document, _RELEASES_OF_A_TYPE)
    if "releases" in stripped:
        stripped["releases"] = []
    if isinstance(stripped.get("methods"), list):
        stripped["methods"] = [
            {key: value for key, value in row.items() if key not in _RELEASES_OF_A_METHOD}
            if isinstance(row, dict)
            else row
            for row in stripped["methods"]
        ]
    return stripped


def _without_keys(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_keys(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without_keys(item, keys) for item in value]
    return value
