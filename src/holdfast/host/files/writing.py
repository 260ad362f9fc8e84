"""``fs/writeFile``: a file appears whole, or stays as it was.

The new content goes into a temporary file beside the target, which then takes its name; mode, owner and extended
attributes of an existing file are kept.  A symlink is followed (unless the client forbids it) and stays: the file that
it leads to is replaced.

Where that would change more than the content (the file has several hard links, or its owner or attributes cannot be
given to another file, or no file can be made beside it) it is written in place, as the reference implementation
always does.  So it is while a sandboxed process runs: a file that is protected from it has something mounted over it
there, and the kernel takes that away when another file gets the name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable

from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.files.parameters import WriteFile
from holdfast.host.files.place import Place, content_path, locate
from holdfast.host.files.reading import not_a_file
from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import Scope

#: Fills an empty, open file.
Fill = Callable[[int], None]


def write_file(scope: Scope, params: WriteFile) -> bytes:
    """Replace the content of a file, or make it.

    :raises OSError: it cannot be written; the old content is still there
    :raises RpcError: bad base64, or the path names something that is no regular file
    """
    try:
        data = decode_base64(params.data_base64)
    except ValueError:
        problem = base64_fault(params.data_base64)
        raise refused(f"fs/writeFile requires valid base64 dataBase64: {problem}") from None
    follow = params.follow_symlinks is not False
    with locate(content_path(params.path, follow=follow), scope, follow=follow, write=True) as place:
        replace(place, lambda descriptor: write_all(descriptor, data), scope)
    return b"{}"


def replace(place: Place, fill: Fill, scope: Scope, *, mode: int | None = None) -> None:
    """Give the file at *place* new content, all of it or nothing; *mode* is its mode, else the old or the usual one.

    *fill* may be called twice, for two files.

    :raises OSError: it cannot be written; the old content is still there
    :raises RpcError: it is no regular file
    """
    try:
        status = place.status()
    except FileNotFoundError:
        _create(place, fill, mode)
        return
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise not_a_file(place)
    # Opened for writing first: what may not be written must not be replaced either.
    existing = place.open(os.O_WRONLY)
    try:
        status = os.fstat(existing)
        if not stat.S_ISREG(status.st_mode):
            raise not_a_file(place)
        whole = status.st_nlink == 1 and not scope.in_place()
        if not whole or not _replace_keeping(place, existing, status, fill, scope, mode):
            _write_in_place(existing, fill, mode)
    finally:
        os.close(existing)


def _create(place: Place, fill: Fill, mode: int | None) -> None:
    temporary, descriptor = _make_temporary(place, 0o666)
    try:
        try:
            fill(descriptor)
            if mode is not None:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        os.rename(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        _discard(place, temporary)
        raise


def _replace_keeping(
    place: Place, existing: int, status: os.stat_result, fill: Fill, scope: Scope, mode: int | None
) -> bool:
    """Put a file with new content and the old identity in the place of *existing*; False if that cannot be done."""
    try:
        temporary, descriptor = _make_temporary(place, 0o600)
    except OSError:
        # The directory does not take new files, but the file itself can be written.
        return False
    replaced = False
    try:
        try:
            alike = _take_identity(descriptor, existing, status, mode)
            if alike:
                fill(descriptor)
        finally:
            os.close(descriptor)
        # Filling took its time: what must be in place now need not have been before.
        if alike and not scope.in_place():
            replaced = _take_name(place, temporary)
    finally:
        if not replaced:
            _discard(place, temporary)
    return replaced


def _take_name(place: Place, temporary: str) -> bool:
    """Give *temporary* the name of *place*; False if no other file can have it."""
    try:
        os.rename(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except OSError as error:
        # Something is mounted there, as over /etc/hosts in a container.
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _discard(place: Place, name: str) -> None:
    try:
        os.unlink(name, dir_fd=place.directory)
    except FileNotFoundError:
        # Somebody else tidied up; what matters is why we are here.
        pass


def _take_identity(descriptor: int, existing: int, status: os.stat_result, mode: int | None) -> bool:
    """Give a new file the owner, attributes and mode of an existing one; False if it cannot have them."""
    try:
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        for name in _attributes(existing):
            os.setxattr(descriptor, name, os.getxattr(existing, name))
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) if mode is None else mode)
    except OSError:
        return False
    return True


def _attributes(descriptor: int) -> list[str]:
    try:
        return os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _write_in_place(existing: int, fill: Fill, mode: int | None) -> None:
    os.ftruncate(existing, 0)
    fill(existing)
    if mode is not None:
        os.fchmod(existing, mode)


def _make_temporary(place: Place, mode: int) -> tuple[str, int]:
    name = f".holdfast-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return name, os.open(name, flags, mode, dir_fd=place.directory)


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of *data*, at the present position or at *offset*.

    :raises OSError: not all of it could be written
    """
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        view = view[written:]
        if offset is not None:
            offset += written
