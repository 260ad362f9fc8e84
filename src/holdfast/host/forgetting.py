"""Forgetting a process: its log, its index and its drop are deleted, and its id may be used again.

What is to be deleted is first moved out of the way, the directory of the process last: that move is the moment of
forgetting.  A kill before it leaves the process as it was, for the request to be repeated; a kill after it leaves
something below ``STATE/forgotten``, which the next server deletes.

A directory of a lower layer of an overlay (the image of a container) cannot be moved.  There the moment of forgetting
is that the description is emptied: a directory without one is deleted by the next server.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.directories import private_directory, remove, stored_bytes
from holdfast.errors import HoldfastError
from holdfast.host.drop import drop_path
from holdfast.host.methods import Reply, method
from holdfast.host.parameters import Parameters
from holdfast.host.status import cannot_tell
from holdfast.host.threads import in_background
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_REQUEST, RpcError, encode_json
from holdfast.jsonrpc.streams import EXHAUSTED

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection
    from holdfast.host.process import HostedProcess

_FORGOTTEN: Final = "forgotten"
#: Seconds that a process which has ended gets for its streams to close.
_CLOSES_WITHIN: Final = 1.0
_UNKNOWN: Final = b'{"existed":false,"bytes":0}'

_log = logging.getLogger(__name__)


class Forget(Parameters, frozen=True):
    """``process/forget``."""

    process_id: str
    #: Only tell what it would free.
    dry_run: bool = False


@method("process/forget", Forget)
def forget(client: ClientConnection, params: Forget) -> Reply:
    """Extension: delete everything of a closed process of the host's namespace; an unknown one is no error."""
    process = client.host.persistent.get(params.process_id)
    if process is None:
        return _UNKNOWN
    if process.closed:
        ending = client.host.left_over.ending(process)
        if ending is None or params.dry_run:
            return _forget(client, process, params)
        return _forget_when_ended(client, process, params, ending)
    if process.exit is None and not process.terminating:
        raise _not_closed(params)
    return _forget_when_closed(client, process, params)


async def _forget_when_ended(
    client: ClientConnection, process: HostedProcess, params: Forget, ending: asyncio.Task[None]
) -> bytes:
    """That something is left is noted in the directory, for the next server if this one is killed: it ends first."""
    try:
        await asyncio.shield(ending)
    except OSError as error:
        raise cannot_tell(process, error) from None
    return await _forget_if_there(client, process, params)


async def _forget_when_closed(client: ClientConnection, process: HostedProcess, params: Forget) -> bytes:
    """Who has just seen the exit, or ended the tree, need not know that streams are closed a moment later."""
    closing = _Closing(process)
    process.observers.add(closing)
    # It may have closed since it was looked at.
    closing.pump()
    try:
        await asyncio.wait_for(closing.future, _CLOSES_WITHIN)
    except TimeoutError:
        raise _not_closed(params) from None
    finally:
        process.observers.discard(closing)
    return await _forget_if_there(client, process, params)


async def _forget_if_there(client: ClientConnection, process: HostedProcess, params: Forget) -> bytes:
    if client.host.persistent.get(params.process_id) is not process:
        return _UNKNOWN
    return await _forget(client, process, params)


class _Closing:
    """An observer that completes a future when the process is closed."""

    def __init__(self, process: HostedProcess) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process = process

    def pump(self) -> None:
        if self._process.closed and not self.future.done():
            self.future.set_result(None)


def _not_closed(params: Forget) -> RpcError:
    return RpcError(INVALID_REQUEST, f"process {params.process_id} is not closed")


def _forget(client: ClientConnection, process: HostedProcess, params: Forget) -> Awaitable[bytes]:
    if params.dry_run:
        return _answer(
            [process.directory, os.fspath(drop_path(client.host.directory, process.process_id))], delete=False
        )
    # Once it is set aside, nothing can be refused.
    client.require_place()
    try:
        places = _set_aside(client.host.directory, process)
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, f"process {params.process_id} cannot be forgotten: {error.strerror}") from None
    client.host.forget(process)
    return _answer(places, delete=True)


async def _answer(places: list[str], *, delete: bool) -> bytes:
    # Deleting gigabytes takes a while: not on the loop's thread.
    freed = await asyncio.to_thread(_measure_and_delete, places, delete=delete)
    return encode_json({"existed": True, "bytes": freed})


def _set_aside(state_directory: Path, process: HostedProcess) -> list[str]:
    """Move everything of *process* out of the way, so that its id is free; returns what is to be deleted.

    :raises OSError: it is as it was, except that a lost process may have no drop any more
    """
    # Who reads the log at this moment is told of a gap, and of the end.
    process.log.hold_index()
    drop = os.fspath(drop_path(state_directory, process.process_id))
    places: list[str] = []
    # A lost process still has its drop.
    for source in (drop, process.directory):
        place = f"{state_directory}/{_FORGOTTEN}/{os.urandom(16).hex()}"
        try:
            os.rename(source, place)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if source == drop:
                # Now: its place is that of the next process with this id.
                remove(drop)
                continue
            os.truncate(f"{source}/process", 0)
            place = source
        places.append(place)
    process.log.forgotten = True
    return places


def _measure_and_delete(places: list[str], *, delete: bool) -> int:
    total = 0
    for place in places:
        total += stored_bytes(place)
        if delete:
            remove(place)
    return total


def delete_forgotten(state_directory: Path) -> None:
    """Delete, in the background, what an earlier server was about to; and be ready for more.

    :raises OSError: there are no descriptors, or no memory, to look with
    """
    try:
        # Made now: on a full disk it could not be.
        directory = private_directory(state_directory / _FORGOTTEN)
        left = [entry.path for entry in os.scandir(directory)]
    except (OSError, HoldfastError) as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise
        _log.error("what was forgotten cannot be deleted: %s", error)
        return
    if left:
        in_background(lambda: _delete(left))


def _delete(places: list[str]) -> None:
    for place in places:
        remove(place)
