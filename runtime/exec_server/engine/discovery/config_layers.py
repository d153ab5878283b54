"""What the machine's own configuration says, in layers (v2 environmentConfig/read).

A client that runs its commands here wants some settings from the configuration that a codex on
this machine would use. It names them by key; of each layer it gets those that the layer has, as
TOML. Layers come with growing precedence:

1. the system's, ``/etc/codex/config.toml``;
2. the user's, ``config.toml`` in the Codex home;
3. the project's, ``.codex/config.toml`` in each trusted directory from the project's root down to
   the working directory;
4. the administrator's old form, ``/etc/codex/managed_config.toml``.

Requirements limit what the settings may be: ``/etc/codex/requirements.toml``, and what the old form
amounts to. A client puts layers that it knows of from elsewhere right above the system's.

All rules were measured on codex 0.169.
"""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from exec_server.engine import paths
from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.discovery import toml_text
from exec_server.engine.discovery.host_info import SYSTEM_DIRECTORY, codex_home_dir, user_home_dir
from exec_server.engine.discovery.project_trust import Project, TrustLevel, ancestors, find_project
from exec_server.engine.discovery.toml_text import MAX_TOML_BYTES, MAX_TOML_DEPTH, Table
from exec_server.engine.files.real_path import real_path
from exec_server.engine.files.text_file import read_text
from exec_server.errors import EngineError, InvalidArgument, OperationFailed, system_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_KEY_PATHS: Final = 1024
"""Most settings that are asked for at once; clients ask for some dozen."""

MAX_KEY_PATH_SEGMENTS: Final = MAX_TOML_DEPTH
"""Most keys of one path; no file leads further."""

MAX_DIRECTORY_LEVELS: Final = 256
"""Most levels of a working directory: each of them may have a configuration."""

MAX_PROJECT_LAYERS: Final = 64
"""Most directories of a project that have a configuration; each takes some milliseconds."""

DEFAULT_ROOT_MARKERS: Final = [".git"]
"""What marks the root of a project, unless ``project_root_markers`` says otherwise."""

PROJECT_MAY_NOT_SET: Final = frozenset(
    {
        "apps_mcp_product_sku",
        "chatgpt_base_url",
        "experimental_realtime_webrtc_call_base_url",
        "experimental_realtime_ws_base_url",
        "model_provider",
        "model_providers",
        "notify",
        "openai_base_url",
        "otel",
        "profile",
        "profiles",
    }
)
"""Settings that send the user's data elsewhere or run commands: a repository's are ignored."""

_PROXY_FEATURE: Final = "respect_system_proxy"
"""The one feature, likewise."""

_POLICIES: Final = {
    "untrusted": "untrusted",
    "on-failure": "on-request",
    "on-request": "on-request",
    "never": "never",
}
_REVIEWERS: Final = {
    "user": ["user"],
    "auto_review": ["auto_review", "user"],
    "guardian_subagent": ["auto_review", "user"],
}
_SANDBOX_MODES: Final = {
    "read-only": ["read-only"],
    "workspace-write": ["read-only", "workspace-write"],
    "danger-full-access": ["read-only", "danger-full-access"],
}
"""What a setting of the old form allows as a requirement."""

_AT: Final = re.compile(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")

KeyPath = tuple[str, ...]

_T = TypeVar("_T")


class ConfigLayer(msgspec.Struct, frozen=True):
    """What one file says of the settings asked for."""

    source: str
    """Kind and path of the file, for people."""
    base_dir: str
    """What relative paths in it start from; an absolute native path."""
    toml: str
    """The settings asked for that the file has, in the file's order; never none."""


class ConfigLayers(msgspec.Struct, frozen=True):
    """Layers with growing precedence."""

    layers: list[ConfigLayer]
    cloud_insertion_index: int
    """Where in the list a client puts layers that it has from elsewhere."""


class EnvironmentConfig(msgspec.Struct, frozen=True):
    """Configuration and requirements of this machine, as far as asked for."""

    user_home_dir: str | None
    codex_home_dir: str
    hostname: str | None
    """Full name if the resolver knows one, in lower case; requirements may depend on it."""
    config: ConfigLayers
    requirements: ConfigLayers


class _Layer(NamedTuple):
    """A whole layer."""

    label: str
    """With a place for the file."""
    file: str
    document: Table
    is_system: bool = False


def read_environment_config(
    cwd: str,
    config_paths: Sequence[Sequence[str]],
    requirements_paths: Sequence[Sequence[str]],
    *,
    system_directory: str = SYSTEM_DIRECTORY,
) -> EnvironmentConfig:
    """Read the configuration for a working directory, which need not exist.

    A key path that goes on below something other than a table selects that. May wait for the name
    system: not for the event loop's thread. Raises InvalidArgument where nothing is asked for, and
    OperationFailed, which names the file, where one that counts cannot be read or understood.
    """
    if not config_paths and not requirements_paths:
        raise InvalidArgument("at least one config or requirements path is required")
    if (count := len(config_paths) + len(requirements_paths)) > MAX_KEY_PATHS:
        raise InvalidArgument(f"at most {MAX_KEY_PATHS} TOML paths can be asked for, got {count}")
    wanted, required = _key_paths(config_paths), _key_paths(requirements_paths)
    cwd = paths.normalize(cwd)
    if (levels := cwd.count("/")) > MAX_DIRECTORY_LEVELS:
        raise InvalidArgument(f"cwd may have at most {MAX_DIRECTORY_LEVELS} levels, got {levels}")
    try:
        codex_home = codex_home_dir()
    except OperationFailed as error:
        raise OperationFailed(f"failed to find Codex home: {error}") from None
    try:
        config, requirements = _load(cwd, codex_home, system_directory)
    except _ConfigError as error:
        raise OperationFailed(f"failed to load executor-local config: {error}") from None
    return EnvironmentConfig(
        user_home_dir=user_home_dir(),
        codex_home_dir=codex_home,
        hostname=_hostname(),
        config=_select_layers(config, wanted),
        requirements=_select_layers(requirements, required),
    )


class _ConfigError(Exception):
    """A file that counts cannot be used; says which and why."""


class _Reader(NamedTuple):
    """How files of a kind are called in errors, by the released servers."""

    kind: str
    malformed: str

    def read(self, path: str) -> Table:
        """The file's content, empty if it does not exist."""
        check_cancelled()
        shown = paths.displayable(path)
        try:
            text = read_text(path, MAX_TOML_BYTES)
        except FileNotFoundError:
            return {}
        except OSError as error:
            reason = system_text(error.errno or 0)
            raise _ConfigError(f"Failed to read {self.kind} {shown}: {reason}") from None
        except UnicodeDecodeError as error:
            count = error.end - error.start
            reason = f"invalid utf-8 sequence of {count} bytes from index {error.start}"
            raise _ConfigError(f"Failed to read {self.kind} {shown}: {reason}") from None
        except EngineError as error:
            raise _ConfigError(f"Failed to read {self.kind} {shown}: {error}") from None
        try:
            return toml_text.parse(text)
        except toml_text.TooComplicated as error:
            line, column, reason = 1, 1, str(error)
        except ValueError as error:
            line, column, reason = _locate(str(error), text)
        raise _ConfigError(
            self.malformed.format(path=shown, line=line, column=column, reason=reason)
        )


_CONFIG: Final = _Reader("config file", "{path}:{line}:{column}: {reason}")
_PROJECT: Final = _Reader(
    "project config file",
    "Error parsing project config file {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)
_PROJECT_HOOKS: Final = _Reader(
    "project hooks config file",
    "Error parsing project hooks config file {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)
_REQUIREMENTS: Final = _Reader(
    "requirements file",
    "failed to parse requirements layer {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)


def _load(cwd: str, codex_home: str, system_directory: str) -> tuple[list[_Layer], list[_Layer]]:
    """All layers there are, of configuration and of requirements."""
    system = _CONFIG.read(f"{system_directory}/config.toml")
    user = _CONFIG.read(f"{codex_home}/config.toml")
    managed = _CONFIG.read(f"{system_directory}/managed_config.toml")
    required = _REQUIREMENTS.read(f"{system_directory}/requirements.toml")
    config = [
        _Layer("system ({})", f"{system_directory}/config.toml", system, is_system=True),
        _Layer("user ({})", f"{codex_home}/config.toml", user),
        *_project_layers(cwd, _find_project(cwd, (system, user, managed)), codex_home),
        _Layer(
            "legacy managed_config.toml ({})", f"{system_directory}/managed_config.toml", managed
        ),
    ]
    requirements = [
        _Layer("{}", f"{system_directory}/requirements.toml", required, is_system=True),
        _Layer("{}", f"{system_directory}/managed_config.toml", _requirements_of(managed)),
    ]
    return config, requirements


def _find_project(cwd: str, documents: Iterable[Table]) -> Project:
    """The project, as the layers above all projects see it."""
    merged: Table = {}
    for document in documents:
        _merge(merged, document)
    markers = merged.get("project_root_markers", DEFAULT_ROOT_MARKERS)
    if not isinstance(markers, list) or not all(isinstance(marker, str) for marker in markers):
        raise _ConfigError("project_root_markers must be an array of strings")
    return find_project(cwd, markers, _trust_levels(merged.get("projects", {})))


def _trust_levels(projects: Any) -> dict[str, TrustLevel]:
    if not isinstance(projects, dict):
        raise _ConfigError("projects must be a table")
    levels: dict[str, TrustLevel] = {}
    for path, project in projects.items():
        if not isinstance(project, dict):
            raise _ConfigError(f"projects.{path} must be a table")
        level = project.get("trust_level")
        if level is None:
            continue
        if level not in ("trusted", "untrusted"):
            raise _ConfigError(f"projects.{path}.trust_level must be `trusted` or `untrusted`")
        levels[path] = level
    return levels


def _merge(into: Table, document: Table) -> None:
    """Lay a document over another: tables are merged, everything else is replaced."""
    for key, value in document.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            into[key] = present = dict(present)
            _merge(present, value)
        else:
            into[key] = value


def _project_layers(cwd: str, project: Project, codex_home: str) -> Iterator[_Layer]:
    """What the directories of a project say, from its root down.

    In a linked working tree of git, hooks are those of the main one.
    """
    directories = [*takewhile(lambda directory: directory != project.root, ancestors(cwd))]
    real_home = _real(codex_home)
    count = 0
    for directory in (project.root, *reversed(directories)):
        folder = paths.join(directory, ".codex")
        if not _is_directory(folder):
            continue
        count += 1
        if count > MAX_PROJECT_LAYERS:
            raise _ConfigError(
                f"more than {MAX_PROJECT_LAYERS} directories of a project have a .codex directory"
            )
        if _real(folder) == real_home or not project.trusts(directory):
            continue
        document = _without_forbidden(_PROJECT.read(f"{folder}/config.toml"))
        checkout = project.checkout
        counterpart = None if checkout is None else checkout.main_counterpart(directory)
        if counterpart is None:
            yield _Layer("project ({})", f"{folder}/config.toml", document)
            continue
        document.pop("hooks", None)
        yield _Layer("project ({})", f"{folder}/config.toml", document)
        hooks_file = paths.join(counterpart, ".codex/config.toml")
        hooks = _PROJECT_HOOKS.read(hooks_file).get("hooks")
        yield _Layer("project ({})", hooks_file, {} if hooks is None else {"hooks": hooks})


def _without_forbidden(document: Table) -> Table:
    """A project's settings without those that it may not set."""
    kept = {key: value for key, value in document.items() if key not in PROJECT_MAY_NOT_SET}
    features = kept.get("features")
    if isinstance(features, dict):
        kept["features"] = {key: on for key, on in features.items() if key != _PROXY_FEATURE}
    return kept


def _requirements_of(managed: Table) -> Table:
    """What the administrator's settings of the old form amount to as requirements."""
    required: Table = {}
    policy = managed.get("approval_policy")
    if isinstance(policy, dict) and [*policy] == ["granular"]:
        required["allowed_approval_policies"] = [policy]
    elif policy is not None:
        required["allowed_approval_policies"] = [_among(_POLICIES, "approval_policy", policy)]
    for setting, requirement, allowed in (
        ("approvals_reviewer", "allowed_approvals_reviewers", _REVIEWERS),
        ("sandbox_mode", "allowed_sandbox_modes", _SANDBOX_MODES),
    ):
        value = managed.get(setting)
        if value is not None:
            required[requirement] = _among(allowed, setting, value)
    return required


def _among(known: Mapping[str, _T], setting: str, value: Any) -> _T:
    if not isinstance(value, str) or value not in known:
        raise _ConfigError(
            f"Failed to parse config requirements as TOML: {setting} must be one of "
            + ", ".join(f"`{name}`" for name in known)
        )
    return known[value]


def _key_paths(given: Sequence[Sequence[str]]) -> list[KeyPath]:
    if not all(given):
        raise InvalidArgument("TOML paths must contain at least one key segment")
    if (longest := max(map(len, given), default=0)) > MAX_KEY_PATH_SEGMENTS:
        raise InvalidArgument(
            f"TOML paths may have at most {MAX_KEY_PATH_SEGMENTS} key segments, got {longest}"
        )
    return [tuple(path) for path in given]


def _select_layers(layers: Iterable[_Layer], wanted: Sequence[KeyPath]) -> ConfigLayers:
    """What the layers have of the settings asked for; those that have nothing are left out."""
    selected: list[ConfigLayer] = []
    below_cloud = 0
    for layer in layers:
        document = _select(layer.document, wanted)
        if document:
            base_dir = paths.parent(layer.file)
            assert base_dir is not None
            source = layer.label.format(paths.displayable(layer.file))
            selected.append(ConfigLayer(source, base_dir, toml_text.dump(document)))
            below_cloud += layer.is_system
    return ConfigLayers(selected, below_cloud)


def _select(table: Table, wanted: Iterable[KeyPath]) -> Table:
    """The part of a table that key paths lead to."""
    onward: dict[str, list[KeyPath]] = {}
    for key, *rest in wanted:
        onward.setdefault(key, []).append(tuple(rest))
    selected: Table = {}
    for key, value in table.items():
        below = onward.get(key)
        if below is None:
            continue
        if not isinstance(value, dict) or () in below:
            selected[key] = value
        elif part := _select(value, below):
            selected[key] = part
    return selected


def _locate(message: str, text: str) -> tuple[int, int, str]:
    """Line, column (both from 1) and reason of what the TOML parser says."""
    match = _AT.fullmatch(message)
    if match is None:  # a number of more digits than Python converts
        return 1, 1, message
    if match[2] is not None:
        return int(match[2]), int(match[3]), match[1]
    return text.count("\n") + 1, len(text) - text.rfind("\n"), match[1]


def _is_directory(path: str) -> bool:
    return os.path.isdir(paths.to_native(path))


def _real(path: str) -> str:
    """The path without links, or as it is if it does not exist."""
    try:
        return paths.from_native(real_path(paths.to_native(path)))
    except OSError:
        return path


@cache
def _hostname() -> str | None:
    """The machine's name; looked up once, since it may take the name system seconds to answer."""
    name = socket.gethostname().strip().rstrip(".").lower()
    if not name:
        return None
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return name
    for _, _, _, canonical, _ in found:
        full = canonical.strip().rstrip(".").lower()
        if "." in full:
            return full
    return name
