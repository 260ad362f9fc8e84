"""``process/read``: the log from a cursor on, and where there is nothing new the wait for it (a long poll)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pybase64 import b64encode

from holdfast.host import parameters
from holdfast.host.log import STREAM_FILES, EntryKind
from holdfast.host.methods import Reply, method
from holdfast.host.process import HostedProcess

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Bytes of output in one reply, whatever the client asks for.
READ_LIMIT: Final = 16 * 1024 * 1024

_STREAM_NAMES: Final = {
    EntryKind.STDOUT: b"stdout",
    EntryKind.STDERR: b"stderr",
    EntryKind.PTY: b"pty",
}


class _Wake:
    """An observer that completes a future once."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pump(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


@method("process/read", parameters.Read)
def read(client: ClientConnection, params: parameters.Read) -> Reply:
    """Read from a cursor, and if there is nothing new wait for it."""
    process = client.require(params.process_id)
    after = params.after_seq or 0
    if not client.connection.writable:
        return _read_later(client, process, params, after)
    if params.wait_ms and after >= process.log.last_seq and not process.closed:
        return _read_later(client, process, params, after)
    return _read_now(process, params, after)


async def _read_later(client: ClientConnection, process: HostedProcess, params: parameters.Read, after: int) -> bytes:
    loop = asyncio.get_running_loop()
    # Any unsigned 64-bit number is a valid wait; a century is as good as the largest of them.
    deadline = loop.time() + min((params.wait_ms or 0) / 1000, 3e9)
    while after >= process.log.last_seq and not process.closed:
        left = deadline - loop.time()
        if left <= 0:
            break
        wake = _Wake()
        process.observers.add(wake)
        try:
            await asyncio.wait_for(wake.future, left)
        except TimeoutError:
            break
        finally:
            process.observers.discard(wake)
    # A client that does not read its replies gets no more of them; it may still send.
    await client.room()
    return _read_now(process, params, after)


def _read_now(process: HostedProcess, params: parameters.Read, after: int) -> bytes:
    log = process.log
    limit = READ_LIMIT if params.max_bytes is None else min(params.max_bytes, READ_LIMIT)
    chunks: list[bytes] = []
    size = 0
    last = 0
    cut = False
    gap: tuple[int, int] | None = None
    position = after
    end = log.last_seq
    while position < end and not cut:
        for entry in log.entries(position, min(256, end - position)):
            position = entry.seq
            stream = _STREAM_NAMES.get(EntryKind(entry.kind))
            if stream is None:
                continue
            if log.dropped:
                gap = (gap[0] if gap else entry.seq, entry.seq)
                continue
            if chunks and size + entry.length > limit:
                cut = True
                break
            size += entry.length
            last = entry.seq
            chunks.append(b'{"seq":%d,"stream":"%s","chunk":"%s"}' % (entry.seq, stream, b64encode(log.data(entry))))
    # As the reference implementation has it: whoever limits a read is told of the chunk it ends with, cut or not.
    next_seq = last + 1 if cut or (last and params.max_bytes is not None) else end + 1
    exit_code = process.exit[0] if process.exit is not None else None
    exited = process.exit is not None
    return (
        b'{"chunks":[%s],"nextSeq":%d,"exited":%s,"exitCode":%s,"closed":%s,"failure":null,"sandboxDenied":false%s}'
        % (
            b",".join(chunks),
            next_seq,
            b"true" if exited else b"false",
            b"%d" % exit_code if exit_code is not None else b"-1" if exited else b"null",
            b"true" if process.closed else b"false",
            # An extension: what is gone is said, not left to be noticed by a jump of the numbers.
            b',"gap":{"first":%d,"last":%d}' % gap if gap else b"",
        )
    )


assert set(_STREAM_NAMES) | {EntryKind.SIGNAL} == set(STREAM_FILES)
