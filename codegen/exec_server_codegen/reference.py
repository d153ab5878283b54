"""The reference pages of a revision, in Markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from exec_server_codegen.json_documents import references
from exec_server_codegen.package import base64_members, environment, header
from exec_server_codegen.text import compact_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Definition, Family, Method, Revision

_DIRECTIONS: Final = {"clientToServer": "client → server", "serverToClient": "server → client"}


def reference_pages(revision: Revision) -> dict[str, str]:
    """Return the pages of a revision by file name."""
    templates = environment()
    templates.filters.update(cell=cell)
    templates.globals.update(
        anchor=anchor,
        directions=_DIRECTIONS,
        base64_members=base64_members,
        member_rows=lambda definition: list(member_rows(definition)),
        messages=lambda method, example, number: list(_messages(revision, method, example, number)),
        type_facts=lambda definition: list(_type_facts(definition)),
        shared=lambda definition: definition.name in _shared_types(revision),
    )
    source = header(revision.sources["*"], comment="<!--")
    pages = {}
    for page in ("index", "errors", "types"):
        template = templates.get_template(f"reference/{page}.md.jinja2")
        pages[f"{page}.md"] = source + template.render(revision=revision)
    template = templates.get_template("reference/family.md.jinja2")
    for family in revision.families:
        methods = [method for method in revision.methods if method.family == family.name]
        pages[family_page(family)] = source + template.render(
            revision=revision, family=family, methods=methods
        )
    return pages


def family_page(family: Family) -> str:
    """Return the file name of a family's page."""
    return f"{family.name}.md"


def anchor(heading: str) -> str:
    """Return the anchor of a heading: lower case, with hyphens for spaces."""
    kept = [letter for letter in heading.lower() if letter.isalnum() or letter in " -_"]
    return "".join(kept).replace(" ", "-")


def member_rows(definition: Definition) -> Iterator[JsonObject]:
    """Return the members of an object as rows of a table."""
    for name, schema in definition.properties.items():
        notes = [str(schema.get("description", ""))]
        if "x-absent" in schema:
            notes.append(str(schema["x-absent"]))
        if "x-since" in schema:
            notes.append(f"Since {schema['x-since']}.")
        if "x-until" in schema:
            notes.append(f"Until {schema['x-until']}.")
        required = name in definition.required
        default = json.dumps(schema["default"]) if "default" in schema else ""
        yield {
            "name": name,
            "type": type_text(schema),
            "unit": schema.get("x-unit", ""),
            "required": "yes" if required else "no",
            "nullable": "yes" if {"type": "null"} in schema.get("anyOf", []) else "no",
            "default": f"`{default}`" if default else "",
            "description": cell(" ".join(notes)),
        }


def _linked(name: str) -> str:
    return f"[{name}](types.md#{anchor(name)})"


def type_text(schema: JsonObject, named: Callable[[str], str] = _linked) -> str:
    """Describe a type; ``named`` formats a named one, by default as a link to its definition."""
    if "$ref" in schema:
        return named(schema["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in schema:
        return type_text(schema["anyOf"][0], named)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {type_text(schema['items'], named)}"
    if kind == "object":
        return f"map of string to {type_text(schema['additionalProperties'], named)}"
    if kind is None:
        return "any"
    bounds = [str(schema[bound]) for bound in ("minimum", "maximum") if bound in schema]
    return f"{kind}, {' to '.join(bounds)}" if bounds else str(kind)


def _type_facts(definition: Definition) -> Iterator[str]:
    """Return facts about a type besides its description and members, one line each."""
    schema = definition.schema
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"]) + "."
    elif "oneOf" in schema:
        branches = ", ".join(type_text(branch) for branch in schema["oneOf"])
        tag = schema["discriminator"]["propertyName"]
        yield f"One of {branches}; the member `{tag}` tells which."
    elif schema["type"] != "object":
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        yield f"Type: {' or '.join(kinds)}."
        if "minimum" in schema:
            yield f"From {schema['minimum']} to {schema['maximum']}."
        if "pattern" in schema:
            yield f"Pattern: `{schema['pattern']}`"
    if "x-shapes" in schema:
        shapes = ", ".join(type_text(shape) for shape in schema["x-shapes"])
        yield f"Known shapes: {shapes}."
    if "x-since" in schema:
        yield f"Since {schema['x-since']}."
    if "x-until" in schema:
        yield f"Until {schema['x-until']}."


def _messages(
    revision: Revision, method: Method, example: JsonObject, number: int
) -> Iterator[tuple[str, str]]:
    """Return the messages of an example: the sender and the JSON text."""
    sender, receiver = ("Client", "Server")
    if method.direction == "serverToClient":
        sender, receiver = receiver, sender
    call: JsonObject = {"method": method.name, "params": example["params"]}
    if method.kind == "notification":
        yield sender, compact_json(call)
        return
    yield sender, compact_json({"id": number, **call})
    answer: JsonObject
    if "error" in example:
        codes = {error.name: error.code for error in revision.errors}
        error = example["error"]
        answer = {
            "error": {"code": codes[error["name"]], "message": error["message"]},
            "id": number,
        }
    else:
        answer = {"id": number, "result": example["result"]}
    yield receiver, compact_json(answer)


def _shared_types(revision: Revision) -> set[str]:
    """Return the types of the types page: those that belong to no single method.

    Params and results stand with their methods, and here too when another type holds them.
    """
    own = {method.params.name for method in revision.methods}
    own |= {method.result.name for method in revision.methods if method.result}
    inner = {
        reference.rsplit("/", 1)[-1]
        for definition in revision.definitions.values()
        for reference in references(definition.schema)
    }
    return (set(revision.definitions) - own) | inner


def cell(text: str) -> str:
    """Escape text for a table cell, which a vertical bar would end."""
    return text.replace("|", "\\|")
