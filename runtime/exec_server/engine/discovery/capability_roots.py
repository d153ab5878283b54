"""Discovery of skills and plugin files in a directory (v2 capabilityRoots/discoverV1).

A skill is a file ``SKILL.md`` at any depth, with an optional ``agents/openai.yaml`` beside it. A
plugin is a directory with a manifest. Files are returned unparsed, for the client to interpret.
Measured on codex 0.169.

Paths are file URIs here, as in the results of ``file_walk``.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine import path_uri, paths
from exec_server.engine.files.regular_file import open_regular
from exec_server.engine.files.walk import WalkOptions, walk
from exec_server.errors import EngineError, InvalidRequest, system_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

MAX_ROOTS: Final = 128
"""Maximum number of directories per request."""

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ROOT_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of a file, and of all files of one directory."""

MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
"""Maximum amount of text per request, which is sent as one message."""

SKILL_FILE: Final = "SKILL.md"
SKILL_METADATA: Final = "agents/openai.yaml"

MANIFESTS: Final = (
    ".codex-plugin/plugin.json",
    ".claude-plugin/plugin.json",
    ".cursor-plugin/plugin.json",
)
"""Paths of a plugin's manifest; the first readable one is used."""

MCP_CONFIG: Final = ".mcp.json"
APPS_CONFIG: Final = ".app.json"
"""Default paths of these files in a plugin."""

_WALK: Final = WalkOptions(
    max_depth=6, max_directories=2000, max_entries=20_000, follow_directory_symlinks=True
)


class CapabilityRoot(msgspec.Struct, frozen=True):
    """A directory to search."""

    id: str
    path: str


class TextFile(msgspec.Struct, frozen=True):
    """A file and its text."""

    path: str
    contents: str


class PluginFiles(msgspec.Struct, frozen=True):
    """The files of a plugin."""

    manifest: TextFile
    mcp_config: TextFile | None
    apps_config: TextFile | None


class SkillFiles(msgspec.Struct, frozen=True):
    """The files of a skill."""

    instructions: TextFile
    metadata: TextFile | None


class CapabilityRootDiscovery(msgspec.Struct, frozen=True):
    """Skills and plugin files of a directory."""

    id: str
    path: str
    """As in the request."""
    plugin: PluginFiles | None = None
    """The plugin, if the directory itself is one."""
    skills: list[SkillFiles] = msgspec.field(default_factory=list)
    """Sorted by path."""
    namespace_manifests: list[TextFile] = msgspec.field(default_factory=list)
    """Manifests of the plugins that contain the skills: that of the directory or the nearest one
    above it, then those below, sorted by path."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Descriptions of what could not be read."""
    error: str | None = None
    """Reason why the directory could not be searched."""

    @property
    def size(self) -> int:
        """Total length of files and warnings."""
        plugin = self.plugin
        files = [] if plugin is None else [plugin.manifest, plugin.mcp_config, plugin.apps_config]
        for skill in self.skills:
            files += skill.instructions, skill.metadata
        files += self.namespace_manifests
        return sum(len(file.path) + len(file.contents) for file in files if file is not None) + sum(
            map(len, self.warnings)
        )

    def within(self, size: int) -> CapabilityRootDiscovery:
        """Return this, or an error in its place if it is larger than ``size``."""
        if self.size <= size:
            return self
        return CapabilityRootDiscovery(
            self.id,
            self.path,
            error=f"the capability roots of a request exceed the {MAX_RESPONSE_BYTES}-byte limit",
        )


def check_number(roots: Sized) -> None:
    """Raise InvalidRequest for more than MAX_ROOTS directories."""
    if len(roots) > MAX_ROOTS:
        raise InvalidRequest(f"capability root discovery accepts at most {MAX_ROOTS} roots")


def discover_root(root: CapabilityRoot) -> CapabilityRootDiscovery:
    """Search one directory. Raises InvalidArgument for a path that is not a file URI."""
    try:
        path = path_uri.parse(root.path)
    except InvalidRequest as error:
        return _failed(root, f"failed to inspect capability root {root.path}: {error}")
    try:
        if not stat.S_ISDIR(os.stat(paths.to_native(path)).st_mode):
            return _failed(root, f"capability root {root.path} is not a directory")
    except OSError as error:
        reason = system_text(error.errno or 0)
        return _failed(root, f"failed to inspect capability root {root.path}: {reason}")
    try:
        found = walk(path, _WALK)
    except OSError as error:
        reason = system_text(error.errno or 0)
        return _failed(root, f"failed to scan capability root {root.path}: {reason}")
    reader = _Reader()
    reader.warnings += [
        f"failed to scan capability path {problem.path}: {system_text(problem.errno)}"
        for problem in found.errors
    ]
    if found.truncated:
        reader.warnings.append(f"capability scan reached its traversal limit (root: {root.path})")
    files = sorted(entry.path for entry in found.entries if entry.kind == "file")
    base = path_uri.format(path).removesuffix("/")
    manifest = reader.read_manifest(base)
    namespaces = _namespaces(reader, base, manifest, files)
    return CapabilityRootDiscovery(
        root.id,
        root.path,
        plugin=None if manifest is None else _plugin(reader, path, manifest),
        skills=_skills(reader, files),
        namespace_manifests=namespaces,
        warnings=reader.warnings,
    )


def plugin_root(manifest: str) -> str:
    """Return the directory of the plugin with this manifest."""
    return manifest.rsplit("/", 2)[0]


def _failed(root: CapabilityRoot, error: str) -> CapabilityRootDiscovery:
    return CapabilityRootDiscovery(root.id, root.path, error=error)


class _Reader:
    """Reads files of one directory within the limits, and collects warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._bytes_left = MAX_ROOT_BYTES

    def read(self, uri: str) -> TextFile | None:
        """Return a file; None if it does not exist or cannot be returned."""
        try:
            path = path_uri.parse(uri)
            status = os.stat(paths.to_native(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = system_text(error.errno or 0)
            self.warnings.append(f"failed to inspect capability file {uri}: {reason}")
            return None
        except EngineError as error:  # a manifest may name a path with a NUL
            self.warnings.append(f"failed to inspect capability file {uri}: {error}")
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_FILE_BYTES:
            self.warnings.append(f"capability file {uri} exceeds the {MAX_FILE_BYTES}-byte limit")
            return None
        if status.st_size > self._bytes_left:
            self.warnings.append(f"capability root bundle exceeds the {MAX_ROOT_BYTES}-byte limit")
            return None
        return self._read(uri, path)

    def _read(self, uri: str, path: str) -> TextFile | None:
        limit = min(MAX_FILE_BYTES, self._bytes_left)
        try:
            with os.fdopen(open_regular(path, "read"), "rb") as file:
                data = file.read(limit + 1)
            if len(data) > limit:  # it grew after stat
                self.warnings.append(f"capability file {uri} exceeded its read limit")
                return None
            text = data.decode()
        except OSError as error:
            reason = system_text(error.errno or 0)
            self.warnings.append(f"failed to read capability file {uri}: {reason}")
            return None
        except EngineError as error:
            self.warnings.append(f"failed to read capability file {uri}: {error}")
            return None
        except UnicodeDecodeError as error:
            reason = (
                f"invalid utf-8 sequence of {error.end - error.start} bytes "
                f"from index {error.start}"
            )
            self.warnings.append(f"capability file {uri} is not UTF-8: {reason}")
            return None
        self._bytes_left -= len(data)
        return TextFile(uri, text)

    def read_manifest(self, directory: str) -> TextFile | None:
        """Return the manifest of a plugin; None if the directory is not a plugin."""
        for place in MANIFESTS:
            manifest = self.read(f"{directory}/{place}")
            if manifest is not None:
                return manifest
        return None


def _skills(reader: _Reader, files: Iterable[str]) -> list[SkillFiles]:
    skills: list[SkillFiles] = []
    for file in files:
        directory, _, name = file.rpartition("/")
        if name != SKILL_FILE:
            continue
        instructions = reader.read(file)
        if instructions is not None:
            metadata = reader.read(f"{directory}/{SKILL_METADATA}")
            skills.append(SkillFiles(instructions, metadata))
    return skills


def _namespaces(
    reader: _Reader, root: str, manifest: TextFile | None, files: Iterable[str]
) -> list[TextFile]:
    """Return the manifests of all plugins that contain something in the directory."""
    outermost = manifest
    above = root
    while outermost is None and above != "file://":
        above = above.rpartition("/")[0]
        outermost = reader.read_manifest(above)
    manifests = [] if outermost is None else [outermost]
    seen = {plugin_root(manifest.path) for manifest in manifests}
    for plugin, _, file in sorted(
        (plugin_root(file), MANIFESTS.index(place), file)
        for file in files
        if (place := file.removeprefix(plugin_root(file) + "/")) in MANIFESTS
    ):
        if plugin not in seen and (inner := reader.read(file)) is not None:
            manifests.append(inner)
        seen.add(plugin)
    return manifests


NOTHING: Final = msgspec.Raw(b"null")
"""Value of a member that is missing in a manifest."""


def is_object(value: msgspec.Raw) -> bool:
    """Return True if a member of a manifest is an object, without decoding it."""
    return bytes(value).startswith(b"{")


def text_of(value: msgspec.Raw) -> str | None:
    """Return a member of a manifest that is a string; None for any other type."""
    return msgspec.json.decode(value, type=str) if bytes(value).startswith(b'"') else None


class _Declarations(msgspec.Struct):
    """The members of a manifest that name files."""

    mcp_servers: msgspec.Raw = msgspec.field(name="mcpServers", default=NOTHING)
    apps: msgspec.Raw = NOTHING


def _plugin(reader: _Reader, root: str, manifest: TextFile) -> PluginFiles:
    """Return the files of the plugin in ``root``, a native path."""
    try:
        declared = msgspec.json.decode(manifest.contents, type=_Declarations)
    except (msgspec.DecodeError, RecursionError):
        declared = _Declarations()
    servers = declared.mcp_servers
    mcp = _declared_path(reader, manifest, "mcpServers", text_of(servers)) or MCP_CONFIG
    apps = _declared_path(reader, manifest, "apps", text_of(declared.apps)) or APPS_CONFIG
    inline = is_object(servers)
    return PluginFiles(
        manifest,
        None if inline else reader.read(path_uri.format(paths.normalize(f"{root}/{mcp}"))),
        reader.read(path_uri.format(paths.normalize(f"{root}/{apps}"))),
    )


def _declared_path(reader: _Reader, manifest: TextFile, name: str, value: str | None) -> str | None:
    """Return the path below the plugin that its manifest declares; None if missing or invalid."""
    if value is None:
        return None
    relative = value.removeprefix("./")
    if relative == value:
        problem = "path must start with `./`"
    elif not relative or ".." in relative.replace("\\", "/").split("/"):
        problem = "path must remain below the capability root"
    else:
        return relative
    reader.warnings.append(f"ignoring {name} in {manifest.path}: {problem}")
    return None
