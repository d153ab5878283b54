"""Giving a path new contents: all of them, or the old ones stay (fs/writeFile, fs/copy).

The contents are written into a file without a name beside the old one, which gets its place when
they are complete. So neither a full disk nor the end of this process, at whatever moment, leaves
half a file, and no reader ever sees one. Owner, permissions and extended attributes of the old
file are kept, but not its capabilities: new contents have not been granted them.

Some files must stay the file they are, because somebody would notice: one with several names, one
that is a mount point, also of a running sandbox, one whose owner or attributes this process may not
give to another, one in a directory where it may create nothing, one with the set-user-ID or set-
group-ID bit. Those are overwritten in place, and so is a file that the disk has no room for twice.
The space is reserved first, so that a full disk is told before anything is changed; only an end of
this process while it writes leaves such a file half old, half new. Emptying a file happens in place
too: it is one step, and whoever goes on appending to a log does not lose sight of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine.cancellation import uninterrupted
from exec_server.engine.files import no_follow
from exec_server.engine.sandbox.live_views import LIVE_VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEW_FILE_MODE: Final = 0o666
"""Less the umask."""

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
"""Permission bits that make a program run as the owner or group of its file."""

_CAPABILITIES: Final = "security.capability"
"""Attribute with the capabilities of a program; the kernel removes it when the file is written."""

_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))

_CANNOT_RESERVE: Final = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV))
"""posix_fallocate: not on this file system."""

_NO_NAMELESS_FILES: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL))
"""O_TMPFILE: not on this file system, or not known to it."""

_TRIES: Final = 16
"""How often a file is looked for that is not there when opened, but is when created."""


class Place(msgspec.Struct, frozen=True):
    """Where a file is, or is to be."""

    directory: int
    """A descriptor of the directory, at least O_PATH."""
    name: bytes
    """Not that of a symbolic link."""


class Contents(msgspec.Struct, frozen=True):
    """What a file is to contain."""

    size: int | None
    """Bytes; None where the source does not say."""
    write: Callable[[int], object]
    """Writes everything to a descriptor, from its position on; may be asked to do it again."""
    mode: int | None = None
    """The permission bits; None for those of the old file, NEW_FILE_MODE less umask for a new."""
    source: os.stat_result | None = None
    """The file that they come from: if the path leads to that one, it is left alone. A file of
    another owner or group does not get its set-user-ID and set-group-ID bits."""


def put(
    path: bytes, contents: Contents, *, follow_symlinks: bool = True, durable: bool = False
) -> int | None:
    """Create a file or give it new contents; ``durable``: they survive a loss of power, too.

    A link that leads nowhere gets its target created; one not followed is OSError ELOOP. What is
    no regular file is opened for writing without waiting; its descriptor is returned, for the
    caller to use and close, nothing written. Raises OSError, or InvalidRequest for a file that a
    sandbox denies and could no longer (see ``live_views``); what was there is still there then, but
    for an error of the device while a file is overwritten in place.
    """
    for last_try in (False,) * _TRIES + (True,):
        with contextlib.ExitStack() as stack:
            place: Place | None = None
            if not follow_symlinks:
                place = Place(*stack.enter_context(no_follow.opened_parent(path)))
            existing = _open_existing(path, place)
            if existing is None:
                place = place or stack.enter_context(_opened_place(_resolved(path)))
                LIVE_VIEWS.check_writing(path, place.directory, place.name)
                try:
                    _create(place, contents, durable=durable)
                except FileExistsError:  # made by somebody else meanwhile
                    if last_try:
                        raise
                    continue
                return None
            status = os.fstat(existing)
            if not stat.S_ISREG(status.st_mode):
                return existing
            stack.callback(os.close, existing)
            LIVE_VIEWS.check_writing(path, existing)
            if contents.source is not None and os.path.samestat(contents.source, status):
                return None
            if place is None and (name := _name_of(path, existing)) is not None:
                place = stack.enter_context(_opened_place(name))
            stays = contents.size == 0 or LIVE_VIEWS.has_mount_on(status)
            if stays or not _try_replace(existing, place, contents, durable):
                _overwrite(existing, contents, durable=durable)
            return None
    raise AssertionError


def _open_existing(path: bytes, place: Place | None) -> int | None:
    """What ``path`` leads to, or ``place`` if given, open for writing; None if there is nothing."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if place is None:
            return os.open(path, flags)
        return os.open(place.name, flags | os.O_NOFOLLOW, dir_fd=place.directory)
    except FileNotFoundError:
        return None


def _resolved(path: bytes) -> bytes:
    """Where the link leads, if there is one."""
    return os.path.realpath(path) if os.path.islink(path) else path


def _name_of(path: bytes, descriptor: int) -> bytes | None:
    """A path of an open file that does not end in a link: ``path`` itself, or what it leads to."""
    status = os.fstat(descriptor)
    for candidate in (path, None):
        try:
            name = candidate or os.readlink(b"/proc/self/fd/%d" % descriptor)
            if os.path.samestat(os.lstat(name), status):
                return name
        except OSError:
            continue
    return None


@contextlib.contextmanager
def _opened_place(path: bytes) -> Iterator[Place]:
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(directory, os.path.basename(path))
    finally:
        os.close(directory)


def _create(place: Place, contents: Contents, *, durable: bool) -> None:
    """Make a new file. Raises OSError: EEXIST if there is one; nothing is left then."""
    with _beside(place, NEW_FILE_MODE if contents.mode is None else 0o600) as beside:
        contents.write(beside.descriptor)
        _set_mode(beside.descriptor, contents)
        beside.give_name(durable=durable)


def _try_replace(existing: int, place: Place | None, contents: Contents, durable: bool) -> bool:
    """Put another file in the place of an existing one; False if that one had better stay.

    Raises OSError if the contents cannot be written anywhere.
    """
    old = os.fstat(existing)
    if place is None or old.st_nlink != 1 or old.st_mode & _SET_ID:
        return False
    with contextlib.ExitStack() as stack:
        try:
            beside = stack.enter_context(_beside(place, 0o600))
            _take_after(existing, old, beside.descriptor)
        except OSError:
            return False
        try:
            contents.write(beside.descriptor)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        _set_mode(beside.descriptor, contents)
        try:
            if not os.path.samestat(os.lstat(place.name, dir_fd=place.directory), old):
                return False  # moved away meanwhile, and still the one that was asked for
            beside.take_place(durable=durable)
        except OSError:
            return False
    return True


def _take_after(existing: int, old: os.stat_result, descriptor: int) -> None:
    """Give a new file the owner, mode and extended attributes of an old one. Raises OSError."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    wanted, given = _attributes(existing), _attributes(descriptor)
    for name in given.keys() - wanted.keys():
        os.removexattr(descriptor, name)
    for name, value in wanted.items():
        if given.get(name) != value:
            os.setxattr(descriptor, name, value)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {name: os.getxattr(descriptor, name) for name in names if name != _CAPABILITIES}


def _overwrite(descriptor: int, contents: Contents, *, durable: bool) -> None:
    """Overwrite a file in place, once there is room for the new contents."""
    size = os.fstat(descriptor).st_size
    if contents.size:
        try:
            os.posix_fallocate(descriptor, 0, contents.size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                os.ftruncate(descriptor, size)
                raise
    if contents.mode is not None:
        # Not for a moment may the new contents run with the rights that the old ones were given.
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_SET_ID)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with uninterrupted():  # half of it would be neither the old file nor the new one
        contents.write(descriptor)
    os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
    _set_mode(descriptor, contents)
    if durable:
        os.fsync(descriptor)


def _set_mode(descriptor: int, contents: Contents) -> None:
    """Give a file the permission bits that it is to have, if they are not those of the old one."""
    mode = contents.mode
    if mode is None:
        return
    if contents.source is not None and mode & _SET_ID:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (contents.source.st_uid, contents.source.st_gid):
            mode &= ~_SET_ID
    os.fchmod(descriptor, mode)


class _Beside:
    """A file in the making, without a name, or with one that nobody looks for."""

    __slots__ = ("_place", "_temporary_name", "descriptor")

    def __init__(self, place: Place, mode: int) -> None:
        """Raises OSError where nothing may be created."""
        self._place = place
        self._temporary_name: bytes | None = None
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            self.descriptor = os.open(b".", flags | os.O_TMPFILE, mode, dir_fd=place.directory)
        except OSError as error:
            if error.errno not in _NO_NAMELESS_FILES:
                raise
            name = _unused_name()
            self.descriptor = os.open(
                name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=place.directory
            )
            self._temporary_name = name

    def give_name(self, *, durable: bool) -> None:
        """Appear where nothing is. Raises OSError: EEXIST if something is."""
        if self._temporary_name is not None:
            self.take_place(durable=durable)
            return
        if durable:
            os.fsync(self.descriptor)
        self._link(self._place.name)
        if durable:
            self._fsync_directory()

    def take_place(self, *, durable: bool) -> None:
        """Appear instead of what is there."""
        if durable:
            os.fsync(self.descriptor)
        if self._temporary_name is None:
            name = _unused_name()
            self._link(name)
            self._temporary_name = name
        place = self._place
        os.rename(
            self._temporary_name,
            place.name,
            src_dir_fd=place.directory,
            dst_dir_fd=place.directory,
        )
        self._temporary_name = None
        if durable:
            self._fsync_directory()

    def discard(self) -> None:
        """Leave nothing but what has its final name."""
        os.close(self.descriptor)
        if self._temporary_name is not None:
            os.unlink(self._temporary_name, dir_fd=self._place.directory)

    def _link(self, name: bytes) -> None:
        directory = self._place.directory
        # Given a directory, this follows the link in /proc to the file that has no name.
        os.link(
            b"/proc/self/fd/%d" % self.descriptor, name, src_dir_fd=directory, dst_dir_fd=directory
        )

    def _fsync_directory(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        readable = os.open(b".", flags, dir_fd=self._place.directory)
        try:
            os.fsync(readable)
        finally:
            os.close(readable)


@contextlib.contextmanager
def _beside(place: Place, mode: int) -> Iterator[_Beside]:
    beside = _Beside(place, mode)
    try:
        yield beside
    finally:
        beside.discard()


def _unused_name() -> bytes:
    """Short, hidden, and as good as certainly no other's."""
    return b".codex-exec-server-" + os.urandom(8).hex().encode()
