"""The tar format: archives of local files as a stream of known length, and members of a stream.

``tarfile`` reads and writes blocking file objects. Here the archive comes from and goes to a
process on the server, so only the headers of ``tarfile`` are used.
"""

from __future__ import annotations

import os
import stat
import tarfile
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from exec_server.cli.client.exit_codes import FAILED, CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from exec_server.client import OutputReader

BLOCK: Final = tarfile.BLOCKSIZE

END_BYTES: Final = tarfile.RECORDSIZE
"""Length of the end of an archive: zeros of one record, which every tar accepts."""

PIECE_BYTES: Final = 1024 * 1024
"""Bytes of a local file that are read at a time."""

EXTENSION_BYTES: Final = 64 * 1024
"""Longest extended header that is accepted: names of PATH_MAX bytes and extended attributes."""

_NAME: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Archive:
    """An archive of local files, whose length is known before it is read."""

    def __init__(self) -> None:
        self._members: list[tuple[tarfile.TarInfo, str | None, bytes]] = []
        self._linked: dict[tuple[int, int], str] = {}
        self.size = END_BYTES
        """Bytes of the archive."""
        self.skipped: list[str] = []
        """Local paths of other kinds than regular files, directories and links."""

    def add(self, path: str, name: str, *, follow: bool = False) -> None:
        """Add a file or a directory without its entries under ``name``."""
        found = os.stat(path, follow_symlinks=follow)
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(found.st_mode)
        seconds, fraction = divmod(found.st_mtime_ns, 10**9)
        info.mtime = seconds
        info.pax_headers = {"mtime": f"{seconds}.{fraction:09}"}
        content = None
        if stat.S_ISREG(found.st_mode):
            identity = (found.st_dev, found.st_ino)
            if found.st_nlink > 1 and identity in self._linked:
                info.type, info.linkname = tarfile.LNKTYPE, self._linked[identity]
            else:
                self._linked[identity] = name
                info.size, content = found.st_size, path
        elif stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        else:
            self.skipped.append(path)
            return
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        self._members.append((info, content, header))
        self.size += len(header) + info.size + _padding(info.size)

    def add_tree(self, top: str, name: str) -> list[OSError]:
        """Add a directory and all below it; return the errors of what cannot be read.

        Depth first, because tar sets the time of a directory when the next member is not below it.
        """
        errors: list[OSError] = []
        self.add(top, name, follow=True)
        pending = [iter([(top, name)])]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
                continue
            path, member = found
            try:
                if path != top:
                    self.add(path, member)
                if path == top or (os.path.isdir(path) and not os.path.islink(path)):
                    entries = sorted(os.listdir(path))
                    pending.append(
                        iter([(os.path.join(path, e), f"{member}/{e}") for e in entries])
                    )
            except OSError as error:
                errors.append(error)
        return errors

    def pieces(self, errors: list[OSError]) -> Iterator[bytes]:
        """Yield the archive. A file that cannot be read is filled with zeros and reported."""
        for info, path, header in self._members:
            yield header
            if path is None:
                continue
            rest = info.size
            try:
                with open(path, "rb") as file:
                    while rest and (piece := file.read(min(rest, PIECE_BYTES))):
                        yield piece
                        rest -= len(piece)
                if rest:
                    errors.append(OSError(0, "the file became shorter while it was read", path))
            except OSError as error:
                errors.append(error)
            while rest:
                piece = bytes(min(rest, PIECE_BYTES))
                yield piece
                rest -= len(piece)
            yield bytes(_padding(info.size))
        yield bytes(END_BYTES)


class Member(NamedTuple):
    """A member of an archive; its content follows in the stream."""

    info: tarfile.TarInfo
    names: list[str]
    """Components of its path."""
    modified_ns: int
    """Modification time, in nanoseconds since 1970."""


class ArchiveReader:
    """The members of an archive that a process writes."""

    def __init__(self, stream: OutputReader) -> None:
        self._stream = stream
        self._left = self._padding = 0

    async def members(self) -> AsyncIterator[Member]:
        """Yield the members in order. Raises CommandError for anything but an archive."""
        extended: dict[str, str] = {}
        while True:
            await self._skip()
            header = await self._stream.read(1)
            if not header:
                return
            header += await self._exactly(BLOCK - 1)
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                if header == bytes(BLOCK):
                    await self._discard()
                    return
                raise CommandError(f"tar on the server wrote no archive: {error}") from None
            self._left, self._padding = info.size, _padding(info.size)
            if info.type in _NAME or info.type in _PAX:
                if info.size > EXTENSION_BYTES:
                    raise CommandError("tar on the server wrote a header that is too long")
                content = await self._exactly(info.size)
                self._left = 0
                if info.type in _PAX:
                    extended.update(_pax_records(content))
                else:
                    key = "path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
                    extended[key] = _text(content.partition(b"\0")[0])
                continue
            if info.type == tarfile.XGLTYPE:
                continue
            info.name = extended.get("path", info.name)
            info.linkname = extended.get("linkpath", info.linkname)
            if "size" in extended:
                info.size = int(extended["size"])
            modified_ns = _nanoseconds(extended.get("mtime", str(info.mtime)))
            extended = {}
            has_content = info.isreg()
            self._left = info.size if has_content else 0
            self._padding = _padding(self._left)
            yield Member(info, components(info.name), modified_ns)

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the content of the member that was yielded last."""
        while self._left:
            piece = await self._stream.read(min(self._left, PIECE_BYTES))
            if not piece:
                raise CommandError("tar on the server ended early", FAILED)
            self._left -= len(piece)
            yield piece

    async def _skip(self) -> None:
        async for _ in self.content():
            pass
        await self._exactly(self._padding)
        self._padding = 0

    async def _discard(self) -> None:
        while await self._stream.read(PIECE_BYTES):
            pass

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._stream.readexactly(size)
        except EOFError:
            raise CommandError("tar on the server ended early", FAILED) from None


def components(name: str) -> list[str]:
    """Return the components of a member's path. Raises CommandError if they lead elsewhere."""
    names = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in names or "\0" in name:
        raise CommandError(f"{name}: not a path below the copied directory", FAILED)
    return names


def _nanoseconds(seconds: str) -> int:
    try:
        return int(Decimal(seconds) * 10**9)
    except ArithmeticError:
        raise CommandError("tar on the server wrote an invalid time") from None


def _padding(size: int) -> int:
    return -size % BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _pax_records(content: bytes) -> dict[str, str]:
    records = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise CommandError("tar on the server wrote an invalid header")
        record = content[len(length) + 1 : int(length)].removesuffix(b"\n")
        key, _, value = record.partition(b"=")
        records[_text(key)] = _text(value)
        content = content[int(length) :]
    return records
