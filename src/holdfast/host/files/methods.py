"""Registers the ``fs/*`` methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from holdfast.host.dispatch import ClientConnection
from holdfast.host.files import parameters
from holdfast.host.files.copying import copy
from holdfast.host.files.directories import create_directory, read_directory, remove
from holdfast.host.files.metadata import canonicalize, get_metadata
from holdfast.host.files.reading import read_file, size_of
from holdfast.host.files.scope import Scope
from holdfast.host.files.service import LARGE, FileService, large_turn
from holdfast.host.files.walk import walk
from holdfast.host.files.watch import discard, paths_of, prepare
from holdfast.host.files.writing import write_file
from holdfast.host.methods import method

_P = TypeVar("_P")


def _service(client: ClientConnection) -> FileService:
    return client.resource(FileService, FileService)


def _register(name: str, params: type[_P], operation: Callable[[Scope, _P], bytes], *, alone: bool) -> None:
    def call(client: ClientConnection, params: Any) -> Awaitable[bytes]:
        return _service(client).run(operation, params, alone=alone)

    method(f"fs/{name}", params, "filesystem")(call)


_register("getMetadata", parameters.GetMetadata, get_metadata, alone=False)
_register("canonicalize", parameters.OnePath, canonicalize, alone=False)
_register("readDirectory", parameters.Directory, read_directory, alone=False)
_register("walk", parameters.Walk, walk, alone=False)
_register("writeFile", parameters.WriteFile, write_file, alone=True)
_register("createDirectory", parameters.CreateDirectory, create_directory, alone=True)
_register("remove", parameters.Remove, remove, alone=True)
_register("copy", parameters.Copy, copy, alone=True)


@method("fs/readFile", parameters.ReadFile, "filesystem")
async def read_whole(client: ClientConnection, params: parameters.ReadFile) -> bytes:
    """A whole file; large ones one at a time, and only as fast as the client takes them."""
    service = _service(client)
    async with service.order.turn(alone=False):
        if await service.carry_out(size_of, params) <= LARGE:
            return await service.carry_out(read_file, params)
        await client.room()
        async with large_turn():
            return await service.carry_out(read_file, params)


@method("fs/open", parameters.Open, "filesystem")
def open_handle(client: ClientConnection, params: parameters.Open) -> Awaitable[bytes]:
    """Open a file for reading or writing in blocks."""
    service = _service(client)
    return service.run(service.handles.open, params, alone=True)


@method("fs/readBlock", parameters.ReadBlock, "filesystem")
async def read_block(client: ClientConnection, params: parameters.ReadBlock) -> bytes:
    """Read a block."""
    service = _service(client)
    block = await service.run(service.handles.read_block, params, alone=False)
    # Many may be asked for at once; a client that does not read its replies gets no more of them.
    await client.room()
    return block


@method("fs/writeBlock", parameters.WriteBlock, "filesystem")
def write_block(client: ClientConnection, params: parameters.WriteBlock) -> Awaitable[bytes]:
    """Write a block."""
    service = _service(client)
    return service.run(service.handles.write_block, params, alone=True)


@method("fs/close", parameters.Close, "filesystem")
def close_handle(client: ClientConnection, params: parameters.Close) -> Awaitable[bytes]:
    """Close a handle."""
    service = _service(client)
    return service.run(service.handles.close_one, params, alone=True)


@method("fs/watchMissing", parameters.WatchMissing, "filesystem")
async def watch_missing(client: ClientConnection, params: parameters.WatchMissing) -> bytes:
    """Watch for something to appear; replaces the watch of before."""
    service = _service(client)
    paths = paths_of(params)
    if not service.watch.begin(params):
        return b'{"watching":false}'

    def set_up():
        # A sandbox that cannot be honoured is refused also if there is nothing to watch.
        scope = service.scope(params)
        return None if paths is None else prepare(scope, *paths)

    preparing = asyncio.ensure_future(service.in_thread(set_up))
    try:
        inotify = await asyncio.shield(preparing)
    except asyncio.CancelledError:
        # The thread goes on, and nobody else would close what it opens.
        preparing.add_done_callback(discard)
        raise
    if inotify is None:
        return b'{"watching":false}'
    service.watch.activate(params.watch_id, inotify)
    return b'{"watching":true}'
