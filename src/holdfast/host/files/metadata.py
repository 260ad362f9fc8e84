"""``fs/getMetadata`` and ``fs/canonicalize``: what a path is."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from functools import cache
from typing import Any, Final

from holdfast.host.files.parameters import GetMetadata, OnePath
from holdfast.host.files.place import Place, linked_path, locate, path_of
from holdfast.host.files.scope import Scope
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import encode_json

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_STATX_BTIME: Final = 0x800
#: ``struct statx`` of linux/stat.h: 256 bytes, ``stx_mask`` first, ``stx_btime`` (seconds, nanoseconds) at byte 80.
_STATX_SIZE: Final = 256
_BTIME_AT: Final = 80


def get_metadata(scope: Scope, params: GetMetadata) -> bytes:
    """Kind, size in bytes, and times in milliseconds since the epoch; a time that is not known is 0.

    :raises OSError: it does not exist, ...
    :raises RpcError: it is a symlink, and none may be followed
    """
    follow = params.follow_symlinks is not False
    with locate(path_of(params.path), scope, follow=follow) as place:
        status = place.status()
        if stat.S_ISLNK(status.st_mode):
            raise linked_path()
        return encode_json(
            {
                "isDirectory": stat.S_ISDIR(status.st_mode),
                "isFile": stat.S_ISREG(status.st_mode),
                "isSymlink": place.linked,
                "size": status.st_size,
                "createdAtMs": _created(place),
                "modifiedAtMs": max(0, status.st_mtime_ns // 1_000_000),
            }
        )


def canonicalize(scope: Scope, params: OnePath) -> bytes:
    """The path without symlinks.

    :raises OSError: it does not exist, ...
    """
    with locate(path_of(params.path), scope) as place:
        place.status()
        parent = os.readlink(f"/proc/self/fd/{place.directory}")
        path = parent if place.name == "." else os.path.join(parent, place.name)
        return encode_json({"path": path_to_uri(path)})


def _created(place: Place) -> int:
    """When the file was made, if its file system remembers: only ``statx`` tells."""
    call = _statx()
    if call is None:
        return 0
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT
    if call(place.directory, os.fsencode(place.name), flags, _STATX_BTIME, buffer) != 0:
        return 0
    if not struct.unpack_from("=I", buffer)[0] & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME_AT)
    return max(0, seconds * 1000 + nanoseconds // 1_000_000)


@cache
def _statx() -> Any:
    """``statx`` of the C library, or None if it has none."""
    try:
        call = ctypes.CDLL(None).statx
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    call.restype = ctypes.c_int
    return call
