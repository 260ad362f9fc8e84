"""Conversing with an agent that runs once per turn: the prompt is its standard input, its events are lines of output.

Everything is read from the log that the host keeps, so a reader can stop at any place and go on there later, in
another process, with the same result.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.agents.events import Event, Malformed
from holdfast.drivers.intake import Intake, closing
from holdfast.drivers.lines import Cursor, LineCutter, OverlongLine
from holdfast.errors import HoldfastError
from holdfast.host.port import Gap, Host, HostUnavailable, Kind, ProcessState, Record, UnknownProcess

__all__ = ["Cursor", "Exit", "OutputGone", "Step", "follow", "tail", "whole_stdout"]

#: How many records a search for the end of a stream looks at first; each further look takes in eight times as many.
_FIRST_LOOK = 256


class OutputGone(HoldfastError):
    """Output that was asked for as a whole is no longer all there."""

    code = "output_gone"


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How the watched process ended; ``lost`` when its host died before anybody saw it, and nothing is known."""

    exit_code: int | None
    signal: int | None
    lost: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What some consecutive records of a log mean.  Folding it and storing its cursor belong in one transaction."""

    cursor_after: Cursor
    events: list[Event] = []
    #: Bytes that the agent wrote, counted when they are seen for the first time.
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    exited: Exit | None = None
    #: Every stream is at its end; no step follows.
    closed: bool = False
    #: Records that the host no longer had.
    gaps: list[Gap] = []
    #: When the host recorded the last of them, UTC seconds since the epoch; 0.0 if it did not say.
    time: float = 0.0


async def follow(
    host: Host, process_id: str, agent: Agent, cursor: Cursor, *, follow: bool = True
) -> AsyncGenerator[Step, None]:
    """Read the log of *process_id* from *cursor* on and interpret it as the output of *agent*.

    Each step takes in what is there at the moment, at most about 256 records or 1 MiB.  Ends with the step that is
    ``closed`` or, with ``follow=False``, at the present end of the log.  The lines of an agent with ``plain_text`` are
    not interpreted.  A line without an end is interpreted when the streams are closed, one longer than 64 MiB is
    :class:`~holdfast.agents.events.Malformed`.

    :raises UnknownProcess: the host does not have the process
    :raises HostUnavailable: the host stayed away; nothing is lost, go on at the cursor of the last step
    """
    reader = _Reader(agent, cursor)
    async with Intake(host.records(process_id, after_seq=cursor.seq, follow=follow)) as intake:
        while batch := await intake.take():
            step = reader.read(batch)
            yield step
            if step.closed:
                return
    if not follow:
        return
    status = await host.status(process_id)
    if status is None or status.state not in (ProcessState.CLOSED, ProcessState.LOST) or status.last_seq > reader.seen:
        raise HostUnavailable(
            f"The host ended the log of {process_id} before the process ended.", hint="Read on at the last cursor."
        )


class _Reader:
    """Turns batches of records into steps."""

    def __init__(self, agent: Agent, cursor: Cursor) -> None:
        self._agent = agent
        self._begin = cursor
        self.seen = cursor.seen
        self._cutter = LineCutter()

    def read(self, batch: list[Record | Gap]) -> Step:
        events: list[Event] = []
        gaps: list[Gap] = []
        sizes = {Kind.STDOUT: 0, Kind.STDERR: 0}
        exited: Exit | None = None
        closed = False
        time = 0.0
        for record in batch:
            if isinstance(record, Gap):
                gaps.append(record)
                # The line that began before the gap is not continued by what follows it.
                events += self._interpret(self._cutter.flush())
                self.seen = max(self.seen, record.last)
                continue
            is_new = record.seq > self.seen
            time = record.time or time
            if is_new and record.kind in sizes:
                sizes[record.kind] += len(record.data)
            if record.kind is Kind.STDOUT:
                events += self._output(record)
            elif is_new and record.kind is Kind.EXITED:
                exited = Exit(exit_code=record.exit_code, signal=record.signal, lost=record.exit_code is None)
            elif record.kind is Kind.CLOSED:
                closed = True
                events += self._interpret(self._cutter.flush())
            self.seen = max(self.seen, record.seq)
        return Step(
            cursor_after=self._cutter.cursor(self.seen),
            events=events,
            stdout_bytes=sizes[Kind.STDOUT],
            stderr_bytes=sizes[Kind.STDERR],
            exited=exited,
            closed=closed,
            gaps=gaps,
            time=time,
        )

    def _output(self, record: Record) -> list[Event]:
        if self._agent.plain_text:
            return []
        begin = self._begin.skip if record.seq == self._begin.seq + 1 else 0
        events: list[Event] = []
        for line in self._cutter.feed(record.seq, record.data, begin):
            events += self._interpret(line)
        return events

    def _interpret(self, line: bytes | OverlongLine | None) -> list[Event]:
        match line:
            case None:
                return []
            case OverlongLine():
                beginning = line.beginning[:200].decode("utf-8", errors="replace")
                return [Malformed(excerpt=f"{beginning}… (a line of {line.length} bytes)")]
            case _:
                return self._agent.interpret(line)


async def tail(host: Host, process_id: str, kind: Kind, max_bytes: int) -> bytes:
    """The last *max_bytes* bytes of one stream of a process, as far as they are there without a hole.

    :raises UnknownProcess: the host does not have the process
    :raises HostUnavailable: the host stayed away
    """
    status = await host.status(process_id)
    if status is None:
        raise UnknownProcess(f"The host has no process {process_id!r}.")
    look = _FIRST_LOOK
    while True:
        after = max(0, status.last_seq - look)
        end = bytearray()
        async for record in host.records(process_id, after_seq=after, follow=False):
            if isinstance(record, Gap):
                end.clear()
            elif record.kind is kind:
                end += record.data
                if len(end) > 4 * max_bytes:
                    del end[:-max_bytes]
        if len(end) >= max_bytes or after == 0:
            return bytes(end[-max_bytes:]) if max_bytes > 0 else b""
        look *= 8


async def whole_stdout(host: Host, process_id: str) -> AsyncIterator[bytes]:
    """Everything that a process has written to its standard output so far, in the pieces in which it was read.

    :raises OutputGone: the host no longer has all of it
    :raises UnknownProcess: the host does not have the process
    :raises HostUnavailable: the host stayed away
    """
    async with closing(host.records(process_id, follow=False)) as records:
        async for record in records:
            if isinstance(record, Gap):
                raise OutputGone(
                    f"Records {record.first} to {record.last} of {process_id} are gone from its host.",
                    hint="What is left can be read with: holdfast logs",
                )
            if record.kind is Kind.STDOUT:
                yield record.data
