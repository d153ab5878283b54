"""A revision that extends another: its files hold what differs, and are laid over the other's.

How two values become one:

* objects are united, member by member;
* of lists, those of named rows (methods, families, errors) are united by name, and the elements of
  any other follow the base's;
* anything else replaces what the base has.

So an extension adds and rewords, but takes nothing away. The releases that have a method or member
are facts of the base alone, and not taken over.
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
        """The files as if the revision had been written out."""
        base = {file: _without_releases(one) for file, one in self.base_documents.items()}
        return dict(sorted(united(base, dict(self.own_documents)).items()))

    def own_place(self, file: str, where: Where) -> Where | None:
        """Where a place of the united file stands in the revision's own; None if in the base's."""
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
        """What the own files say just as the base does: file and place in the own file."""
        for file, own in self.own_documents.items():
            if file in self.base_documents:
                for where in _repetitions(self.base_documents[file], own):
                    yield file, where


def place(revision: str, extension: Extension | None, file: str, where: Where) -> tuple[str, Where]:
    """The revision in whose file a place of a revision stands, and where it is there."""
    if extension is None:
        return revision, where
    own = extension.own_place(file, where)
    return (extension.base, where) if own is None else (revision, own)


def united(base: Any, own: Any) -> Any:
    """What an own value makes of the base's."""
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
    """What tells a row of a table from the others; None for the elements of other lists."""
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _own_index(base: Any, own: list[Any], index: int) -> int | None:
    """Which element of the own list is, or changes, one of the united list; None if none does."""
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
    """A file without what it says of releases."""
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
