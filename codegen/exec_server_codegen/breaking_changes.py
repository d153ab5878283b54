"""What differs between two contracts: every change with its place and its rule.

Types are compared where messages lead to them, because whether a change breaks anything depends on
who sends the value. Definitions are compared once more by name, for the names of the generated
package are theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from exec_server_codegen.breaking_rules import RULES, Severity
from exec_server_codegen.reference import type_text
from exec_server_codegen.schema import ERRORS_FILE, METHODS_FILE, release_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exec_server_codegen.breaking_rules import Rule
    from exec_server_codegen.extension import Where
    from exec_server_codegen.schema import Definition, JsonObject, Method, Revision

Sender = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change from an old contract to a new one."""

    rule: Rule
    is_gone: bool
    """Whether the place is one of the old contract, because the new one has it no more."""

    file: str
    """Schema file, such as ``process.json``."""

    where: Where
    """Path inside the file."""

    subject: str
    """What changed: a method, an error, a definition or ``Definition.member``."""

    aspect: str
    """What of it changed; empty when it came or went as a whole."""

    was: str | None
    """What it was before; None when it was not there."""

    now: str | None
    """What it is now; None when it is there no more."""

    @property
    def is_breaking(self) -> bool:
        """Whether somebody has to follow the change."""
        return self.rule.severity is not Severity.COMPATIBLE

    @property
    def message(self) -> str:
        """The change in words."""
        if self.was is not None and self.now is not None:
            return f"{self.subject}: {self.aspect} was {self.was}, is {self.now}"
        thing = f"{self.subject}: {self.aspect}" if self.aspect else self.subject
        if self.now is None:
            return f"{thing} is gone" + (f" (was {self.was})" if self.was else "")
        return f"{thing} is new" + (f" ({self.now})" if self.now else "")


def compare(old: Revision, new: Revision) -> list[Change]:
    """Every change from one contract to another, each once."""
    return _Comparison(old, new).run()


_OTHER: Final[Mapping[Sender, Sender]] = {"client": "server", "server": "client"}
_SENDERS: Final[Mapping[str, Sender]] = {"clientToServer": "client", "serverToClient": "server"}
_PRESENCE: Final = ("ignored", "optional", "required")
"""From params that a receiver asks nothing of to those that must be there."""

_ANYTHING: Final = frozenset({"array", "boolean", "integer", "null", "object", "string"})


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place of the new contract where something is compared."""

    subject: str
    file: str
    where: Where
    sender: Sender

    def below(self, *where: str | int) -> _Spot:
        """A place inside this one, of the same subject."""
        return replace(self, where=(*self.where, *where))


@dataclass(frozen=True, slots=True)
class _Type:
    """A type as it stands in a member, list or map, with its reference followed."""

    name: str | None
    """Name of the definition; None for a type without one."""

    schema: JsonObject
    """The type, or its definition, without the null that may stand beside it."""

    is_nullable: bool
    words: str

    @property
    def kinds(self) -> frozenset[str]:
        """The JSON types of the values."""
        return _kinds(self.schema) | ({"null"} if self.is_nullable else set())

    @property
    def is_object(self) -> bool:
        """Whether it is an object, or a union of objects, with a name."""
        return self.name is not None and _kinds(self.schema) == {"object"}


class _Comparison:
    """A walk through two revisions."""

    def __init__(self, old: Revision, new: Revision) -> None:
        self._old = old
        self._new = new
        self._changes: dict[Change, None] = {}
        self._compared: set[tuple[str, str, Sender]] = set()
        self._successors: dict[str, set[str]] = {}
        """Definitions that stand where one of another name stood."""

    def run(self) -> list[Change]:
        """Walk through everything."""
        self._errors()
        self._methods()
        self._envelope()
        self._names()
        return list(self._changes)

    # Notes

    def _note(
        self,
        rule: str,
        place: tuple[str, Where],
        subject: str,
        aspect: str = "",
        *,
        was: str | None = None,
        now: str | None = None,
        is_gone: bool = False,
    ) -> None:
        change = Change(RULES[rule], is_gone, *place, subject, aspect, was, now)
        self._changes[change] = None

    def _at(self, rule: str, spot: _Spot, aspect: str, was: str | None, now: str | None) -> None:
        self._note(rule, (spot.file, spot.where), spot.subject, aspect, was=was, now=now)

    def _by_sender(
        self, rule: str, spot: _Spot, aspect: str, was: str | None, now: str | None
    ) -> None:
        """Note a change whose rule has a side for each sender."""
        self._at(f"{_side(spot.sender)}_{rule}", spot, aspect, was, now)

    # Errors

    def _errors(self) -> None:
        old = {error.name: error for error in self._old.errors}
        new = {error.name: error for error in self._new.errors}
        for index, error in enumerate(self._old.errors):
            if error.name not in new:
                place = (ERRORS_FILE, ("errors", index))
                was = f"code {error.code}"
                self._note("ERROR_REMOVED", place, error.name, was=was, is_gone=True)
        for index, error in enumerate(self._new.errors):
            place = (ERRORS_FILE, ("errors", index))
            if error.name not in old:
                self._note("ERROR_ADDED", place, error.name, now=f"code {error.code}")
            elif error.code != old[error.name].code:
                was, now = str(old[error.name].code), str(error.code)
                self._note("ERROR_CODE_CHANGED", place, error.name, "the code", was=was, now=now)
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
        """Situations, known by their wording, that are answered with another code."""
        before, after = _answers(self._old, old), _answers(self._new, new)
        for when, codes in after.items():
            known = before.get(when, codes)
            # A code that changed with its error is noted for the error, once.
            if known.keys().isdisjoint(codes) and known != codes:
                aspect = f"the answer to “{when.removesuffix('.')}”"
                was, now = _error_list(known), _error_list(codes)
                self._note("ERROR_CODE_CHANGED", place, subject, aspect, was=was, now=now)

    # Methods

    def _methods(self) -> None:
        old = {method.name: method for method in self._old.methods}
        new = {method.name for method in self._new.methods}
        for index, method in enumerate(self._old.methods):
            if method.name not in new:
                gone = (METHODS_FILE, ("methods", index))
                was = _role(method)
                self._note("METHOD_REMOVED", gone, method.name, was=was, is_gone=True)
        for index, method in enumerate(self._new.methods):
            spot = _Spot(method.name, METHODS_FILE, ("methods", index), _SENDERS[method.direction])
            if method.name in old:
                self._method(old[method.name], method, spot)
                continue
            is_asked = spot.sender == "server" and method.kind == "request"
            rule = "SERVER_REQUEST_ADDED" if is_asked else "METHOD_ADDED"
            self._at(rule, spot, "", None, _role(method))
        families = {family.name: family for family in self._old.families}
        for index, family in enumerate(self._new.families):
            if family.name in families:
                rows = (METHODS_FILE, ("families", index, "errors"))
                subject = f"any request of {family.name}"
                self._situations(subject, families[family.name].errors, family.errors, rows)

    def _method(self, old: Method, new: Method, spot: _Spot) -> None:
        for rule, aspect, was, now in (
            ("METHOD_KIND_CHANGED", "kind", old.kind, new.kind),
            ("DIRECTION_CHANGED", "direction", old.direction, new.direction),
            ("METHOD_FAMILY_CHANGED", "family", old.family, new.family),
        ):
            if was != now:
                self._at(rule, spot.below(aspect), f"the {aspect}", was, now)
        self._availability(old.row, new.row, spot)
        self._situations(new.name, old.errors, new.errors, (spot.file, (*spot.where, "errors")))
        if old.direction != new.direction:
            return
        self._presence(old.params_presence, new.params_presence, spot)
        if "ignored" not in (old.params_presence, new.params_presence):
            self._definition(old.params, new.params, spot.sender)
        if old.result and new.result:
            self._definition(old.result, new.result, _OTHER[spot.sender])

    def _presence(self, was: str, now: str, spot: _Spot) -> None:
        if was != now:
            is_relaxed = _PRESENCE.index(now) < _PRESENCE.index(was)
            is_compatible = is_relaxed and spot.sender == "client"
            rule = "PARAMS_PRESENCE_RELAXED" if is_compatible else "PARAMS_PRESENCE_CHANGED"
            self._at(rule, spot.below("paramsPresence"), "the presence of params", was, now)

    def _availability(self, old: JsonObject, new: JsonObject, spot: _Spot) -> None:
        """Since and until when something is there; revisions of two names have releases apart."""
        if self._old.name != self._new.name:
            return
        for keyword, is_start in (
            ("since", True),
            ("x-since", True),
            ("until", False),
            ("x-until", False),
        ):
            was, now = old.get(keyword), new.get(keyword)
            if was == now:
                continue
            if was is None or now is None:
                is_narrower = was is None
            else:
                is_narrower = (release_key(now) > release_key(was)) == is_start
            rule = "AVAILABILITY_NARROWED" if is_narrower else "AVAILABILITY_WIDENED"
            bound = "first" if is_start else "last"
            self._at(
                rule,
                spot.below(keyword) if now else spot,
                f"the {bound} release",
                was or "the revision's",
                now or "the revision's",
            )

    def _envelope(self) -> None:
        """The messages around params and results, for the sides that send them."""
        old, new = self._old.definitions, self._new.definitions
        for method in self._new.methods:
            sender = _SENDERS[method.direction]
            messages = [("Notification", sender)]
            if method.kind == "request":
                answers = ("Response", "ErrorResponse")
                messages = [("Request", sender), *((name, _OTHER[sender]) for name in answers)]
            for name, side in messages:
                if name in old and name in new:
                    self._definition(old[name], new[name], side)

    # Types

    def _definition(self, old: Definition, new: Definition, sender: Sender) -> None:
        """Two definitions that stand in the same place of a message."""
        if old.name != new.name:
            self._successors.setdefault(old.name, set()).add(new.name)
        if (old.name, new.name, sender) in self._compared:
            return
        self._compared.add((old.name, new.name, sender))
        spot = _Spot(new.name, new.area.file, ("$defs", new.name), sender)
        self._availability(old.schema, new.schema, spot)
        before, after = _form(old.schema), _form(new.schema)
        if before != after or before == "scalar":
            self._values(
                _Type(old.name, old.schema, False, _words(old.schema)),
                _Type(new.name, new.schema, False, _words(new.schema)),
                spot,
            )
        elif before == "union":
            self._branches(old, new, spot)
        else:
            self._members(old, new, spot)

    def _type(self, old: _Type, new: _Type, spot: _Spot) -> None:
        """Two types in the same place of a message."""
        is_one_name = old.name is not None and old.name == new.name
        if not is_one_name and not (old.is_object and new.is_object):
            if old.name is not None and new.name is not None:
                self._successors.setdefault(old.name, set()).add(new.name)
            self._values(old, new, spot)
            return
        # What differs inside is noted at the definition, once for all places.
        if old.is_nullable != new.is_nullable:
            rule = "TYPE_NARROWED" if old.is_nullable else "TYPE_WIDENED"
            self._by_sender(rule, spot, "the type", old.words, new.words)
        self._definition(
            self._old.definitions[str(old.name)],
            self._new.definitions[str(new.name)],
            spot.sender,
        )

    def _values(self, old: _Type, new: _Type, spot: _Spot) -> None:
        """The values of two types."""
        lost, gained = old.kinds - new.kinds, new.kinds - old.kinds
        if lost or gained:
            rule = "TYPE_NARROWED" if not gained else "TYPE_WIDENED"
            if lost and gained:
                rule = "TYPE_CHANGED"
            self._by_sender(rule, spot, "the type", old.words, new.words)
        if not _is_described(old.schema) or not _is_described(new.schema):
            return
        common = old.kinds & new.kinds
        if "string" in common:
            self._strings(old, new, spot)
        if "integer" in common:
            self._bounds(old.schema, new.schema, spot)
        if "array" in common:
            self._inner("items", old.schema, new.schema, spot)
        if "object" in common:
            if _form(old.schema) == _form(new.schema) == "map":
                self._inner("additionalProperties", old.schema, new.schema, spot)
            else:
                self._by_sender("TYPE_CHANGED", spot, "the type", old.words, new.words)

    def _inner(self, keyword: str, old: JsonObject, new: JsonObject, spot: _Spot) -> None:
        self._type(
            _read(self._old, old[keyword]), _read(self._new, new[keyword]), spot.below(keyword)
        )

    def _strings(self, old: _Type, new: _Type, spot: _Spot) -> None:
        before, after = _choices(old.schema), _choices(new.schema)
        if before is not None and after is not None:
            for value in before:
                if value not in after:
                    self._by_sender("ENUM_VALUE_REMOVED", spot, f"the value `{value}`", "", None)
            for value in after:
                if value not in before:
                    self._by_sender("ENUM_VALUE_ADDED", spot, f"the value `{value}`", None, "")
        elif before is not None or after is not None:
            rule = "TYPE_WIDENED" if before is not None else "TYPE_NARROWED"
            self._by_sender(rule, spot, "the type", _words(old.schema), _words(new.schema))
        elif old.schema.get("pattern") != new.schema.get("pattern"):
            is_free = "pattern" not in new.schema and spot.sender == "client"
            rule = "PATTERN_REMOVED" if is_free else "PATTERN_CHANGED"
            self._by_sender(rule, spot, "the pattern", _pattern(old), _pattern(new))
        if old.schema.get("format") != new.schema.get("format"):
            was, now = ("bytes" if "format" in type_.schema else "text" for type_ in (old, new))
            self._at("GENERATED_TYPE_CHANGED", spot, "the Python type", was, now)

    def _bounds(self, old: JsonObject, new: JsonObject, spot: _Spot) -> None:
        for bound, direction in (("minimum", 1), ("maximum", -1)):
            was, now = old.get(bound), new.get(bound)
            if was == now:
                continue
            if was is None or now is None:
                rule = "LIMIT_TIGHTENED" if was is None else "LIMIT_LOOSENED"
            else:
                rule = "LIMIT_TIGHTENED" if (now - was) * direction > 0 else "LIMIT_LOOSENED"
            texts = ["none" if limit is None else str(limit) for limit in (was, now)]
            self._by_sender(rule, spot, f"the {bound}", *texts)

    def _branches(self, old: Definition, new: Definition, spot: _Spot) -> None:
        """The objects of two unions, known by their tags."""
        before, after = old.schema["discriminator"], new.schema["discriminator"]
        if before["propertyName"] != after["propertyName"]:
            was, now = before["propertyName"], after["propertyName"]
            self._by_sender("TYPE_CHANGED", spot, "the member that tells the objects", was, now)
            return
        for tag, reference in before["mapping"].items():
            if tag not in after["mapping"]:
                self._by_sender("BRANCH_REMOVED", spot, f"the object of `{tag}`", "", None)
                continue
            self._definition(
                self._old.resolve(reference), self._new.resolve(after["mapping"][tag]), spot.sender
            )
        for tag in after["mapping"]:
            if tag not in before["mapping"]:
                self._by_sender("BRANCH_ADDED", spot, f"the object of `{tag}`", None, "")

    def _members(self, old: Definition, new: Definition, spot: _Spot) -> None:
        """The members of two objects."""
        was_closed, is_closed = (_is_closed(definition) for definition in (old, new))
        if was_closed != is_closed:
            rule = "TYPE_NARROWED" if is_closed else "TYPE_WIDENED"
            was, now = ("refused" if closed else "ignored" for closed in (was_closed, is_closed))
            self._by_sender(rule, spot, "a member that is not described", was, now)
        self._shapes(old.schema, new.schema, spot)
        for name in old.properties:
            if name not in new.properties:
                self._member_removed(old, name, spot.sender)
        for name, schema in new.properties.items():
            place = replace(spot.below("properties", name), subject=f"{new.name}.{name}")
            if name in old.properties:
                self._member(old, new, name, place)
            else:
                self._member_added(schema, place, is_required=name in new.required)

    def _shapes(self, old: JsonObject, new: JsonObject, spot: _Spot) -> None:
        """The known shapes of two free-form objects, which any receiver takes."""
        before, after = (
            [shape["$ref"].rsplit("/", 1)[-1] for shape in schema.get("x-shapes", [])]
            for schema in (old, new)
        )
        for name in before:
            if name in after:
                self._definition(
                    self._old.definitions[name], self._new.definitions[name], spot.sender
                )
            elif after and spot.sender == "client":
                self._at("PARAM_BRANCH_REMOVED", spot, f"the shape {name}", "", None)
        for name in after:
            if before and name not in before and spot.sender == "client":
                self._at("PARAM_BRANCH_ADDED", spot, f"the shape {name}", None, "")

    def _member_removed(self, old: Definition, name: str, sender: Sender) -> None:
        is_required = name in old.required
        rule = "PARAM_REMOVED" if sender == "client" else "RESULT_MEMBER_REMOVED"
        if sender == "server" and not is_required:
            rule = "RESULT_OPTIONAL_MEMBER_REMOVED"
        place = (old.area.file, ("$defs", old.name, "properties", name))
        was = f"{_presence(is_required)}, {_words(old.properties[name])}"
        self._note(rule, place, f"{old.name}.{name}", was=was, is_gone=True)

    def _member_added(self, schema: JsonObject, spot: _Spot, *, is_required: bool) -> None:
        if spot.sender == "client":
            rule = "PARAM_REQUIRED_ADDED" if is_required else "PARAM_ADDED"
        else:
            rule = "RESULT_REQUIRED_MEMBER_ADDED" if is_required else "RESULT_MEMBER_ADDED"
        self._at(rule, spot, "", None, f"{_presence(is_required)}, {_words(schema)}")

    def _member(self, old: Definition, new: Definition, name: str, spot: _Spot) -> None:
        before, after = old.properties[name], new.properties[name]
        was_required, is_required = name in old.required, name in new.required
        if was_required != is_required:
            prefix = "PARAM" if spot.sender == "client" else "RESULT_MEMBER"
            now = _presence(is_required)
            rule = f"{prefix}_NOW_{now.upper()}"
            self._at(rule, spot, "the presence", _presence(was_required), now)
        elif not is_required and _default(before) != _default(after):
            was, now = _default(before), _default(after)
            self._at("DEFAULT_CHANGED", spot, "the default", was, now)
        units = [schema["x-unit"] for schema in (before, after) if "x-unit" in schema]
        if len(set(units)) > 1:
            self._at("UNIT_CHANGED", spot, "the unit", *units)
        self._availability(before, after, spot)
        self._type(_read(self._old, before), _read(self._new, after), spot)

    # Names

    def _names(self) -> None:
        """The classes and aliases of the generated package."""
        new = {name: area for area in self._new.model_areas for name in area.definitions}
        for area in self._old.model_areas:
            for name in area.definitions:
                if name not in new:
                    place = (area.file, ("$defs", name))
                    others = ", ".join(sorted(self._successors.get(name, ()))) or None
                    aspect, was = ("the name", name) if others else ("", "")
                    self._note(
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
                    self._note(
                        "GENERATED_MODULE_CHANGED", place, name, "the module", was=was, now=now
                    )


def _side(sender: Sender) -> str:
    return "PARAM" if sender == "client" else "RESULT"


def _role(method: Method) -> str:
    return f"{method.kind} of the {_SENDERS[method.direction]}"


def _answers(revision: Revision, rows: Iterable[JsonObject]) -> dict[str, dict[int, str]]:
    """The errors that answer each situation, names by code."""
    codes = {error.name: error.code for error in revision.errors}
    answers: dict[str, dict[int, str]] = {}
    for row in rows:
        answers.setdefault(row["when"], {})[codes[row["error"]]] = row["error"]
    return answers


def _error_list(errors: Mapping[int, str]) -> str:
    return " or ".join(f"{name} ({code})" for code, name in errors.items())


def _read(revision: Revision, schema: JsonObject) -> _Type:
    """The type of a member, list item or map value."""
    inner = schema["anyOf"][0] if "anyOf" in schema else schema
    name = inner["$ref"].rsplit("/", 1)[-1] if "$ref" in inner else None
    resolved = revision.resolve(inner["$ref"]).schema if name else inner
    return _Type(name, resolved, "anyOf" in schema, _words(schema))


def _kinds(schema: JsonObject) -> frozenset[str]:
    """The JSON types of a schema's values."""
    if "oneOf" in schema:
        return frozenset({"object"})
    if "const" in schema:
        return frozenset({"string"})
    kinds = schema.get("type", _ANYTHING)
    return frozenset({kinds} if isinstance(kinds, str) else kinds)


def _is_described(schema: JsonObject) -> bool:
    """Whether a schema says anything about its values."""
    return not schema.keys().isdisjoint({"type", "const", "oneOf"})


def _form(schema: JsonObject) -> str:
    """``union``, ``members``, ``map`` or ``scalar``."""
    if "oneOf" in schema:
        return "union"
    if schema.get("type") != "object":
        return "scalar"
    return "map" if isinstance(schema["additionalProperties"], dict) else "members"


def _is_closed(definition: Definition) -> bool:
    """Whether the models refuse any member; other unknown members are ignored by all."""
    return definition.schema.get("maxProperties") == 0


def _choices(schema: JsonObject) -> list[str] | None:
    choices: list[str] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return choices


def _words(schema: JsonObject) -> str:
    """A type in words."""
    if "anyOf" in schema:
        return f"{_words(schema['anyOf'][0])} or null"
    choices = _choices(schema)
    if choices is not None:
        return "one of " + ", ".join(f"`{value}`" for value in choices)
    if _form(schema) in ("union", "members"):
        return _form(schema).replace("members", "object")
    kind: Any = schema.get("type")
    return " or ".join(kind) if isinstance(kind, list) else type_text(schema, str)


def _pattern(type_: _Type) -> str:
    pattern = f"`{type_.schema['pattern']}`" if "pattern" in type_.schema else "none"
    return f"{pattern} of {type_.name}" if type_.name else pattern


def _presence(is_required: bool) -> str:
    return "required" if is_required else "optional"


def _default(schema: JsonObject) -> str:
    return json.dumps(schema["default"]) if "default" in schema else "none"
