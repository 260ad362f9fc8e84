"""The signal drop: where the hooks of a hosted agent leave events, one file each, without any program of ours.

A drop is a private directory with ``tmp`` and ``new`` in it, as in a maildir.  A hook writes its event to a file in
``tmp`` and renames it into ``new``; ``sh`` alone can do that, and it works whether or not a server is up.  The host
turns each file into one ``signal`` record, exactly once: it first moves the file to ``cur`` under the number that the
record will have, so that after a crash the number tells whether the record was written.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.directories import private_directory, remove
from holdfast.errors import HoldfastError
from holdfast.host.description import Description
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import EntryKind
from holdfast.host.log_index import FULL, LogFull, log_full
from holdfast.jsonrpc.event_loop import READABLE, Poller
from holdfast.jsonrpc.streams import EXHAUSTED

#: The largest event, in bytes; of a larger one only its size is recorded.
EVENT_LIMIT: Final = 1024 * 1024
#: Events that become records at one go, and events that are seen at one go; somebody may leave hundreds of thousands at
#: once, and others have their turn.
_AT_ONCE: Final = 50
_SEEN_AT_ONCE: Final = 1000

_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_NONBLOCK: Final = 0o4000
_IN_CLOEXEC: Final = 0o2000000

_log = logging.getLogger(__name__)


def drop_path(state_directory: Path, process_id: str) -> Path:
    """The drop of a process; known before the process is started, so that its arguments can name it."""
    return state_directory / "drops" / hashlib.sha256(process_id.encode()).hexdigest()[:32]


class DropWatcher:
    """Tells when something arrives in any of the watched drops."""

    def __init__(self, poller: Poller) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        #: -1 if the user has no instance of inotify left.
        self._descriptor: int = self._libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._poller = poller
        if self._descriptor >= 0:
            poller.watch(self._descriptor, READABLE, lambda events: self._ready())

    def watch(self, directory: str, arrived: Callable[[], None]) -> int:
        """Call *arrived* when a file appears in *directory*; returns a handle for :meth:`unwatch`.

        The handle is below 0 if there are no watches left (editors take many): then somebody has to look by himself.
        """
        handle: int = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _IN_MOVED_TO | _IN_CREATE)
        if handle >= 0:
            self._callbacks[handle] = arrived
        return handle

    def unwatch(self, handle: int) -> None:
        """Stop."""
        if self._callbacks.pop(handle, None) is not None:
            self._libc.inotify_rm_watch(self._descriptor, handle)

    def _ready(self) -> None:
        try:
            while os.read(self._descriptor, 65536):
                pass
        except BlockingIOError:
            pass
        # Which drop it was does not matter: looking into an empty one is cheap.
        for callback in tuple(self._callbacks.values()):
            callback()

    def close(self) -> None:
        """Stop watching everything."""
        if self._descriptor >= 0:
            self._poller.unwatch(self._descriptor)
            os.close(self._descriptor)


class Drops:
    """The drops of one host."""

    def __init__(self, state_directory: Path, poller: Poller) -> None:
        self._state_directory = state_directory
        self._poller = poller
        #: None until there is a drop to watch.
        self._watcher: DropWatcher | None = None
        #: Whether there is a place for them.
        self._ready = False

    def make(self, description: Description) -> SignalDrop | None:
        """The drop of a process that is about to start; None if it is to have none.

        :raises OSError: it cannot be made
        :raises HoldfastError: there is no place for drops
        """
        drop = self._find(description)
        if drop is not None:
            self._make(drop)
        return drop

    def recall(self, description: Description) -> SignalDrop | None:
        """The drop of a process that goes on.

        It belongs to the process: one that the process has made unfit has no events, and keeps nobody else waiting.

        :raises OSError: there are no descriptors, or no memory, to look with
        """
        drop = self._find(description)
        try:
            if drop is not None:
                self._make(drop)
        except (OSError, HoldfastError) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            _log.error("events of process %r cannot be taken: %s", description.process_id, error)
        return drop

    def _find(self, description: Description) -> SignalDrop | None:
        if not description.signal_drop:
            return None
        if self._watcher is None:
            self._watcher = DropWatcher(self._poller)
        return SignalDrop(drop_path(self._state_directory, description.process_id), self._watcher)

    def _make(self, drop: SignalDrop) -> None:
        if not self._ready:
            private_directory(self._state_directory / "drops")
            self._ready = True
        drop.make()

    def close(self) -> None:
        """Stop watching them."""
        if self._watcher is not None:
            self._watcher.close()


class _Waiting(NamedTuple):
    """An event, in the order in which they become records: those that have a number first."""

    arrived: bool
    #: The number that the host gave to it, or since when (ns) it is as it is.
    age: int
    name: str


class SignalDrop:
    """The drop of one process."""

    def __init__(self, directory: Path, watcher: DropWatcher) -> None:
        self._directory = os.fspath(directory)
        self._new = f"{self._directory}/new"
        self._current = f"{self._directory}/cur"
        self._watcher = watcher
        self._handle = -1
        #: The events that were there at the last look and are not recorded yet: a heap, the oldest on top.
        self._waiting: list[_Waiting] = []
        #: Goes on with that look, some events further at each step; None if it is at its end.
        self._look: Generator[None] | None = None
        #: Whether something may have arrived since then.
        self._stale = False

    def make(self) -> None:
        """Make what is not there of it.

        :raises OSError: it cannot be made
        """
        for path in (self._directory, f"{self._directory}/tmp", self._new, self._current):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def watch(self, arrived: Callable[[], None]) -> None:
        """Call *arrived* when there may be events."""
        self._handle = self._watcher.watch(self._new, arrived)

    @property
    def watched(self) -> bool:
        """Whether it is told when something arrives."""
        return self._handle >= 0

    @property
    def waiting(self) -> bool:
        """Whether there are events that were there at the last look, as far as is known, and are not recorded yet."""
        return self._look is not None or bool(self._waiting)

    @property
    def more(self) -> bool:
        """Whether :meth:`collect` has left something for the next time, or may have."""
        return self._stale or self.waiting

    def collect(self, log: ProcessLog) -> bool:
        """Turn the oldest events that have arrived into records, some at a time; returns whether there was one.

        The directory belongs to the process: whatever it does there, at worst its own events are gone.

        :raises LogFull: no room, or no descriptors; what is not recorded stays where it is
        """
        self._stale = self.waiting
        if not self._stale:
            self.look()
        found = False
        try:
            if self._look is not None:
                # The oldest may be the last that is seen.
                for _ in self._look:
                    return False
                self._look = None
            for _ in range(min(len(self._waiting), _AT_ONCE)):
                found |= self._collect(heappop(self._waiting), log)
        except LogFull:
            # The last one may have got its number, and be somewhere else.
            self._forget_look()
            raise
        # What could not be moved will be there at the next look as well, and the one after that.
        self._stale = self._stale and found
        return found

    def look(self) -> None:
        """See anew what there is: :meth:`collect` comes to the end of that, whatever arrives meanwhile."""
        self._forget_look()
        self._look = self._see()

    def _forget_look(self) -> None:
        if self._look is not None:
            self._look.close()
            self._look = None
        self._waiting = []

    def _see(self) -> Generator[None]:
        """Put into the heap what there is, and pause now and then.

        :raises LogFull: no descriptors
        """
        for arrived, directory in enumerate((self._current, self._new)):
            try:
                with os.scandir(directory) as entries:
                    for seen, entry in enumerate(entries):
                        if seen and seen % _SEEN_AT_ONCE == 0:
                            yield
                        self._wait_for(entry, arrived=bool(arrived))
            except OSError as error:
                if error.errno in EXHAUSTED:
                    # Not that there are none: whoever takes it for that loses them.
                    raise log_full(f"records of the events in {directory}", error) from error
                # The process has removed it, or closed it to itself: no events.

    def _wait_for(self, entry: os.DirEntry[str], *, arrived: bool) -> None:
        try:
            age = entry.stat(follow_symlinks=False).st_mtime_ns if arrived else _number(entry.name)
        except OSError:
            # Gone again.
            return
        if arrived or age:
            heappush(self._waiting, _Waiting(arrived, age, entry.name))

    def _collect(self, event: _Waiting, log: ProcessLog) -> bool:
        """Turn one event into a record; False if it is one already, or cannot be moved.

        :raises LogFull: no room
        """
        path = f"{self._new if event.arrived else self._current}/{event.name}"
        if not event.arrived:
            # Left by a crash, or a full disk: its number tells whether the record was written.
            seq = event.age
            written = log.entries(seq - 1, 1)
            if written and written[0].kind == EntryKind.SIGNAL:
                remove(path)
                return False
            log.flush()
            taken = path if seq == log.last_seq + 1 else self._take(path, log)
        else:
            log.flush()
            taken = self._take(path, log)
        if taken is None:
            return False
        self._record(log, taken)
        # One that stays was recorded all the same, and its number says so.
        remove(taken)
        return True

    def _take(self, path: str, log: ProcessLog) -> str | None:
        """Move an event to the number that its record will have; None if it cannot be moved.

        :raises LogFull: no room for that
        """
        name = hashlib.sha256(os.fsencode(os.path.basename(path))).hexdigest()[:16]
        taken = f"{self._current}/{log.last_seq + 1:020d}-{name}"
        try:
            os.rename(path, taken)
        except OSError as error:
            if error.errno in FULL:
                raise log_full(f"an event in {self._current}", error) from error
            # Gone again, or nothing that a hook has put there.
            return None
        return taken

    @staticmethod
    def _record(log: ProcessLog, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise log_full(f"a record of the event {path}", error) from error
            log.append(EntryKind.SIGNAL, b'{"holdfast":"unreadable event"}')
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                data = b'{"holdfast":"an event that is not a file"}'
            elif status.st_size > EVENT_LIMIT:
                data = b'{"holdfast":"event too large","bytes":%d}' % status.st_size
            else:
                data = os.read(descriptor, EVENT_LIMIT)
        finally:
            os.close(descriptor)
        log.append(EntryKind.SIGNAL, data)

    def close(self) -> None:
        """Remove the drop: no event is expected any more."""
        self._forget_look()
        self._watcher.unwatch(self._handle)
        remove(self._directory)


def _number(name: str) -> int:
    """The number that the host gave to an event; 0 if it gave none."""
    number = name.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else 0
