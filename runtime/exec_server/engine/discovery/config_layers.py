"""Configuration layers of this machine (v2 environmentConfig/read).

A client that runs commands here needs settings of the configuration that a local codex would use.
It requests them by key path, and gets the ones present in each layer, as TOML. Layers are listed in
ascending precedence:

1. the system's, ``/etc/codex/config.toml``;
2. the user's, ``config.toml`` in the Codex home;
3. the project's, ``.codex/config.toml`` in each trusted directory from the project's root down to
   the working directory;
4. the administrator's, in the legacy form, ``/etc/codex/managed_config.toml``.

Requirements restrict the values of settings: ``/etc/codex/requirements.toml``, and those that
follow from the legacy form. A client inserts its own layers directly above the system's.

All rules were measured on codex 0.169.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from exec_server.engine import paths
from exec_server.engine.discovery import toml_text
from exec_server.engine.discovery.config_files import (
    CONFIG,
    PROJECT,
    PROJECT_HOOKS,
    REQUIREMENTS,
    ConfigError,
)
from exec_server.engine.discovery.host_info import SYSTEM_DIRECTORY, codex_home_dir, user_home_dir
from exec_server.engine.discovery.legacy_requirements import requirements_of
from exec_server.engine.discovery.project_trust import Project, TrustLevel, ancestors, find_project
from exec_server.engine.discovery.toml_text import MAX_TOML_DEPTH, Table
from exec_server.engine.files.real_path import real_path
from exec_server.errors import InvalidArgument, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_KEY_PATHS: Final = 1024
"""Maximum number of key paths per request; clients send a few dozen."""

MAX_KEY_PATH_SEGMENTS: Final = MAX_TOML_DEPTH
"""Maximum number of keys per path; no file is nested deeper."""

MAX_DIRECTORY_LEVELS: Final = 256
"""Maximum depth of a working directory: each level may have a configuration."""

MAX_PROJECT_LAYERS: Final = 64
"""Maximum number of directories with a configuration per project; each takes milliseconds."""

DEFAULT_ROOT_MARKERS: Final = [".git"]
"""Markers of a project's root, unless ``project_root_markers`` is set."""

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
"""Settings ignored in a project's configuration: they can redirect data or run commands."""

_PROXY_FEATURE: Final = "respect_system_proxy"
"""The only feature that a project may not set."""

KeyPath = tuple[str, ...]


class ConfigLayer(msgspec.Struct, frozen=True):
    """The requested settings in one file."""

    source: str
    """Kind and path of the file, for display."""
    base_dir: str
    """Base directory of relative paths in it; an absolute native path."""
    toml: str
    """The requested settings in the order of the file; never empty."""


class ConfigLayers(msgspec.Struct, frozen=True):
    """Layers in ascending precedence."""

    layers: list[ConfigLayer]
    cloud_insertion_index: int
    """Index at which a client inserts its own layers."""


class EnvironmentConfig(msgspec.Struct, frozen=True):
    """The requested configuration and requirements of this machine."""

    user_home_dir: str | None
    codex_home_dir: str
    hostname: str | None
    """Fully qualified if the resolver knows it, in lower case; requirements may depend on it."""
    config: ConfigLayers
    requirements: ConfigLayers


class _Layer(NamedTuple):
    """A complete layer."""

    label: str
    """Format string with a field for the file."""
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

    A key path that continues below a value other than a table selects that value. This may block on
    DNS, so do not call it on the event loop. Raises InvalidArgument for an empty request, and
    OperationFailed that names the file if a file cannot be read or parsed.
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
    except ConfigError as error:
        raise OperationFailed(f"failed to load executor-local config: {error}") from None
    return EnvironmentConfig(
        user_home_dir=user_home_dir(),
        codex_home_dir=codex_home,
        hostname=_hostname(),
        config=_select_layers(config, wanted),
        requirements=_select_layers(requirements, required),
    )


def _load(cwd: str, codex_home: str, system_directory: str) -> tuple[list[_Layer], list[_Layer]]:
    """Return all layers of configuration and of requirements."""
    system = CONFIG.read(f"{system_directory}/config.toml")
    user = CONFIG.read(f"{codex_home}/config.toml")
    managed = CONFIG.read(f"{system_directory}/managed_config.toml")
    required = REQUIREMENTS.read(f"{system_directory}/requirements.toml")
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
        _Layer("{}", f"{system_directory}/managed_config.toml", requirements_of(managed)),
    ]
    return config, requirements


def _find_project(cwd: str, documents: Iterable[Table]) -> Project:
    """Return the project, by the settings of the layers outside of projects."""
    merged: Table = {}
    for document in documents:
        _merge(merged, document)
    markers = merged.get("project_root_markers", DEFAULT_ROOT_MARKERS)
    if not isinstance(markers, list) or not all(isinstance(marker, str) for marker in markers):
        raise ConfigError("project_root_markers must be an array of strings")
    return find_project(cwd, markers, _trust_levels(merged.get("projects", {})))


def _trust_levels(projects: Any) -> dict[str, TrustLevel]:
    if not isinstance(projects, dict):
        raise ConfigError("projects must be a table")
    levels: dict[str, TrustLevel] = {}
    for path, project in projects.items():
        if not isinstance(project, dict):
            raise ConfigError(f"projects.{path} must be a table")
        level = project.get("trust_level")
        if level is None:
            continue
        if level not in ("trusted", "untrusted"):
            raise ConfigError(f"projects.{path}.trust_level must be `trusted` or `untrusted`")
        levels[path] = level
    return levels


def _merge(into: Table, document: Table) -> None:
    """Merge a document into another: tables are merged, other values replaced."""
    for key, value in document.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            into[key] = present = dict(present)
            _merge(present, value)
        else:
            into[key] = value


def _project_layers(cwd: str, project: Project, codex_home: str) -> Iterator[_Layer]:
    """Yield the layers of a project's directories, from its root down.

    In a linked git worktree, hooks are those of the main one.
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
            raise ConfigError(
                f"more than {MAX_PROJECT_LAYERS} directories of a project have a .codex directory"
            )
        if _real(folder) == real_home or not project.trusts(directory):
            continue
        document = _without_forbidden(PROJECT.read(f"{folder}/config.toml"))
        checkout = project.checkout
        counterpart = None if checkout is None else checkout.main_counterpart(directory)
        if counterpart is None:
            yield _Layer("project ({})", f"{folder}/config.toml", document)
            continue
        document.pop("hooks", None)
        yield _Layer("project ({})", f"{folder}/config.toml", document)
        hooks_file = paths.join(counterpart, ".codex/config.toml")
        hooks = PROJECT_HOOKS.read(hooks_file).get("hooks")
        yield _Layer("project ({})", hooks_file, {} if hooks is None else {"hooks": hooks})


def _without_forbidden(document: Table) -> Table:
    """Return a project's settings without those that it may not set."""
    kept = {key: value for key, value in document.items() if key not in PROJECT_MAY_NOT_SET}
    features = kept.get("features")
    if isinstance(features, dict):
        kept["features"] = {key: on for key, on in features.items() if key != _PROXY_FEATURE}
    return kept


def _key_paths(given: Sequence[Sequence[str]]) -> list[KeyPath]:
    if not all(given):
        raise InvalidArgument("TOML paths must contain at least one key segment")
    if (longest := max(map(len, given), default=0)) > MAX_KEY_PATH_SEGMENTS:
        raise InvalidArgument(
            f"TOML paths may have at most {MAX_KEY_PATH_SEGMENTS} key segments, got {longest}"
        )
    return [tuple(path) for path in given]


def _select_layers(layers: Iterable[_Layer], wanted: Sequence[KeyPath]) -> ConfigLayers:
    """Return the requested settings of each layer, without empty layers."""
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
    """Return the part of a table selected by key paths."""
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


def _is_directory(path: str) -> bool:
    return os.path.isdir(paths.to_native(path))


def _real(path: str) -> str:
    """Return the path with links resolved, or unchanged if it does not exist."""
    try:
        return paths.from_native(real_path(paths.to_native(path)))
    except OSError:
        return path


@cache
def _hostname() -> str | None:
    """Return the machine's name. Cached, because DNS may take seconds."""
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
