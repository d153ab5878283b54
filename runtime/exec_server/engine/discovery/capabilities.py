"""Which skills and plugins the user of this machine has (v2 capabilities/discoverV2).

They come from the plugin cache, and from the skill directories of the Codex home, of the user's
home and of the system. Neither the configuration nor the working directory counts: what is switched
off, and what a project has, is for the client to find out. Measured on codex 0.169.

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
"""Most directories that are looked into."""

MAX_CAPABILITIES: Final = 2048
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""Most skills and plugins together that are told, and most of the bytes that it takes."""

MAX_METADATA_CHARACTERS: Final = 2 * 1024 * 1024
"""Most YAML that is read, of all skills together: five seconds' work at worst, 1,000 characters for
each skill that is told."""

MAX_INLINE_SERVERS_BYTES: Final = 64 * 1024
"""Largest ``mcpServers`` that a manifest may hold itself; written anew in 10 ms at worst."""

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
    """A directory that skills are looked for in."""

    id: str
    path: str


class Skill(msgspec.Struct, frozen=True):
    """A skill, as its files describe it."""

    name: str
    """With its plugin's name before it, ``plugin:skill``, where it belongs to one."""
    description: str
    short_description: str | None
    path: str
    """Its SKILL.md."""
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
    """Where the manifest itself says what MCP servers there are, ``mcp_config`` is that part."""
    skills: list[Skill]


class Capabilities(msgspec.Struct, frozen=True):
    """What the user has."""

    plugins: list[Plugin]
    """Sorted by id."""
    skills: list[Skill]
    """Those of no installed plugin, in the order in which they count."""
    warnings: list[str]


class _Location(msgspec.Struct, frozen=True):
    """A directory to look into: an installed plugin, or one for skills."""

    root: CapabilityRoot
    plugin: InstalledPlugin | None = None


class _Findings(msgspec.Struct):
    """What was found at one location."""

    plugin: Plugin | None = None
    skills: list[Skill] = msgspec.field(default_factory=list)
    is_complete: bool = True
    is_truncated: bool = False
    """Whether there would have been too much to read."""


class _Interface(msgspec.Struct):
    display_name: str | None = msgspec.field(name="displayName", default=None)


class _Manifest(msgspec.Struct):
    """What counts of a plugin's manifest."""

    name: str = ""
    interface: _Interface | None = None
    mcp_servers: msgspec.Raw = msgspec.field(name="mcpServers", default=NOTHING)
    apps: str | None = None


class _Name(msgspec.Struct):
    """What counts of the manifest of a plugin that skills are found in."""

    name: str = ""


class Look(Protocol):
    """Carries out an operation, confined or not, and raises what it raises."""

    def __call__(self, operation: Operation[R], /) -> Awaitable[R]:
        """Return what the operation returns."""
        ...


async def discover_capabilities(
    look: Look, *, system_directory: str = SYSTEM_DIRECTORY
) -> Capabilities:
    """Find all installed plugins and all skills, as far as ``look`` can see.

    What is malformed is left out, with a warning. Raises OperationFailed if there is no Codex
    home, and what ``look`` raises beyond the errors of the files.
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
    """Collects what is found, as much as may be told."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings
        self._plugins: list[Plugin] = []
        self._skills: list[Skill] = []
        self._places_left = MAX_CAPABILITIES
        self._bytes_left = MAX_RESPONSE_BYTES
        self._is_truncated = False

    def admit(self, findings: _Findings) -> None:
        """Take over what there is room for."""
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
        """All that was admitted."""
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
        """Whether all that have been read were well-formed."""
        self.are_truncated = False
        """Whether some have not been read, because that would have been too much."""

    def read(self) -> Iterator[Skill]:
        """Those that are well-formed."""
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
        """The name with that of the nearest plugin around it. Raises MetadataError."""
        while directory not in self._namespaces:
            directory, slash, _ = directory.rpartition("/")
            if not slash:
                return name
        qualified = f"{self._namespaces[directory]}:{name}"
        if len(qualified) > _MAX_QUALIFIED_NAME:
            raise MetadataError(f"qualified name exceeds {_MAX_QUALIFIED_NAME} characters")
        return qualified


def _namespaces(manifests: Iterable[TextFile]) -> Mapping[str, str]:
    """The names of plugins by their directories; a plugin without one is called like that."""
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
    """The plugin; None if its manifest is missing or malformed."""
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
