"""Input on its way to a process: in the order in which it was given, as fast as the process reads it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final, Protocol

from holdfast.host.spawn import Streams
from holdfast.host.writes import WriteLedger
from holdfast.jsonrpc.event_loop import WRITABLE, Poller

#: Bytes of input that are taken off the client's hands while the process does not read.
STDIN_BUFFER: Final = 1024 * 1024
#: Bytes of input that wait for one process at most, answered or not.
INPUT_LIMIT: Final = 64 * 1024 * 1024
#: What a write counts for beside its bytes: the memory that it takes to remember it.
_EACH: Final = 256


_Queue = deque[tuple[bytes | memoryview, str, asyncio.Future[bool] | None]]
#: An empty one of its own would take half a KiB.
_NO_QUEUE: Final[_Queue] = deque(maxlen=0)


class InputOwner(Protocol):
    """The process whose input it is."""

    def input_waits(self) -> None:
        """Something begins to wait for the terminal, or nothing does any more."""

    def input_closed(self) -> None:
        """The pipe was closed."""


class Input:
    """The pipe or the terminal through which one process reads, and what waits before it."""

    def __init__(self, owner: InputOwner, writes: WriteLedger, poller: Poller) -> None:
        self._owner = owner
        self._writes = writes
        self._poller = poller
        self._streams: Streams | None = None
        self._descriptor = -1
        self._open = False
        #: Set when it is closed, which it is when the queue is empty; None if nobody asked for that.
        self.ending: asyncio.Future[bool] | None = None
        self._queue: _Queue = _NO_QUEUE
        #: How much that is; see :data:`_EACH`.
        self._queued = 0

    def open(self, streams: Streams) -> None:
        """Write to the input end of *streams*, if there is one."""
        self._streams = streams
        self._descriptor = streams.stdin
        self._open = streams.stdin >= 0

    @property
    def accepts(self) -> bool:
        """Whether a write can still reach the process."""
        return self._open and self.ending is None

    @property
    def waiting(self) -> bool:
        """Whether something waits for the process to read."""
        return bool(self._queue)

    def has_room(self, data: bytes) -> bool:
        """Whether *data* may wait as well."""
        return self._queued + len(data) + _EACH <= INPUT_LIMIT

    def write(self, data: bytes, *, write_id: str = "", until_written: bool = False) -> asyncio.Future[bool] | None:
        """Queue *data*, in order.

        Returns None if it was taken, else a future that tells when it is: False if it never will be, because the
        process closed its stdin or ended.  With *until_written* "taken" means that the kernel has all of it.

        :raises LogFull: the write could not be noted, so it did not begin
        """
        if write_id:
            self._writes.begin(write_id)
        rest: bytes | memoryview = data
        if not self._queue:
            if data:
                rest = self._write_now(data)
            if not rest:
                if write_id:
                    self._writes.done(write_id)
                return None
            if not self._open:
                if write_id:
                    self._writes.failed(write_id)
                return _settled(False)
        waiter: asyncio.Future[bool] | None = None
        if until_written or self._queued + len(rest) + _EACH > STDIN_BUFFER:
            waiter = asyncio.get_running_loop().create_future()
        if not self._queue:
            self._queue = deque()
        self._queue.append((rest, write_id, waiter))
        self._queued += len(rest) + _EACH
        if len(self._queue) == 1:
            self._watch(True)
        return waiter

    def again(self, write_id: str, *, until_written: bool = False) -> asyncio.Future[bool] | None:
        """What :meth:`write` returns if a write that is known is repeated, and nothing is written."""
        for place, (data, known, waiter) in enumerate(self._queue):
            if known == write_id:
                if waiter is None and until_written:
                    waiter = asyncio.get_running_loop().create_future()
                    self._queue[place] = (data, known, waiter)
                return waiter
        return None

    def _write_now(self, data: bytes | memoryview) -> bytes | memoryview:
        """Write what fits now; returns the rest.  A broken pipe closes stdin."""
        try:
            # Of a large write a pipe takes little at a time: the rest is not copied each time.
            return memoryview(data)[os.write(self._descriptor, data) :]
        except BlockingIOError:
            return data
        except OSError:
            self.abandon()
            return data

    def _watch(self, on: bool) -> None:
        assert self._streams is not None
        if self._streams.tty:
            self._owner.input_waits()
        elif on:
            self._poller.watch(self._descriptor, WRITABLE, lambda events: self.feed())
        else:
            self._poller.unwatch(self._descriptor)

    def feed(self) -> None:
        """Write what waits, as much as the process takes."""
        queue = self._queue
        while queue and self._open:
            data, write_id, waiter = queue[0]
            rest = self._write_now(data) if data else data
            if not self._open:
                return
            self._queued -= len(data) - len(rest)
            if rest:
                queue[0] = (rest, write_id, waiter)
                return
            queue.popleft()
            self._queued -= _EACH
            if write_id:
                self._writes.done(write_id)
            if waiter is not None and not waiter.done():
                waiter.set_result(True)
        if self._open:
            self._watch(False)
            if self.ending is not None:
                self.abandon()

    def end(self, write_id: str = "") -> asyncio.Future[bool] | None:
        """Let the process see end of file after what is queued: close the pipe, or type ^D at the terminal.

        Returns None if that is done, else a future that tells when it is.

        :raises LogFull: what is typed could not be noted
        """
        if self._streams is not None and self._streams.tty:
            return self.write(b"\x04", write_id=write_id, until_written=True)
        self.ending = asyncio.get_running_loop().create_future()
        if not self._queue:
            self.abandon()
        return None if self.ending.done() else self.ending

    def abandon(self) -> None:
        """Nothing reaches the process any more: close the pipe, and say so to whoever waits."""
        if not self._open:
            return
        self._open = False
        if self._streams is not None and not self._streams.tty:
            self._poller.unwatch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = self._streams.stdin = -1
            self._owner.input_closed()
        self._queued = 0
        queue, self._queue = self._queue, _NO_QUEUE
        for _, write_id, waiter in queue:
            if write_id:
                self._writes.failed(write_id)
            if waiter is not None and not waiter.done():
                waiter.set_result(False)
        if self.ending is not None:
            self.ending.set_result(True)


def _settled(value: bool) -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future
