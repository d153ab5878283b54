"""Message models: datamodel-code-generator turns the areas into one module of msgspec structs each.

The generator gets the schema without prose and without what msgspec cannot express. Prose, member
order, defaults and the bounds of unsigned 64-bit members reach our class template from the schema
itself.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datamodel_code_generator import Error as GeneratorError
from datamodel_code_generator import (
    Formatter,
    GenerateConfig,
    InputFileType,
    LiteralType,
    PythonVersion,
    generate,
)
from datamodel_code_generator.enums import DataModelType

from exec_server_codegen import naming
from exec_server_codegen.errors import SchemaError
from exec_server_codegen.json_documents import relinked
from exec_server_codegen.text import docstring

if TYPE_CHECKING:
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Area, Definition, Revision

PACKAGE: Final = "exec_server_protocol"

INT64_MAX: Final = 2**63 - 1
"""The highest bound that msgspec takes for an integer."""

_TEMPLATES: Final = Path(__file__).parent / "templates" / "models"

_ANNOTATIONS: Final = {"description", "title", "$schema", "discriminator", "maxProperties"}
"""Keywords without effect on the Python type."""


def model_modules(revision: Revision) -> dict[str, str]:
    """Return the source of each area's module by name, without header and unformatted.

    What a revision shares with the one that it extends has one model, which is imported.
    """
    with tempfile.TemporaryDirectory(prefix="exec-server-codegen-") as folder:
        own = Path(folder, revision.name)
        own.mkdir()
        for area in revision.model_areas:
            document = _plain_document(revision, area)
            if document["$defs"]:
                (own / area.file).write_text(json.dumps(document), encoding="utf-8")
        if revision.extension is not None:
            base = Path(folder, revision.extension.base)
            base.mkdir()
            for file, document in revision.extension.base_documents.items():
                (base / file).write_text(json.dumps(_plain(document)), encoding="utf-8")
        try:
            modules = generate(own, config=_config(revision))
        except GeneratorError as error:
            raise SchemaError(f"{revision.name}: no models for this schema: {error}") from None
    if not isinstance(modules, dict):
        raise SchemaError(f"{revision.name}: the areas gave no modules")
    texts = {path[-1].removesuffix(".py"): text for path, text in modules.items()}
    return {
        area.module: _with_shared(revision, area, _without_comments(texts.get(area.module, "")))
        for area in revision.model_areas
    }


def _without_comments(text: str) -> str:
    """Return a module without its leading comments."""
    return re.sub(r"\A(?:#.*\n|\n)+", "", text)


def _with_shared(revision: Revision, area: Area, text: str) -> str:
    """Return a module that re-exports the models shared with the extended revision."""
    shared = [name for name in area.definitions if revision.is_shared(name)]
    if revision.extension is None or not shared:
        return text
    base = f"{PACKAGE}.{revision.extension.base}.{area.module}"
    offered = "".join(f'    "{name}",\n' for name in area.definitions)
    imports = f"from {base} import {', '.join(shared)}\n"
    definitions = re.search(r"^(?:class |\w+: TypeAlias)", text, re.MULTILINE)
    start = definitions.start() if definitions else len(text)
    return f"{imports}{text[:start]}\n__all__ = [\n{offered}]\n\n{text[start:]}"


def _config(revision: Revision) -> GenerateConfig:
    template_data: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for definition in revision.definitions.values():
        if not definition.area.is_envelope:
            template_data[definition.name] = _template_data(revision, definition)
    imports = ["msgspec.field", f"{PACKAGE}.model.UINT64_MAX", f"{PACKAGE}.model.above_uint64"]
    modules: dict[str, str] = {}
    if revision.extension is not None:
        base = revision.extension.base
        imports.append(f"{PACKAGE}.{base}")
        modules = {
            f"../{base}/{area.file}": f"{PACKAGE}.{base}.{area.module}"
            for area in revision.model_areas
        }
    return GenerateConfig(
        input_file_type=InputFileType.JsonSchema,
        strict_refs=True,
        output_model_type=DataModelType.MsgspecStruct,
        base_class=f"{PACKAGE}.model.Model",
        additional_imports=imports,
        external_ref_mapping=modules,
        custom_template_dir=_TEMPLATES,
        extra_template_data=template_data,
        target_python_version=PythonVersion.PY_311,
        snake_case_field=True,
        no_alias=True,
        keyword_only=True,
        disable_future_imports=True,
        enum_field_as_literal=LiteralType.All,
        type_mappings=["byte=binary", "uri=string"],
        skip_root_model=True,
        use_exact_imports=True,
        use_double_quotes=True,
        formatters=[Formatter.BUILTIN],
        disable_timestamp=True,
    )


def _template_data(revision: Revision, definition: Definition) -> JsonObject:
    """Return the template variables that the generator does not provide."""
    is_object = "properties" in definition.schema
    members = [_member(definition, wire, schema) for wire, schema in definition.properties.items()]
    return {
        "doc": docstring(
            definition.description + lifetime(definition.schema), indent=4 if is_object else 0
        ),
        "members": members,
        "bounded": [
            member
            for member, schema in zip(members, definition.properties.values(), strict=True)
            if is_above_int64(revision, schema)
        ],
        "closed": definition.schema.get("maxProperties") == 0,
        "extended": _extended(revision, definition),
    }


def _extended(revision: Revision, definition: Definition) -> str:
    """Return the model that an object extends; empty if it extends none.

    Being a subclass, it goes where that one does, except as a member's type in another object.
    """
    if revision.extension is None or not revision.is_extended(definition.name):
        return ""
    return f"{revision.extension.base}.{definition.name}"


def _member(definition: Definition, wire: str, schema: JsonObject) -> JsonObject:
    name = naming.snake(wire)
    default = schema.get("default")
    return {
        "wire": wire,
        "name": name,
        "doc": docstring(str(schema.get("description", "")) + lifetime(schema)),
        "required": wire in definition.required,
        "nullable": {"type": "null"} in schema.get("anyOf", []),
        "renamed": naming.camel(name) != wire,
        "has_default": "default" in schema,
        "mutable_default": isinstance(default, list | dict),
        "default": type(default).__name__ if isinstance(default, list | dict) else repr(default),
    }


def lifetime(schema: JsonObject) -> str:
    """Return a sentence about the releases with a member or shape; empty if all have it."""
    facts = []
    if "x-since" in schema:
        facts.append(f"since codex {schema['x-since']}")
    if "x-until" in schema:
        facts.append(f"until codex {schema['x-until']}")
    return f" {', '.join(facts).capitalize()}." if facts else ""


def is_above_int64(revision: Revision, schema: JsonObject) -> bool:
    """Return True if a member's integers have a maximum that msgspec cannot check."""
    for branch in schema.get("anyOf", [schema]):
        if "$ref" in branch:
            branch_schema = revision.resolve(branch["$ref"]).schema
            if branch_schema.get("maximum", 0) > INT64_MAX:
                return True
        elif branch.get("maximum", 0) > INT64_MAX:
            return True
    return False


def _plain_document(revision: Revision, area: Area) -> JsonObject:
    """Return an area in which shared definitions are references to the extended revision."""
    return {
        "$defs": {
            name: _plain(relinked(schema, partial(_shared_reference, revision)))
            for name, schema in area.definitions.items()
            if not revision.is_shared(name)
        }
    }


def _shared_reference(revision: Revision, reference: str) -> str:
    name = reference.rsplit("/", 1)[-1]
    if revision.extension is None or not revision.is_shared(name):
        return reference
    file = revision.definitions[name].area.file
    return f"../{revision.extension.base}/{file}#/$defs/{name}"


def _plain(schema: JsonObject) -> JsonObject:
    """Return the schema reduced to the keywords that determine the Python type."""
    plain: JsonObject = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS or keyword.startswith("x-"):
            continue
        if keyword == "properties":
            plain[keyword] = {name: _plain(member) for name, member in value.items()}
        elif isinstance(value, dict):
            plain[keyword] = _plain(value)
        elif keyword in ("anyOf", "oneOf"):
            plain[keyword] = [_plain(branch) for branch in value]
        elif keyword == "pattern" and value.endswith("$"):
            # The end, where Python's ``$`` may be before a line feed.
            plain[keyword] = value[:-1] + r"\Z"
        else:
            plain[keyword] = value
    if "discriminator" in schema:
        plain["discriminator"] = schema["discriminator"]
    if plain.get("maximum", 0) > INT64_MAX:
        del plain["maximum"]
    if plain.get("format") == "byte":
        plain.pop("pattern", None)
    if "properties" in plain:
        plain.pop("additionalProperties", None)
    elif plain.get("additionalProperties") is True:
        plain["additionalProperties"] = {}
    return plain
