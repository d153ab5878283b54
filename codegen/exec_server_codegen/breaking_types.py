"""Comparison of the types that messages lead to, each for the side that sends its values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from exec_server_codegen.breaking_notes import ChangeLog, Spot
from exec_server_codegen.schema import release_key
from exec_server_codegen.type_shapes import (
    Type,
    choices_of,
    form_of,
    has_no_members,
    is_described,
    pattern_text,
    read_type,
    type_words,
)

if TYPE_CHECKING:
    from exec_server_codegen.breaking_notes import Sender
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Definition, Revision


class TypeComparison:
    """Comparison of the definitions of two revisions."""

    def __init__(self, old: Revision, new: Revision, log: ChangeLog) -> None:
        self._old = old
        self._new = new
        self._log = log
        self._compared: set[tuple[str, str, Sender]] = set()
        self.successors: dict[str, set[str]] = {}
        """New names by old name, where a definition with another name took its place."""

    def availability(self, old: JsonObject, new: JsonObject, spot: Spot) -> None:
        """Compare release ranges; revisions with different names have unrelated releases."""
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
            self._log.at(
                rule,
                spot.below(keyword) if now else spot,
                f"the {bound} release",
                was or "the revision's",
                now or "the revision's",
            )

    def compare(self, old: Definition, new: Definition, sender: Sender) -> None:
        """Compare two definitions at the same place of a message."""
        if old.name != new.name:
            self.successors.setdefault(old.name, set()).add(new.name)
        if (old.name, new.name, sender) in self._compared:
            return
        self._compared.add((old.name, new.name, sender))
        spot = Spot(new.name, new.area.file, ("$defs", new.name), sender)
        self.availability(old.schema, new.schema, spot)
        before, after = form_of(old.schema), form_of(new.schema)
        if before != after or before == "scalar":
            self._values(
                Type(old.name, old.schema, False, type_words(old.schema)),
                Type(new.name, new.schema, False, type_words(new.schema)),
                spot,
            )
        elif before == "union":
            self._branches(old, new, spot)
        else:
            self._members(old, new, spot)

    def _type(self, old: Type, new: Type, spot: Spot) -> None:
        """Compare two types at the same place of a message."""
        is_one_name = old.name is not None and old.name == new.name
        if not is_one_name and not (old.is_object and new.is_object):
            if old.name is not None and new.name is not None:
                self.successors.setdefault(old.name, set()).add(new.name)
            self._values(old, new, spot)
            return
        # What differs inside is noted at the definition, once for all places.
        if old.is_nullable != new.is_nullable:
            rule = "TYPE_NARROWED" if old.is_nullable else "TYPE_WIDENED"
            self._log.by_sender(rule, spot, "the type", old.words, new.words)
        self.compare(
            self._old.definitions[str(old.name)],
            self._new.definitions[str(new.name)],
            spot.sender,
        )

    def _values(self, old: Type, new: Type, spot: Spot) -> None:
        """Compare the values of two types."""
        lost, gained = old.kinds - new.kinds, new.kinds - old.kinds
        if lost or gained:
            rule = "TYPE_NARROWED" if not gained else "TYPE_WIDENED"
            if lost and gained:
                rule = "TYPE_CHANGED"
            self._log.by_sender(rule, spot, "the type", old.words, new.words)
        if not is_described(old.schema) or not is_described(new.schema):
            return
        common = old.kinds & new.kinds
        if "string" in common:
            self._strings(old, new, spot)
        if "integer" in common:
            self._bounds(old.schema, new.schema, spot)
        if "array" in common:
            self._inner("items", old.schema, new.schema, spot)
        if "object" in common:
            if form_of(old.schema) == form_of(new.schema) == "map":
                self._inner("additionalProperties", old.schema, new.schema, spot)
            else:
                self._log.by_sender("TYPE_CHANGED", spot, "the type", old.words, new.words)

    def _inner(self, keyword: str, old: JsonObject, new: JsonObject, spot: Spot) -> None:
        self._type(
            read_type(self._old, old[keyword]),
            read_type(self._new, new[keyword]),
            spot.below(keyword),
        )

    def _strings(self, old: Type, new: Type, spot: Spot) -> None:
        before, after = choices_of(old.schema), choices_of(new.schema)
        if before is not None and after is not None:
            for value in before:
                if value not in after:
                    self._log.by_sender(
                        "ENUM_VALUE_REMOVED", spot, f"the value `{value}`", "", None
                    )
            for value in after:
                if value not in before:
                    self._log.by_sender("ENUM_VALUE_ADDED", spot, f"the value `{value}`", None, "")
        elif before is not None or after is not None:
            rule = "TYPE_WIDENED" if before is not None else "TYPE_NARROWED"
            self._log.by_sender(
                rule, spot, "the type", type_words(old.schema), type_words(new.schema)
            )
        elif old.schema.get("pattern") != new.schema.get("pattern"):
            is_free = "pattern" not in new.schema and spot.sender == "client"
            rule = "PATTERN_REMOVED" if is_free else "PATTERN_CHANGED"
            self._log.by_sender(rule, spot, "the pattern", pattern_text(old), pattern_text(new))
        if old.schema.get("format") != new.schema.get("format"):
            was, now = ("bytes" if "format" in type_.schema else "text" for type_ in (old, new))
            self._log.at("GENERATED_TYPE_CHANGED", spot, "the Python type", was, now)

    def _bounds(self, old: JsonObject, new: JsonObject, spot: Spot) -> None:
        for bound, direction in (("minimum", 1), ("maximum", -1)):
            was, now = old.get(bound), new.get(bound)
            if was == now:
                continue
            if was is None or now is None:
                rule = "LIMIT_TIGHTENED" if was is None else "LIMIT_LOOSENED"
            else:
                rule = "LIMIT_TIGHTENED" if (now - was) * direction > 0 else "LIMIT_LOOSENED"
            texts = ["none" if limit is None else str(limit) for limit in (was, now)]
            self._log.by_sender(rule, spot, f"the {bound}", *texts)

    def _branches(self, old: Definition, new: Definition, spot: Spot) -> None:
        """Compare the objects of two unions by tag."""
        before, after = old.schema["discriminator"], new.schema["discriminator"]
        if before["propertyName"] != after["propertyName"]:
            was, now = before["propertyName"], after["propertyName"]
            self._log.by_sender("TYPE_CHANGED", spot, "the member that tells the objects", was, now)
            return
        for tag, reference in before["mapping"].items():
            if tag not in after["mapping"]:
                self._log.by_sender("BRANCH_REMOVED", spot, f"the object of `{tag}`", "", None)
                continue
            self.compare(
                self._old.resolve(reference), self._new.resolve(after["mapping"][tag]), spot.sender
            )
        for tag in after["mapping"]:
            if tag not in before["mapping"]:
                self._log.by_sender("BRANCH_ADDED", spot, f"the object of `{tag}`", None, "")

    def _members(self, old: Definition, new: Definition, spot: Spot) -> None:
        """Compare the members of two objects."""
        was_closed, is_closed = (has_no_members(definition) for definition in (old, new))
        if was_closed != is_closed:
            rule = "TYPE_NARROWED" if is_closed else "TYPE_WIDENED"
            was, now = ("refused" if closed else "ignored" for closed in (was_closed, is_closed))
            self._log.by_sender(rule, spot, "a member that is not described", was, now)
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

    def _shapes(self, old: JsonObject, new: JsonObject, spot: Spot) -> None:
        """Compare the known shapes of two free-form objects, which any receiver accepts."""
        before, after = (
            [shape["$ref"].rsplit("/", 1)[-1] for shape in schema.get("x-shapes", [])]
            for schema in (old, new)
        )
        for name in before:
            if name in after:
                self.compare(self._old.definitions[name], self._new.definitions[name], spot.sender)
            elif after and spot.sender == "client":
                self._log.at("PARAM_BRANCH_REMOVED", spot, f"the shape {name}", "", None)
        for name in after:
            if before and name not in before and spot.sender == "client":
                self._log.at("PARAM_BRANCH_ADDED", spot, f"the shape {name}", None, "")

    def _member_removed(self, old: Definition, name: str, sender: Sender) -> None:
        is_required = name in old.required
        rule = "PARAM_REMOVED" if sender == "client" else "RESULT_MEMBER_REMOVED"
        if sender == "server" and not is_required:
            rule = "RESULT_OPTIONAL_MEMBER_REMOVED"
        place = (old.area.file, ("$defs", old.name, "properties", name))
        was = f"{_presence(is_required)}, {type_words(old.properties[name])}"
        self._log.note(rule, place, f"{old.name}.{name}", was=was, is_gone=True)

    def _member_added(self, schema: JsonObject, spot: Spot, *, is_required: bool) -> None:
        if spot.sender == "client":
            rule = "PARAM_REQUIRED_ADDED" if is_required else "PARAM_ADDED"
        else:
            rule = "RESULT_REQUIRED_MEMBER_ADDED" if is_required else "RESULT_MEMBER_ADDED"
        self._log.at(rule, spot, "", None, f"{_presence(is_required)}, {type_words(schema)}")

    def _member(self, old: Definition, new: Definition, name: str, spot: Spot) -> None:
        before, after = old.properties[name], new.properties[name]
        was_required, is_required = name in old.required, name in new.required
        if was_required != is_required:
            prefix = "PARAM" if spot.sender == "client" else "RESULT_MEMBER"
            now = _presence(is_required)
            rule = f"{prefix}_NOW_{now.upper()}"
            self._log.at(rule, spot, "the presence", _presence(was_required), now)
        elif not is_required and _default(before) != _default(after):
            was, now = _default(before), _default(after)
            self._log.at("DEFAULT_CHANGED", spot, "the default", was, now)
        units = [schema["x-unit"] for schema in (before, after) if "x-unit" in schema]
        if len(set(units)) > 1:
            self._log.at("UNIT_CHANGED", spot, "the unit", *units)
        self.availability(before, after, spot)
        self._type(read_type(self._old, before), read_type(self._new, after), spot)


def _presence(is_required: bool) -> str:
    return "required" if is_required else "optional"


def _default(schema: JsonObject) -> str:
    return json.dumps(schema["default"]) if "default" in schema else "none"
