"""``fs/watchMissing``: tell once when something appears that was not there (or something that was there changes).

There is one watch for each connection.  inotify looks at every directory on the way to each path, so that one that is
put in the place of another is noticed as well, and nothing is polled.  Whatever cannot be watched is said to be
unwatched: so are ways through symlinks, whose targets may be exchanged anywhere.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import posixpath
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

from holdfast.host.files.parameters import WatchMissing
from holdfast.host.files.place import ForeignPath, locate, path_of
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import RpcError, encode_notification

#: Missing paths in one watch, and directories on the way to them (the reference implementation's numbers).
PATH_LIMIT: Final = 64
DIRECTORY_LIMIT: Final = 64
#: Kinds of file systems (statfs(2)) in which something may appear without an event: made up by the kernel, or by
#: another machine: proc, sysfs, NFS, SMB, CIFS, SMB2, FUSE, 9P, Ceph, AFS.
_SILENT: Final = frozenset(
    {
        0x9FA0,
        0x62656572,
        0x6969,
        0x517B,
        0xFF534D42,
        0xFE534D42,
        0x65735546,
        0x01021997,
        0x00C36400,
        0x5346414F,
    }
)

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
_DONT_FOLLOW: Final = 0x02000000
_MASK_ADD: Final = 0x20000000
#: Attributes count too: a directory that is closed or opened hides or shows what is in it.
_DIRECTORY_EVENTS: Final = _CREATE | _MOVED_TO | _MOVED_FROM | _DELETE | _ATTRIB | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_FILE_EVENTS: Final = _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF
_NONBLOCK: Final = 0o4000
_CLOEXEC: Final = 0o2000000

_EVENT: Final = struct.Struct("iIII")
#: The kind of a file system is the first member of ``struct statfs``, which has no more than so many bytes.
_KIND: Final = struct.Struct("l")
_STATFS_SIZE: Final = 256


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

    def add_way(self, path: str) -> os.stat_result | None:
        """Look for the next step in every directory on the way to *path*; what is there, None if it is missing.

        :raises OSError: it cannot be watched: there is something else than a directory on the way
        """
        current = "/"
        status: os.stat_result | None = None
        for name in path.split("/")[1:]:
            self._add(current, _DIRECTORY_EVENTS, name)
            if self._silent(current):
                raise OSError(errno.EOPNOTSUPP, "no events in this file system")
            current = posixpath.join(current, name)
            # Only now: what changes after the look has been asked for already.
            try:
                status = os.lstat(current)
            except FileNotFoundError:
                return None
        return status

    def add_file(self, path: str) -> None:
        """Look for changes of the file itself.

        :raises OSError: it cannot be watched
        """
        self._add(path, _FILE_EVENTS, "")

    def _add(self, path: str, mask: int, name: str) -> None:
        watch: int = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), mask | _MASK_ADD | _DONT_FOLLOW)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self._names.setdefault(watch, set()).add(os.fsencode(name))

    def _silent(self, path: str) -> bool:
        buffer = ctypes.create_string_buffer(_STATFS_SIZE)
        if self._libc.statfs(os.fsencode(path), buffer):
            raise OSError(ctypes.get_errno(), "statfs")
        return _KIND.unpack_from(buffer)[0] & 0xFFFFFFFF in _SILENT

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
        self._newest = 0
        self._active: _Inotify | None = None
        self._closed = False

    def begin(self, params: WatchMissing) -> bool:
        """Take a new watch's number, above 0; False if it is older than the present one.  The present one ends."""
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


def paths_of(params: WatchMissing) -> tuple[list[str], str | None] | None:
    """The paths that are missing, and the one that is present; None if nothing ever happens at one of them."""
    paths: list[str] = []
    foreign = False
    for uri in (*params.missing, *(() if params.present is None else (params.present,))):
        try:
            paths.append(path_of(uri))
        except ForeignPath:
            foreign = True
    if foreign:
        return None
    return (paths, None) if params.present is None else (paths[:-1], paths[-1])


def prepare(scope: Scope, missing: list[str], present: str | None) -> _Inotify | None:
    """Set up the watch, in a worker thread; None if there is nothing to watch for or it cannot be watched.

    :raises RpcError: a path is not allowed
    """
    paths = missing if present is None else [*missing, present]
    if not missing or len(missing) > PATH_LIMIT or len(_directories(paths)) > DIRECTORY_LIMIT:
        return None
    if scope.limited:
        for path in paths:
            try:
                with locate(path, scope):
                    pass
            except OSError:
                # It is missing, as it may be.  Where nothing is shown nothing appears, and of the way nothing is told.
                if not _may_appear(path, scope):
                    return None
    try:
        inotify = _Inotify()
    except OSError:
        return None
    try:
        watching = _watch(inotify, missing, present)
    except OSError:
        watching = False
    except BaseException:
        inotify.close()
        raise
    if not watching:
        inotify.close()
        return None
    return inotify


def _may_appear(path: str, scope: Scope) -> bool:
    try:
        scope.require(os.path.realpath(path), write=False)
    except RpcError:
        return False
    return True


def discard(preparing: asyncio.Future[_Inotify | None]) -> None:
    """Close what was set up for somebody who is gone."""
    if preparing.cancelled() or preparing.exception() is not None:
        return
    inotify = preparing.result()
    if inotify is not None:
        inotify.close()


def _directories(paths: list[str]) -> set[str]:
    """Everything on the way to *paths*."""
    found: set[str] = set()
    for path in paths:
        directory = posixpath.dirname(path)
        while directory not in found:
            found.add(directory)
            directory = posixpath.dirname(directory)
    return found


def _watch(inotify: _Inotify, missing: list[str], present: str | None) -> bool:
    """Watch what is missing and what is present; False if either is not."""
    if any(inotify.add_way(path) is not None for path in missing):
        return False
    if present is None:
        return True
    status = inotify.add_way(present)
    if status is None or stat.S_ISLNK(status.st_mode):
        return False
    inotify.add_file(present)
    return True
