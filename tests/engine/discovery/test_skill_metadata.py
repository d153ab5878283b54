"""Metadata of skills (v2 capabilities/discoverV2)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server.engine.discovery.skill_metadata import (
    MAX_YAML_ALIASES,
    MAX_YAML_CHARACTERS,
    MAX_YAML_DEPTH,
    FrontMatter,
    MetadataError,
    SkillDependencies,
    SkillMetadata,
    SkillPolicy,
    SkillTool,
    read_front_matter,
    read_metadata,
)
from tests.support.growth import assert_grows_linearly


def front_matter(fields: str) -> FrontMatter:
    return read_front_matter(f"---\n{fields}\n---\nbody\n", "directory")


def description(value: str) -> str:
    return front_matter(f"name: n\ndescription: {value}").description


class TestFrontMatter:
    """Front matter of SKILL.md."""

    def test_everything(self) -> None:
        """And what it does not know."""
        assert front_matter(
            "# comment\nname: n  # comment\ndescription: does\n  this\nother: [1, {a: b}]\n"
            "metadata:\n  short-description: it does\n  other: 1"
        ) == FrontMatter("n", "does this", "it does")

    @pytest.mark.parametrize(
        "name", ["", "name:", "name: ''", "name: '  '", "name: null", "name: ~"]
    )
    def test_a_skill_without_a_name(self, name: str) -> None:
        """Is called like its directory."""
        assert front_matter(f"{name}\ndescription: d").name == "directory"
        text = f"---\n{name}\ndescription: d\n---\n"
        assert read_front_matter(text, " my   skill ").name == "my skill"
        assert read_front_matter(text, " ").name == "skill"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("123", "123"),
            ("1.50", "1.50"),
            ("true", "true"),
            ("no", "no"),
            ("2020-01-01", "2020-01-01"),
            (".inf", ".inf"),
            ("'5'", "5"),
            ('"\\u00e9\\t\\0"', "é \0"),
            ("!tag x", "x"),
            ("a\tb", "a b"),
            ("|\n  one\n  two", "one two"),
            (">\n  one\n\n  two", "one two"),
            ("use @this and `that`", "use @this and `that`"),
            ("a#b", "a#b"),
        ],
    )
    def test_values_are_text(self, value: str, text: str) -> None:
        """As they are written, with single spaces for white space."""
        assert description(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("Build for AWS: ECS", "Build for AWS: ECS"),
            ("It's for: you  # not this", "It's for: you"),
            ("@you", "@you"),
            ("`code` first", "`code` first"),
            ("[a] thing", "[a] thing"),
            ("{a} thing", "{a} thing"),
            ("[", "["),
            ("d\nargument: <duration: e.g. 7d>", "d"),
            ("d\nlist: [1", "d"),
            ("a: b\ntext: |\n  c: d: e\n\n  f", "a: b"),
        ],
    )
    def test_what_people_write(self, value: str, text: str) -> None:
        """Is read as it is meant, though YAML would not take it."""
        assert description(value) == text

    def test_blocks_of_text(self) -> None:
        """Are left alone: everything in them is text already."""
        fields = "other: a: b\ndescription: |\n  see: this: that\n\n  [and\nlast: c: d"
        assert front_matter(fields).description == "see: this: that [and"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "''",
            "null",
            "[a]",
            "{a}",
            "*a",
            '"a": b',
            '"a" thing',
            "%a",
            "d\n\tx: y",
            "d\n- x",
        ],
    )
    def test_what_it_cannot_be(self, value: str) -> None:
        """Nothing, no text, or no YAML whatever one makes of it."""
        with pytest.raises(MetadataError):
            description(value)

    @pytest.mark.parametrize(
        "fields",
        [
            "",
            "null",
            "text",
            "- description: d",
            "name: n",
            "Description: d",
            "description: d\ndescription: d",
            "description: d\nmetadata: text",
            "description: d\n? [complex]\n: key",
            "description: d\n...\nmore: x",
            "description: &a [*a, *a]",
        ],
    )
    def test_malformed(self, fields: str) -> None:
        """No mapping, a field twice or of the wrong form, or without a description."""
        with pytest.raises(MetadataError):
            front_matter(fields)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "# title\n",
            "---\ndescription: d\n",
            "\n---\ndescription: d\n---\n",
            "\ufeff---\ndescription: d\n---\n",
            "----\ndescription: d\n----\n",
            "---\n---\n",
        ],
    )
    def test_no_front_matter(self, text: str) -> None:
        """It must be the very first thing, between two lines of dashes."""
        with pytest.raises(MetadataError):
            read_front_matter(text, "d")

    @pytest.mark.parametrize(
        "text",
        [
            "---\r\ndescription: d\r\n---\r\nbody",
            "  ---\ndescription: d\n ---  \n",
            "---\ndescription: d\n---",
        ],
    )
    def test_forms_of_its_borders(self, text: str) -> None:
        """White space around the dashes and ends of lines do not matter."""
        assert read_front_matter(text, "d").description == "d"

    def test_lengths(self) -> None:
        """Names are short; all else is only bounded by what is bearable to read."""
        assert front_matter(f"name: {'ü' * 64}\ndescription: d").name == "ü" * 64
        with pytest.raises(MetadataError):
            front_matter(f"name: {'n' * 65}\ndescription: d")
        assert len(description("d" * 10_000)) == 10_000
        with pytest.raises(MetadataError):
            description("d" * MAX_YAML_CHARACTERS)

    @pytest.mark.parametrize(
        ("before", "unit", "after"),
        [
            ("", "a", ""),
            ("k: [", " ", "x"),
            ("k: a", "\t", "x"),
            ("k: a", " ", "# c: d"),
            ("k: a", " #", ""),
            ("k", " ", ": ["),
            ("", "a: b: ", ""),
            ("k: ", "[", ""),
            ("k: ", "{a: ", ""),
            ("", "- ", ""),
            ("", "? ", ""),
            ("k: ", "[a, ", ""),
            ("", "a: [\n", ""),
            ("a: &a b\nk: [", "*a, ", "]"),
            ("k: [", "&a b, ", "]"),
            ("k: ", "!", ""),
            ('k: "', "\\", ""),
            ("", "---", ""),
            ("", "\n", ""),
        ],
    )
    def test_the_effort_grows_with_the_length(self, before: str, unit: str, after: str) -> None:
        """With any content."""

        def read(size: int) -> None:
            with contextlib.suppress(MetadataError):
                front_matter(before + unit * (size // len(unit)) + after)

        assert_grows_linearly(read, (1000, 4000, 16000))

    def test_a_long_file(self) -> None:
        """Counts as malformed if its front matter is too long; what follows may have any length."""
        text = "---\ndescription: d\n---\n"
        assert read_front_matter(text + "---\n" * 100_000, "d").description == "d"
        for unit in ("a", "\n", "a: b\n"):
            with pytest.raises(MetadataError, match=f"more than {MAX_YAML_CHARACTERS} characters"):
                read_front_matter(f"---\n{unit * MAX_YAML_CHARACTERS}\n---\n", "d")

    def test_depth_and_aliases(self) -> None:
        """Are bounded."""
        for depth, is_read in ((MAX_YAML_DEPTH - 1, True), (MAX_YAML_DEPTH + 1, False)):
            nested = "k: " + "[" * depth + "]" * depth + "\ndescription: d"
            if is_read:
                assert front_matter(nested).description == "d"
            else:
                with pytest.raises(MetadataError, match="levels"):
                    front_matter(nested)
        for count in (MAX_YAML_ALIASES, MAX_YAML_ALIASES + 1):
            aliases = "description: &a d\nk:\n" + "- *a\n" * count
            if count == MAX_YAML_ALIASES:
                assert front_matter(aliases).description == "d"
            else:
                with pytest.raises(MetadataError, match="aliases"):
                    front_matter(aliases)

    @given(st.text(alphabet=" \t\n:-#|>'\"[]{}&*!@`%?abné~,\\x1", max_size=60))
    def test_any_text_is_read_or_refused(self, value: str) -> None:
        """No other error; what is read is one line."""
        try:
            found = front_matter(f"description: {value}")
        except MetadataError:
            return
        assert found.description == " ".join(found.description.split())
        assert found.description


def tool(fields: str) -> SkillTool | None:
    """The one tool that a skill needs."""
    dependencies = read_metadata(f"dependencies: {{tools: [{{{fields}}}]}}").dependencies
    return None if dependencies is None else dependencies.tools[0]


class TestMetadata:
    """Metadata in agents/openai.yaml."""

    @pytest.mark.parametrize(
        "text", ["", "# nothing\n", "null", "{}", "other: [1]", "policy:\ninterface: {other: []}"]
    )
    def test_nothing(self, text: str) -> None:
        """Is allowed."""
        assert read_metadata(text) == SkillMetadata(None, None)

    def test_tools(self) -> None:
        """With everything that is known of them."""
        assert read_metadata(
            "dependencies:\n  tools:\n"
            "    - type: mcp\n      value: v\n      description: d  e\n      transport: t\n"
            "      command: c\n      url: u\n      oauth: {callback_port: 5}\n"
            "    - {type: env_var, value: X, other: []}\n"
        ) == SkillMetadata(
            SkillDependencies(
                [
                    SkillTool("mcp", "v", "d e", "t", "c", "u", 5),
                    SkillTool("env_var", "X", None, None, None, None, None),
                ]
            ),
            None,
        )

    @pytest.mark.parametrize(
        "fields",
        [
            "type: t",
            "value: v",
            "type: ' ', value: v",
            "type: null, value: v",
            f"type: {'t' * 65}, value: v",
            f"type: t, value: {'v' * 1025}",
        ],
    )
    def test_incomplete_tools(self, fields: str) -> None:
        """Do not count, nor those with too long a name."""
        assert tool(fields) is None

    def test_long_texts_of_a_tool(self) -> None:
        """Are left out."""
        found = tool(
            f"type: t, value: v, description: {'d' * 1025}, transport: {'t' * 65}, "
            f"command: {'c' * 1025}, url: {'u' * 1024}"
        )
        assert found == SkillTool("t", "v", None, None, None, "u" * 1024, None)

    @pytest.mark.parametrize(
        ("oauth", "port"),
        [
            ("null", None),
            ("{}", None),
            ("{callback_port: null}", None),
            ("{callback_port: 0}", 0),
            ("{callbackPort: 65535, other: x}", 65535),
            ("{callback_port: +5}", 5),
            ("{callback_port: 0x10}", 16),
        ],
    )
    def test_ports(self, oauth: str, port: int | None) -> None:
        """Under either name."""
        found = tool(f"type: t, value: v, oauth: {oauth}")
        assert found is not None
        assert found.oauth_callback_port == port

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ("{}", SkillPolicy(None, [])),
            ("{allow_implicit_invocation: false}", SkillPolicy(False, [])),
            ("{allow_implicit_invocation: TRUE, products: []}", SkillPolicy(True, [])),
            ("{allow_implicit_invocation: null, other: 1}", SkillPolicy(None, [])),
            (
                "{products: [codex, ATLAS, 'chatgpt', codex]}",
                SkillPolicy(None, ["codex", "atlas", "chatgpt", "codex"]),
            ),
        ],
    )
    def test_policies(self, policy: str, expected: SkillPolicy) -> None:
        """Restrictions on its use."""
        assert read_metadata(f"policy: {policy}").policy == expected

    @pytest.mark.parametrize(
        "text",
        [
            "text",
            "- list",
            "policy: [",
            "[" * 600,
            "policy: {}\npolicy: {}",
            "policy: {}\n---\npolicy: {}",
            "policy: text",
            "policy: {allow_implicit_invocation: yes}",
            "policy: {allow_implicit_invocation: 'true'}",
            "policy: {products: codex}",
            "policy: {products: null}",
            "policy: {products: [Codex]}",
            "policy: {products: [other]}",
            "policy: {products: [[codex]]}",
            "interface: text",
            "interface: {display_name: [n]}",
            "dependencies: text",
            "dependencies: {tools: null}",
            "dependencies: {tools: text}",
            "dependencies: {tools: [text]}",
            "dependencies: {tools: [{type: t, value: [v]}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: 5}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: '5'}}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: 65536}}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: -1}}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: N}}]}".replace(
                "N", "1" * 5000
            ),
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: 1.0}}]}",
            "dependencies: {tools: [{type: t, value: v, oauth: {callback_port: 017}}]}",
            "dependencies:\n  tools: [{type: t, value: v, "
            "oauth: {callback_port: 1, callbackPort: 2}}]",
        ],
    )
    def test_malformed(self, text: str) -> None:
        """Then nothing of it counts."""
        with pytest.raises(MetadataError):
            read_metadata(text)
