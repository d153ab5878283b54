"""The machine's own configuration in layers (v2 environmentConfig/read)."""

from __future__ import annotations

import os
import socket
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.discovery import config_layers
from exec_server.engine.discovery.config_layers import (
    PROJECT_MAY_NOT_SET,
    ConfigLayers,
    EnvironmentConfig,
    read_environment_config,
)
from exec_server.engine.discovery.toml_text import MAX_TOML_BYTES
from exec_server.errors import InvalidArgument, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MODEL = (("model",),)


class Machine:
    """A machine with a home, a system directory and a project, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = f"{folder}/project"
        self.write("home/.codex/.keep", "")

    def write(self, path: str, text: str | bytes) -> None:
        """Write a file and make the directories it needs."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def write_user(self, text: str = "", **levels: str) -> None:
        """The user's configuration, with levels of trust for paths in the folder."""
        for path, level in levels.items():
            name = f"{self.folder}/{path}".rstrip("/")
            text += f'\n[projects."{name}"]\ntrust_level = "{level}"\n'
        self.write("home/.codex/config.toml", text)

    def write_repository(self, path: str, model: str | None = None) -> None:
        """Create a minimal git repository with a configuration that names a model."""
        self.write(f"{path}/.git/HEAD", "ref: refs/heads/main\n")
        if model is not None:
            self.write_model(path, model)

    def write_model(self, path: str, model: str) -> None:
        """The configuration of a directory of a project."""
        self.write(f"{path}/.codex/config.toml", f'model = "{model}"\n')

    def read(
        self,
        cwd: str = "project",
        config: Sequence[Sequence[str]] = MODEL,
        requirements: Sequence[Sequence[str]] = (),
    ) -> EnvironmentConfig:
        return read_environment_config(
            f"{self.folder}/{cwd}",
            config,
            requirements,
            system_directory=f"{self.folder}/etc",
        )

    def models(self, cwd: str = "project") -> list[str]:
        """The models that the layers name."""
        return [tomllib.loads(layer.toml)["model"] for layer in self.read(cwd).config.layers]

    def failure(self, cwd: str = "project", config: Sequence[Sequence[str]] = MODEL) -> str:
        """Return the error of reading, without the folder."""
        with pytest.raises(OperationFailed) as caught:
            self.read(cwd, config)
        message = str(caught.value)
        assert message.startswith("failed to load executor-local config: ")
        return message.partition(": ")[2].replace(str(self.folder), "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return Machine(tmp_path)


def documents(layers: ConfigLayers) -> list[dict[str, Any]]:
    return [tomllib.loads(layer.toml) for layer in layers.layers]


class TestLayers:
    """Layers and their order."""

    def test_nothing(self, machine: Machine) -> None:
        """Is an answer; neither the working directory nor the Codex home need exist."""
        (machine.folder / "home/.codex/.keep").unlink()
        (machine.folder / "home/.codex").rmdir()
        config = machine.read("no/such/directory")
        assert config.config == config.requirements == ConfigLayers([], 0)
        assert config.user_home_dir == f"{machine.folder}/home"
        assert config.codex_home_dir == f"{machine.folder}/home/.codex"

    def test_precedence_grows(self, machine: Machine) -> None:
        """The system, the user, the project from its root down, the administrator's old form."""
        machine.write("etc/config.toml", 'model = "system"\n')
        machine.write("etc/managed_config.toml", 'model = "managed"\n')
        machine.write_user('model = "user"\n', project="trusted")
        machine.write_repository("project", "root")
        machine.write_model("project/a", "a")
        machine.write_model("project/a/b", "b")
        config = machine.read("project/a/b").config
        assert [
            (layer.source, layer.base_dir, tomllib.loads(layer.toml)["model"])
            for layer in config.layers
        ] == [
            (label.format(f"{machine.folder}/{file}"), f"{machine.folder}/{base}", model)
            for label, file, base, model in (
                ("system ({})", "etc/config.toml", "etc", "system"),
                ("user ({})", "home/.codex/config.toml", "home/.codex", "user"),
                ("project ({})", "project/.codex/config.toml", "project/.codex", "root"),
                ("project ({})", "project/a/.codex/config.toml", "project/a/.codex", "a"),
                ("project ({})", "project/a/b/.codex/config.toml", "project/a/b/.codex", "b"),
                ("legacy managed_config.toml ({})", "etc/managed_config.toml", "etc", "managed"),
            )
        ]

    def test_others_come_above_the_system(self, machine: Machine) -> None:
        """If the system has anything of what is asked for."""
        machine.write("etc/config.toml", 'model = "system"\n')
        machine.write("etc/requirements.toml", "x = 1\n")
        machine.write_user("other = 1\n")
        both = machine.read(config=[("model",), ("other",)], requirements=[("x",)])
        assert both.config.cloud_insertion_index == 1
        assert both.requirements.cloud_insertion_index == 1
        neither = machine.read(config=[("other",)], requirements=[("y",)])
        assert len(neither.config.layers) == 1
        assert neither.config.cloud_insertion_index == 0
        assert neither.requirements == ConfigLayers([], 0)

    def test_requirements(self, machine: Machine) -> None:
        """The system's, and what the old form amounts to."""
        machine.write("etc/requirements.toml", 'x = 1\n[mcp_servers.a.identity]\ncommand = "c"\n')
        machine.write("etc/managed_config.toml", 'sandbox_mode = "workspace-write"\nx = 2\n')
        found = machine.read(
            config=(), requirements=[("x",), ("mcp_servers",), ("allowed_sandbox_modes",)]
        ).requirements
        assert documents(found) == [
            {"x": 1, "mcp_servers": {"a": {"identity": {"command": "c"}}}},
            {"allowed_sandbox_modes": ["read-only", "workspace-write"]},
        ]
        assert [(layer.source, layer.base_dir) for layer in found.layers] == [
            (f"{machine.folder}/etc/{name}", f"{machine.folder}/etc")
            for name in ("requirements.toml", "managed_config.toml")
        ]

    @pytest.mark.parametrize(
        ("managed", "required"),
        [
            ('sandbox_mode = "read-only"', {"allowed_sandbox_modes": ["read-only"]}),
            (
                'sandbox_mode = "danger-full-access"\napprovals_reviewer = "guardian_subagent"',
                {
                    "allowed_approvals_reviewers": ["auto_review", "user"],
                    "allowed_sandbox_modes": ["read-only", "danger-full-access"],
                },
            ),
            ('approvals_reviewer = "user"', {"allowed_approvals_reviewers": ["user"]}),
            ('approval_policy = "on-failure"', {"allowed_approval_policies": ["on-request"]}),
            ('approval_policy = "never"', {"allowed_approval_policies": ["never"]}),
            (
                "[approval_policy.granular]\nrules = true",
                {"allowed_approval_policies": [{"granular": {"rules": True}}]},
            ),
        ],
    )
    def test_the_old_form(
        self, machine: Machine, managed: str, required: Mapping[str, object]
    ) -> None:
        """One value given there is what is allowed, with what needs no permission."""
        machine.write("etc/managed_config.toml", managed)
        keys = ("allowed_approval_policies", "allowed_approvals_reviewers", "allowed_sandbox_modes")
        found = machine.read(config=(), requirements=[(key,) for key in keys])
        assert documents(found.requirements) == [required]


class TestSelection:
    """Which settings are handed out."""

    SETTINGS = 'model = "m"\n[a.b]\nc = 1\nd = 2\n[a.e]\nf = 3\n[empty]\n[[list]]\ng = 4\n'

    @pytest.mark.parametrize(
        ("config", "toml"),
        [
            ([["model"]], 'model = "m"\n'),
            ([["model", "below"]], 'model = "m"\n'),
            ([["a", "b", "c", "below"]], "[a.b]\nc = 1\n"),
            ([["list", "0", "g"]], "[[list]]\ng = 4\n"),
            ([["empty"]], "[empty]\n"),
            (
                [["a", "e"], ["a", "b", "d"], ["model"]],
                'model = "m"\n\n[a.b]\nd = 2\n\n[a.e]\nf = 3\n',
            ),
            ([["a", "b"], ["a", "b", "c"]], "[a.b]\nc = 1\nd = 2\n"),
        ],
    )
    def test_by_key(self, machine: Machine, config: list[list[str]], toml: str) -> None:
        """In the order of the file; below what is no table a path leads no further."""
        machine.write_user(self.SETTINGS)
        (layer,) = machine.read(config=config).config.layers
        assert layer.toml == toml

    @pytest.mark.parametrize("config", [[["no"]], [["a", "no"]], [["empty", "no"]], [[""]]])
    def test_layers_without_any_are_left_out(
        self, machine: Machine, config: list[list[str]]
    ) -> None:
        """Return complete layers, not only their text."""
        machine.write_user(self.SETTINGS)
        assert machine.read(config=config).config.layers == []

    def test_values_stay_what_they_are(self, machine: Machine) -> None:
        """All TOML types; relative paths stay relative."""
        values = (
            'path = "./x"\nquoted = "a\\"b\\\\c\\nü\\u0000"\nfloat = 1.5\nwhole = 2.0\nint = -3\n'
            "yes = true\nmoment = 1979-05-27T07:32:00.5-07:00\nday = 1979-05-27\n"
            "hour = 07:32:00\nlist = [1, [2], {x = 3}]\nnone = []\n"
            '"a key" = 1\n"" = 2\n[sub."d.e"]\nx = 1\n[[tables]]\n[tables.y]\nz = 1\n[[tables]]\n'
        )
        machine.write_user(values)
        document = tomllib.loads(values)
        (found,) = documents(machine.read(config=[[key] for key in document]).config)
        assert found == document
        assert [*found] == [*document]

    def test_something_must_be_asked_for(self, machine: Machine) -> None:
        """And each path must have a key."""
        with pytest.raises(InvalidArgument) as caught:
            machine.read(config=())
        assert str(caught.value) == "at least one config or requirements path is required"
        for config, requirements in (([[]], ()), (MODEL, [["a"], []])):
            with pytest.raises(InvalidArgument) as caught:
                machine.read(config=config, requirements=requirements)
            assert str(caught.value) == "TOML paths must contain at least one key segment"

    def test_what_is_asked_for_is_bounded(self, machine: Machine) -> None:
        """In number, in depth, and in the levels of the working directory."""
        machine.write_user('model = "m"\n')
        for config, problem in (
            ([["model"]] * 1025, "at most 1024 TOML paths can be asked for, got 1025"),
            ([["a"] * 129], "TOML paths may have at most 128 key segments, got 129"),
        ):
            with pytest.raises(InvalidArgument, match=problem):
                machine.read(config=config)
        assert machine.read(config=[["model"], ["a"] * 128] * 512).config.layers
        below = 256 - f"{machine.folder}/project".count("/")
        assert machine.read("project" + "/a" * below).config.layers
        with pytest.raises(InvalidArgument, match="at most 256 levels, got 257"):
            machine.read("project" + "/a" * (below + 1))


class TestTrust:
    """Trust in projects."""

    @pytest.mark.parametrize("levels", [{}, {"project": "untrusted"}, {"": "trusted"}])
    def test_projects_that_the_user_does_not_trust(
        self, machine: Machine, levels: dict[str, str]
    ) -> None:
        """Say nothing, not even that they are malformed; trust in what is around them is none."""
        machine.write_user(**levels)
        machine.write_repository("project", "m")
        machine.write("project/sub/.codex/config.toml", b"\xff")
        assert machine.models("project/sub") == []

    def test_the_nearest_level_counts(self, machine: Machine) -> None:
        """Of the directory, else of the project's root."""
        machine.write_repository("project", "root")
        for name in ("a", "a/b", "a/b/c"):
            machine.write_model(f"project/{name}", name)
        machine.write_user(**{"project": "trusted", "project/a": "untrusted"})
        assert machine.models("project/a/b/c") == ["root", "a/b", "a/b/c"]
        machine.write_user(**{"project/a/b": "trusted"})
        assert machine.models("project/a/b/c") == ["a/b"]

    def test_without_a_marker_the_working_directory_is_the_root(self, machine: Machine) -> None:
        """So nothing above it counts."""
        machine.write_user(project="trusted")
        machine.write_model("project", "root")
        machine.write_model("project/sub", "sub")
        assert machine.models("project") == ["root"]
        assert machine.models("project/sub") == []

    @pytest.mark.parametrize("entry", ["file", "link", "HEAD"])
    def test_what_marks_a_root(self, machine: Machine, entry: str) -> None:
        """A file, or a directory that holds a repository."""
        machine.write_user(project="trusted")
        machine.write_model("project", "root")
        machine.write("project/sub/file", "")
        git = machine.folder / "project/.git"
        if entry == "file":
            git.write_text("of no use\n")
        else:
            (machine.folder / "elsewhere").mkdir()
            git.symlink_to("../elsewhere")
            if entry == "HEAD":
                (git / "HEAD").touch()
        assert machine.models("project/sub") == ([] if entry == "link" else ["root"])

    def test_other_markers(self, machine: Machine) -> None:
        """The configuration above all projects says which."""
        machine.write("etc/config.toml", 'project_root_markers = [".hg", "M\\u0000", "MARK"]\n')
        machine.write_user(project="trusted")
        machine.write("project/MARK", "")
        machine.write_model("project", "root")
        machine.write_repository("project/sub", "sub")
        assert machine.models("project/sub") == ["root", "sub"]
        machine.write("etc/managed_config.toml", "project_root_markers = []\n")
        assert machine.models("project/sub") == []

    def test_the_repository_counts_last(self, machine: Machine) -> None:
        """For a project that is part of it."""
        machine.write("etc/config.toml", 'project_root_markers = ["MARK"]\n')
        machine.write_user(project="trusted")
        machine.write_repository("project", "root")
        machine.write("project/sub/MARK", "")
        machine.write_model("project/sub", "sub")
        assert machine.models("project/sub") == ["sub"]
        machine.write_user(**{"project": "trusted", "project/sub": "untrusted"})
        assert machine.models("project/sub") == []

    def test_every_layer_above_may_trust(self, machine: Machine) -> None:
        """With the precedence that they have."""
        machine.write_repository("project", "m")
        text = f'[projects."{machine.project}"]\ntrust_level = "%s"\n'
        machine.write("etc/config.toml", text % "trusted")
        assert machine.models() == ["m"]
        machine.write_user(text % "untrusted")
        assert machine.models() == []
        machine.write("etc/managed_config.toml", text % "trusted")
        assert machine.models() == ["m"]

    def test_links(self, machine: Machine) -> None:
        """A directory is trusted by its real name, or else by the one that was given."""
        machine.write_repository("project", "m")
        (machine.folder / "link").symlink_to("project")
        machine.write_user(project="trusted")
        assert machine.models("link") == ["m"]
        machine.write_user(link="trusted")
        assert machine.models("link") == ["m"]
        assert machine.models("project") == []
        machine.write_user(link="trusted", project="untrusted")
        assert machine.models("link") == []

    def test_the_codex_home_is_no_project(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its configuration is the user's, and is not taken twice."""
        machine.write_repository("home")
        machine.write_user('model = "user"\n', home="trusted")
        machine.write_model("home/sub", "sub")
        assert machine.models("home/sub") == ["user", "sub"]
        (machine.folder / "linked").symlink_to("home/.codex")
        monkeypatch.setenv("CODEX_HOME", f"{machine.folder}/linked")
        assert machine.models("home/sub") == ["user", "sub"]

    def test_what_a_project_may_not_set(self, machine: Machine) -> None:
        """A repository must not redirect data or choose programs."""
        machine.write_repository("project")
        machine.write_user(project="trusted")
        settings = "".join(f"{name} = 1\n" for name in sorted(PROJECT_MAY_NOT_SET))
        machine.write(
            "project/.codex/config.toml",
            f"model = 2\n{settings}[features]\nrespect_system_proxy = true\napps = true\n",
        )
        asked = [[name] for name in (*PROJECT_MAY_NOT_SET, "model", "features")]
        assert documents(machine.read(config=asked).config) == [
            {"model": 2, "features": {"apps": True}}
        ]


class TestWorkingTrees:
    """Linked working trees of a git repository."""

    @pytest.fixture
    def trees(self, machine: Machine) -> Machine:
        """A trusted repository ``project`` with a linked tree ``linked``."""
        machine.write_user(project="trusted")
        machine.write_repository("project")
        machine.write("linked/.git", f"gitdir: {machine.project}/.git/worktrees/w\n")
        machine.write("project/.git/worktrees/w/commondir", "../..\n")
        machine.write("project/.git/worktrees/w/gitdir", f"{machine.folder}/linked/.git\n")
        machine.write_model("linked", "m")
        return machine

    def test_are_trusted_as_their_repository(self, trees: Machine) -> None:
        """Unless they have a level of their own."""
        assert trees.models("linked") == ["m"]
        trees.write("linked/.git", "gitdir: ../project/.git/worktrees/w")
        assert trees.models("linked") == ["m"]
        trees.write_user(project="trusted", linked="untrusted")
        assert trees.models("linked") == []

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("linked/.git", "gitdir: /no/such/directory\n"),
            ("linked/.git", b"gitdir: \xff\n"),
            ("linked/.git", "something: {folder}/project/.git/worktrees/w\n"),
            ("linked/.git", "gitdir: {folder}/project/.git\n"),
            ("project/.git/worktrees/w/commondir", "..\n"),
            ("project/.git/worktrees/w/gitdir", "{folder}/other/.git\n"),
            ("project/.git/worktrees/w/gitdir", "/no/such/.git\n"),
        ],
    )
    def test_only_if_the_repository_knows_them(
        self, trees: Machine, file: str, text: str | bytes
    ) -> None:
        """Any directory could claim to belong to one that is trusted."""
        trees.write("other/.git", "")
        trees.write(file, text if isinstance(text, bytes) else text.format(folder=trees.folder))
        assert trees.models("linked") == []

    def test_repositories_without_a_tree_of_their_own(self, trees: Machine) -> None:
        """Lend no trust: what is around them is no working tree."""
        trees.write("linked/.git", f"gitdir: {trees.folder}/bare/worktrees/w\n")
        trees.write("bare/worktrees/w/commondir", "../..\n")
        trees.write("bare/worktrees/w/gitdir", f"{trees.folder}/linked/.git\n")
        trees.write_user(**{"": "trusted", "bare": "trusted"})
        assert trees.models("linked") == []

    def test_hooks_are_those_of_the_main_tree(self, trees: Machine) -> None:
        """In layers of their own; everything else is the linked tree's."""
        trees.write("linked/.codex/config.toml", 'model = "l"\n[hooks]\nx = 1\n')
        trees.write("linked/a/.codex/config.toml", "hooks = 2\n")
        trees.write("project/.codex/config.toml", 'model = "p"\n[hooks]\nx = 3\n')
        trees.write("project/a/.codex/config.toml", "model = 4\n")
        config = trees.read("linked/a", config=[["model"], ["hooks"]]).config
        assert documents(config) == [{"model": "l"}, {"hooks": {"x": 3}}]
        assert config.layers[1].source == f"project ({trees.project}/.codex/config.toml)"
        assert config.layers[1].base_dir == f"{trees.project}/.codex"

    def test_directories_outside_the_tree_have_their_own_hooks(self, trees: Machine) -> None:
        """For a project larger than the tree."""
        trees.write_user('project_root_markers = ["MARK"]\n', **{"": "trusted"})
        trees.write("MARK", "")
        trees.write(".codex/config.toml", "hooks = 1\n")
        config = trees.read("linked", config=[["hooks"], ["model"]]).config
        assert documents(config) == [{"hooks": 1}, {"model": "m"}]


class TestFailures:
    """Files that count and cannot be used."""

    @pytest.mark.parametrize(
        ("file", "where"),
        [
            ("etc/config.toml", "/etc/config.toml:2:6: "),
            ("home/.codex/config.toml", "/home/.codex/config.toml:2:6: "),
            ("etc/managed_config.toml", "/etc/managed_config.toml:2:6: "),
            (
                "etc/requirements.toml",
                "failed to parse requirements layer /etc/requirements.toml: "
                "TOML parse error at line 2, column 6: ",
            ),
        ],
    )
    def test_malformed(self, machine: Machine, file: str, where: str) -> None:
        """The place in the file is said, whatever is asked for."""
        machine.write(file, "x = 1\ny = [nonsense]\n")
        failure = machine.failure(config=[["z"]])
        assert failure.startswith(where)
        assert len(failure) > len(where)

    def test_malformed_in_a_project(self, machine: Machine) -> None:
        """Also where only the hooks of the main working tree are wanted."""
        machine.write_user(project="trusted")
        machine.write_repository("project")
        machine.write("project/.codex/config.toml", "x")
        assert machine.failure().startswith(
            "Error parsing project config file /project/.codex/config.toml: "
            "TOML parse error at line 1, column 2: "
        )
        machine.write("linked/.git", f"gitdir: {machine.project}/.git/worktrees/w\n")
        machine.write("project/.git/worktrees/w/commondir", "../..\n")
        machine.write("project/.git/worktrees/w/gitdir", f"{machine.folder}/linked/.git\n")
        machine.write_model("linked", "m")
        assert machine.failure("linked").startswith(
            "Error parsing project hooks config file /project/.codex/config.toml: "
        )

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("a = 1\na = 2\n", "2:6"),
            ("a = 1\nb = [", "2:6"),
            ("a = " + "[" * 100_000, "1:1"),
            ("a = " + "9" * 10_000, "1:1"),
        ],
    )
    def test_where(self, machine: Machine, text: str, place: str) -> None:
        """At the end of the file too, and even what the parser gives up on."""
        machine.write_user(text)
        assert machine.failure().startswith(f"/home/.codex/config.toml:{place}: ")

    def test_not_text(self, machine: Machine) -> None:
        """TOML is UTF-8; a byte order mark is no fault."""
        machine.write("home/.codex/config.toml", b'\xef\xbb\xbfmodel = "m"\n')
        assert machine.models() == ["m"]
        machine.write("home/.codex/config.toml", b'm = "\xff"\n')
        assert machine.failure() == (
            "Failed to read config file /home/.codex/config.toml: "
            "invalid utf-8 sequence of 1 bytes from index 5"
        )

    @pytest.mark.parametrize(
        ("file", "kind"),
        [
            ("home/.codex/config.toml", "config file"),
            ("etc/requirements.toml", "requirements file"),
        ],
    )
    def test_not_a_file(self, machine: Machine, file: str, kind: str) -> None:
        """A directory or a FIFO, which does not block."""
        path = machine.folder / file
        path.parent.mkdir(exist_ok=True)
        expected = f"Failed to read {kind} /{file}: path `/{file}` is not a file"
        path.mkdir()
        assert machine.failure() == expected
        path.rmdir()
        os.mkfifo(path)
        assert machine.failure() == expected

    def test_a_file_that_is_too_large(self, machine: Machine) -> None:
        """Is not read."""
        machine.write("home/.codex/config.toml", 'model = "m"\n'.ljust(MAX_TOML_BYTES, "#"))
        assert machine.models() == ["m"]
        machine.write("home/.codex/config.toml", "#" * (MAX_TOML_BYTES + 1))
        assert machine.failure() == (
            "Failed to read config file /home/.codex/config.toml: "
            "the file has more than 1048576 bytes"
        )

    def test_values_that_are_nested_too_deeply(self, machine: Machine) -> None:
        """In any notation."""
        machine.write_user(f"{'a.' * 500}a = 1\n")
        assert machine.failure() == ("/home/.codex/config.toml:1:1: values are nested too deeply")

    def test_too_many_layers(self, machine: Machine) -> None:
        """Of one project."""
        machine.write_repository("project")
        machine.write_user(project="trusted")
        directory = "project"
        for number in range(65):
            if number == 64:
                assert len(machine.models(directory)) == 64
            directory += "/a"
            machine.write_model(directory, "m")
        assert machine.failure(directory) == (
            "more than 64 directories of a project have a .codex directory"
        )

    def test_a_loop_of_links(self, machine: Machine) -> None:
        """The system's reason is passed on; a link to nowhere is no file at all."""
        path = machine.folder / "home/.codex/config.toml"
        path.symlink_to("no-such-file")
        assert machine.models() == []
        path.unlink()
        path.symlink_to("config.toml")
        assert machine.failure().endswith("(os error 40)")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("project_root_markers = 5", "project_root_markers must be an array of strings"),
            ('project_root_markers = ["a", 5]', "project_root_markers must be an array of strings"),
            ('project_root_markers = "a"', "project_root_markers must be an array of strings"),
            ("projects = 5", "projects must be a table"),
            ('projects."/x" = 5', "projects./x must be a table"),
            (
                'projects."/x".trust_level = "on"',
                "projects./x.trust_level must be `trusted` or `untrusted`",
            ),
            (
                'projects."/x".trust_level = [1]',
                "projects./x.trust_level must be `trusted` or `untrusted`",
            ),
        ],
    )
    def test_what_decides_trust_must_be_right(
        self, machine: Machine, text: str, expected: str
    ) -> None:
        """Other settings may be anything: clients judge them."""
        machine.write_user(text)
        assert machine.failure() == expected

    def test_what_is_required_must_be_right(self, machine: Machine) -> None:
        """In the old form, where it is translated."""
        machine.write("etc/managed_config.toml", 'sandbox_mode = "on"\n')
        assert machine.failure() == (
            "Failed to parse config requirements as TOML: sandbox_mode must be one of "
            "`read-only`, `workspace-write`, `danger-full-access`"
        )


class TestHomes:
    """Location of the user's configuration."""

    def test_codex_home(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its real path counts, also in what is told."""
        machine.write("real/config.toml", 'model = "m"\n')
        (machine.folder / "link").symlink_to("real")
        monkeypatch.chdir(machine.folder)
        for given in (f"{machine.folder}/link", "link"):
            monkeypatch.setenv("CODEX_HOME", given)
            config = machine.read()
            assert config.codex_home_dir == f"{machine.folder}/real"
            assert config.config.layers[0].base_dir == f"{machine.folder}/real"
        monkeypatch.setenv("CODEX_HOME", "")
        assert machine.read().codex_home_dir == f"{machine.folder}/home/.codex"

    @pytest.mark.parametrize(
        ("name", "wrong"), [("missing", "does not exist"), ("file", "is not a directory")]
    )
    def test_no_codex_home(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
    ) -> None:
        """Is an error where it was named, since something was expected there."""
        machine.write("file", "")
        monkeypatch.setenv("CODEX_HOME", f"{machine.folder}/{name}")
        with pytest.raises(OperationFailed) as caught:
            machine.read()
        assert str(caught.value) == (
            f'failed to find Codex home: CODEX_HOME points to "{machine.folder}/{name}", '
            f"but that path {wrong}"
        )

    def test_no_home(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing to read then, unless CODEX_HOME says where."""
        monkeypatch.setenv("HOME", "relative")
        with pytest.raises(OperationFailed, match=r"^failed to find Codex home: "):
            machine.read()
        monkeypatch.setenv("CODEX_HOME", f"{machine.folder}/home/.codex")
        assert machine.read().user_home_dir is None


class TestHostname:
    """Host names."""

    @pytest.mark.parametrize(
        ("kernel", "resolver", "expected"),
        [
            ("Host", ["host", "HOST.Example.org."], "host.example.org"),
            ("HOST.", ["host"], "host"),
            ("Host.Example", None, "host.example"),
            ("", None, None),
        ],
    )
    def test_the_full_name_if_known(
        self,
        machine: Machine,
        monkeypatch: pytest.MonkeyPatch,
        kernel: str,
        resolver: list[str] | None,
        expected: str | None,
    ) -> None:
        """In lower case, without a dot at the end."""

        def getaddrinfo(*_: object, **__: object) -> list[tuple[int, int, int, str, object]]:
            if resolver is None:
                raise socket.gaierror
            return [(0, 0, 0, name, ()) for name in resolver]

        monkeypatch.setattr(socket, "gethostname", lambda: kernel)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        config_layers._hostname.cache_clear()
        try:
            assert machine.read().hostname == expected
        finally:
            config_layers._hostname.cache_clear()
