"""The compatibility page: methods by release, capability flags, changes of the contract."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from exec_server_codegen.breaking_changes import compare
from exec_server_codegen.breaking_rules import RULES, Severity
from exec_server_codegen.json_documents import references
from exec_server_codegen.package import environment, header
from exec_server_codegen.reference import anchor, cell, family_page
from exec_server_codegen.schema import Source, release_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exec_server_codegen.breaking_notes import Change
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Definition, Method, Revision

CAPABILITIES: Final = "EnvironmentCapabilities"
"""Definition whose members are the capability flags of a server."""

NEW: Final = "+"
CHANGED: Final = "Δ"
THERE: Final = "·"
ABSENT: Final = ""


@dataclass(frozen=True, slots=True)
class Release:
    """A codex release that changed something, with its changes."""

    name: str
    revision: Revision
    previous: Release | None
    """Previous release, possibly of the previous revision."""

    @property
    def heading(self) -> str:
        """Release, without the last number if that is 0."""
        return self.name.removesuffix(".0")

    @property
    def methods(self) -> dict[str, Method]:
        """Methods of the release by name."""
        return {
            method.name: method
            for method in self.revision.methods
            if self._has(method.since, method.until)
        }

    @property
    def opens_revision(self) -> bool:
        """True for the first release of its revision."""
        return self.previous is None or self.previous.revision is not self.revision

    def _has(self, since: str | None, until: str | None) -> bool:
        key = release_key(self.name)
        return (since is None or release_key(since) <= key) and (
            until is None or key <= release_key(until)
        )

    def mark(self, name: str) -> str:
        """Return the mark of a method in this release."""
        method = self.methods.get(name)
        if method is None:
            return ABSENT
        if self.previous is None or name not in self.previous.methods:
            return NEW
        if any(change["release"] == self.name for change in method.changes):
            return CHANGED
        is_changed = any(self._turn(schema) for schema in _parts(self.revision, method))
        return CHANGED if is_changed else THERE

    def _turn(self, schema: JsonObject) -> str | None:
        """Return True if the release is the first with a member or shape, or the first without."""
        since, until = schema.get("x-since"), schema.get("x-until")
        if since == self.name:
            return "new"
        is_last = self.previous is not None and until == self.previous.name
        return "gone" if is_last and not self.opens_revision else None

    def notes(self) -> Iterator[str]:
        """Return the changes of the release in Markdown, one line each."""
        before = self.previous.methods if self.previous else self.methods
        for method in self.methods.values():
            if method.name not in before:
                yield f"{link(self.revision, method)} is new."
        for name in before:
            if name not in self.methods:
                yield f"{name} is gone."
        for definition in self.revision.definitions.values():
            yield from self._type_notes(definition)
        for method in self.methods.values():
            for change in method.changes:
                if change["release"] == self.name:
                    yield f"{link(self.revision, method)}: {change['description']}"

    def _type_notes(self, definition: Definition) -> Iterator[str]:
        """Return added and removed shapes and members; other types change with their users."""
        if self.opens_revision:
            return
        turn = self._turn(definition.schema)
        if turn and definition.name in _shapes(self.revision):
            yield f"The shape `{definition.name}` is {turn}."
        elif turn != "new":
            for name, schema in definition.properties.items():
                if self._turn(schema):
                    yield f"`{definition.name}.{name}` is {self._turn(schema)}."


def compatibility_page(revisions: Sequence[Revision], released: Sequence[str]) -> str:
    """The page.

    ``revisions`` are all there are, oldest first; ``released`` names those that take no breaking
    change.
    """
    releases = _releases(revisions)
    templates = environment()
    templates.filters.update(cell=cell)
    templates.globals.update(anchor=anchor)
    digests = "".join(revision.sources["*"].digest for revision in revisions)
    source = Source("schema/*/*.json", hashlib.sha256(digests.encode()).hexdigest())
    text = templates.get_template("compatibility.md.jinja2").render(
        revisions=revisions,
        released=released,
        releases=releases,
        rows=list(_rows(releases)),
        flags=list(_flags(revisions)),
        comparisons=[
            (old, new, _by_severity(compare(old, new))) for old, new in pairwise(revisions)
        ],
        severities=[
            (severity, [rule for rule in RULES.values() if rule.severity is severity])
            for severity in Severity
        ],
        marks={"new": NEW, "changed": CHANGED, "there": THERE},
    )
    return header(source, comment="<!--") + text


def link(revision: Revision, method: Method) -> str:
    """Return a link to the method in the reference pages."""
    family = next(family for family in revision.families if family.name == method.family)
    target = f"reference/{revision.name}/{family_page(family)}#{anchor(method.name)}"
    return f"[{method.name}]({target})"


def _releases(revisions: Sequence[Revision]) -> list[Release]:
    """Return the releases that changed something, oldest first."""
    releases: list[Release] = []
    for revision in revisions:
        for name in revision.releases:
            releases.append(Release(name, revision, releases[-1] if releases else None))
    return releases


def _rows(releases: Sequence[Release]) -> Iterator[tuple[str, list[str]]]:
    """Return a row for each method of any release, with its marks."""
    rows: dict[str, str] = {}
    for release in releases:
        for name, method in release.methods.items():
            rows[name] = link(release.revision, method)
    for name, text in rows.items():
        yield text, [release.mark(name) for release in releases]


def _flags(revisions: Sequence[Revision]) -> Iterator[JsonObject]:
    """The capability flags of every revision that has any, each with the first that has it."""
    listed: set[str] = set()
    for revision in revisions:
        definition = revision.definitions.get(CAPABILITIES)
        if definition is None:
            continue
        first = definition.schema.get("x-since", revision.releases[0] if revision.releases else "")
        for name, schema in definition.properties.items():
            if name in listed:
                continue
            listed.add(name)
            yield {
                "name": name,
                "revision": revision.name,
                "since": schema.get("x-since", first),
                "meaning": schema["description"],
            }


def _by_severity(changes: Sequence[Change]) -> list[tuple[Severity, list[Change]]]:
    groups = [
        (severity, [change for change in changes if change.rule.severity is severity])
        for severity in Severity
    ]
    return [(severity, group) for severity, group in groups if group]


def _parts(revision: Revision, method: Method) -> Iterator[JsonObject]:
    """Return the definitions that a method's messages use, and their members."""
    todo = [method.params, *([method.result] if method.result else [])]
    seen: set[str] = set()
    while todo:
        definition = todo.pop()
        if definition.name not in seen:
            seen.add(definition.name)
            yield from (definition.schema, *definition.properties.values())
            todo += [revision.resolve(reference) for reference in references(definition.schema)]


def _shapes(revision: Revision) -> set[str]:
    """Return the definitions that are known shapes of a free-form object."""
    return {
        shape["$ref"].rsplit("/", 1)[-1]
        for definition in revision.definitions.values()
        for shape in definition.schema.get("x-shapes", [])
    }
