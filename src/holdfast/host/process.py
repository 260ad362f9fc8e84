"""One hosted process: its streams into its log, its stdin, its end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from holdfast.host.child import Child
from holdfast.host.drop import SignalDrop
from holdfast.host.input import Input
from holdfast.host.log import UNKNOWN_EXIT, EntryKind, LogFull, ProcessLog
from holdfast.host.spawn import Streams, set_terminal_size
from holdfast.host.tree import Tree
from holdfast.host.writes import WriteLedger
from holdfast.jsonrpc.event_loop import HUNG_UP, READABLE, WRITABLE, Poller

#: Times that what is there is moved before other streams get their turn.
_TURN: Final = 2
#: The same when the process has exited and its last words are collected.
_LAST_WORDS: Final = 256
#: Bytes that a terminal gives at one go; the kernel takes as many pages as it is asked for before it looks.
_PAGE: Final = 4096
#: Bytes that are worth being moved at one go.
_PORTION: Final = 64 * 1024
#: Nanoseconds without output that end a burst.
_SILENCE_NS: Final = 500_000
#: Seconds until a full file system is tried again.
RETRY_AFTER: Final = 0.5


class Description(msgspec.Struct, kw_only=True, rename="camel"):
    """What is written beside the log before the start, so that a restarted host knows what it finds."""

    process_id: str
    #: The client session that owns the process; None for one that lives in the namespace of the host.
    session_id: str | None
    argv: list[str]
    cwd: str
    tty: bool
    marker: str | None
    #: Whether it has a signal drop.
    signal_drop: bool = False
    #: Whether it runs in a sandbox that the client asked for.
    sandboxed: bool = False
    #: For people, and for an order: the wall clock may have been set since.
    created_ns: int
    #: The same moment on the clock that starts of processes are measured by; it means something in this boot only.
    created_boottime_ns: int = 0
    boot_id: str


class Started(msgspec.Struct, kw_only=True):
    """What is appended once the process runs."""

    pid: int
    #: Clock ticks since boot; tells the process from a later one with the same pid.
    started: int


class Observer(Protocol):
    """Somebody who wants to know that a log has grown."""

    def pump(self) -> None:
        """New records can be read."""


class HostedProcess:
    """A child of the host, from its start to the end of its last stream."""

    def __init__(
        self,
        description: Description,
        directory: str,
        log: ProcessLog,
        *,
        poller: Poller,
        on_closed: Callable[[HostedProcess], None],
        on_stdin_closed: Callable[[HostedProcess], None] = lambda process: None,
    ) -> None:
        self.description = description
        self.process_id = description.process_id
        self.directory = directory
        #: The name of the directory, by which the keeper knows the process.
        self.key = directory.rpartition("/")[2]
        self.log = log
        self.pid: int | None = None
        self.tree: Tree | None = None
        #: Exit code and signal number once the end was seen; the code is None if only the fact is known.
        self.exit: tuple[int | None, int] | None = None
        self.closed = False
        self.terminating = False
        #: Why the output is not being read at the moment, if it is not.
        self.stalled: str | None = None
        self.observers: set[Observer] = set()
        #: Those who wait for an answer, and get it before the others get theirs.
        self.askers: set[Observer] = set()
        self.drop: SignalDrop | None = None
        self._poller = poller
        self._on_closed = on_closed
        self._streams: Streams | None = None
        self._child: Child | None = None
        self._stalled_outputs: set[int] = set()
        #: When output was last moved, and how much since the last silence.
        self._moved_ns = 0
        self._poured = 0
        self._exit_recorded = False
        self._close_recorded = False
        self._sandbox_denied: bool | None = None
        self.writes = WriteLedger(directory)
        self.input = Input(
            self.writes, poller, rewatch_terminal=self._rewatch_terminal, closed=lambda: on_stdin_closed(self)
        )

    # Start

    def started(self, pid: int, ticks: int, streams: Streams, child: Child) -> None:
        """Take over a child that was just started."""
        self.pid = pid
        self.tree = Tree(pid, ticks, self.description.marker)
        self._streams = streams
        self.input.open(streams)
        for descriptor, kind in streams.outputs.items():
            self._watch_output(descriptor, kind)
        self._child = child
        child.watch(self._end_seen)
        if self.drop is not None:
            self.drop.watch(self._events_arrived)

    def restored(self, pid: int, ticks: int, streams: Streams, child: Child | None) -> None:
        """Take over what an earlier server of this host left: a child (None if its end is recorded) and its streams."""
        self.writes.recover()
        self.pid = pid
        self.tree = Tree(pid, ticks, self.description.marker)
        self._streams = streams
        self.input.open(streams)
        for descriptor, kind in tuple(streams.outputs.items()):
            self._watch_output(descriptor, kind)
            self._move(descriptor, kind, _TURN)
        self._child = child
        if self.drop is not None:
            self.drop.watch(self._events_arrived)
            self._collect_events()
        if child is not None:
            child.watch(self._end_seen)
        else:
            entry = self.log.last(EntryKind.EXITED)
            assert entry is not None
            self.exit = (None if entry.exit_code == UNKNOWN_EXIT else entry.exit_code, entry.signal)
            self._exit_recorded = True
        self._end_seen()
        self._check_closed()

    def holdings(self) -> dict[str, int]:
        """The descriptors that the process cannot do without, by name."""
        return self._streams.by_name() if self._streams is not None and not self.closed else {}

    def _watch_output(self, descriptor: int, kind: EntryKind) -> None:
        if kind is EntryKind.PTY:
            self._poller.watch(descriptor, self._terminal_events(), self._terminal_ready)
        else:
            self._poller.watch(descriptor, READABLE, partial(self._output_ready, descriptor, kind))

    # Output

    def _output_ready(self, descriptor: int, kind: EntryKind, events: int) -> None:
        assert self._streams is not None
        moved = 0
        if events == HUNG_UP:
            self._close_output(descriptor)
        else:
            moved = self._move(descriptor, kind, _TURN)
        if descriptor not in self._streams.outputs:
            self._check_closed()
        if not self.closed:
            # What only the next turn needs comes afterwards: somebody may be waiting for this.
            self._notify()
            self._pace(moved)

    def _pace(self, moved: int) -> None:
        """Let what pours in by small portions gather; never what comes after a silence, or a little of it."""
        now = time.monotonic_ns()
        self._poured = self._poured + moved if now - self._moved_ns < _SILENCE_NS else 0
        self._moved_ns = now
        if moved < _PORTION <= self._poured:
            self._poller.gather()

    def _terminal_ready(self, events: int) -> None:
        assert self._streams is not None
        descriptor = self._streams.stdin
        moved = self._move(descriptor, EntryKind.PTY, _TURN)
        if self.input.waiting and descriptor in self._streams.outputs:
            self.input.feed()
        self._check_closed()
        self._notify()
        self._pace(moved)

    def _move(self, descriptor: int, kind: EntryKind, turns: int) -> int:
        """Move what is there into the log, and say how much; at end of file close the stream."""
        read = self._read_terminal if kind is EntryKind.PTY else self.log.splice
        total = 0
        try:
            for _ in range(turns):
                moved = read(kind, descriptor)
                total += moved
                if not moved:
                    self._close_output(descriptor)
                    break
                if moved < _PORTION and turns == _TURN and kind is not EntryKind.PTY:
                    # A second look would find little or nothing, and readiness is told again.
                    break
        except BlockingIOError:
            pass
        except LogFull as error:
            self._stall(descriptor, error)
        return total

    def _read_terminal(self, kind: int, descriptor: int) -> int:
        """Move what the terminal has to the log; it gives at most a page at a time, so gather it in a pipe."""
        assert self._streams is not None
        assert self._streams.gather is not None
        source, sink = self._streams.gather
        ended = False
        try:
            while not ended:
                ended = not os.splice(descriptor, sink, _PAGE, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            # The terminal is empty, or the pipe is full.
            pass
        except OSError as error:
            # EIO is how Linux says that nobody holds the other side any more.
            if error.errno != errno.EIO:
                raise
            ended = True
        try:
            return self.log.splice(kind, source)
        except BlockingIOError:
            if ended:
                return 0
            raise

    def _events_arrived(self) -> None:
        if self._collect_events():
            self._notify()

    def _collect_events(self) -> bool:
        if self.drop is None or self.closed:
            return False
        try:
            return self.drop.collect(self.log)
        except LogFull as error:
            self._stall(None, error)
            return False

    def _close_output(self, descriptor: int) -> None:
        assert self._streams is not None
        del self._streams.outputs[descriptor]
        self._poller.unwatch(descriptor)
        if descriptor == self._streams.stdin:
            self.input.abandon()
            self._streams.stdin = -1
        os.close(descriptor)
        if self._streams.gather is not None:
            for end in self._streams.gather:
                os.close(end)
            self._streams.gather = None

    def _stall(self, descriptor: int | None, reason: LogFull) -> None:
        """Stop reading until there is room again; the child waits in its write."""
        if descriptor is not None:
            self._poller.unwatch(descriptor)
            self._stalled_outputs.add(descriptor)
        if self.stalled is None:
            asyncio.get_running_loop().call_later(RETRY_AFTER, self._retry)
        self.stalled = reason.message

    def _retry(self) -> None:
        self.stalled = None
        if self.closed:
            return
        try:
            self.log.flush()
        except LogFull as error:
            self._stall(None, error)
            return
        assert self._streams is not None
        stalled, self._stalled_outputs = self._stalled_outputs, set()
        for descriptor in stalled:
            kind = self._streams.outputs[descriptor]
            self._watch_output(descriptor, kind)
            self._move(descriptor, kind, 1)
        self._collect_events()
        self._end_seen()
        self._check_closed()
        self._notify()

    def _notify(self) -> None:
        if self.askers:
            for asker in tuple(self.askers):
                asker.pump()
            # Who waited gets the answer, and the processor, before the others are told: it is often woken on ours.
            self._poller.catch_up()
            os.sched_yield()
        for observer in tuple(self.observers):
            observer.pump()

    # End

    def _end_seen(self) -> None:
        """The child may have ended: take the exit status, record it, and only then reap."""
        child = self._child
        if child is None or self._streams is None:
            return
        end = child.end()
        if end is None:
            return
        for descriptor, kind in tuple(self._streams.outputs.items()):
            if descriptor not in self._stalled_outputs:
                self._move(descriptor, kind, _LAST_WORDS)
        self._collect_events()
        self.exit = end
        closed = not self._streams.outputs
        try:
            if not self._exit_recorded:
                self._exit_recorded = True
                self._close_recorded = closed
                self.log.append_end(exit_code=end[0], signal=end[1], exited=True, closed=closed)
            self.log.flush()
        except LogFull as error:
            self._stall(None, error)
            return
        child.reap()
        self._child = None
        self._check_closed()
        self._notify()

    def _check_closed(self) -> None:
        """When the end is recorded and the last stream is at its end, nothing more will come."""
        if self.closed or self._streams is None or self._streams.outputs or self._child is not None:
            return
        try:
            if not self._close_recorded:
                if self.drop is not None:
                    self.drop.collect(self.log)
                self._close_recorded = True
                self.log.append_end(exited=False, closed=True)
            self.log.flush()
        except LogFull as error:
            self._stall(None, error)
            return
        self.closed = True
        self.input.abandon()
        if self.drop is not None:
            self.drop.close()
            self.drop = None
        self._notify()
        self.log.close()
        self.writes.close()
        self._on_closed(self)

    @property
    def running(self) -> bool:
        """Whether the process itself (not what it left behind) is alive."""
        return self._child is not None

    @property
    def lost(self) -> bool:
        """Whether it ended without anybody seeing how."""
        return self.exit is not None and self.exit[0] is None

    @property
    def sandbox_denied(self) -> bool:
        """Whether it has ended in a way that looks like the doing of its sandbox."""
        if not self.description.sandboxed or self.exit is None or self.exit[0] is None:
            return False
        if self._sandbox_denied is None:
            from holdfast.host.sandbox.denial import looks_denied

            self._sandbox_denied = looks_denied(self.log, self.exit[0])
        return self._sandbox_denied

    def restore_end(self, exit_code: int | None, number: int) -> None:
        """Say how a process of an earlier run of the host ended; its log is complete."""
        self.exit = (exit_code, number)
        self.closed = True
        self.log.close()

    # Input

    @property
    def accepts_input(self) -> bool:
        """Whether a write can still reach the process."""
        return self.input.accepts and self.exit is None

    def close_stdin(self) -> None:
        """Let the process see end of file after what is queued."""
        if self.exit is None:
            self.input.end()

    def _rewatch_terminal(self) -> None:
        assert self._streams is not None
        descriptor = self._streams.stdin
        if descriptor in self._streams.outputs and descriptor not in self._stalled_outputs:
            self._poller.change(descriptor, self._terminal_events())

    def _terminal_events(self) -> int:
        return READABLE | WRITABLE if self.input.waiting else READABLE

    @property
    def has_terminal(self) -> bool:
        """Whether its streams are a terminal that is still there."""
        return self._streams is not None and self._streams.tty and self._streams.stdin >= 0

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal; what is in front there gets SIGWINCH."""
        if self._streams is not None and self.has_terminal:
            set_terminal_size(self._streams.stdin, columns, rows)

    # Signals

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group; False if the process has ended.

        While the process is not reaped its pid, and so the number of its group, cannot be anybody else's.
        """
        if self._child is None or self.pid is None:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_group(self) -> bool:
        """SIGKILL to the process group at once; True if the process was running."""
        if self.exit is not None:
            return False
        self.terminating = True
        return self.signal_group(signal.SIGKILL)
