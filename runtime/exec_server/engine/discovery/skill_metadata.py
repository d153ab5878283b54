"""Metadata of a skill: the front matter of SKILL.md, and agents/openai.yaml.

Both are YAML, read as mappings, lists and scalars only. A scalar is the text as written:
``name: 123`` names the skill ``123``. All rules were measured on codex 0.169.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_NAME_CHARACTERS: Final = 64

MAX_YAML_CHARACTERS: Final = 32 * 1024
"""Maximum length of YAML; longer YAML is malformed. Parsing takes 3 µs per character at worst."""

MAX_YAML_DEPTH: Final = 128
"""Maximum nesting of lists and mappings, as in codex's parser."""

MAX_YAML_ALIASES: Final = 100
"""Maximum number of aliases per document: their target is read once per occurrence."""

PRODUCTS: Final = ("chatgpt", "codex", "atlas")
"""Products that a skill may be restricted to; also in upper case."""

_MAX_SHORT: Final = 64
_MAX_LONG: Final = 1024
"""Maximum lengths of a tool's texts, in characters."""

_INTERFACE_TEXTS: Final = (
    "display_name",
    "short_description",
    "icon_small",
    "icon_large",
    "brand_color",
    "default_prompt",
)

_NULL: Final = "tag:yaml.org,2002:null"
_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_INTEGER: Final = "tag:yaml.org,2002:int"
_PORT: Final = re.compile(r"\+?(0|[1-9][0-9]{0,4}|0x0*[0-9a-fA-F]{1,4})")

_COMMENT: Final = re.compile(r"\s#")
_NEEDS_QUOTES: Final = re.compile(r":\s")

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Twenty times faster if PyYAML has libyaml, as its wheels do. Codex uses libyaml too."""


class MetadataError(ValueError):
    """The metadata is malformed or incomplete."""


class EffortExceeded(Exception):
    """The budget for parsing metadata is exhausted."""


class Effort(msgspec.Struct):
    """Remaining budget for parsing metadata, in characters of YAML."""

    characters_left: int

    def spend(self, characters: int) -> None:
        """Spend part of the budget. Raises EffortExceeded if it is exhausted."""
        if characters > self.characters_left:
            raise EffortExceeded
        self.characters_left -= characters


class FrontMatter(msgspec.Struct, frozen=True):
    """Front matter of SKILL.md. White space in its texts is collapsed to single spaces."""

    name: str
    """1 to 64 characters."""
    description: str
    """Not empty."""
    short_description: str | None


class SkillTool(msgspec.Struct, frozen=True):
    """A tool that a skill uses."""

    type: str
    value: str
    description: str | None
    transport: str | None
    command: str | None
    url: str | None
    oauth_callback_port: int | None


class SkillDependencies(msgspec.Struct, frozen=True):
    """Dependencies of a skill."""

    tools: list[SkillTool]
    """At least one."""


class SkillPolicy(msgspec.Struct, frozen=True):
    """Restrictions on the use of a skill."""

    allow_implicit_invocation: bool | None
    products: list[str]
    """Subset of PRODUCTS; empty means all."""


class SkillMetadata(msgspec.Struct, frozen=True):
    """Metadata from agents/openai.yaml."""

    dependencies: SkillDependencies | None = None
    policy: SkillPolicy | None = None


def read_front_matter(text: str, directory: str, effort: Effort | None = None) -> FrontMatter:
    """Read the front matter of SKILL.md, which is between two lines of three dashes.

    The name defaults to that of the directory. Common values that are invalid YAML, such as
    ``description: Build for AWS: ECS``, are repaired. Raises MetadataError and EffortExceeded.
    """
    lines = _front_matter_lines(text)
    if effort is not None:
        effort.spend(sum(map(len, lines)))
    try:
        fields = _fields(_compose("\n".join(lines)), ("name", "description", "metadata"))
        return _front_matter(fields, directory)
    except MetadataError:
        repaired = [*_repair(lines)]
        if repaired == lines:
            raise
    fields = _fields(_compose("\n".join(repaired)), ("name", "description", "metadata"))
    return _front_matter(fields, directory)


def read_metadata(text: str, effort: Effort | None = None) -> SkillMetadata:
    """Read agents/openai.yaml.

    Raises MetadataError if a used member is malformed, and EffortExceeded.
    """
    if effort is not None and len(text) <= MAX_YAML_CHARACTERS:
        effort.spend(len(text))
    fields = _fields(_compose(text), ("interface", "dependencies", "policy"))
    interface = _fields(fields["interface"], _INTERFACE_TEXTS)
    for node in interface.values():
        _text(node)
    return SkillMetadata(_dependencies(fields["dependencies"]), _policy(fields["policy"]))


def _front_matter_lines(text: str) -> list[str]:
    first, _, after = text.partition("\n")
    if first.strip() != "---":
        raise MetadataError("missing YAML frontmatter delimited by ---")
    kept: list[str] = []
    for line in after[:MAX_YAML_CHARACTERS].split("\n"):
        if line.strip() == "---":
            return kept
        kept.append(line.removesuffix("\r"))
    if len(after) > MAX_YAML_CHARACTERS:
        raise MetadataError(f"YAML of more than {MAX_YAML_CHARACTERS} characters")
    raise MetadataError("missing YAML frontmatter delimited by ---")


def _front_matter(fields: dict[str, yaml.Node | None], directory: str) -> FrontMatter:
    metadata = _fields(fields["metadata"], ("short-description",))
    name = _line(fields["name"]) or " ".join(directory.split()) or "skill"
    if len(name) > MAX_NAME_CHARACTERS:
        raise MetadataError(f"name exceeds maximum length of {MAX_NAME_CHARACTERS} characters")
    description = _line(fields["description"])
    if description is None:
        raise MetadataError("missing field `description`")
    return FrontMatter(name, description, _line(metadata["short-description"]))


def _repair(lines: Sequence[str]) -> Iterator[str]:
    """Quote values that are meant as plain text but mean something else in YAML."""
    block_indent: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if block_indent is not None:
            if not line.strip() or indent > block_indent:
                yield line
                continue
            block_indent = None
        field = _split_field(line)
        if field is None:
            yield line
            continue
        key, value, rest = field
        if value[0] in "|>":
            block_indent = indent
        if value[0] not in "|>'\"" and (_NEEDS_QUOTES.search(value) or _is_broken_flow(value)):
            quoted = value.replace("'", "''")
            yield f"{key}'{quoted}'{rest}"
        else:
            yield line


def _split_field(line: str) -> tuple[str, str, str] | None:
    """Split a line into key with colon and space, value, and trailing space with comment.

    None if it does not have that form.
    """
    name, _, after = line.partition(":")
    value = after.lstrip()
    if not name.strip() or value[:1] in ("", "#") or len(value) == len(after):
        return None
    key = line[: len(line) - len(value)]
    comment = _COMMENT.search(value)
    rest = "" if comment is None else value[comment.start() :]
    value = value.removesuffix(rest)
    stripped = value.rstrip()
    return key, stripped, value[len(stripped) :] + rest


def _is_broken_flow(value: str) -> bool:
    """Return True if a value starts like a list, a mapping or a reserved token, but is invalid."""
    if value[0] not in "[{@`":
        return False
    try:
        _compose(value)
    except MetadataError:
        return True
    return False


def _dependencies(node: yaml.Node | None) -> SkillDependencies | None:
    tools = _fields(node, ("tools",))["tools"]
    if tools is None:
        return None
    if not isinstance(tools, yaml.SequenceNode):
        raise MetadataError("tools must be a list")
    read = [_tool(item) for item in tools.value]
    complete = [tool for tool in read if tool is not None]
    return SkillDependencies(complete) if complete else None


def _tool(node: yaml.Node) -> SkillTool | None:
    """Return a tool; None if its type or value is missing or too long."""
    if not isinstance(node, yaml.MappingNode):
        raise MetadataError("a tool must be a mapping")
    fields = _fields(node, ("type", "value", "description", "transport", "command", "url", "oauth"))
    kind = _line(fields["type"], _MAX_SHORT)
    value = _line(fields["value"], _MAX_LONG)
    port = _port(fields["oauth"])
    description = _line(fields["description"], _MAX_LONG)
    transport = _line(fields["transport"], _MAX_SHORT)
    command = _line(fields["command"], _MAX_LONG)
    url = _line(fields["url"], _MAX_LONG)
    if kind is None or value is None:
        return None
    return SkillTool(kind, value, description, transport, command, url, port)


def _port(oauth: yaml.Node | None) -> int | None:
    fields = _fields(oauth, ("callback_port", "callbackPort"))
    snake, camel = fields["callback_port"], fields["callbackPort"]
    if snake is not None and camel is not None:
        raise MetadataError("callback_port is given twice")
    node = snake or camel
    if node is None or node.tag == _NULL:
        return None
    if (
        not isinstance(node, yaml.ScalarNode)
        or node.tag != _INTEGER
        or not _PORT.fullmatch(node.value)
        or (port := int(node.value, 0)) > 0xFFFF
    ):
        raise MetadataError("callback_port must be a port number")
    return port


def _policy(node: yaml.Node | None) -> SkillPolicy | None:
    if node is None or node.tag == _NULL:
        return None
    fields = _fields(node, ("allow_implicit_invocation", "products"))
    allowed = _boolean(fields["allow_implicit_invocation"])
    products: list[str] = []
    if (listed := fields["products"]) is not None:
        if not isinstance(listed, yaml.SequenceNode):
            raise MetadataError("products must be a list")
        products = [_product(item) for item in listed.value]
    return SkillPolicy(allowed, products)


def _product(node: yaml.Node) -> str:
    name = _text(node) or ""
    product = name.lower() if name.isupper() else name
    if product not in PRODUCTS:
        raise MetadataError(f"unknown product {name}")
    return product


def _boolean(node: yaml.Node | None) -> bool | None:
    if node is None or node.tag == _NULL:
        return None
    # PyYAML also accepts "yes" and "on", which YAML 1.2 does not.
    if (
        not isinstance(node, yaml.ScalarNode)
        or node.tag != _BOOLEAN
        or node.value.lower() not in ("true", "false")
    ):
        raise MetadataError("expected true or false")
    return bool(node.value.lower() == "true")


def _compose(text: str) -> yaml.Node | None:
    """Return the document as nodes; None if it is empty. Raises MetadataError."""
    if len(text) > MAX_YAML_CHARACTERS:
        raise MetadataError(f"YAML of more than {MAX_YAML_CHARACTERS} characters")
    try:
        return _Composer(text).document()
    except (yaml.YAMLError, ValueError) as error:
        raise MetadataError(f"invalid YAML: {error}") from None


class _Composer:
    """Composes nodes of untrusted text, with bounded nesting."""

    def __init__(self, text: str) -> None:
        self._loader: Any = _LOADER(text)
        self._anchors: dict[str, yaml.Node] = {}
        self._aliases_left = MAX_YAML_ALIASES

    def document(self) -> yaml.Node | None:
        """Return the only document; None if there is none. Raises MetadataError and YAMLError."""
        self._loader.get_event()  # start of the stream
        if isinstance(self._loader.get_event(), yaml.StreamEndEvent):
            return None
        node = self._node(self._loader.get_event(), 0)
        self._loader.get_event()  # end of the document
        if not isinstance(self._loader.get_event(), yaml.StreamEndEvent):
            raise MetadataError("more than one YAML document")
        return node

    def _node(self, event: yaml.Event, depth: int) -> yaml.Node:
        if depth > MAX_YAML_DEPTH:
            raise MetadataError(f"YAML with more than {MAX_YAML_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "")
        node: yaml.Node
        if isinstance(event, yaml.ScalarEvent):
            tag = event.tag
            if tag is None or tag == "!":
                tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
            node = yaml.ScalarNode(tag, event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = yaml.SequenceNode(event.tag or "", [*self._children(depth)])
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            children = self._children(depth)
            node = yaml.MappingNode(event.tag or "", [*zip(children, children, strict=True)])
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _children(self, depth: int) -> Iterator[yaml.Node]:
        while not isinstance(event := self._loader.get_event(), yaml.CollectionEndEvent):
            yield self._node(event, depth + 1)

    def _alias(self, anchor: str) -> yaml.Node:
        if anchor not in self._anchors:
            raise MetadataError(f"unknown YAML anchor {anchor}")
        if not self._aliases_left:
            raise MetadataError(f"more than {MAX_YAML_ALIASES} YAML aliases")
        self._aliases_left -= 1
        return self._anchors[anchor]


def _fields(node: yaml.Node | None, names: Sequence[str]) -> dict[str, yaml.Node | None]:
    """Return the named fields of a mapping or of null; None for missing ones.

    Raises MetadataError for other types and for duplicate fields.
    """
    found: dict[str, yaml.Node | None] = dict.fromkeys(names)
    if node is None or node.tag == _NULL:
        return found
    if not isinstance(node, yaml.MappingNode):
        raise MetadataError("expected a mapping")
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise MetadataError("expected keys that are text")
        name = key.value
        if name not in found:
            continue
        if found[name] is not None:
            raise MetadataError(f"duplicate field `{name}`")
        found[name] = value
    return found


def _text(node: yaml.Node | None) -> str | None:
    if node is None or node.tag == _NULL:
        return None
    if not isinstance(node, yaml.ScalarNode):
        raise MetadataError("expected text")
    value: str = node.value
    return value


def _line(node: yaml.Node | None, longest: int | None = None) -> str | None:
    """Return text with white space collapsed; None if it is empty or too long."""
    line = " ".join((_text(node) or "").split())
    return line if line and (longest is None or len(line) <= longest) else None
