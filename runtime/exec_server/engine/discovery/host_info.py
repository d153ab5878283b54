"""Facts about the machine and this server (v2 environment/info).

Paths are absolute, native and normalised. Clients derive paths and write permissions from them, so
a path that the environment does not give is omitted, never guessed.
"""

from __future__ import annotations

import os
import pwd
import sys
from functools import cache
from typing import Final, Literal

import msgspec

import exec_server
from exec_server.engine import paths
from exec_server.engine.discovery.shell import Shell, login_shell
from exec_server.errors import OperationFailed

DISTRIBUTION: Final = "exec_server"
"""Name of this distribution in the names of its installed files."""

MATCHED_RELEASE: Final = "0.171.0"
"""The codex release whose behaviour this server matches, apart from the documented deviations.

Clients compare ``executorVersion`` with codex releases: they call capabilities/discoverV2 only from
0.164.0 on, so the version of this package would disable it.
"""

SYSTEM_DIRECTORY: Final = "/etc/codex"
"""Directory of the administrator's codex configuration."""

PlatformOs = Literal["linux", "macos"]


class EnvironmentInfo(msgspec.Struct, frozen=True):
    """Facts about the machine, the user and this server."""

    shell: Shell
    executor_version: str
    """MATCHED_RELEASE."""
    provider_id: str | None
    """``sha256:`` and 64 hexadecimal digits that differ for any two builds of this package; None
    where its files may change under it (an editable install) or it is not installed."""
    cwd: str | None
    """Working directory of this server; None after it was removed."""
    user_home_dir: str | None
    """None if HOME is not absolute."""
    platform_os: PlatformOs
    temporary_directories: list[str]
    """The directory named by TMPDIR, if set. It need not exist."""
    temp_dir: str
    """Directory for temporary files. It need not exist."""


def environment_info() -> EnvironmentInfo:
    """Return the current facts."""
    cwd = _working_directory()
    temporary = [] if (given := _directory("TMPDIR", cwd)) is None else [given]
    return EnvironmentInfo(
        shell=login_shell(),
        executor_version=MATCHED_RELEASE,
        provider_id=_build_id(),
        cwd=cwd,
        user_home_dir=user_home_dir(),
        platform_os="macos" if sys.platform == "darwin" else "linux",
        temporary_directories=temporary,
        temp_dir=temporary[0] if temporary else "/tmp",  # noqa: S108 (what there is without TMPDIR)
    )


def user_home_dir() -> str | None:
    """Return the home directory from HOME, or from passwd if HOME is unset or empty.

    None if it is not absolute.
    """
    home = os.environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    path = paths.from_native(os.fsencode(home))
    return paths.normalize(path) if path.startswith("/") else None


def codex_home_dir() -> str:
    """Return the directory of the user's configuration: CODEX_HOME, or ``.codex`` at home.

    The one at home need not exist. Raises OperationFailed if CODEX_HOME names no directory, or
    the user has no home.
    """
    given = os.environ.get("CODEX_HOME")
    if not given:
        home = user_home_dir()
        if home is None:
            raise OperationFailed("the user has no home directory")
        return paths.join(home, ".codex")
    shown = paths.displayable(paths.from_native(os.fsencode(given)))
    wrong = f'CODEX_HOME points to "{shown}", but that path'
    try:
        native = os.path.realpath(os.fsencode(given), strict=True)
    except OSError as error:
        raise OperationFailed(
            f"{wrong} does not exist"
            if isinstance(error, FileNotFoundError)
            else f"{wrong} cannot be resolved: {error.strerror}"
        ) from None
    if not os.path.isdir(native):
        raise OperationFailed(f"{wrong} is not a directory")
    return paths.from_native(native)


@cache
def _build_id() -> str | None:
    """Hash the hashes of this package's modules that the installer recorded.

    The record is in the wheel's dist-info directory beside the package. It is read without
    importlib.metadata, which takes longer to import than the server to respond.
    """
    site_packages = os.path.dirname(os.path.dirname(exec_server.__file__))
    record = os.path.join(
        site_packages, f"{DISTRIBUTION}-{exec_server.__version__}.dist-info", "RECORD"
    )
    try:
        with open(record, encoding="utf-8") as file:
            lines = file.readlines()
    except OSError:
        return None
    import csv  # noqa: PLC0415 (not needed where nothing is installed)
    import hashlib  # noqa: PLC0415

    # Installers rewrite scripts and metadata; the modules come from the build.
    modules = sorted(
        f"{name} {recorded}\n"
        for name, recorded, _size in csv.reader(lines)
        if recorded and name.endswith(".py")
    )
    if not modules:
        return None
    return "sha256:" + hashlib.sha256("".join(modules).encode()).hexdigest()


def _working_directory() -> str | None:
    try:
        return paths.from_native(os.getcwdb())
    except FileNotFoundError:
        return None


def _directory(variable: str, cwd: str | None) -> str | None:
    """Return the directory named by a variable; None if it is empty or cannot be resolved."""
    path = paths.from_native(os.fsencode(os.environ.get(variable, "")))
    if not path:
        return None
    if not path.startswith("/"):
        if cwd is None:
            return None
        path = f"{cwd}/{path}"
    return paths.normalize(path)
