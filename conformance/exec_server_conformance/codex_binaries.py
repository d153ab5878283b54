"""Released codex binaries: download with npm, execution with a private home directory.

A *peer* is a released ``codex`` binary whose ``codex exec-server`` implements the protocol. It is
downloaded as the npm package ``@openai/codex@X.Y.Z-linux-x64`` with the regular npm client, which
verifies its integrity. Only the binary is kept, as ``<directory>/X.Y.Z/codex``; the directory
(default ``.peers``) is never committed.

Command line::

    python -m exec_server_conformance.codex_binaries fetch [VERSION ...]
    python -m exec_server_conformance.codex_binaries path VERSION
    python -m exec_server_conformance.codex_binaries command VERSION

``fetch`` downloads DEFAULT_VERSIONS unless releases are given; ``path`` prints the path of a
downloaded binary; ``command`` prints a command line that runs it.

Exit codes: 0 success, 1 the release or its binary does not exist, 2 usage error, 3 npm or its
registry is unavailable.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_VERSIONS = ("0.121.0", "0.130.0", "0.139.0", "0.143.0", "0.155.0", "0.169.0", "0.171.0")
"""Releases that the suite is run against: the first, a middle and the last one of v1 and v2, and of
v2 also 0.169.0, the last release before errors had data and response bodies were decoded."""

DEFAULT_DIRECTORY = Path(".peers")
"""Directory of the binaries, relative to the working directory."""

PACKAGE = "@openai/codex"

STDIO_SINCE = (0, 130, 0)
"""First release whose exec-server supports the stdio transport."""

NPM_TIMEOUT_SECONDS = 900
"""Time limit of one download; a package has 70 to 130 MB."""

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
_UNKNOWN_PACKAGE = re.compile(r"\b(E404|ETARGET)\b")
_COPY_BYTES = 1 << 20


class CodexBinaryError(Exception):
    """Base class of errors about codex binaries; the message is meant for the user."""


class BinaryMissing(CodexBinaryError):
    """The binary has not been downloaded."""


class NoSuchRelease(CodexBinaryError):
    """The release does not exist for this platform or contains no binary."""


class NpmUnavailable(CodexBinaryError):
    """npm is not installed, or its registry is unreachable."""


def parse_version(version: str) -> tuple[int, int, int]:
    """Parse ``X.Y.Z``; raise ValueError for any other form."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"not a release number of the form X.Y.Z: {version!r}")
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch


def transports(version: str) -> tuple[str, ...]:
    """Return the transports that a release supports: ``ws``, and ``stdio`` from 0.130.0."""
    return ("ws", "stdio") if parse_version(version) >= STDIO_SINCE else ("ws",)


def fetch(version: str, directory: Path = DEFAULT_DIRECTORY) -> Path:
    """Download a release unless it is present and return the path of its binary.

    The binary is renamed into place atomically, also when two downloads race. Raises NoSuchRelease
    and NpmUnavailable.
    """
    parse_version(version)
    target = _target(version, directory)
    if target.exists():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise NpmUnavailable("npm is not installed; codex binaries are downloaded with npm")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"fetch-{version}-", dir=directory) as scratch:
        archive = _pack(npm, version, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        _extract_binary(archive, unpacked / target.name)
        # A rename onto a non-empty directory fails, so the winner of a race stays in place.
        with contextlib.suppress(OSError):
            unpacked.rename(target.parent)
    return binary(version, directory)


def binary(version: str, directory: Path = DEFAULT_DIRECTORY) -> Path:
    """Return the absolute path of a downloaded binary; raise BinaryMissing if it is not present."""
    parse_version(version)
    target = _target(version, directory)
    if not target.exists():
        raise BinaryMissing(
            f"codex {version} is not in {target.parent}: "
            f"run `python -m exec_server_conformance.codex_binaries fetch {version}`"
        )
    return target


def fetched(directory: Path = DEFAULT_DIRECTORY) -> list[str]:
    """Return the downloaded releases, oldest first."""
    found = [path.parent.name for path in directory.glob("*/codex") if path.is_file()]
    return sorted(filter(_VERSION.fullmatch, found), key=parse_version)


def homes(directory: Path = DEFAULT_DIRECTORY) -> Path:
    """Return the parent directory of the private homes, outside the directory for temporary files.

    codex refuses to store helper programs in a home below the temporary directory; in that case the
    homes are in the user's cache.
    """
    beside = directory.resolve() / "home"
    if not beside.is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return beside
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "exec-server-conformance" / "home"


def environment(version: str, directory: Path = DEFAULT_DIRECTORY) -> dict[str, str]:
    """Return the environment variables that give a release a home of its own."""
    home = homes(directory) / version
    codex_home = home / ".codex"
    codex_home.mkdir(parents=True, exist_ok=True)
    return {"HOME": str(home), "CODEX_HOME": str(codex_home)}


def command(version: str, directory: Path = DEFAULT_DIRECTORY) -> list[str]:
    """Return the command line that runs the exec-server of a release in its own home.

    ``--listen URL`` may be appended; without it the server listens on a free loopback port and
    prints ``ws://IP:PORT``. The program is env(1), which executes codex in the same process.
    """
    settings = [f"{name}={value}" for name, value in environment(version, directory).items()]
    return ["env", *settings, str(binary(version, directory)), "exec-server"]


def _target(version: str, directory: Path) -> Path:
    return directory.resolve() / version / "codex"


def _pack(npm: str, version: str, scratch: Path) -> Path:
    """Download the package for this platform into ``scratch`` with npm; return the archive."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if platform.system() != "Linux" or architecture is None:
        raise NoSuchRelease(f"no codex binary for {platform.system()} {platform.machine()}")
    package = f"{PACKAGE}@{version}-linux-{architecture}"
    try:
        done = subprocess.run(
            [npm, "pack", package, "--no-update-notifier"],  # into the working directory
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NPM_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NpmUnavailable(f"npm did not deliver {package} in {NPM_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        detail = _npm_complaint(done.stderr)
        if _UNKNOWN_PACKAGE.search(done.stderr):
            raise NoSuchRelease(f"npm knows no {package}: {detail}")
        raise NpmUnavailable(f"npm could not fetch {package}: {detail}")
    archives = list(scratch.glob("*.tgz"))
    if len(archives) != 1:
        raise NoSuchRelease(f"npm delivered {len(archives)} archives for {package}, not one")
    return archives[0]


def _npm_complaint(stderr: str) -> str:
    """Return npm's error messages in one line."""
    errors = re.findall(r"^npm (?:error|ERR!) (.*\S)", stderr, re.MULTILINE)
    said = [line for line in errors if "complete log of this run" not in line]
    return "; ".join(said[:4]) or "no reason given"


def _extract_binary(archive: Path, destination: Path) -> None:
    """Extract the codex program from the archive to ``destination``."""
    with tarfile.open(archive) as package:
        programs = [
            member
            for member in package
            if member.isfile() and re.fullmatch(r"package/vendor/.+/codex", member.name)
        ]
        source = package.extractfile(programs[0]) if len(programs) == 1 else None
        if source is None:
            raise NoSuchRelease(f"{archive.name} holds {len(programs)} codex programs, not one")
        with source, destination.open("wb") as program:
            shutil.copyfileobj(source, program, _COPY_BYTES)
    destination.chmod(0o755)


def _version_argument(text: str) -> str:
    try:
        parse_version(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exec_server_conformance.codex_binaries",
        description="Download codex binaries with npm and print how to run them.",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=DEFAULT_DIRECTORY,
        metavar="DIR",
        help="directory of the binaries (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    fetching = actions.add_parser("fetch", help="download releases that are not present")
    fetching.add_argument(
        "versions",
        nargs="*",
        type=_version_argument,
        metavar="VERSION",
        help=f"releases (default: {' '.join(DEFAULT_VERSIONS)})",
    )
    for action, help_text in (
        ("path", "print the path of a downloaded binary"),
        ("command", "print the shell command that runs the exec-server of a release"),
    ):
        printing = actions.add_parser(action, help=help_text)
        printing.add_argument("version", type=_version_argument, metavar="VERSION")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _arguments(argv)
    try:
        if arguments.action == "fetch":
            for version in arguments.versions or DEFAULT_VERSIONS:
                print(f"codex {version}: {fetch(version, arguments.directory)}", flush=True)
        elif arguments.action == "path":
            print(binary(arguments.version, arguments.directory))
        else:
            print(shlex.join(command(arguments.version, arguments.directory)))
    except CodexBinaryError as error:
        print(f"codex_binaries: {error}", file=sys.stderr)
        return 3 if isinstance(error, NpmUnavailable) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
