"""Installed plugins: the plugin cache in the Codex home.

A plugin is a directory ``plugins/cache/MARKETPLACE/NAME/VERSION``, with one active version. The
client determines which plugins are disabled. All rules were measured on codex 0.169.
"""

from __future__ import annotations

import errno
import os
import re
from functools import cmp_to_key
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine import path_uri, paths
from exec_server.engine.files.regular_file import open_regular
from exec_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOCAL_VERSION: Final = "local"
"""The version that takes precedence over all others."""

REMOTE_METADATA_FILE: Final = ".codex-remote-plugin-install.json"
"""File beside the versions with the plugin's id at a remote marketplace."""

MAX_CACHE_ENTRIES: Final = 20_000
"""Maximum number of directory entries read in a cache, as in a capability root."""

_MAX_METADATA_BYTES: Final = 16 * 1024
_MAX_REMOTE_ID_BYTES: Final = 1024

_MARKETPLACE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_VERSION: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._+-]+")

_NUMBER: Final = r"(0|[1-9]\d*)"
_IDENTIFIERS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SEMANTIC: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?", re.ASCII
)


class InstalledPlugin(msgspec.Struct, frozen=True):
    """An installed plugin."""

    id: str
    """``NAME@MARKETPLACE``."""
    version: str
    root: str
    """File URI of its directory."""
    remote_plugin_id: str | None
    """Id at a remote marketplace."""
    is_complete: bool
    """True if all metadata of the installation could be read."""


class _RemoteMetadata(msgspec.Struct):
    """Content of REMOTE_METADATA_FILE."""

    schema_version: int
    remote_plugin_id: str


def installed_plugins(cache: str) -> Iterator[InstalledPlugin]:
    """Find the plugins in a cache directory, which need not exist, sorted by id.

    Raises OSError if a directory cannot be listed, and E2BIG for more than MAX_CACHE_ENTRIES.
    """
    listing = _Listing()
    packages = {
        f"{name}@{marketplace}": f"{cache}/{marketplace}/{name}"
        for marketplace in listing.directories(cache, _MARKETPLACE)
        for name in listing.directories(f"{cache}/{marketplace}", _NAME)
    }
    for plugin_id, package in sorted(packages.items()):
        versions = listing.directories(package, _VERSION, follow_links=False)
        if not versions:
            continue
        version = _active(versions)
        remote_id, is_complete = _remote_id(f"{package}/{REMOTE_METADATA_FILE}")
        root = path_uri.format(f"{package}/{version}")
        yield InstalledPlugin(plugin_id, version, root, remote_id, is_complete)


class _Listing:
    """Lists directories of a cache up to MAX_CACHE_ENTRIES."""

    def __init__(self) -> None:
        self._entries_left = MAX_CACHE_ENTRIES

    def directories(
        self, path: str, name: re.Pattern[str], *, follow_links: bool = True
    ) -> list[str]:
        """Return the names of subdirectories that match; none if the directory does not exist."""
        found: list[str] = []
        try:
            with os.scandir(paths.to_native(path)) as entries:
                for entry in entries:
                    if not self._entries_left:
                        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
                    self._entries_left -= 1
                    text = paths.from_native(entry.name)
                    if name.fullmatch(text) and entry.is_dir(follow_symlinks=follow_links):
                        found.append(text)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return found


def _active(versions: Sequence[str]) -> str:
    """Return the active version."""
    if LOCAL_VERSION in versions:
        return LOCAL_VERSION
    return max(versions, key=cmp_to_key(_compare))


def _compare(left: str, right: str) -> int:
    """Compare as semantic versions if both have that form, else as text."""
    left_match, right_match = _SEMANTIC.fullmatch(left), _SEMANTIC.fullmatch(right)
    if left_match and right_match:
        left_key, right_key = _precedence(left_match), _precedence(right_match)
        return (left_key > right_key) - (left_key < right_key)
    return (left > right) - (left < right)


def _precedence(version: re.Match[str]) -> tuple[object, ...]:
    """Return the sort key of a version: a pre-release precedes its release; builds compare last."""
    numbers = tuple(int(version[group]) for group in (1, 2, 3))
    return numbers, version[4] is None, _identifiers(version[4]), _identifiers(version[5])


def _identifiers(text: str | None) -> list[tuple[bool, int, str]]:
    """Return the sort key of identifiers: numbers precede words and compare as numbers."""
    return [
        (False, int(part), part) if part.isdecimal() else (True, 0, part)
        for part in (text or "").split(".")
        if part
    ]


def _remote_id(path: str) -> tuple[str | None, bool]:
    """Return the plugin's id at a remote marketplace, if any, and True if it could be read."""
    try:
        with os.fdopen(open_regular(path, "read"), "rb") as file:
            text = file.read(_MAX_METADATA_BYTES + 1)
        metadata = msgspec.json.decode(text, type=_RemoteMetadata)
    except FileNotFoundError:
        return None, True
    except (OSError, EngineError, msgspec.DecodeError, RecursionError):
        return None, False
    remote_id = metadata.remote_plugin_id.strip()
    if (
        metadata.schema_version != 1
        or len(text) > _MAX_METADATA_BYTES
        or not 0 < len(remote_id.encode()) <= _MAX_REMOTE_ID_BYTES
    ):
        return None, False
    return remote_id, True
