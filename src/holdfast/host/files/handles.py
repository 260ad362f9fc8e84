"""``fs/open``, ``fs/readBlock``, ``fs/writeBlock``, ``fs/close``: files read and written piece by piece.

Handles belong to a connection and end with it.  A read that fails closes its handle, a write that fails does not: both
as the reference implementation has it.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Final

from pybase64 import b64encode

from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.files.parameters import Close, Open, OpenMode, ReadBlock, WriteBlock
from holdfast.host.files.place import locate, path_of
from holdfast.host.files.reading import not_a_file, open_regular
from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import Scope
from holdfast.host.files.writing import write_all
from holdfast.jsonrpc.messages import INVALID_PARAMS, NOT_FOUND, RpcError, encode_json

#: Bytes in one block, handles of one connection, bytes of a handle's id (the reference implementation's numbers).
BLOCK_LIMIT: Final = 1024 * 1024
HANDLE_LIMIT: Final = 128
ID_LIMIT: Final = 32

_OFFSET_LIMIT: Final = 2**63 - 1


class _Handle:
    """An open file; its lock keeps the descriptor from being closed under somebody's hands."""

    def __init__(self, descriptor: int, mode: OpenMode) -> None:
        self.descriptor = descriptor
        self.mode = mode
        self.lock = threading.Lock()

    def close(self) -> None:
        with self.lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1


class Handles:
    """The open files of one connection.  Every method runs in a worker thread."""

    def __init__(self) -> None:
        self._handles: dict[str, _Handle] = {}
        self._lock = threading.Lock()
        self._closed = False

    def open(self, scope: Scope, params: Open) -> bytes:
        """Open a file for reading, or empty (or make) one for writing.

        :raises OSError: it cannot be opened
        :raises RpcError: the id is taken, there are too many handles, or it is no regular file
        """
        name = _usable(params.handle_id)
        self._check_free(name)
        write = params.mode is OpenMode.REPLACE
        follow = params.follow_symlinks is not False
        with locate(path_of(params.path), scope, follow=follow, write=write) as place:
            if not write:
                descriptor = open_regular(place)
            else:
                try:
                    mode = place.status().st_mode
                    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
                        raise not_a_file(place)
                except FileNotFoundError:
                    pass
                descriptor = place.open(os.O_WRONLY | os.O_CREAT)
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.close(descriptor)
                    raise not_a_file(place)
        handle = _Handle(descriptor, params.mode)
        try:
            if write:
                os.ftruncate(descriptor, 0)
            with self._lock:
                self._check_free(name)
                self._handles[name] = handle
        except BaseException:
            handle.close()
            raise
        return encode_json({"handleId": name})

    def _check_free(self, name: str) -> None:
        if name in self._handles:
            raise refused(f"file handle `{name}` already exists")
        if self._closed or len(self._handles) >= HANDLE_LIMIT:
            raise refused(f"at most {HANDLE_LIMIT} file handles may be open per connection")

    def _find(self, name: str) -> _Handle:
        handle = self._handles.get(name)
        if handle is None:
            raise RpcError(NOT_FOUND, f"unknown file handle `{name}`")
        return handle

    def _forget(self, name: str) -> None:
        with self._lock:
            handle = self._handles.pop(name, None)
        if handle is not None:
            handle.close()

    def read_block(self, scope: Scope, params: ReadBlock) -> bytes:
        """Bytes at an offset, and whether the file ends before so many.

        :raises OSError: they cannot be read; the handle is closed
        :raises RpcError: no such handle, or not so many bytes at once
        """
        name = _usable(params.handle_id)
        if not 1 <= params.len <= BLOCK_LIMIT:
            raise refused(f"file read block length must be between 1 and {BLOCK_LIMIT}")
        handle = self._find(name)
        try:
            with handle.lock:
                if params.offset > _OFFSET_LIMIT:
                    raise OSError(22, "")
                data = _read_at(handle.descriptor, params.len, params.offset)
        except OSError:
            self._forget(name)
            raise
        eof = len(data) < params.len
        return b'{"chunk":"%s","eof":%s}' % (b64encode(data), b"true" if eof else b"false")

    def write_block(self, scope: Scope, params: WriteBlock) -> bytes:
        """Write bytes at an offset.

        :raises OSError: not all of them could be written
        :raises RpcError: no such handle, bad base64, or not so many bytes at once
        """
        try:
            data = decode_base64(params.chunk)
        except ValueError:
            raise RpcError(INVALID_PARAMS, base64_fault(params.chunk)) from None
        name = _usable(params.handle_id)
        if not 1 <= len(data) <= BLOCK_LIMIT:
            raise refused(f"file write block length must be between 1 and {BLOCK_LIMIT}")
        if params.offset + len(data) > _OFFSET_LIMIT:
            raise refused("file write range exceeds the signed 64-bit file offset limit")
        handle = self._find(name)
        with handle.lock:
            write_all(handle.descriptor, data, params.offset)
        return b"{}"

    def close_one(self, scope: Scope, params: Close) -> bytes:
        """Close a handle; one that does not exist is closed already.

        :raises RpcError: there can be none of that name
        """
        self._forget(_usable(params.handle_id))
        return b"{}"

    def close(self) -> None:
        """Close all handles and open no more."""
        with self._lock:
            self._closed = True
            handles, self._handles = self._handles, {}
        for handle in handles.values():
            handle.close()


def _usable(name: str) -> str:
    """The id of a handle, if one may have it.

    :raises RpcError: it is too long
    """
    if len(name.encode()) > ID_LIMIT:
        raise refused(f"file handle ID must not exceed {ID_LIMIT} bytes")
    return name


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while data and len(data) < size:
        part = os.pread(descriptor, size - len(data), offset + len(data))
        if not part:
            break
        data += part
    return data
