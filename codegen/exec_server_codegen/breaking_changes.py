"""Differences between two contracts: every change with its place and its rule.

Types are compared where messages lead to them, because whether a change breaks anything depends on
who sends the value. Definitions are compared once more by name, for the names of the generated
package are theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server_codegen.breaking_notes import Change, ChangeLog, Spot
from exec_server_codegen.breaking_types import TypeComparison
from exec_server_codegen.schema_files import ERRORS_FILE, METHODS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exec_server_codegen.breaking_notes import Sender
    from exec_server_codegen.json_documents import JsonObject, Where
    from exec_server_codegen.schema import Method, Revision


def compare(old: Revision, new: Revision) -> list[Change]:
    """Return every change from one contract to another, each once."""
    return _Comparison(old, new).run()


_OTHER: Final[Mapping[Sender, Sender]] = {"client": "server", "server": "client"}
_SENDERS: Final[Mapping[str, Sender]] = {"clientToServer": "client", "serverToClient": "server"}
_PRESENCE: Final = ("ignored", "optional", "required")
"""Presence of params, from the least strict to the strictest."""


class _Comparison:
    """A walk through two revisions."""

    def __init__(self, old: Revision, new: Revision) -> None:
        self._old = old
        self._new = new
        self._log = ChangeLog()
        self._types = TypeComparison(old, new, self._log)

    def run(self) -> list[Change]:
        """Compare everything; return the changes."""
        self._errors()
        self._methods()
        self._envelope()
        self._names()
        return self._log.changes

    def _errors(self) -> None:
        old = {error.name: error for error in self._old.errors}
        new = {error.name: error for error in self._new.errors}
        for index, error in enumerate(self._old.errors):
            if error.name not in new:
                place = (ERRORS_FILE, ("errors", index))
                was = f"code {error.code}"
                self._log.note("ERROR_REMOVED", place, error.name, was=was, is_gone=True)
        for index, error in enumerate(self._new.errors):
            place = (ERRORS_FILE, ("errors", index))
            if error.name not in old:
                self._log.note("ERROR_ADDED", place, error.name, now=f"code {error.code}")
            elif error.code != old[error.name].code:
                was, now = str(old[error.name].code), str(error.code)
                self._log.note(
                    "ERROR_CODE_CHANGED", place, error.name, "the code", was=was, now=now
                )
        before, after = (
            [{"error": error.name, **row} for error in revision.errors for row in error.conditions]
            for revision in (self._old, self._new)
        )
        self._situations("any request", before, after, (ERRORS_FILE, ("errors",)))

    def _situations(
        self,
        subject: str,
        old: Iterable[JsonObject],
        new: Iterable[JsonObject],
        place: tuple[str, Where],
    ) -> None:
        """Compare the error codes of situations, which are identified by their text."""
        before, after = _answers(self._old, old), _answers(self._new, new)
        for when, codes in after.items():
            known = before.get(when, codes)
            # A code that changed with its error is noted for the error, once.
            if known.keys().isdisjoint(codes) and known != codes:
                aspect = f"the answer to “{when.removesuffix('.')}”"
                was, now = _error_list(known), _error_list(codes)
                self._log.note("ERROR_CODE_CHANGED", place, subject, aspect, was=was, now=now)

    def _methods(self) -> None:
        old = {method.name: method for method in self._old.methods}
        new = {method.name for method in self._new.methods}
        for index, method in enumerate(self._old.methods):
            if method.name not in new:
                gone = (METHODS_FILE, ("methods", index))
                was = _role(method)
                self._log.note("METHOD_REMOVED", gone, method.name, was=was, is_gone=True)
        for index, method in enumerate(self._new.methods):
            spot = Spot(method.name, METHODS_FILE, ("methods", index), _SENDERS[method.direction])
            if method.name in old:
                self._method(old[method.name], method, spot)
                continue
            is_asked = spot.sender == "server" and method.kind == "request"
            rule = "SERVER_REQUEST_ADDED" if is_asked else "METHOD_ADDED"
            self._log.at(rule, spot, "", None, _role(method))
        families = {family.name: family for family in self._old.families}
        for index, family in enumerate(self._new.families):
            if family.name in families:
                rows = (METHODS_FILE, ("families", index, "errors"))
                subject = f"any request of {family.name}"
                self._situations(subject, families[family.name].errors, family.errors, rows)

    def _method(self, old: Method, new: Method, spot: Spot) -> None:
        for rule, aspect, was, now in (
            ("METHOD_KIND_CHANGED", "kind", old.kind, new.kind),
            ("DIRECTION_CHANGED", "direction", old.direction, new.direction),
            ("METHOD_FAMILY_CHANGED", "family", old.family, new.family),
        ):
            if was != now:
                self._log.at(rule, spot.below(aspect), f"the {aspect}", was, now)
        self._types.availability(old.row, new.row, spot)
        self._situations(new.name, old.errors, new.errors, (spot.file, (*spot.where, "errors")))
        if old.direction != new.direction:
            return
        self._presence(old.params_presence, new.params_presence, spot)
        if "ignored" not in (old.params_presence, new.params_presence):
            self._types.compare(old.params, new.params, spot.sender)
        if old.result and new.result:
            self._types.compare(old.result, new.result, _OTHER[spot.sender])

    def _presence(self, was: str, now: str, spot: Spot) -> None:
        if was != now:
            is_relaxed = _PRESENCE.index(now) < _PRESENCE.index(was)
            is_compatible = is_relaxed and spot.sender == "client"
            rule = "PARAMS_PRESENCE_RELAXED" if is_compatible else "PARAMS_PRESENCE_CHANGED"
            self._log.at(rule, spot.below("paramsPresence"), "the presence of params", was, now)

    def _envelope(self) -> None:
        """Compare the envelopes, for each side that sends them."""
        old, new = self._old.definitions, self._new.definitions
        for method in self._new.methods:
            sender = _SENDERS[method.direction]
            messages = [("Notification", sender)]
            if method.kind == "request":
                answers = ("Response", "ErrorResponse")
                messages = [("Request", sender), *((name, _OTHER[sender]) for name in answers)]
            for name, side in messages:
                if name in old and name in new:
                    self._types.compare(old[name], new[name], side)

    def _names(self) -> None:
        """Compare the names of the generated package."""
        new = {name: area for area in self._new.model_areas for name in area.definitions}
        for area in self._old.model_areas:
            for name in area.definitions:
                if name not in new:
                    place = (area.file, ("$defs", name))
                    others = ", ".join(sorted(self._types.successors.get(name, ()))) or None
                    aspect, was = ("the name", name) if others else ("", "")
                    self._log.note(
                        "GENERATED_NAME_CHANGED",
                        place,
                        name,
                        aspect,
                        was=was,
                        now=others,
                        is_gone=True,
                    )
                elif new[name].module != area.module:
                    place = (new[name].file, ("$defs", name))
                    was, now = area.module, new[name].module
                    self._log.note(
                        "GENERATED_MODULE_CHANGED", place, name, "the module", was=was, now=now
                    )


def _role(method: Method) -> str:
    return f"{method.kind} of the {_SENDERS[method.direction]}"


def _answers(revision: Revision, rows: Iterable[JsonObject]) -> dict[str, dict[int, str]]:
    """Return the errors of each situation, as names by code."""
    codes = {error.name: error.code for error in revision.errors}
    answers: dict[str, dict[int, str]] = {}
    for row in rows:
        answers.setdefault(row["when"], {})[codes[row["error"]]] = row["error"]
    return answers


def _error_list(errors: Mapping[int, str]) -> str:
    return " or ".join(f"{name} ({code})" for code, name in errors.items())
