"""One hosted process: its streams into its log, its stdin, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

from holdfast.errors import HoldfastError
from holdfast.host.cgroup import recall
from holdfast.host.child import Child
from holdfast.host.description import Description, Started
from holdfast.host.drop import SignalDrop
from holdfast.host.events import Events
from holdfast.host.input import Input
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import UNKNOWN_EXIT, EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.output import Output
from holdfast.host.spawn import Streams, set_terminal_size
from holdfast.host.staging import Staging
from holdfast.host.tree import Tree
from holdfast.host.writes import WriteLedger
from holdfast.jsonrpc.event_loop import Poller
from holdfast.jsonrpc.streams import EXHAUSTED

#: Seconds until a full file system is tried again.
RETRY_AFTER: Final = 0.5
#: Under which name the keeper holds the pidfd of a child that is not its own; no stream is called so.
HANDLE: Final = "child"

_log = logging.getLogger(__name__)


class NotPermitted(HoldfastError):
    """The operating system does not let the host send a signal there."""

    code = "not_permitted"


class Observer(Protocol):
    """Somebody who wants to know that a log has grown."""

    def pump(self) -> None:
        """New records can be read."""


class Asker(Protocol):
    """Somebody who waits for an answer until a log has grown."""

    def pump(self) -> bool:
        """New records can be read; returns whether it has answered, or will as soon as there is room."""
        ...

    def abandon(self) -> None:
        """Wait no more."""


class HostedProcess:
    """A child of the host, from its start to the end of its last stream."""

    def __init__(
        self,
        description: Description,
        directory: str,
        log: ProcessLog,
        *,
        poller: Poller,
        staging: Staging,
        on_closed: Callable[[HostedProcess], None],
        on_stdin_closed: Callable[[HostedProcess], None],
    ) -> None:
        self.description = description
        self.process_id = description.process_id
        self.directory = directory
        #: The name of the directory, by which the keeper knows the process.
        self.key = directory.rpartition("/")[2]
        self.log = log
        self.pid: int | None = None
        self._ticks = 0
        self._tree: Tree | None = None
        #: Exit code and signal number once the end was seen; the code is None if only the fact is known.
        self.exit: tuple[int | None, int] | None = None
        self.closed = False
        self.terminating = False
        #: Why the output is not being read at the moment, if it is not.
        self.stalled: str | None = None
        self.observers: set[Observer] = set()
        #: Those who wait for an answer, and get it before the others get theirs.
        self.askers: set[Asker] = set()
        #: None if it has no drop, or they are over.
        self.events: Events | None = None
        self._poller = poller
        self._on_closed = on_closed
        self._on_stdin_closed = on_stdin_closed
        self._streams: Streams | None = None
        self._child: Child | None = None
        self._exit_recorded = False
        self._close_recorded = False
        self._sandbox_denied: bool | None = None
        self.writes = WriteLedger(directory)
        self.input = Input(self, self.writes, poller)
        self._output = Output(self, log, self.input, poller, staging)

    # Start

    def started(self, pid: int, ticks: int, streams: Streams, child: Child) -> None:
        """Take over a child that was just started.

        :raises OSError: it cannot be watched; then :meth:`not_started` has to follow
        """
        self.pid, self._ticks = pid, ticks
        self._tree = Tree(pid, ticks, self.description.marker)
        self._streams = streams
        self._child = child
        self.input.open(streams)
        self._output.open(streams)
        child.watch(self._end_seen)
        if self.events is not None:
            self.events.watch()

    def not_started(self) -> None:
        """Watch nothing of a child that could not be watched, and was killed if that may be."""
        assert self._child is not None
        self._output.abandon()
        self._child.reap()

    def restored(self, pid: int, ticks: int, streams: Streams, child: Child | None) -> None:
        """Take over what an earlier server of this host left: a child (None if its end is recorded) and its streams.

        :raises OSError: there are no descriptors, or no memory, to read with
        """
        self.pid, self._ticks = pid, ticks
        self._tree = self._recall_tree()
        self._streams = streams
        self._child = child
        try:
            self._go_on(streams, child)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            # It can be ended, and is read when another server can.
            self.stalled = f"Process {self.process_id} cannot be read: {error}."
            _log.error("%s", self.stalled)

    def _go_on(self, streams: Streams, child: Child | None) -> None:
        self.writes.recover()
        self.input.open(streams)
        self._output.open(streams)
        try:
            self.log.flush()
        except LogFull as error:
            self.stall(error)
        self._output.move_now()
        if self.events is not None:
            self.events.watch()
            self.events.collect()
        if child is not None:
            child.watch(self._end_seen)
        else:
            entry = self.log.last(EntryKind.EXITED)
            assert entry is not None
            self.exit = (None if entry.exit_code == UNKNOWN_EXIT else entry.exit_code, entry.signal)
            self._exit_recorded = True
        self._end_seen()
        self.check_closed()

    @property
    def tree(self) -> Tree | None:
        """All that it runs or has left; None if it is of another boot or pid namespace.

        :raises OSError: it has closed, and there are no descriptors to look with
        """
        if self._tree is None and self.description.pids_hold:
            # Made for who asks: tens of thousands may be remembered.
            self._tree = self._recall_tree()
        return self._tree

    def _recall_tree(self) -> Tree:
        cgroup = recall(self.directory, self.description.boot_id)
        # Killed before its pid was written down: then only the marker can find anything.
        return Tree(self.pid or 0, self._ticks, self.description.marker, cgroup=cgroup)

    def holdings(self) -> dict[str, int]:
        """The descriptors that the process cannot do without, by name."""
        if self._streams is None or self.closed:
            return {}
        held = self._streams.by_name()
        if self._child is not None and self._child.handle >= 0:
            held[HANDLE] = self._child.handle
        return held

    # Output

    def take_events(self, drop: SignalDrop) -> None:
        """Make records of what arrives in *drop*, from :meth:`started` or :meth:`restored` on."""
        self.events = Events(self, drop, self.log)

    def events_recorded(self) -> None:
        """The end may have waited for them."""
        self._end_seen()
        self.check_closed()

    def stall(self, reason: LogFull) -> None:
        """Write to the log again when there may be room; what it took all the same is told now."""
        if self.stalled is None:
            asyncio.get_running_loop().call_later(RETRY_AFTER, self._retry)
        self.stalled = reason.message
        self.notify()

    def _retry(self) -> None:
        self.stalled = None
        if self.closed:
            return
        try:
            self.log.flush()
        except LogFull as error:
            self.stall(error)
            return
        self._output.go_on()
        if self.events is not None:
            self.events.collect()
        self._end_seen()
        self.check_closed()
        self.notify()

    def notify(self) -> None:
        """Tell whoever waits for more in the log."""
        if self.askers:
            # Who waited gets the answer, and the processor, before anything else is done: it is often woken on ours.
            poller = self._poller
            defers, poller.defers = poller.defers, False
            answered = [asker for asker in tuple(self.askers) if asker.pump()]
            poller.defers = defers
            os.sched_yield()
            for asker in answered:
                asker.abandon()
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
        self._output.move_last_words()
        if not self._exit_recorded and not self._all_events_recorded() and self.stalled is None:
            return
        self.exit = end
        # With a drop there is one more look before that.
        closed = not self._streams.outputs and self.events is None
        try:
            if not self._exit_recorded:
                self._exit_recorded = True
                self._close_recorded = closed
                self.log.append_end(exit_code=end[0], signal=end[1], exited=True, closed=closed)
            self.log.flush()
        except LogFull as error:
            self.stall(error)
            return
        child.reap()
        self._child = None
        self.check_closed()
        if not self.closed:
            self.notify()

    def check_closed(self) -> None:
        """When the end is recorded and the last stream is at its end, nothing more will come."""
        if self.closed or self._streams is None or self._streams.outputs or self._child is not None:
            return
        try:
            if not self._close_recorded:
                if not self._all_events_recorded():
                    return
                self._close_recorded = True
                if self.events is not None:
                    self.events.end()
                self.log.append_end(exited=False, closed=True)
            self.log.flush()
        except LogFull as error:
            self.stall(error)
            return
        self.closed = True
        self.input.abandon()
        if self.events is not None:
            self.events.close()
            self.events = None
        try:
            self.notify()
        finally:
            self.log.close()
            self.writes.close()
            self._on_closed(self)

    def _all_events_recorded(self) -> bool:
        return self.events is None or self.events.all_recorded()

    @property
    def running(self) -> bool:
        """Whether the process itself (not what it left behind) is alive, as far as its end was noticed."""
        return self._child is not None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, be it that this server stood still and has not noticed yet."""
        return self._child is None or self._child.end() is not None

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

    def restored_closed(self, started: Started | None, exit_code: int | None, number: int) -> None:
        """Say how a process of an earlier server ended, and what it was if that is known; its log is complete."""
        if started is not None:
            self.pid, self._ticks = started.pid, started.started
        self.exit = (exit_code, number)
        self.closed = True
        self.log.close()
        self.writes.recover_when_asked()

    # Input

    @property
    def accepts_input(self) -> bool:
        """Whether a write can still reach the process."""
        return self.input.accepts and self.exit is None

    @property
    def has_terminal(self) -> bool:
        """Whether its streams are a terminal that is still there."""
        return self._streams is not None and self._streams.tty and self._streams.stdin >= 0

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal; what is in front there gets SIGWINCH."""
        if self._streams is not None and self.has_terminal:
            set_terminal_size(self._streams.stdin, columns, rows)

    def input_waits(self) -> None:
        """See to when the terminal takes more input."""
        self._output.rewatch_terminal()

    def input_closed(self) -> None:
        """Let nobody else keep it open."""
        self._on_stdin_closed(self)

    # Signals

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group; False if the process has ended.

        While the process is not reaped its pid, and so the number of its group, cannot be anybody else's.

        :raises NotPermitted: all of the group has become somebody else's, as setuid programs do
        """
        if self._child is None or self.pid is None:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            raise NotPermitted(
                f"The host may send no signal to process {self.process_id}: it runs as somebody else.",
                hint="End it as the user that it runs as, or as root.",
            ) from None
        return True

    def kill_group(self) -> bool:
        """SIGKILL to the process group at once; True if the process was running.

        :raises NotPermitted: see :meth:`signal_group`
        """
        if self.exit is not None:
            return False
        sent = self.signal_group(signal.SIGKILL)
        self.terminating = True
        return sent
