"""Discovery of skills and plugin files (v2 capabilityRoots/discoverV1)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from exec_server.engine import path_uri
from exec_server.engine.discovery.capability_roots import (
    MAX_FILE_BYTES,
    MAX_ROOT_BYTES,
    MAX_ROOTS,
    CapabilityRoot,
    CapabilityRootDiscovery,
    SkillFiles,
    TextFile,
    check_number,
    discover_root,
)
from exec_server.errors import InvalidArgument, InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = ".codex-plugin/plugin.json"


@dataclass(frozen=True)
class Tree:
    """A folder to put files into and to look into."""

    folder: Path

    def write(self, path: str, text: str | bytes = "") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def uri(self, path: str) -> str:
        return path_uri.format(f"{self.folder}/{path}".rstrip("/"))

    def file(self, path: str) -> TextFile:
        """The file as it should be handed over."""
        return TextFile(self.uri(path), (self.folder / path).read_text())

    def look(self, path: str = "") -> CapabilityRootDiscovery:
        """Look into a directory that can be looked into."""
        found = discover_root(CapabilityRoot("id", self.uri(path)))
        assert found.error is None
        assert (found.id, found.path) == ("id", self.uri(path))
        return found

    def skills(self, path: str = "") -> list[str]:
        """The directories of the skills, as seen from the folder; of its own skill the file."""
        prefix = self.uri("") + "/"
        return [
            skill.instructions.path.removeprefix(prefix).removesuffix("/SKILL.md")
            for skill in self.look(path).skills
        ]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class TestRoots:
    """Directories that can be searched."""

    def test_each_has_its_answer(self, tree: Tree) -> None:
        """In order, whatever the ids; one that cannot be looked into does not stop the others."""
        tree.write("a/SKILL.md", "a")
        tree.write("file")
        roots = [
            CapabilityRoot("same", tree.uri("a")),
            CapabilityRoot("same", tree.uri("missing")),
            CapabilityRoot("", tree.uri("file")),
            CapabilityRoot("x", tree.uri("file/below")),
            CapabilityRoot("y", "file:///C:/x"),
            CapabilityRoot("z", tree.uri("a") + "/"),
        ]
        found = [discover_root(root) for root in roots]
        assert [(root.id, root.path) for root in found] == [(root.id, root.path) for root in roots]
        assert [root.error for root in found] == [
            None,
            f"failed to inspect capability root {tree.uri('missing')}: "
            "No such file or directory (os error 2)",
            f"capability root {tree.uri('file')} is not a directory",
            f"failed to inspect capability root {tree.uri('file/below')}: "
            "Not a directory (os error 20)",
            "failed to inspect capability root file:///C:/x: 'file:///C:/x' is invalid on 'linux'",
            None,
        ]
        assert found[0].skills == found[5].skills
        assert found[1] == CapabilityRootDiscovery(
            "same", tree.uri("missing"), error=found[1].error
        )

    def test_nothing(self, tree: Tree) -> None:
        """Is no error."""
        assert tree.look() == CapabilityRootDiscovery("id", tree.uri(""))

    def test_what_is_no_path(self) -> None:
        """Is the client's mistake."""
        with pytest.raises(InvalidArgument, match="relative URL without a base"):
            discover_root(CapabilityRoot("id", "relative"))

    def test_too_many(self, tree: Tree) -> None:
        """128 are enough."""
        roots = [CapabilityRoot("id", tree.uri(""))] * (MAX_ROOTS + 1)
        check_number(roots[1:])
        with pytest.raises(InvalidRequest) as caught:
            check_number(roots)
        assert str(caught.value) == "capability root discovery accepts at most 128 roots"


class TestSkills:
    """Files SKILL.md, wherever they are."""

    def test_files(self, tree: Tree) -> None:
        """As they are, sorted by path, with what is beside them."""
        tree.write("b/SKILL.md", "no front matter ü")
        tree.write("a b/SKILL.md", "\ufefftext\r\n")
        tree.write("a b/agents/openai.yaml", "{")
        tree.write("c/skill.md", "another name")
        assert tree.look().skills == [
            SkillFiles(
                TextFile(tree.uri("a b/SKILL.md"), "\ufefftext\r\n"),
                TextFile(tree.uri("a b/agents/openai.yaml"), "{"),
            ),
            SkillFiles(tree.file("b/SKILL.md"), None),
        ]

    def test_where(self, tree: Tree) -> None:
        """In the directory itself, in hidden ones, inside one another, six deep."""
        tree.write("SKILL.md")
        tree.write(".agents/skills/x/SKILL.md")
        tree.write("1/SKILL.md")
        tree.write("1/2/3/4/5/6/SKILL.md")
        tree.write("1/2/3/4/5/6/7/SKILL.md")
        tree.write("d/SKILL.md/SKILL.md")
        assert tree.skills() == [
            ".agents/skills/x",
            "1/2/3/4/5/6",
            "1",
            "SKILL.md",
            "d/SKILL.md",
        ]

    def test_links(self, tree: Tree) -> None:
        """To directories are followed, each once; to files they are not."""
        tree.write("elsewhere/skill/SKILL.md")
        tree.write("root/x/file")
        (tree.folder / "root/link").symlink_to("../elsewhere")
        (tree.folder / "root/loop").symlink_to("..")
        (tree.folder / "root/x/SKILL.md").symlink_to("file")
        (tree.folder / "root/dangling").symlink_to("nowhere")
        assert tree.skills("root") == ["root/link/skill"]

    def test_what_cannot_be_read(self, tree: Tree) -> None:
        """Is left out, with a warning."""
        tree.write("a/SKILL.md", b"x\xff")
        tree.write("b/SKILL.md", "b")
        tree.write("b/agents/openai.yaml", b"\xc3")
        tree.write("c/SKILL.md", "c" * (MAX_FILE_BYTES + 1))
        tree.write("d/SKILL.md", "d" * MAX_FILE_BYTES)
        tree.write("e/SKILL.md", "e")
        tree.write("e/agents", "a file")
        found = tree.look()
        assert [skill.instructions.path for skill in found.skills] == [
            tree.uri(f"{name}/SKILL.md") for name in "bde"
        ]
        assert [skill.metadata for skill in found.skills] == [None] * 3
        assert found.warnings == [
            f"capability file {tree.uri('a/SKILL.md')} is not UTF-8: "
            "invalid utf-8 sequence of 1 bytes from index 1",
            f"capability file {tree.uri('b/agents/openai.yaml')} is not UTF-8: "
            "invalid utf-8 sequence of 1 bytes from index 0",
            f"capability file {tree.uri('c/SKILL.md')} exceeds the 1048576-byte limit",
            f"failed to inspect capability file {tree.uri('e/agents/openai.yaml')}: "
            "Not a directory (os error 20)",
        ]

    def test_special_files(self, tree: Tree) -> None:
        """They are not skills, and a FIFO does not block."""
        tree.write("a/SKILL.md", "a")
        (tree.folder / "a/agents").mkdir()
        os.mkfifo(tree.folder / "a/agents/openai.yaml")
        (tree.folder / "b").mkdir()
        os.mkfifo(tree.folder / "b/SKILL.md")
        assert tree.look().skills == [SkillFiles(tree.file("a/SKILL.md"), None)]

    def test_all_files_together(self, tree: Tree) -> None:
        """Are 16 MiB at most."""
        count = MAX_ROOT_BYTES // MAX_FILE_BYTES
        for number in range(count + 1):
            tree.write(f"{number:02}/SKILL.md", "x" * MAX_FILE_BYTES)
        tree.write("99/SKILL.md", "")
        found = tree.look()
        assert len(found.skills) == count + 1
        assert found.warnings == ["capability root bundle exceeds the 16777216-byte limit"]

    def test_more_than_can_be_looked_at(self, tree: Tree) -> None:
        """Is said."""
        for number in range(2000):
            (tree.folder / str(number)).mkdir()
        assert tree.look().warnings == [
            f"capability scan reached its traversal limit (root: {tree.uri('')})"
        ]

    def test_names_that_are_not_utf_8(self, tree: Tree) -> None:
        """Cannot be told; that is said too."""
        os.mkdir(os.fsencode(tree.folder) + b"/\xff")
        (warning,) = tree.look().warnings
        assert warning.startswith(f"failed to scan capability path {tree.uri('')}/")


class TestPlugins:
    """Directories with a manifest."""

    def test_files(self, tree: Tree) -> None:
        """The manifest as it is, and two more where they usually are."""
        tree.write(MANIFEST, "not even JSON")
        tree.write(".mcp.json", "m")
        tree.write(".app.json", "a")
        plugin = tree.look().plugin
        assert plugin is not None
        assert plugin.manifest == tree.file(MANIFEST)
        assert plugin.mcp_config == tree.file(".mcp.json")
        assert plugin.apps_config == tree.file(".app.json")

    def test_only_the_directory_itself(self, tree: Tree) -> None:
        """Is what is looked into."""
        tree.write("below/" + MANIFEST)
        tree.write(".mcp.json")
        assert tree.look().plugin is None

    @pytest.mark.parametrize("first", [0, 1, 2])
    def test_places_of_a_manifest(self, tree: Tree, first: int) -> None:
        """The first that can be read counts."""
        places = [f".{name}-plugin/plugin.json" for name in ("codex", "claude", "cursor")]
        for place in places[first:]:
            tree.write(place, place)
        for place in places[:first]:
            tree.write(place, b"\xff")
        tree.write("plugin.json", "no place for it")
        found = tree.look()
        assert found.plugin is not None
        assert found.plugin.manifest == tree.file(places[first])
        assert found.namespace_manifests == [tree.file(places[first])]
        assert len(found.warnings) == first

    @pytest.mark.parametrize(
        ("declared", "file"),
        [
            ("./m.json", "m.json"),
            ("./sub/./m.json", "sub/m.json"),
            ("./a b.json", "a b.json"),
            ("./%2e%2e.json", "%2e%2e.json"),
            ("./..m", "..m"),
            (None, ".mcp.json"),
            (5, ".mcp.json"),
            (["./m.json"], ".mcp.json"),
        ],
    )
    def test_a_declared_place(self, tree: Tree, declared: object, file: str) -> None:
        """Of MCP servers and of apps; everything else than text is none."""
        for name in ("m.json", "sub/m.json", "a b.json", "%2e%2e.json", "..m", ".mcp.json"):
            tree.write(name, name)
        text = "null" if declared is None else repr(declared).replace("'", '"')
        tree.write(MANIFEST, f'{{"mcpServers": {text}, "apps": {text}}}')
        found = tree.look()
        assert found.plugin is not None
        assert found.plugin.mcp_config == tree.file(file)
        expected = None if file == ".mcp.json" else tree.file(file)
        assert found.plugin.apps_config == expected
        assert found.warnings == []

    @pytest.mark.parametrize(
        ("declared", "problem"),
        [
            ("m.json", "path must start with `./`"),
            ("/etc/passwd", "path must start with `./`"),
            ("", "path must start with `./`"),
            ("./", "path must remain below the capability root"),
            ("./../m.json", "path must remain below the capability root"),
            ("./a/../../m.json", "path must remain below the capability root"),
            ("./a\\\\..\\\\m.json", "path must remain below the capability root"),
        ],
    )
    def test_places_that_cannot_be(self, tree: Tree, declared: str, problem: str) -> None:
        """Leave the usual ones."""
        tree.write("root/" + MANIFEST, f'{{"mcpServers": "{declared}", "apps": "{declared}"}}')
        tree.write("root/.mcp.json", "m")
        tree.write("root/.app.json", "a")
        tree.write("m.json", "outside")
        found = tree.look("root")
        assert found.plugin is not None
        assert found.plugin.mcp_config == tree.file("root/.mcp.json")
        assert found.plugin.apps_config == tree.file("root/.app.json")
        assert found.warnings == [
            f"ignoring {name} in {tree.uri('root/' + MANIFEST)}: {problem}"
            for name in ("mcpServers", "apps")
        ]

    def test_a_declared_place_without_a_file(self, tree: Tree) -> None:
        """Is not the usual one."""
        tree.write(MANIFEST, '{"mcpServers": "./missing", "apps": "./a\\u0000b"}')
        tree.write(".mcp.json")
        tree.write(".app.json")
        found = tree.look()
        assert found.plugin is not None
        assert (found.plugin.mcp_config, found.plugin.apps_config) == (None, None)
        assert len(found.warnings) == 1

    def test_servers_in_the_manifest(self, tree: Tree) -> None:
        """Leave no file to look for."""
        tree.write(MANIFEST, '{"mcpServers": {}, "apps": {}}')
        tree.write(".mcp.json")
        tree.write(".app.json")
        found = tree.look()
        assert found.plugin is not None
        assert found.plugin.mcp_config is None
        assert found.plugin.apps_config is not None


class TestNamespaces:
    """The plugins that skills belong to."""

    def test_the_directory_and_those_below(self, tree: Tree) -> None:
        """Each with the manifest that counts, sorted by path."""
        tree.write(MANIFEST, "self")
        tree.write(".claude-plugin/plugin.json", "ignored")
        tree.write("b/.cursor-plugin/plugin.json", "cursor")
        tree.write("b/.claude-plugin/plugin.json", "claude")
        tree.write("a/c/" + MANIFEST, "c")
        tree.write("plugin.json", "none")
        assert tree.look().namespace_manifests == [
            tree.file(MANIFEST),
            tree.file("a/c/" + MANIFEST),
            tree.file("b/.claude-plugin/plugin.json"),
        ]

    def test_the_nearest_above(self, tree: Tree) -> None:
        """For a directory that is not a plugin."""
        tree.write(MANIFEST, "far")
        tree.write("a/.claude-plugin/plugin.json", "near")
        tree.write("a/b/c/x/" + MANIFEST, "below")
        assert tree.look("a/b/c").namespace_manifests == [
            tree.file("a/.claude-plugin/plugin.json"),
            tree.file("a/b/c/x/" + MANIFEST),
        ]
        assert tree.look("a/b/c").plugin is None
