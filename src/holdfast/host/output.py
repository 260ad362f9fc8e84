"""Output on its way from a process to its log: moved as it comes, from pipe to file, and seen by nobody before."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Final, Protocol

from holdfast.host import terminal
from holdfast.host.input import Input
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.pipe import enlarge_pipe, holds_something
from holdfast.host.spawn import Streams
from holdfast.host.staging import CAPACITY, Staging
from holdfast.jsonrpc.event_loop import HUNG_UP, ONCE_EACH, READABLE, WRITABLE, Poller

#: Times that what is there is moved before other streams get their turn.
_TURN: Final = 2
#: The same when the process has exited and its last words are collected.
_LAST_WORDS: Final = 256
#: Bytes that are worth being moved at one go: what a pipe holds.
_PORTION: Final = 64 * 1024
#: Bytes that are worth being told at once, while they are still in the processor's cache.
_PLENTY: Final = CAPACITY // 2
#: Nanoseconds without output that end a burst.
_SILENCE_NS: Final = 500_000


class OutputOwner(Protocol):
    """The process whose output it is."""

    @property
    def running(self) -> bool:
        """Whether the process itself is alive, as far as is known."""
        ...

    def notify(self) -> None:
        """Something is in the log that was not."""

    def check_closed(self) -> None:
        """A stream was closed."""

    def stall(self, reason: LogFull) -> None:
        """The log takes nothing at the moment; the owner decides when to :meth:`Output.go_on`."""


class Output:
    """The streams that one process writes to."""

    def __init__(self, owner: OutputOwner, log: ProcessLog, source: Input, poller: Poller, staging: Staging) -> None:
        """*source* is the input of the process, which a terminal shares."""
        self._owner = owner
        self._log = log
        self._input = source
        self._poller = poller
        self._staging = staging
        self._streams: Streams | None = None
        #: What is not read because the log was full.
        self._waiting: tuple[int, ...] = ()
        #: When output was last moved, and how much since the last silence.
        self._moved_ns = 0
        self._poured = 0
        #: The pipes that hold as much as is taken from them at one go.
        self._enlarged: tuple[int, ...] = ()
        #: Whether nobody has the terminal open at the moment, though the process lives and may open it again.
        self._left_alone = False

    def open(self, streams: Streams) -> None:
        """Move what comes from *streams* from now on."""
        self._streams = streams
        for descriptor, kind in streams.outputs.items():
            self._watch(descriptor, kind)

    def abandon(self) -> None:
        """Move nothing any more; the streams are somebody else's to close."""
        for descriptor, _ in self._opened():
            self._poller.unwatch(descriptor)

    def move_now(self) -> None:
        """Move what there is already."""
        for descriptor, kind in self._opened():
            self._move(descriptor, kind, _TURN)

    def move_last_words(self) -> None:
        """Move what an ended process has left."""
        for descriptor, kind in self._opened():
            if descriptor not in self._waiting:
                self._move(descriptor, kind, _LAST_WORDS)

    def go_on(self) -> None:
        """Read again what was not read because the log was full."""
        assert self._streams is not None
        waiting, self._waiting = self._waiting, ()
        for descriptor in waiting:
            kind = self._streams.outputs[descriptor]
            self._watch(descriptor, kind)
            self._move(descriptor, kind, 1)

    def rewatch_terminal(self) -> None:
        """Look, or look no more, for when the terminal takes input."""
        assert self._streams is not None
        descriptor = self._streams.stdin
        if descriptor in self._streams.outputs and descriptor not in self._waiting:
            self._poller.change(descriptor, self._terminal_events())

    def _opened(self) -> tuple[tuple[int, EntryKind], ...]:
        assert self._streams is not None
        return tuple(self._streams.outputs.items())

    def _watch(self, descriptor: int, kind: EntryKind) -> None:
        if kind is EntryKind.PTY:
            self._poller.watch(descriptor, self._terminal_events(), partial(self._terminal_ready, descriptor))
        else:
            self._poller.watch(descriptor, READABLE, partial(self._pipe_ready, descriptor, kind))

    def _terminal_events(self) -> int:
        events = READABLE | WRITABLE if self._input.waiting else READABLE
        # As long as nobody has it open, it is hung up all the time.
        return events | ONCE_EACH if self._left_alone else events

    def _pipe_ready(self, descriptor: int, kind: EntryKind, events: int) -> None:
        if events == HUNG_UP and not holds_something(descriptor):
            # There is nothing to tell.
            self._close(descriptor)
            self._owner.check_closed()
        else:
            self._tell(descriptor, self._move(descriptor, kind, _TURN))

    def _terminal_ready(self, descriptor: int, events: int) -> None:
        # Also when it was hung up it may still hold something.
        moved = self._move(descriptor, EntryKind.PTY, _TURN)
        if moved and self._left_alone:
            self._leave_alone(descriptor, False)
        if events & WRITABLE and self._input.waiting:
            # Otherwise it takes nothing, and an attempt would be told of as if something had happened to it.
            self._input.feed()
        self._tell(descriptor, moved)

    def _tell(self, descriptor: int, moved: int) -> None:
        assert self._streams is not None
        if moved:
            # What only the next turn needs comes afterwards: somebody may be waiting for this.
            self._owner.notify()
        if descriptor in self._streams.outputs:
            self._pace(moved)
        else:
            self._owner.check_closed()

    def _pace(self, moved: int) -> None:
        """Let what pours in by small portions gather; never what comes after a silence, or a little of it."""
        now = time.monotonic_ns()
        # What fills the pipe has been waiting: it was not silent, somebody else had the processor.
        silent = moved < _PORTION and now - self._moved_ns >= _SILENCE_NS
        self._poured = 0 if silent else self._poured + moved
        self._moved_ns = now
        if moved < _PORTION <= self._poured:
            self._poller.gather()

    def _move(self, descriptor: int, kind: EntryKind, turns: int) -> int:
        """Move what is there into the log, and say how much; at end of file close the stream."""
        if kind is EntryKind.PTY:
            read = self._read_terminal
        else:
            read = self._log.splice if self._poured < _PORTION else self._pour
        total = 0
        try:
            for _ in range(turns):
                moved = read(kind, descriptor)
                total += moved
                if not moved:
                    if kind is EntryKind.PTY and turns != _LAST_WORDS and self._owner.running:
                        self._leave_alone(descriptor, True)
                    else:
                        self._close(descriptor)
                    break
                if turns == _TURN and kind is not EntryKind.PTY and not _PORTION <= moved < _PLENTY:
                    # A second look would find little or nothing, or it is time to tell; readiness is told again.
                    break
        except BlockingIOError:
            pass
        except LogFull as error:
            # The child waits in its write until there is room again.
            self._poller.unwatch(descriptor)
            self._waiting = (*self._waiting, descriptor)
            self._owner.stall(error)
        return total

    def _leave_alone(self, descriptor: int, alone: bool) -> None:
        """Nobody has the terminal open any more (*alone*), or somebody has again."""
        assert self._streams is not None
        if alone != self._left_alone:
            self._left_alone = alone
            if descriptor in self._streams.outputs and descriptor not in self._waiting:
                self._poller.change(descriptor, self._terminal_events())

    def _pour(self, kind: int, pipe: int) -> int:
        """Move what pours in by large portions."""
        if pipe not in self._enlarged:
            self._enlarged = (*self._enlarged, pipe)
            enlarge_pipe(pipe, CAPACITY)
        return self._log.pour(kind, pipe, self._staging)

    def _read_terminal(self, kind: int, descriptor: int) -> int:
        """Move what the terminal has into the log; it gives little at a time, so gather it in a pipe."""
        assert self._streams is not None
        assert self._streams.gather is not None
        source, sink = self._streams.gather
        ended = terminal.drain(descriptor, sink, alone=self._poller.alone)
        try:
            return self._log.splice(kind, source)
        except BlockingIOError:
            if ended:
                return 0
            raise

    def _close(self, descriptor: int) -> None:
        assert self._streams is not None
        del self._streams.outputs[descriptor]
        self._poller.unwatch(descriptor)
        if descriptor == self._streams.stdin:
            self._input.abandon()
            self._streams.stdin = -1
        os.close(descriptor)
        if self._streams.gather is not None:
            for end in self._streams.gather:
                os.close(end)
            self._streams.gather = None
