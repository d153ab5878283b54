"""Copies through ``tar`` on the server, which keep modes, times and links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import posixpath
from typing import TYPE_CHECKING, Final

from exec_server.cli.client import file_transfer
from exec_server.cli.client.exit_codes import FAILED, CommandError
from exec_server.cli.client.local_tree import LocalTree, NameTaken
from exec_server.cli.client.progress import Progress
from exec_server.cli.client.tar_stream import Archive, ArchiveReader, components
from exec_server.client import ClientError, InputRefused, ServerError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.cli.client.copying import Copy
    from exec_server.cli.client.tar_stream import Member
    from exec_server.client import Client, Process

log = logging.getLogger("exec_server.cli.client")

NO_TAR: Final = 120
"""Exit code of the scripts below without ``tar``; neither tar nor the shell uses it."""

CLEANUP_SECONDS: Final = 2.0
"""Time limit for removing a temporary directory after an interrupted copy."""

ERROR_BYTES: Final = 64 * 1024
"""Bytes of error messages of ``tar`` that are printed."""

DOWNLOAD_SCRIPT: Final = f"""
command -v tar >/dev/null || exit {NO_TAR}
case $(tar --version 2>&1) in *GNU*) format=--format=posix ;; *) format= ;; esac
exec tar -C "$1" -c "$3" $format -f - -- "$2"
"""
"""Writes an archive of the entry ``$2`` of the directory ``$1``; ``$3`` is an option of tar. GNU
tar writes times with fractions of a second in the POSIX format alone."""

UPLOAD_SCRIPT: Final = f"""
command -v tar >/dev/null && command -v head >/dev/null || exit {NO_TAR}
cd -- "$1" || exit 1
size=$2 part=$3 code=0
shift 3
# Names that are not UTF-8 have an extended header that GNU tar would warn of.
case $(tar --version 2>&1) in *GNU*) quiet=--warning=no-unknown-keyword ;; *) quiet= ;; esac
if [ "$part" ]; then
    mkdir -m 700 -- "$part" || exit 1
    trap 'rm -rf -- "$part"' EXIT
    trap 'exit 1' HUP INT TERM
fi
echo ready
head -c "$size" | tar -C "./$part" -x -p -o $quiet -f - || code=1
for name; do
    if [ -d "$name" ]; then
        echo "$name: cannot replace a directory" >&2
        code=1
    elif [ -e "$part/$name" ] || [ -L "$part/$name" ]; then
        mv -f -- "$part/$name" "$name" || code=1
    fi
done
exit $code
"""
"""Extracts an archive of ``$2`` bytes on standard input below the directory ``$1``. With ``$3`` it
goes to a temporary directory of that name first, from which the entries named by the further
arguments are moved, so that each target is replaced at once."""


async def upload(client: Client, copies: Sequence[Copy], *, follow: bool) -> bool | None:
    """Copy local files and trees to the server; true if anything was skipped.

    Returns None if the server has no tar, and nothing was copied.
    """
    groups: dict[tuple[str, bool], list[Copy]] = {}
    for one in copies:
        merges = one.is_tree and await client.fs.is_dir(one.target)
        parent = one.target if merges else posixpath.dirname(one.target.rstrip("/")) or "/"
        groups.setdefault((parent, merges), []).append(one)
    failed = False
    for (parent, merges), group in groups.items():
        result = await _upload_group(client, parent, group, merges=merges, follow=follow)
        if result is None:
            return None
        failed = failed or result
    return failed


async def _upload_group(
    client: Client, parent: str, copies: Sequence[Copy], *, merges: bool, follow: bool
) -> bool | None:
    archive = Archive()
    errors: list[OSError] = []
    names = []
    for one in copies:
        name = "." if merges else posixpath.basename(one.target.rstrip("/"))
        names.append(name)
        try:
            if one.is_tree:
                errors += archive.add_tree(one.source.rstrip("/") or "/", name)
            else:
                archive.add(one.source, name, follow=follow)
        except OSError as error:
            errors.append(error)
    part = "" if merges else f".exec-server-{os.urandom(8).hex()}"
    arguments = [parent, str(archive.size), part, *([] if merges else names)]
    process = await _start(client, UPLOAD_SCRIPT, arguments, stdin=True)
    if process is None:
        return None
    try:
        return await _feed(process, archive, errors, copies)
    except BaseException:
        # The script may be killed before it can remove the directory.
        with contextlib.suppress(ClientError, OSError):
            await process.terminate(timeout=CLEANUP_SECONDS)
            if part:
                await client.fs.remove(
                    posixpath.join(parent, part),
                    recursive=True,
                    missing_ok=True,
                    timeout=CLEANUP_SECONDS,
                )
        raise


async def _feed(
    process: Process, archive: Archive, errors: list[OSError], copies: Sequence[Copy]
) -> bool | None:
    messages = asyncio.create_task(_read_errors(process))
    if await process.stdout.readline() != b"ready\n":
        code = await process.wait()
        if code == NO_TAR:
            messages.cancel()
            return None
        _print_errors(await messages)
        return True
    progress = Progress(os.path.basename(copies[0].source), archive.size)
    with contextlib.suppress(InputRefused):
        buffer = bytearray()
        for piece in archive.pieces(errors):
            buffer += piece
            if len(buffer) >= file_transfer.PIECE_BYTES:
                await process.write(buffer)
                progress.advance(len(buffer))
                buffer = bytearray()
        await process.write(buffer)
        progress.advance(len(buffer))
    code = await process.wait_closed()
    progress.finish()
    _print_errors(await messages)
    errors += [
        OSError(0, "skipped: neither a regular file nor a directory", path)
        for path in archive.skipped
    ]
    return file_transfer.report(errors) or code != 0


async def download(client: Client, one: Copy, *, follow: bool, size: int | None) -> bool | None:
    """Copy a remote file or tree to this machine; true if anything was skipped.

    Returns None if the server has no tar, and nothing was copied. ``follow`` copies the target of a
    link.
    """
    source = one.source.rstrip("/") or "/"
    parent, name = posixpath.split(source)
    if one.is_tree:
        parent, name = source, "."
    option = "-h" if follow else "-p"
    process = await _start(client, DOWNLOAD_SCRIPT, [parent, name, option], stdin=False)
    if process is None:
        return None
    messages = asyncio.create_task(_read_errors(process))
    async with process:
        reader = ArchiveReader(process.stdout)
        if one.is_tree:
            failed = await _extract_tree(reader, one)
        else:
            failed = await _extract_file(reader, one, size)
        code = await process.wait_closed()
        if code == NO_TAR:
            messages.cancel()
            return None
        _print_errors(await messages)
    return failed or code != 0


async def _extract_file(reader: ArchiveReader, one: Copy, size: int | None) -> bool:
    async for member in reader.members():
        info = member.info
        if info.issym():
            parent, name = os.path.split(os.path.abspath(one.target))
            with LocalTree(parent) as tree:
                tree.make_symlink([name], info.linkname, member.modified_ns)
        elif info.isreg():
            progress = Progress(posixpath.basename(one.source), size)
            with file_transfer.replaced(one.target, info.mode, member.modified_ns) as file:
                async for piece in reader.content():
                    file.write(piece)
                    progress.advance(len(piece))
            progress.finish()
    return False


async def _extract_tree(reader: ArchiveReader, one: Copy) -> bool:
    failed = False
    directories: list[Member] = []
    tree: LocalTree | None = None
    with contextlib.ExitStack() as exits:
        async for member in reader.members():
            if tree is None:
                tree = exits.enter_context(LocalTree(one.target))
            if member.info.isdir():
                tree.make_directory(member.names)
                directories.append(member)
                continue
            try:
                await _extract_member(reader, tree, member)
            except NameTaken as error:
                log.error("%s", error)
                failed = True
            except CommandError as error:
                if error.code != FAILED:
                    raise
                log.error("%s", error)
                failed = True
        # Deepest first: a directory may become read-only, and writing to it changes its time.
        for member in sorted(directories, key=lambda found: -len(found.names)):
            assert tree is not None
            tree.set_directory(member.names, member.info.mode, member.modified_ns)
    return failed


async def _extract_member(reader: ArchiveReader, tree: LocalTree, member: Member) -> None:
    info = member.info
    if info.isreg():
        with tree.create_file(member.names, info.mode, member.modified_ns) as file:
            async for piece in reader.content():
                file.write(piece)
    elif info.issym():
        tree.make_symlink(member.names, info.linkname, member.modified_ns)
    elif info.islnk():
        tree.make_hard_link(member.names, components(info.linkname))
    else:
        raise CommandError(f"{info.name}: skipped: neither a regular file nor a directory", FAILED)


async def _start(
    client: Client, script: str, arguments: Sequence[str], *, stdin: bool
) -> Process | None:
    """Start a script, or return None if the server cannot run it."""
    try:
        for argument in arguments:
            argument.encode()
    except UnicodeError:
        return None  # arguments of a process are UTF-8, unlike paths of the file methods
    try:
        return await client.start(
            ["/bin/sh", "-c", script, "sh", *arguments], stdin=stdin, overflow="block"
        )
    except (Unsupported, ServerError):
        return None
    except OSError as error:
        if isinstance(error, ClientError):
            raise
        return None


async def _read_errors(process: Process) -> bytes:
    kept = bytearray()
    while piece := await process.stderr.read(ERROR_BYTES):
        kept += piece[: ERROR_BYTES - len(kept)]
    return bytes(kept)


def _print_errors(messages: bytes) -> None:
    for line in messages.decode(errors="replace").splitlines():
        log.error("on the server: %s", line)
