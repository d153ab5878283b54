"""Atomic replacement of file contents (fs/writeFile, fs/copy).

The contents are written to an unnamed file in the same directory, which takes the place of the old
file when it is complete. So neither a full disk nor the end of this process leaves a partial file,
and readers never see one. Owner, permissions and extended attributes of the old file are kept, but
not its capabilities, which were granted to the old contents.

Some files cannot be replaced without side effects: those with several names, mount points
(including those of running sandboxes), those whose owner or attributes this process cannot give to
another file, those in a directory where it cannot create files, and those with the set-user-ID or
set-group-ID bit. They are overwritten in place, and so is a file if the disk has no room for a
second one. Space is reserved first, so that a full disk is reported before anything is changed;
only the end of this process during the write leaves a mix of old and new contents. Truncation to
zero also happens in place: it is a single step, and processes that append to a log keep their file.
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
from exec_server.engine.files.new_file import Place, new_file, opened_place
from exec_server.engine.files.path_guard import PATH_GUARD
from exec_server.engine.files.real_path import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

NEW_FILE_MODE: Final = 0o666
"""Permission bits of new files, reduced by the umask."""

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
"""Permission bits that make a program run with the rights of its file's owner or group."""

_CAPABILITIES: Final = "security.capability"
"""Attribute with the capabilities of a program; the kernel removes it when the file is written."""

_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))

_CANNOT_RESERVE: Final = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV))
"""Errors of posix_fallocate on file systems without it."""

_ATTEMPTS: Final = 16
"""Attempts at a file that is repeatedly missing when opened, but exists when created."""


class Contents(msgspec.Struct, frozen=True):
    """New contents of a file."""

    size: int | None
    """Bytes; None if unknown."""
    write: Callable[[int], object]
    """Write everything to a descriptor, from its position on. May be called more than once."""
    mode: int | None = None
    """Permission bits; None for those of the old file, or of NEW_FILE_MODE and umask."""
    source: os.stat_result | None = None
    """File from which the contents are copied. It is left unchanged if the path leads to it; its
    set-user-ID and set-group-ID bits are not given to a file of another owner or group."""


def put(
    path: bytes, contents: Contents, *, follow_symlinks: bool = True, durable: bool = False
) -> int | None:
    """Create a file or replace its contents; with ``durable`` they survive a loss of power.

    The target of a dangling link is created; a link that is not followed is OSError ELOOP. A
    special file is opened for writing without blocking, and its descriptor is returned, for the
    caller to write and close. Raises OSError, or InvalidRequest as ``PathGuard.check_writing``
    does. The old contents are kept then, except after an I/O error while a file is overwritten.
    """
    for is_last in (False,) * _ATTEMPTS + (True,):
        with contextlib.ExitStack() as stack:
            place: Place | None = None
            if not follow_symlinks:
                place = Place(*stack.enter_context(no_follow.opened_parent(path)))
            existing = _open_existing(path, place)
            if existing is not None:
                if not stat.S_ISREG(os.fstat(existing).st_mode):
                    return existing
                stack.callback(os.close, existing)
                _put_existing(path, existing, place, contents, durable)
                return None
            place = place or stack.enter_context(opened_place(_target(path)))
            PATH_GUARD.check_writing(path, place.directory, place.name)
            try:
                _create(place, contents, durable=durable)
            except FileExistsError:  # created by another process meanwhile
                if is_last:
                    raise
                continue
            return None
    raise AssertionError


def _put_existing(
    path: bytes, existing: int, place: Place | None, contents: Contents, durable: bool
) -> None:
    """Give new contents to a regular file that is open for writing."""
    PATH_GUARD.check_writing(path, existing)
    status = os.fstat(existing)
    if contents.source is not None and os.path.samestat(contents.source, status):
        return
    with contextlib.ExitStack() as stack:
        if place is None and (name := _name_of(path, existing)) is not None:
            place = stack.enter_context(opened_place(name))
        must_stay = contents.size == 0 or PATH_GUARD.has_mount_on(status)
        if must_stay or not _try_replace(existing, place, contents, durable):
            _overwrite(existing, contents, durable=durable)


def _open_existing(path: bytes, place: Place | None) -> int | None:
    """Open an existing file for writing, by ``place`` if given; return None if it is missing."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if place is None:
            return os.open(path, flags)
        return os.open(place.name, flags | os.O_NOFOLLOW, dir_fd=place.directory)
    except FileNotFoundError:
        return None


def _target(path: bytes) -> bytes:
    """Return the target of a dangling link, or the path itself if it is not a link."""
    return resolve(path) if os.path.islink(path) else path


def _name_of(path: bytes, descriptor: int) -> bytes | None:
    """Return a path of an open file that does not end in a link: ``path``, or its resolution."""
    status = os.fstat(descriptor)
    for candidate in (path, None):
        try:
            name = candidate or os.readlink(b"/proc/self/fd/%d" % descriptor)
            if os.path.samestat(os.lstat(name), status):
                return name
        except OSError:
            continue
    return None


def _create(place: Place, contents: Contents, *, durable: bool) -> None:
    """Create a file. Raises OSError, EEXIST if it exists; nothing is created then."""
    with new_file(place, NEW_FILE_MODE if contents.mode is None else 0o600) as file:
        contents.write(file.descriptor)
        _set_mode(file.descriptor, contents)
        file.create(durable=durable)


def _try_replace(existing: int, place: Place | None, contents: Contents, durable: bool) -> bool:
    """Replace an existing file by a new one; return False if it must be overwritten instead.

    Raises OSError if the contents cannot be written.
    """
    old = os.fstat(existing)
    if place is None or old.st_nlink != 1 or old.st_mode & _SET_ID:
        return False
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(new_file(place, 0o600))
            _copy_attributes(existing, old, file.descriptor)
        except OSError:
            return False
        try:
            contents.write(file.descriptor)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        _set_mode(file.descriptor, contents)
        try:
            if not os.path.samestat(os.lstat(place.name, dir_fd=place.directory), old):
                return False  # it was renamed meanwhile, but remains the requested file
            file.replace(durable=durable)
        except OSError:
            return False
    return True


def _copy_attributes(existing: int, old: os.stat_result, descriptor: int) -> None:
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
    """Overwrite a file in place, after reserving space for the new contents."""
    size = os.fstat(descriptor).st_size
    if contents.size:
        try:
            os.posix_fallocate(descriptor, 0, contents.size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                os.ftruncate(descriptor, size)
                raise
    if contents.mode is not None:
        # The new contents must never run with the rights of the old ones.
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_SET_ID)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with uninterrupted():  # a partial write would leave neither the old nor the new contents
        contents.write(descriptor)
    os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
    _set_mode(descriptor, contents)
    if durable:
        os.fsync(descriptor)


def _set_mode(descriptor: int, contents: Contents) -> None:
    """Set the permission bits of a file if the contents specify them."""
    mode = contents.mode
    if mode is None:
        return
    if contents.source is not None and mode & _SET_ID:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (contents.source.st_uid, contents.source.st_gid):
            mode &= ~_SET_ID
    os.fchmod(descriptor, mode)
