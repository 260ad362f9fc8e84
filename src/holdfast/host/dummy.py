"""A host in memory for tests: a script says what its processes do, and nothing is ever started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from holdfast.clock import wall
from holdfast.host.port import (
    Forgotten,
    Gap,
    Host,
    HostUnavailable,
    Kind,
    NotClosed,
    NoTerminal,
    ProcessSpec,
    ProcessState,
    ProcessStatus,
    Record,
    StartRefused,
    StdinClosed,
    Termination,
    TreeMember,
    UnknownProcess,
)


class DummyProcess:
    """One imagined process: its log, and what was done to it."""

    def __init__(self, spec: ProcessSpec, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self.entries: list[Record | Gap] = []
        self.last_seq = 0
        #: What was written to it.
        self.stdin = b""
        self.stdin_closed = False
        #: Columns and rows, where it has a terminal.
        self.terminal_size: tuple[int, int] = (80, 24)
        #: The signals that it got.
        self.signals: list[int] = []
        self.members: list[TreeMember] = [TreeMember(pid=pid, command=spec.argv[0])]
        self.exit: Record | None = None
        self.closed = False
        #: What its log takes, as the host would say.
        self.stored_bytes = 4096
        self._changed = asyncio.Event()

    def emit(self, kind: Kind | str, data: bytes = b"") -> Record:
        """Append a record with *data*."""
        return self._append(Record(seq=self.last_seq + 1, kind=Kind(kind), time=wall(), data=data))

    def gap(self, count: int) -> None:
        """Pretend that the next *count* records are gone."""
        self.entries.append(Gap(first=self.last_seq + 1, last=self.last_seq + count))
        self.last_seq += count
        self._wake()

    def finish(self, exit_code: int | None = 0, *, signal: int | None = None, close: bool = True) -> None:
        """Let it exit and, unless *close* is false, close its streams.  A code of None means lost."""
        if signal is not None:
            exit_code = 128 + signal
        self.exit = self._append(
            Record(seq=self.last_seq + 1, kind=Kind.EXITED, time=wall(), exit_code=exit_code, signal=signal)
        )
        self.members = []
        if close:
            self.close()

    def close(self) -> None:
        """Close its streams: no record follows."""
        self._append(Record(seq=self.last_seq + 1, kind=Kind.CLOSED, time=wall()))
        self.closed = True
        self._wake()

    def _append(self, record: Record) -> Record:
        if self.closed:
            raise AssertionError(f"{self.spec.process_id} is closed; no record follows")
        self.entries.append(record)
        self.last_seq = record.seq
        self._wake()
        return record

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def status(self) -> ProcessStatus:
        """As the host would report it."""
        state = ProcessState.RUNNING
        if self.exit is not None:
            state = ProcessState.CLOSED if self.closed else ProcessState.EXITED
            if self.exit.exit_code is None:
                state = ProcessState.LOST
        return ProcessStatus(
            process_id=self.spec.process_id,
            state=state,
            pid=self.pid,
            last_seq=self.last_seq,
            exit_code=self.exit.exit_code if self.exit else None,
            signal=self.exit.signal if self.exit else None,
        )


class DummyHost(Host):
    """A scriptable host.

    ``on_start`` is called with each new process and may emit records at once; tests emit more whenever they like
    through :attr:`processes`.
    """

    def __init__(self, on_start: Callable[[DummyProcess], None] | None = None) -> None:
        self.processes: dict[str, DummyProcess] = {}
        self.on_start = on_start
        #: Set it to make starts fail.
        self.refuse: str | None = None
        #: Set it to make every call fail as if the host were away.
        self.unavailable = False
        #: Set it to the number of a record to have the host go away as soon as that one was read.
        self.away_after: int | None = None
        #: Set when that has happened.
        self.went_away = asyncio.Event()
        self.closed = False

    def _process(self, process_id: str) -> DummyProcess:
        self._check()
        process = self.processes.get(process_id)
        if process is None:
            raise UnknownProcess(f"The host has no process {process_id!r}.")
        return process

    def _check(self) -> None:
        if self.unavailable:
            raise HostUnavailable("The host is away.")

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        self._check()
        process = self.processes.get(spec.process_id)
        if process is None:
            if self.refuse is not None:
                raise StartRefused(self.refuse)
            process = self.processes[spec.process_id] = DummyProcess(spec, 100_000 + len(self.processes))
            if self.on_start is not None:
                self.on_start(process)
        return process.status()

    def signal_drop(self, process_id: str) -> Path:
        return Path("/nonexistent/drops") / process_id

    async def status(self, process_id: str) -> ProcessStatus | None:
        self._check()
        process = self.processes.get(process_id)
        return None if process is None else process.status()

    async def list(self) -> list[ProcessStatus]:
        self._check()
        return [process.status() for process in self.processes.values()]

    async def records(self, process_id: str, *, after_seq: int = 0, follow: bool = True) -> AsyncIterator[Record | Gap]:
        process = self._process(process_id)
        position = 0
        while True:
            while position < len(process.entries):
                entry = process.entries[position]
                position += 1
                if isinstance(entry, Gap):
                    if entry.last > after_seq:
                        yield Gap(first=max(entry.first, after_seq + 1), last=entry.last)
                elif entry.seq > after_seq:
                    yield entry
                    self._go_away_after(entry.seq)
            if process.closed or not follow:
                return
            await process.changed()
            self._check()

    def _go_away_after(self, seq: int) -> None:
        if seq == self.away_after:
            self.away_after, self.unavailable = None, True
            self.went_away.set()
            self._check()

    async def write(self, process_id: str, data: bytes) -> None:
        process = self._process(process_id)
        takes_input = process.spec.pipe_stdin or process.spec.tty
        if not takes_input or process.stdin_closed or process.exit is not None:
            raise StdinClosed(f"Process {process_id!r} takes no input (any more).")
        process.stdin += data

    async def close_stdin(self, process_id: str) -> None:
        self._process(process_id).stdin_closed = True

    async def resize(self, process_id: str, *, columns: int, rows: int) -> None:
        process = self._process(process_id)
        if not process.spec.tty or process.exit is not None:
            raise NoTerminal(f"Process {process_id!r} has no terminal.")
        process.terminal_size = (columns, rows)

    async def signal(self, process_id: str, signal_number: int) -> None:
        self._check()
        process = self.processes.get(process_id)
        if process is not None and process.exit is None:
            process.signals.append(signal_number)

    async def terminate(self, process_id: str, *, grace: float = 0.0) -> Termination:
        self._check()
        process = self.processes.get(process_id)
        if process is None:
            return Termination(was_running=False)
        was_running = process.exit is None
        ended = process.members
        process.members = []
        if was_running:
            process.finish(signal=15 if grace else 9)
        elif not process.closed:
            process.close()
        return Termination(was_running=was_running, ended=ended, survivors=[])

    async def members(self, process_id: str) -> list[TreeMember]:
        return list(self._process(process_id).members)

    async def forget(self, process_id: str, *, dry_run: bool = False) -> Forgotten:
        self._check()
        process = self.processes.get(process_id)
        if process is None:
            return Forgotten(existed=False)
        if not process.closed:
            raise NotClosed(f"Process {process_id!r} is not closed.", hint="End it with terminate().")
        if not dry_run:
            del self.processes[process_id]
        return Forgotten(existed=True, bytes=process.stored_bytes)

    async def aclose(self) -> None:
        self.closed = True
