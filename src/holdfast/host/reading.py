"""``process/read``: the log from a cursor on, and where there is nothing new the wait for it (a long poll)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from pybase64 import b64encode

from holdfast.host import parameters
from holdfast.host.log_format import STREAM_FILES, EntryKind
from holdfast.host.methods import Deferred, Reply, method
from holdfast.host.process import HostedProcess

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Bytes of output in one reply, whatever the client asks for.
READ_LIMIT: Final = 16 * 1024 * 1024

_STREAM_NAMES: Final[dict[int, bytes]] = {
    EntryKind.STDOUT: b"stdout",
    EntryKind.STDERR: b"stderr",
    EntryKind.PTY: b"pty",
}


@method("process/read", parameters.Read)
def read(client: ClientConnection, params: parameters.Read) -> Reply:
    """Read from a cursor, and if there is nothing new wait for it."""
    process = client.require(params.process_id)
    after = params.after_seq or 0
    if not client.connection.writable or (params.wait_ms and after >= process.log.last_seq and not process.closed):
        return LongPoll(client, process, params, after)
    return _read_now(process, params, after)


class LongPoll(Deferred):
    """A read that waits: for a record, for the end of its time, and then for room on the connection."""

    def __init__(self, client: ClientConnection, process: HostedProcess, params: parameters.Read, after: int) -> None:
        self._client = client
        self._process = process
        self._params = params
        self._after = after
        self._read = partial(_read_now, process, params, after)
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, answer: Callable[[Callable[[], bytes]], None]) -> None:
        self._answer = answer
        if self._after < self._process.log.last_seq or self._process.closed or not self._params.wait_ms:
            self._over()
            return
        # Any unsigned 64-bit number is a valid wait; a century is as good as the largest of them.
        wait = min(self._params.wait_ms / 1000, 3e9)
        self._timer = asyncio.get_running_loop().call_later(wait, self._over)
        self._process.askers.add(self)

    def pump(self) -> bool:
        if self._after < self._process.log.last_seq or self._process.closed:
            self._over()
            return True
        return False

    def _over(self) -> None:
        self._process.askers.discard(self)
        # A client that does not read its replies gets no more of them; it may still send.
        if self._client.connection.writable:
            self._answer(self._read)
        else:
            self._client.when_writable(self._over)

    def abandon(self) -> None:
        self._process.askers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
            if entry.kind == EntryKind.GONE:
                # An answer tells of one range, and there is output behind that.
                if gap is not None and last > gap[1]:
                    cut = True
                    break
                gap = (gap[0] if gap else entry.seq, entry.seq)
                continue
            stream = _STREAM_NAMES.get(entry.kind)
            if stream is None:
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
    return b'{"chunks":[%s],"nextSeq":%d,"exited":%s,"exitCode":%s,"closed":%s,"failure":null,"sandboxDenied":%s%s}' % (
        b",".join(chunks),
        next_seq,
        b"true" if exited else b"false",
        b"%d" % exit_code if exit_code is not None else b"-1" if exited else b"null",
        b"true" if process.closed else b"false",
        b"true" if process.sandbox_denied else b"false",
        # An extension: what is gone is said, not left to be noticed by a jump of the numbers.
        b',"gap":{"first":%d,"last":%d}' % gap if gap else b"",
    )


assert set(_STREAM_NAMES) | {EntryKind.SIGNAL} == set(STREAM_FILES)
