"""Discovery of the user's skills and plugins (v2 capabilities/discoverV2).

Sources are the plugin cache and the skill directories of the Codex home, the user's home and the
system. Configuration and working directory are ignored: the client determines what is disabled and
what a project adds. Measured on codex 0.169.

Paths are file URIs, as in ``capability_roots``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from exec_server.engine import background, path_uri, paths
from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.discovery.capability_roots import (
    NOTHING,
    CapabilityRoot,
    CapabilityRootDiscovery,
    PluginFiles,
    SkillFiles,
    TextFile,
    is_object,
    plugin_root,
    text_of,
)
from exec_server.engine.discovery.host_info import SYSTEM_DIRECTORY, codex_home_dir, user_home_dir
from exec_server.engine.discovery.root_discovery import DiscoverRoot, FindPlugins
from exec_server.engine.discovery.skill_metadata import (
    MAX_NAME_CHARACTERS,
    Effort,
    EffortExceeded,
    MetadataError,
    SkillDependencies,
    SkillMetadata,
    SkillPolicy,
    read_front_matter,
    read_metadata,
)
from exec_server.engine.files.requests import GetMetadata

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping

    from exec_server.engine.discovery.installed_plugins import InstalledPlugin
    from exec_server.engine.files.requests import Operation

MAX_LOCATIONS: Final = 512
"""Maximum number of directories searched."""

MAX_CAPABILITIES: Final = 2048
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""Maximum number of skills and plugins returned, and of bytes that they take."""

MAX_METADATA_CHARACTERS: Final = 2 * 1024 * 1024
"""Maximum amount of YAML parsed per request: five seconds at worst, and 1,000 characters for each
skill returned."""

MAX_INLINE_SERVERS_BYTES: Final = 64 * 1024
"""Maximum size of ``mcpServers`` inside a manifest; it is re-encoded within 10 ms."""

MAX_WARNINGS: Final = 64

LOCATIONS_WARNING: Final = (
    "some capability locations could not be resolved; discovery may be incomplete"
)
METADATA_WARNING: Final = (
    "some capability metadata could not be loaded; discovery may be incomplete"
)
SIZE_WARNING: Final = "capability discovery size limit reached"

R = TypeVar("R")

# Without the hook msgspec takes 50 µs for a number such as 1e300.
_decode_any = msgspec.json.Decoder(float_hook=float).decode

_MAX_QUALIFIED_NAME: Final = 2 * MAX_NAME_CHARACTERS + 1
"""Characters of ``plugin:skill``."""


class DiscoveryRoot(msgspec.Struct, frozen=True):
    """A directory that is searched for skills."""

    id: str
    path: str


class Skill(msgspec.Struct, frozen=True):
    """A skill, as described by its files."""

    name: str
    """Qualified with the name of its plugin, ``plugin:skill``, if it belongs to one."""
    description: str
    short_description: str | None
    path: str
    """URI of its SKILL.md."""
    discovery_root: DiscoveryRoot | None
    """None for the skills of an installed plugin."""
    dependencies: SkillDependencies | None
    policy: SkillPolicy | None


class Plugin(msgspec.Struct, frozen=True):
    """An installed plugin."""

    id: str
    """``NAME@MARKETPLACE``."""
    display_name: str
    remote_plugin_id: str | None
    version: str
    root: str
    files: PluginFiles
    """If the manifest lists MCP servers itself, ``mcp_config`` is that part of it."""
    skills: list[Skill]


class Capabilities(msgspec.Struct, frozen=True):
    """Skills and plugins of the user."""

    plugins: list[Plugin]
    """Sorted by id."""
    skills: list[Skill]
    """Skills outside of installed plugins, in the order of precedence."""
    warnings: list[str]


class _Location(msgspec.Struct, frozen=True):
    """A directory to search: an installed plugin or a skill directory."""

    root: CapabilityRoot
    plugin: InstalledPlugin | None = None


class _Findings(msgspec.Struct):
    """Findings at one location."""

    plugin: Plugin | None = None
    skills: list[Skill] = msgspec.field(default_factory=list)
    is_complete: bool = True
    is_truncated: bool = False
    """True if a limit was reached."""


class _Interface(msgspec.Struct):
    display_name: str | None = msgspec.field(name="displayName", default=None)


class _Manifest(msgspec.Struct):
    """The members of a plugin's manifest that are used."""

    name: str = ""
    interface: _Interface | None = None
    mcp_servers: msgspec.Raw = msgspec.field(name="mcpServers", default=NOTHING)
    apps: str | None = None


class _Name(msgspec.Struct):
    """The member used of the manifest of a plugin that contains skills."""

    name: str = ""


class Look(Protocol):
    """Runs a file operation, in a sandbox or not."""

    def __call__(self, operation: Operation[R], /) -> Awaitable[R]:
        """Return the result of the operation; raise its errors."""
        ...


async def discover_capabilities(
    look: Look, *, system_directory: str = SYSTEM_DIRECTORY
) -> Capabilities:
    """Find all installed plugins and skills that ``look`` can access.

    Malformed ones are left out, with a warning. Raises OperationFailed if there is no Codex home,
    and errors of ``look`` that are not file errors.
    """
    home = user_home_dir()
    codex_home = codex_home_dir()
    installed = await look(FindPlugins(paths.to_native(f"{codex_home}/plugins/cache")))
    locations = [
        _Location(CapabilityRoot(plugin.id, plugin.root), plugin) for plugin in installed.plugins
    ]
    for root_id, directory in (
        ("codex-home-skills", f"{codex_home}/skills"),
        ("user-agent-skills", None if home is None else f"{home}/.agents/skills"),
        ("system-skills", f"{system_directory}/skills"),
    ):
        if directory is not None:
            locations.append(_Location(CapabilityRoot(root_id, path_uri.format(directory))))
    are_all = installed.is_complete and len(locations) <= MAX_LOCATIONS
    admitted = _Admission([] if are_all else [LOCATIONS_WARNING])
    effort = Effort(MAX_METADATA_CHARACTERS)
    for location in locations[:MAX_LOCATIONS]:
        admitted.admit(await _look_into(location, look, effort))
    return admitted.result()


class _Admission:
    """Collects findings up to the limits of a response."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings
        self._plugins: list[Plugin] = []
        self._skills: list[Skill] = []
        self._places_left = MAX_CAPABILITIES
        self._bytes_left = MAX_RESPONSE_BYTES
        self._is_truncated = False

    def admit(self, findings: _Findings) -> None:
        """Add findings while there is room."""
        if not findings.is_complete:
            self._warnings.append(METADATA_WARNING)
        self._is_truncated |= findings.is_truncated
        if findings.plugin is not None and self._has_room(
            findings.plugin, 1 + len(findings.plugin.skills)
        ):
            self._plugins.append(findings.plugin)
        for skill in findings.skills:
            if self._has_room(skill, 1):
                self._skills.append(skill)

    def _has_room(self, found: Plugin | Skill, places: int) -> bool:
        size = len(msgspec.json.encode(found))
        if places > self._places_left or size > self._bytes_left:
            self._is_truncated = True
            return False
        self._places_left -= places
        self._bytes_left -= size
        return True

    def result(self) -> Capabilities:
        """Return everything admitted."""
        warnings = [SIZE_WARNING] if self._is_truncated else []
        warnings += self._warnings
        return Capabilities(self._plugins, self._skills, warnings[:MAX_WARNINGS])


async def _look_into(location: _Location, look: Look, effort: Effort) -> _Findings:
    path = paths.to_native(path_uri.parse(location.root.path))
    try:
        if not (await look(GetMetadata(path))).is_directory:
            return _Findings()
    except (FileNotFoundError, PermissionError):
        return _Findings()
    except OSError:
        return _Findings(is_complete=False)
    discovery = await look(DiscoverRoot(location.root))
    return await background.compute(_read, location, discovery, effort)


def _read(location: _Location, discovery: CapabilityRootDiscovery, effort: Effort) -> _Findings:
    findings = _Findings(is_complete=not discovery.warnings and discovery.error is None)
    skills = _Skills(location, discovery, effort)
    if location.plugin is None:
        findings.skills = [*skills.read()]
    else:
        findings.plugin = _plugin(location.plugin, discovery, skills)
        findings.is_complete &= findings.plugin is not None
    findings.is_complete &= skills.are_complete
    findings.is_truncated = skills.are_truncated
    return findings


class _Skills:
    """The skills of a location."""

    def __init__(
        self, location: _Location, discovery: CapabilityRootDiscovery, effort: Effort
    ) -> None:
        root = location.root
        self._effort = effort
        self._root = None if location.plugin is not None else DiscoveryRoot(root.id, root.path)
        self._files = discovery.skills
        self._namespaces = _namespaces(discovery.namespace_manifests)
        self.are_complete = True
        """True if all skills read were well-formed."""
        self.are_truncated = False
        """True if some skills were not read because of a limit."""

    def read(self) -> Iterator[Skill]:
        """Yield the well-formed skills."""
        for files in self._files:
            check_cancelled()
            try:
                yield self._skill(files)
            except MetadataError:
                self.are_complete = False
            except EffortExceeded:
                self.are_truncated = True

    def _skill(self, files: SkillFiles) -> Skill:
        path = files.instructions.path
        directory = path.rpartition("/")[0]
        parent = path_uri.parse(directory or "file:///").rpartition("/")[2]
        front_matter = read_front_matter(files.instructions.contents, parent, self._effort)
        metadata = SkillMetadata()
        if files.metadata is not None:
            with contextlib.suppress(MetadataError):
                metadata = read_metadata(files.metadata.contents, self._effort)
        return Skill(
            self._qualified(front_matter.name, directory),
            front_matter.description,
            front_matter.short_description,
            path,
            self._root,
            metadata.dependencies,
            metadata.policy,
        )

    def _qualified(self, name: str, directory: str) -> str:
        """Return the name qualified by the nearest enclosing plugin. Raises MetadataError."""
        while directory not in self._namespaces:
            directory, slash, _ = directory.rpartition("/")
            if not slash:
                return name
        qualified = f"{self._namespaces[directory]}:{name}"
        if len(qualified) > _MAX_QUALIFIED_NAME:
            raise MetadataError(f"qualified name exceeds {_MAX_QUALIFIED_NAME} characters")
        return qualified


def _namespaces(manifests: Iterable[TextFile]) -> Mapping[str, str]:
    """Return plugin names by directory; the name defaults to that of the directory."""
    names: dict[str, str] = {}
    for manifest in manifests:
        try:
            name = msgspec.json.decode(manifest.contents, type=_Name).name
        except (msgspec.DecodeError, RecursionError):
            continue
        root = plugin_root(manifest.path)
        names[root] = name if name.strip() else _basename(root)
    return names


def _plugin(
    installed: InstalledPlugin, discovery: CapabilityRootDiscovery, skills: _Skills
) -> Plugin | None:
    """Return the plugin; None if its manifest is missing or malformed."""
    files = discovery.plugin
    if files is None:
        return None
    try:
        manifest = msgspec.json.decode(files.manifest.contents, type=_Manifest)
    except (msgspec.DecodeError, RecursionError):
        return None
    for declared, file in (
        (text_of(manifest.mcp_servers), files.mcp_config),
        (manifest.apps, files.apps_config),
    ):
        if declared is not None and file is None:
            skills.are_complete = False
    if is_object(manifest.mcp_servers):
        if len(bytes(manifest.mcp_servers)) > MAX_INLINE_SERVERS_BYTES:
            return None
        servers = msgspec.json.encode(_decode_any(manifest.mcp_servers)).decode()
        files = PluginFiles(
            files.manifest, TextFile(files.manifest.path, servers), files.apps_config
        )
    display_name = ((manifest.interface and manifest.interface.display_name) or "").strip()
    return Plugin(
        installed.id,
        display_name or (manifest.name if manifest.name.strip() else _basename(installed.root)),
        installed.remote_plugin_id,
        installed.version,
        installed.root,
        files,
        [*skills.read()],
    )


def _basename(directory: str) -> str:
    return path_uri.parse(directory or "file:///").rpartition("/")[2]
