"""Conversing with an agent that runs once: a prompt on standard input, events on standard output.

The driver turns the records of the process's log into the agent's events, and says after each step how far it read.
A step can be stored and reading resumed behind it: the same bytes give the same events, each exactly once, wherever
the chunks of the log and the interruptions fall.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.agents.events import Event, Malformed
from holdfast.host.port import Gap, Host, Kind, Record, UnknownProcess

#: A longer line is reported as malformed; what an agent says in one line beyond this is not a message, bytes.
MAX_LINE_BYTES: Final = 64 << 20
#: Bounds of one step: what is available at once is folded together, so that a burst costs one transaction.
STEP_RECORDS: Final = 256
STEP_BYTES: Final = 1 << 20


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log was read.

    Everything up to record ``seq`` is done with, and the first ``skip`` bytes of the next record of standard output:
    the line that goes on from there is not complete yet.  Records of other kinds are done with up to ``seen``.
    """

    seq: int = 0
    skip: int = 0
    seen: int = 0


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's process ended; ``lost`` when nobody saw how."""

    exit_code: int | None
    signal: int | None
    lost: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What some consecutive records of the log mean."""

    #: Where to resume after this step has been stored.
    cursor_after: Cursor
    events: list[Event]
    #: UTC seconds of the newest record; 0.0 if the host does not say.
    time: float
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    exited: Exited | None = None
    closed: bool = False
    gaps: list[Gap] = []


async def follow(
    host: Host, process_id: str, agent: Agent, cursor: Cursor, *, follow: bool = True
) -> AsyncGenerator[Step, None]:
    """Yield what the process's log says from behind *cursor*, to its end (or, without *follow*, its present end).

    :raises UnknownProcess: the host does not have the process
    :raises HostUnavailable: the host stayed away
    """
    reader = _Reader(agent, cursor)
    async with contextlib.aclosing(_batches(host, process_id, cursor.seq, follow)) as batches:
        async for batch in batches:
            yield reader.read(batch)


class _Reader:
    """Puts lines together; keeps the bytes of the line that is not complete, and nothing else."""

    def __init__(self, agent: Agent, cursor: Cursor) -> None:
        self._agent = agent
        self._skip = cursor.skip
        self._seen = cursor.seen
        #: The incomplete line, and where in the log it begins.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._pending_at = (cursor.seq, cursor.skip)
        self._too_long = False

    def read(self, records: list[Record | Gap]) -> Step:
        events: list[Event] = []
        gaps: list[Gap] = []
        time = 0.0
        stdout_bytes = stderr_bytes = 0
        exited: Exited | None = None
        closed = False
        for record in records:
            if isinstance(record, Gap):
                gaps.append(record)
                # The line that the missing records belonged to cannot be put together any more.
                events += self._broken_line("records of the log are gone")
                self._done(record.last)
                continue
            time = record.time or time
            if record.kind is Kind.STDOUT or record.kind is Kind.PTY:
                if record.seq > self._seen:
                    stdout_bytes += len(record.data)
                self._take_output(record, events)
                continue
            if record.seq > self._seen:
                if record.kind is Kind.STDERR:
                    stderr_bytes += len(record.data)
                elif record.kind is Kind.EXITED:
                    lost = record.exit_code is None and record.signal is None
                    exited = Exited(exit_code=record.exit_code, signal=record.signal, lost=lost)
                elif record.kind is Kind.CLOSED:
                    # A last line without a newline is a line all the same.
                    events += self._flush()
                    closed = True
            self._done(record.seq)
        seq, skip = self._pending_at
        return Step(
            cursor_after=Cursor(seq=seq, skip=skip, seen=max(seq, self._seen)),
            events=events,
            time=time,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            exited=exited,
            closed=closed,
            gaps=gaps,
        )

    def _done(self, seq: int) -> None:
        self._seen = max(self._seen, seq)
        if not self._pending and not self._too_long:
            self._pending_at = (seq, 0)

    def _take_output(self, record: Record, events: list[Event]) -> None:
        begin, self._skip = self._skip, 0
        data = record.data
        if self._agent.plain_text:
            self._done(record.seq)
            return
        while (end := data.find(b"\n", begin)) >= 0:
            self._add(data[begin:end])
            events += self._flush()
            begin = end + 1
            self._pending_at = (record.seq - 1, begin)
        if begin < len(data):
            self._add(data[begin:])
            self._seen = max(self._seen, record.seq)
        else:
            self._done(record.seq)

    def _add(self, part: bytes) -> None:
        if self._too_long:
            return
        self._pending.append(part)
        self._pending_bytes += len(part)
        if self._pending_bytes > MAX_LINE_BYTES:
            self._pending = self._pending[:1]
            self._too_long = True

    def _flush(self) -> list[Event]:
        if self._too_long:
            return self._broken_line(f"a line of more than {MAX_LINE_BYTES} bytes")
        line = b"".join(self._pending).removesuffix(b"\r")
        self._forget()
        return self._agent.interpret(line) if line else []

    def _broken_line(self, why: str) -> list[Event]:
        if not self._pending:
            return []
        start = self._pending[0][:200].decode(errors="replace")
        self._forget()
        return [Malformed(excerpt=f"{start}… ({why})")]

    def _forget(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0
        self._too_long = False


async def _batches(host: Host, process_id: str, after: int, follow: bool) -> AsyncGenerator[list[Record | Gap], None]:
    """Records in batches of what is there at once, so that waiting is the only thing that ends a batch early."""
    queue: asyncio.Queue[Record | Gap | BaseException | None] = asyncio.Queue(STEP_RECORDS)

    async def fetch() -> None:
        try:
            async for record in host.records(process_id, after_seq=after, follow=follow):
                await queue.put(record)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await queue.put(error)
        else:
            await queue.put(None)

    fetching = asyncio.create_task(fetch(), name=f"read {process_id}")
    try:
        while True:
            item = await queue.get()
            batch: list[Record | Gap] = []
            size = 0
            while item is not None and not isinstance(item, BaseException):
                batch.append(item)
                size += 0 if isinstance(item, Gap) else len(item.data)
                if len(batch) >= STEP_RECORDS or size >= STEP_BYTES or queue.empty():
                    break
                item = queue.get_nowait()
            if batch:
                yield batch
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
    finally:
        fetching.cancel()
        await asyncio.wait({fetching})


async def tail(host: Host, process_id: str, kind: Kind, max_bytes: int) -> bytes:
    """The last *max_bytes* (at most) that the process has written to one of its streams so far.

    :raises UnknownProcess: the host does not have the process
    """
    status = await host.status(process_id)
    if status is None:
        raise UnknownProcess(f"The host has no process {process_id}.")
    kept = b""
    window, end = STEP_RECORDS, status.last_seq
    # Backwards in growing windows: the log may be huge, and its end is enough.
    while end > 0 and len(kept) < max_bytes:
        begin = max(0, end - window)
        part: list[bytes] = []
        async with contextlib.aclosing(_records(host, process_id, begin)) as records:
            async for record in records:
                if isinstance(record, Record) and record.seq > end:
                    break
                if isinstance(record, Record) and record.kind is kind:
                    part.append(record.data)
        kept = (b"".join(part) + kept)[-max_bytes:]
        end, window = begin, window * 4
    return kept


async def _records(host: Host, process_id: str, after: int) -> AsyncGenerator[Record | Gap, None]:
    async for record in host.records(process_id, after_seq=after, follow=False):
        yield record


async def whole_stdout(host: Host, process_id: str) -> AsyncIterator[bytes]:
    """Everything that the process has written to standard output so far, in pieces."""
    async for record in host.records(process_id, follow=False):
        if isinstance(record, Record) and record.kind is Kind.STDOUT:
            yield record.data
