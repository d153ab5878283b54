"""Which skills and plugins the user of this machine has (v2 capabilities/discoverV2)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from exec_server.engine import path_uri
from exec_server.engine.discovery import capabilities, installed_plugins
from exec_server.engine.discovery.capabilities import (
    LOCATIONS_WARNING,
    METADATA_WARNING,
    SIZE_WARNING,
    Capabilities,
    DiscoveryRoot,
    Plugin,
    Skill,
    discover_capabilities,
)
from exec_server.engine.discovery.capability_roots import PluginFiles, TextFile
from exec_server.engine.discovery.skill_metadata import SkillDependencies, SkillPolicy, SkillTool
from exec_server.errors import OperationFailed
from tests.support.growth import assert_grows_linearly

if TYPE_CHECKING:
    from pathlib import Path

    from exec_server.engine.files.requests import Operation

R = TypeVar("R")

MANIFEST = ".codex-plugin/plugin.json"


class Machine:
    """A machine with a home and a system directory, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str | bytes = "") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def write_skill(self, directory: str, name: str, metadata: str | bytes | None = None) -> None:
        self.write(f"{directory}/SKILL.md", f"---\nname: {name}\ndescription: does {name}\n---\n")
        if metadata is not None:
            self.write(f"{directory}/agents/openai.yaml", metadata)

    def write_plugin(self, place: str, manifest: object) -> None:
        """A plugin in the cache; the manifest is its text, or what it holds as JSON."""
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        self.write(f"home/.codex/plugins/cache/{place}/{MANIFEST}", text)

    def uri(self, path: str) -> str:
        return path_uri.format(f"{self.folder}/{path}")

    def cached(self, path: str) -> str:
        return self.uri(f"home/.codex/plugins/cache/{path}")

    def discover(self) -> Capabilities:
        async def look(operation: Operation[R]) -> R:
            return operation.run()

        return asyncio.run(discover_capabilities(look, system_directory=f"{self.folder}/etc"))

    def plugins(self) -> list[tuple[str, str]]:
        """Ids and versions."""
        return [(plugin.id, plugin.version) for plugin in self.discover().plugins]

    def only_plugin(self) -> Plugin:
        (plugin,) = self.discover().plugins
        return plugin

    def skill_names(self) -> list[str]:
        return [skill.name for skill in self.discover().skills]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return Machine(tmp_path)


class TestSkills:
    """Those of no plugin."""

    def test_nothing(self, machine: Machine) -> None:
        """Is an answer."""
        assert machine.discover() == Capabilities([], [], [])

    def test_everything_of_one(self, machine: Machine) -> None:
        """From both of its files."""
        machine.write(
            "home/.codex/skills/s/SKILL.md",
            "---\nname: s\ndescription: d\nmetadata:\n  short-description: short\n---\n",
        )
        machine.write(
            "home/.codex/skills/s/agents/openai.yaml",
            "policy: {products: [codex]}\ndependencies: {tools: [{type: t, value: v}]}\n",
        )
        assert machine.discover().skills == [
            Skill(
                name="s",
                description="d",
                short_description="short",
                path=machine.uri("home/.codex/skills/s/SKILL.md"),
                discovery_root=DiscoveryRoot(
                    "codex-home-skills", machine.uri("home/.codex/skills")
                ),
                dependencies=SkillDependencies([SkillTool("t", "v", None, None, None, None, None)]),
                policy=SkillPolicy(None, ["codex"]),
            )
        ]

    def test_where(self, machine: Machine) -> None:
        """In three places, in the order in which they count; names may repeat."""
        machine.write_skill("etc/skills/x", "c")
        machine.write_skill("home/.agents/skills/x", "b")
        machine.write_skill("home/.codex/skills/z", "a")
        machine.write_skill("home/.codex/skills/.system/y", "b")
        machine.write_skill("project/.agents/skills/x", "elsewhere")
        found = machine.discover()
        assert found.warnings == []
        assert [
            (skill.name, skill.discovery_root and skill.discovery_root.id) for skill in found.skills
        ] == [
            ("b", "codex-home-skills"),
            ("a", "codex-home-skills"),
            ("b", "user-agent-skills"),
            ("c", "system-skills"),
        ]

    def test_another_codex_home(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Is the one that counts; one that does not exist is an error."""
        machine.write_skill("home/.codex/skills/x", "not this")
        machine.write_skill("other/skills/x", "this")
        monkeypatch.setenv("CODEX_HOME", f"{machine.folder}/other")
        assert machine.skill_names() == ["this"]
        monkeypatch.setenv("CODEX_HOME", "/no/such/directory")
        with pytest.raises(OperationFailed) as caught:
            machine.discover()
        assert str(caught.value) == (
            'CODEX_HOME points to "/no/such/directory", but that path does not exist'
        )

    def test_no_home(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leaves the two other places."""
        machine.write_skill("other/skills/x", "this")
        machine.write_skill("etc/skills/x", "that")
        monkeypatch.setenv("CODEX_HOME", f"{machine.folder}/other")
        monkeypatch.setenv("HOME", "relative")
        assert machine.skill_names() == ["this", "that"]

    @pytest.mark.parametrize("text", ["no front matter", "---\nname: s\n---\n", b"\xff"])
    def test_malformed(self, machine: Machine, text: str | bytes) -> None:
        """Is left out, and said, once for all skills of a place."""
        machine.write("home/.codex/skills/a/SKILL.md", text)
        machine.write("home/.codex/skills/b/SKILL.md", text)
        machine.write_skill("home/.codex/skills/c", "c")
        found = machine.discover()
        assert [skill.name for skill in found.skills] == ["c"]
        assert found.warnings == [METADATA_WARNING]

    def test_malformed_metadata(self, machine: Machine) -> None:
        """Counts for nothing and is nothing to warn of, unless it is no text."""
        machine.write_skill("home/.codex/skills/a", "a", "policy: [")
        found = machine.discover()
        assert (found.skills[0].policy, found.warnings) == (None, [])
        machine.write_skill("home/.codex/skills/a", "a", b"\xff")
        found = machine.discover()
        assert (found.skills[0].policy, found.warnings) == (None, [METADATA_WARNING])

    def test_more_than_may_be_read(self, machine: Machine) -> None:
        """Is left out, and said; what is read is only what is between the dashes."""
        for number in range(5):
            fields = f"description: {'d' * 10}\npad: {'p' * 1000}"
            machine.write(
                f"home/.codex/skills/{number}/SKILL.md", f"---\n{fields}\n---\n{'b' * 10_000}"
            )
        machine.write_skill("home/.agents/skills/a", "a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(capabilities, "MAX_METADATA_CHARACTERS", 3500)
            found = machine.discover()
        assert [skill.name for skill in found.skills] == ["0", "1", "2", "a"]
        assert found.warnings == [SIZE_WARNING]
        assert machine.discover().warnings == []

    def test_a_place_that_is_no_directory(self, machine: Machine) -> None:
        """Is like none; one that cannot be looked at is worth a warning."""
        machine.write("home/.codex/skills")
        machine.write_skill("home/.agents/skills/a", "a")
        assert machine.discover().warnings == []
        (machine.folder / "home/.codex/skills").unlink()
        (machine.folder / "home/.codex/skills").symlink_to("skills")
        found = machine.discover()
        assert [skill.name for skill in found.skills] == ["a"]
        assert found.warnings == [METADATA_WARNING]


class TestCache:
    """Locations of installed plugins."""

    def test_too_many_entries(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave discovery incomplete, and say so."""
        machine.write_plugin("m/p/1", {})
        machine.write_plugin("m/q/1", {})
        monkeypatch.setattr(installed_plugins, "MAX_CACHE_ENTRIES", 5)
        assert [plugin for plugin, _ in machine.plugins()] == ["p@m", "q@m"]
        monkeypatch.setattr(installed_plugins, "MAX_CACHE_ENTRIES", 4)
        found = machine.discover()
        assert [plugin.id for plugin in found.plugins] == ["p@m"]
        assert found.warnings == [LOCATIONS_WARNING]


class TestManifests:
    """Manifests of plugins."""

    def test_large_servers(self, machine: Machine) -> None:
        """Are not handed over."""
        for size, ids in ((65_000, ["p@m"]), (66_000, [])):
            machine.write_plugin("m/p/1", {"mcpServers": {"a": "x" * size}})
            assert [plugin for plugin, _ in machine.plugins()] == ids

    @pytest.mark.parametrize("unit", ["[],", "1e300,", '"\\u00e9",', "{},", "[1,"])
    @pytest.mark.parametrize("member", ["mcpServers", "apps", "other"])
    def test_the_effort_grows_with_the_size(self, machine: Machine, member: str, unit: str) -> None:
        """With any content."""

        def discover(size: int) -> None:
            values = unit * (size // len(unit))
            machine.write_plugin("m/p/1", f'{{"{member}": {{"a": [{values}1]}}}}')
            machine.discover()

        assert_grows_linearly(discover, (15_000, 60_000, 240_000))


class TestNames:
    """Skills below a plugin have its name before theirs."""

    @pytest.mark.parametrize(
        ("manifest", "name"),
        [
            ('{"name": "p"}', "p:s"),
            ('{"name": " p q "}', " p q :s"),
            ('{"name": " "}', "my plugin:s"),
            ("{}", "my plugin:s"),
            ('{"name": 5}', "s"),
            ("[]", "s"),
            ("no JSON", "s"),
        ],
    )
    def test_the_name_of_the_manifest(self, machine: Machine, manifest: str, name: str) -> None:
        """Or else of the directory; a malformed one gives none."""
        machine.write(f"home/.codex/skills/my plugin/{MANIFEST}", manifest)
        machine.write_skill("home/.codex/skills/my plugin/below/s", "s")
        assert machine.skill_names() == [name]
        assert machine.discover().warnings == []

    def test_the_nearest_plugin(self, machine: Machine) -> None:
        """Also one around the place itself."""
        machine.write(f"home/{MANIFEST}", '{"name": "home"}')
        machine.write(f"home/.codex/skills/a/{MANIFEST}", '{"name": "a"}')
        machine.write_skill("home/.codex/skills/a/b/s", "s")
        machine.write_skill("home/.codex/skills/t", "t")
        assert machine.skill_names() == ["a:s", "home:t"]

    def test_a_skill_without_a_name(self, machine: Machine) -> None:
        """Is called like its directory."""
        machine.write("home/.codex/skills/a  b/SKILL.md", "---\ndescription: d\n---\n")
        assert machine.skill_names() == ["a b"]

    def test_too_long_a_name(self, machine: Machine) -> None:
        """Of both together."""
        machine.write(f"home/.codex/skills/p/{MANIFEST}", json.dumps({"name": "p" * 127}))
        machine.write_skill("home/.codex/skills/p/s", "s")
        machine.write_skill("home/.codex/skills/p/ss", "ss")
        found = machine.discover()
        assert [skill.name for skill in found.skills] == ["p" * 127 + ":s"]
        assert found.warnings == [METADATA_WARNING]


class TestPlugins:
    """Content of the cache."""

    def test_everything_of_one(self, machine: Machine) -> None:
        """Its files, and its skills without a place of their own."""
        manifest = {"name": "p", "interface": {"displayName": " The  P "}}
        machine.write_plugin("market/plug/1.0.0", manifest)
        machine.write("home/.codex/plugins/cache/market/plug/1.0.0/.mcp.json", "m")
        machine.write("home/.codex/plugins/cache/market/plug/1.0.0/.app.json", "a")
        machine.write_skill("home/.codex/plugins/cache/market/plug/1.0.0/skills/s", "s")
        root = machine.cached("market/plug/1.0.0")
        assert machine.discover() == Capabilities(
            [
                Plugin(
                    id="plug@market",
                    display_name="The  P",
                    remote_plugin_id=None,
                    version="1.0.0",
                    root=root,
                    files=PluginFiles(
                        TextFile(f"{root}/{MANIFEST}", json.dumps(manifest)),
                        TextFile(f"{root}/.mcp.json", "m"),
                        TextFile(f"{root}/.app.json", "a"),
                    ),
                    skills=[
                        Skill("p:s", "does s", None, f"{root}/skills/s/SKILL.md", None, None, None)
                    ],
                )
            ],
            [],
            [],
        )

    def test_the_configuration_does_not_count(self, machine: Machine) -> None:
        """The client determines what is disabled."""
        machine.write_plugin("m/p/1", {})
        machine.write(
            "home/.codex/config.toml",
            '[plugins."p@m"]\nenabled = false\n[features]\nplugins = false\n',
        )
        assert machine.plugins() == [("p@m", "1")]

    def test_which_directories_are_plugins(self, machine: Machine) -> None:
        """Those with names that can be told apart, sorted by id."""
        for place in ("b/z", "a/y", "c/a", "-x/_1", "m/p.q", "m.n/p", "m/.p", "m/p.", "m/p..q"):
            machine.write_plugin(f"{place}/1", {})
        machine.write_plugin("m/pé/1", {})
        machine.write_plugin("m n/p/1", {})
        machine.write("home/.codex/plugins/cache/m/file")
        machine.write("home/.codex/plugins/cache/m/empty/file")
        assert [plugin_id for plugin_id, _ in machine.plugins()] == [
            "_1@-x",
            "a@c",
            "p.q@m",
            "y@a",
            "z@b",
        ]

    @pytest.mark.parametrize(
        ("versions", "active"),
        [
            (["1.9.0", "1.10.0"], "1.10.0"),
            (["1.0.0", "1.0.0-rc.1"], "1.0.0"),
            (["1.0.0-2", "1.0.0-10"], "1.0.0-10"),
            (["1.0.0-1", "1.0.0-a"], "1.0.0-a"),
            (["1.0.0-a", "1.0.0-a.1"], "1.0.0-a.1"),
            (["1.0.0+2", "1.0.0+10"], "1.0.0+10"),
            (["1.0.0", "1.0.0+a"], "1.0.0+a"),
            (["2", "10"], "2"),
            (["01.0.0", "1.0.0"], "1.0.0"),
            (["9.9.9", "local", "zzz"], "local"),
            (["1.0.0", "abc"], "abc"),
            ([".hidden"], ".hidden"),
            (["1.0.0", "a b", "é"], "1.0.0"),
        ],
    )
    def test_the_version_that_counts(
        self, machine: Machine, versions: list[str], active: str
    ) -> None:
        """The highest, or the user's own."""
        for version in versions:
            machine.write_plugin(f"m/p/{version}", {})
        assert machine.plugins() == [("p@m", active)]

    def test_links(self, machine: Machine) -> None:
        """To markets and plugins are followed, to versions they are not."""
        machine.write("elsewhere/p/1/" + MANIFEST, "{}")
        cache = machine.folder / "home/.codex/plugins/cache"
        (cache / "n/q").mkdir(parents=True)
        (cache / "m").symlink_to(machine.folder / "elsewhere")
        (cache / "n/p").symlink_to(machine.folder / "elsewhere/p")
        (cache / "n/q/1").symlink_to(machine.folder / "elsewhere/p/1")
        assert machine.plugins() == [("p@m", "1"), ("p@n", "1")]

    @pytest.mark.parametrize(
        "manifest",
        [
            "no JSON",
            "[1]",
            {"name": 5},
            {"name": None},
            {"apps": {}},
            {"interface": "x"},
            {"interface": {"displayName": 5}},
        ],
    )
    def test_malformed(self, machine: Machine, manifest: object) -> None:
        """Is left out with all its skills, each with a warning."""
        machine.write_plugin("m/p/1", manifest)
        machine.write_plugin("m/q/1", manifest)
        machine.write_skill("home/.codex/plugins/cache/m/p/1/s", "s")
        machine.write("home/.codex/plugins/cache/m/r/1/file", "no manifest")
        machine.write_plugin("m/s/1", {})
        found = machine.discover()
        assert [plugin.id for plugin in found.plugins] == ["s@m"]
        assert found.skills == []
        assert found.warnings == [METADATA_WARNING] * 3

    @pytest.mark.parametrize(
        ("manifest", "name"),
        [
            ({}, "1"),
            ({"name": " "}, "1"),
            ({"name": " n "}, " n "),
            ({"name": "n", "interface": None}, "n"),
            ({"name": "n", "interface": {"displayName": " "}}, "n"),
            ({"name": "n", "interface": {"displayName": None, "other": 5}}, "n"),
            ({"name": "n", "displayName": "x", "version": 5}, "n"),
        ],
    )
    def test_names_for_people(self, machine: Machine, manifest: object, name: str) -> None:
        """The one for people, or the one there is, or that of the directory."""
        machine.write_plugin("m/p/1", manifest)
        assert machine.only_plugin().display_name == name

    def test_servers_in_the_manifest(self, machine: Machine) -> None:
        """Are told as if they had a file."""
        servers: dict[str, Any] = {"b": {"url": "ü/"}, "a": [1, 2.0]}
        machine.write_plugin("m/p/1", {"mcpServers": servers})
        plugin = machine.only_plugin()
        assert plugin.files.mcp_config == TextFile(
            plugin.files.manifest.path, '{"b":{"url":"ü/"},"a":[1,2.0]}'
        )

    @pytest.mark.parametrize("member", ["mcpServers", "apps"])
    def test_a_file_that_is_declared_and_missing(self, machine: Machine, member: str) -> None:
        """Is said."""
        machine.write_plugin("m/p/1", {member: "./missing.json"})
        found = machine.discover()
        assert len(found.plugins) == 1
        assert found.warnings == [METADATA_WARNING]

    @pytest.mark.parametrize(
        ("text", "remote_id"),
        [
            ('{"schema_version": 1, "remote_plugin_id": " r i/d ", "more": 1}', "r i/d"),
            ('{"schema_version": 2, "remote_plugin_id": "r"}', None),
            ('{"schema_version": 1, "remote_plugin_id": " "}', None),
            ('{"schema_version": 1}', None),
            ("no JSON", None),
            ('{"schema_version": 1, "remote_plugin_id": "%s"}' % ("r" * 1025), None),
            ('{"schema_version": 1, "remote_plugin_id": "r"}' + " " * 16_384, None),
        ],
    )
    def test_plugins_of_a_remote_market(
        self, machine: Machine, text: str, remote_id: str | None
    ) -> None:
        """Have an id there; one that cannot be read is said, and no obstacle."""
        machine.write_plugin("m/p/1", {})
        machine.write("home/.codex/plugins/cache/m/p/.codex-remote-plugin-install.json", text)
        found = machine.discover()
        assert [plugin.remote_plugin_id for plugin in found.plugins] == [remote_id]
        assert found.warnings == ([] if remote_id else [LOCATIONS_WARNING])


class TestLimits:
    """Limits."""

    def test_places(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plugins come first."""
        monkeypatch.setattr(capabilities, "MAX_LOCATIONS", 3)
        for name in "abcd":
            machine.write_plugin(f"m/{name}/1", {})
        machine.write_skill("home/.codex/skills/s", "s")
        found = machine.discover()
        assert [plugin.id for plugin in found.plugins] == ["a@m", "b@m", "c@m"]
        assert (found.skills, found.warnings) == ([], [LOCATIONS_WARNING])

    def test_number(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of plugins and skills together."""
        monkeypatch.setattr(capabilities, "MAX_CAPABILITIES", 4)
        machine.write_plugin("m/p/1", {})
        machine.write_skill("home/.codex/plugins/cache/m/p/1/s", "s")
        for name in "abc":
            machine.write_skill(f"home/.codex/skills/{name}", name)
        found = machine.discover()
        assert [skill.name for skill in found.skills] == ["a", "b"]
        assert found.warnings == [SIZE_WARNING]

    def test_size(self, machine: Machine) -> None:
        """Large items are skipped, smaller ones still returned."""
        for number in range(5):
            machine.write_plugin(f"m/p{number}/1", {"pad": "x" * 1_000_000})
        machine.write_skill("home/.codex/skills/s", "s")
        found = machine.discover()
        assert [plugin.id for plugin in found.plugins] == [f"p{number}@m" for number in range(4)]
        assert [skill.name for skill in found.skills] == ["s"]
        assert found.warnings == [SIZE_WARNING]

    def test_warnings(self, machine: Machine) -> None:
        """64 say enough."""
        for number in range(70):
            machine.write_plugin(f"m/p{number}/1", "no JSON")
        assert machine.discover().warnings == [METADATA_WARNING] * 64
