"""``fs/watchMissing``: tell once when something appears that was not there (or something that was there changes).

There is one watch for each connection.  inotify looks at the deepest directory that exists on the way to each missing
path, so nothing is polled; whatever cannot be watched is said to be unwatched.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import posixpath
import struct
from collections.abc import Callable
from typing import Any, Final

from holdfast.host.files.parameters import WatchMissing
from holdfast.host.files.place import path_of
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import encode_notification

#: Missing paths in one watch (the reference implementation watches fewer than 300).
PATH_LIMIT: Final = 256

# inotify(7)
_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x01000000
_MASK_ADD: Final = 0x20000000
_DIRECTORY_EVENTS: Final = _CREATE | _MOVED_TO | _MOVED_FROM | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_FILE_EVENTS: Final = _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF
_NONBLOCK: Final = 0o4000
_CLOEXEC: Final = 0o2000000

_EVENT: Final = struct.Struct("iIII")


class _Inotify:
    """One inotify instance and what it looks for."""

    def __init__(self) -> None:
        libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc = libc
        self.descriptor: int = libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        #: By watch descriptor the names that count; the empty one stands for the watched file itself.
        self._names: dict[int, set[bytes]] = {}

    def add(self, path: str, mask: int, name: str) -> None:
        """Look for *name* in the directory *path*, or with an empty one for changes of the file *path* itself."""
        watch: int = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), mask | _MASK_ADD)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self._names.setdefault(watch, set()).add(os.fsencode(name))

    def happened(self) -> bool:
        """Read what there is; whether any of it counts."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return False
        position = 0
        while position < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            if mask & (_DELETE_SELF | _MOVE_SELF | _OVERFLOW | _IGNORED) or name in self._names.get(watch, ()):
                return True
        return False

    def close(self) -> None:
        os.close(self.descriptor)


class MissingWatch:
    """The one watch of a connection."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._newest = -1
        self._active: _Inotify | None = None
        self._closed = False

    def begin(self, params: WatchMissing) -> bool:
        """Take a new watch's number; False if it is older than the present one.  The present one ends."""
        if params.watch_id <= self._newest:
            return False
        self._newest = params.watch_id
        self.stop()
        return True

    def activate(self, watch_id: int, inotify: _Inotify) -> None:
        """Wait for the event, unless a newer watch has begun meanwhile."""
        if self._closed or watch_id != self._newest:
            inotify.close()
            return
        self._active = inotify
        self._loop.add_reader(inotify.descriptor, self._look, watch_id, inotify)

    def _look(self, watch_id: int, inotify: _Inotify) -> None:
        if inotify is self._active and inotify.happened():
            self.stop()
            self._send(encode_notification("fs/missingChanged", {"watchId": watch_id}))

    def stop(self) -> None:
        """Watch nothing any more."""
        if self._active is not None:
            self._loop.remove_reader(self._active.descriptor)
            self._active.close()
            self._active = None

    def close(self) -> None:
        """Watch nothing ever again."""
        self._closed = True
        self.stop()


def prepare(scope: Scope, params: WatchMissing) -> _Inotify | None:
    """Set up the watch, in a worker thread; None if there is nothing to watch for or it cannot be watched.

    :raises RpcError: a path is no ``file:`` URI, or not allowed
    """
    missing = [path_of(uri) for uri in params.missing]
    present = None if params.present is None else path_of(params.present)
    if not missing:
        return None
    if len(missing) > PATH_LIMIT:
        return None
    for path in (*missing, *(() if present is None else (present,))):
        if scope.limited:
            scope.require(os.path.realpath(path), write=False)
    try:
        inotify = _Inotify()
    except OSError:
        return None
    try:
        for path in missing:
            if not _watch_for(inotify, path):
                inotify.close()
                return None
        if present is not None:
            inotify.add(present, _FILE_EVENTS, "")
            inotify.add(posixpath.dirname(present), _DIRECTORY_EVENTS, posixpath.basename(present))
    except OSError:
        inotify.close()
        return None
    except BaseException:
        inotify.close()
        raise
    return inotify


def _watch_for(inotify: _Inotify, path: str) -> bool:
    """Watch the deepest directory on the way to *path* for its next step; False if *path* exists."""
    while True:
        if os.path.lexists(path):
            return False
        directory, name = posixpath.split(path)
        while not os.path.lexists(directory):
            directory, name = posixpath.split(directory)
        inotify.add(directory, _DIRECTORY_EVENTS, name)
        # It may have appeared between the look and the watch; then look again from there.
        if not os.path.lexists(posixpath.join(directory, name)):
            return True
