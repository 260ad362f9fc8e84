"""``fs/readFile``: a whole regular file."""

from __future__ import annotations

import os
import stat
from typing import Final

from pybase64 import b64encode

from holdfast.host.files.parameters import ReadFile
from holdfast.host.files.place import Place, content_path, locate, path_of
from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import Scope

#: Bytes of the largest file that is read whole.  An answer is one message; larger files are read in blocks.
FILE_LIMIT: Final = 128 * 1024 * 1024
_BLOCK: Final = 1024 * 1024


def open_regular(place: Place, *, follow: bool = True) -> int:
    """Open a regular file for reading; anything else is refused unread.

    :raises OSError: it cannot be opened
    :raises RpcError: it is not a regular file
    """
    # The kind is looked at first: opening a device can have effects.
    mode = place.status().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise not_a_file(place, follow=follow)
    descriptor = place.open(os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_a_file(place, follow=follow)
    return descriptor


def not_a_file(place: Place, *, follow: bool = True) -> Exception:
    """The path names a directory, a FIFO, a device or a socket."""
    return refused(f"path `{place.path}` is not a file" if follow else "path is not a regular file")


def size_of(scope: Scope, params: ReadFile) -> int:
    """How large the answer to ``fs/readFile`` is about to be, in bytes of the file.

    :raises OSError: it does not exist, ...
    """
    with locate(path_of(params.path), scope, follow=params.follow_symlinks is not False) as place:
        return place.status().st_size


def read_file(scope: Scope, params: ReadFile) -> bytes:
    """The content of a file, base64 in JSON.

    :raises OSError: it cannot be read
    :raises RpcError: it is no regular file, or too large
    """
    follow = params.follow_symlinks is not False
    with locate(content_path(params.path, follow=follow), scope, follow=follow) as place:
        descriptor = open_regular(place, follow=follow)
    try:
        return b'{"dataBase64":"%s"}' % b64encode(_read_all(descriptor))
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    """All of a file, whose size may be unknown (``/proc``) or change meanwhile."""
    size = os.fstat(descriptor).st_size
    parts: list[bytes] = []
    total = 0
    while size <= FILE_LIMIT and total <= FILE_LIMIT:
        part = os.read(descriptor, min(max(size - total, 4096) + 1, 8 * _BLOCK))
        if not part:
            return b"".join(parts)
        parts.append(part)
        total += len(part)
    raise refused(f"file is too large to read: limit is {FILE_LIMIT} bytes")
