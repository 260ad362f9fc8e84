"""What a server does first: make sense of the directories that earlier servers left, and of what the keeper held.

A directory without a description is a start that never happened and is removed; so is one without a pid that a keeper,
which is given the streams before every start, does not hold.  A log that ends with ``closed`` is
complete.  Anything else was alive when its server died.  If the keeper held its streams it goes on: from the size of
the files, with the exit status that the keeper knows.  If nobody held them, its unindexed bytes are indexed, its exit
is recorded as unknown unless somebody saw it, and what still lives of its tree is found to be ended
(:mod:`holdfast.host.left_over`).

A directory that cannot be read is passed over (:mod:`holdfast.host.passed_over`).  Without descriptors or memory none
can be read; then the recovery fails, for the next server to try again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.directories import remove_directory
from holdfast.host import left_over
from holdfast.host.description import Description, Started, read_description, write_started
from holdfast.host.forgetting import delete_forgotten
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import UNKNOWN_EXIT, EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.os_process import carries, read_process, start_time
from holdfast.host.packets import Held
from holdfast.host.passed_over import PassedOver
from holdfast.host.process import HANDLE, HostedProcess
from holdfast.host.spawn import Streams
from holdfast.host.staging import Staging
from holdfast.host.tree import MARKER

MakeProcess = Callable[[Description, str, ProcessLog], HostedProcess]


@dataclass
class Running:
    """A process that goes on: its identity, and the descriptors that the keeper held."""

    pid: int
    started: int
    streams: Streams
    #: Whether its exit is in the log, and only a stream is still open.
    exit_recorded: bool
    #: Whether it is no child of the keeper, because the keeper of its server died as well.
    stranger: bool
    #: Its pidfd, -1 if the keeper held none.
    handle: int


@dataclass
class Recovered:
    """One process of an earlier server."""

    process: HostedProcess
    #: How it goes on; None if its log is complete (now).
    running: Running | None
    #: Whether it is lost, and what still lives of it has to be ended.
    left: bool


def recover(
    processes_directory: str,
    held: Held,
    children: list[int],
    make: MakeProcess,
    *,
    staging: Staging,
    outlived: bool,
    passed_over: PassedOver,
) -> Iterator[Recovered]:
    """Yield every process of earlier servers, oldest first.

    What goes on takes its descriptors out of *held*; those of what cannot be read go to *passed_over*.  *children* are
    the pids that the keeper can wait for; *outlived* says that the keeper was there all the time; what is in *staging*
    lands.

    :raises OSError: there are no descriptors, or no memory, to read with
    """
    delete_forgotten(Path(processes_directory).parent)
    found: list[tuple[Description, Started | None, str]] = []
    for name in os.listdir(processes_directory):
        directory = f"{processes_directory}/{name}"
        try:
            told = read_description(directory)
        except OSError as error:
            passed_over.add(directory, None, error, held)
            continue
        if told is None:
            remove_directory(directory)
        else:
            found.append((*told, directory))
    found.sort(key=lambda item: item[0].created_ns)
    own = set(children)
    unclaimed = own - {started.pid for _, started, _ in found if started is not None and _is_among(own, started)}
    takeover = _Takeover(held, own, unclaimed, make, staging, outlived)
    for description, started, directory in found:
        try:
            recovered = takeover.bring_back(description, started, directory)
        except OSError as error:
            passed_over.add(directory, description, error, held)
            continue
        if recovered is not None:
            yield recovered


@dataclass
class _Takeover:
    """What one process is brought back from, besides its directory; see :func:`recover`."""

    held: Held
    #: The children of the keeper, and those of them of which no process is known.
    own: set[int]
    unclaimed: set[int]
    make: MakeProcess
    staging: Staging
    outlived: bool

    def bring_back(self, description: Description, started: Started | None, directory: str) -> Recovered | None:
        """The process of *directory*; None, and nothing is left of it, if it was never started.

        :raises OSError: it cannot be read
        """
        key = os.path.basename(directory)
        log = ProcessLog.complete(directory)
        newest = log.entries(log.last_seq - 1, 1) if log.last_seq else []
        if newest and newest[0].kind == EntryKind.CLOSED:
            process = _ended(self.make(description, directory, log), started)
            return Recovered(process, None, left_over.is_noted(directory) and process.tree is not None)
        if key in self.held:
            streams = Streams.from_names(self.held[key])
            handle = self.held[key].get(HANDLE, -1)
            if started is None:
                started = _find(description, streams, self.unclaimed)
                if started is None:
                    remove_directory(directory)
                    return None
                _write_down(directory, started)
            log = ProcessLog.recover(directory, self.staging)
            exit_recorded = log.last(EntryKind.EXITED) is not None
            del self.held[key]
            process = self.make(description, directory, log)
            stranger = not _is_among(self.own, started)
            running = Running(started.pid, started.started, streams, exit_recorded, stranger, handle)
            return Recovered(process, running, False)
        if started is None and self.outlived:
            remove_directory(directory)
            return None
        return _lose(description, started, directory, ProcessLog.recover(directory, self.staging), self.make)


def _lose(
    description: Description, started: Started | None, directory: str, log: ProcessLog, make: MakeProcess
) -> Recovered:
    """Complete the log of a process whose streams nobody held."""
    left = description.pids_hold
    # Without room for that it is lost all the same, and what comes after this server completes its log.
    with contextlib.suppress(LogFull, OSError):
        if left:
            left_over.note(directory)
        log.append_end(exit_code=None, exited=log.last(EntryKind.EXITED) is None, closed=True)
    return Recovered(_ended(make(description, directory, log), started), None, left)


def _ended(process: HostedProcess, started: Started | None) -> HostedProcess:
    end = process.log.last(EntryKind.EXITED)
    if end is None or end.exit_code == UNKNOWN_EXIT:
        process.restored_closed(started, None, 0)
    else:
        process.restored_closed(started, end.exit_code, end.signal)
    return process


def _find(description: Description, streams: Streams, candidates: set[int]) -> Started | None:
    """The child of a server that was killed between starting it and writing down its pid, if there is one.

    It is the one that has the other end of a pipe that the keeper held, or that carries the marker.  One that has ended
    already shows neither; but it leads a session, has become its program, and cannot be older than its description.
    Nothing tells it from another program that led a session, lost its parent and ended in the few milliseconds between
    the description and the death of the server.
    """
    pipes = {f"pipe:[{os.fstat(descriptor).st_ino}]" for descriptor in streams.outputs}
    marker = f"{MARKER}={description.marker}".encode() if description.marker else None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    for pid in candidates:
        process = read_process(pid)
        if process is None or process.session != pid:
            continue
        if process.alive:
            belongs = bool(pipes & _ends(pid)) or (marker is not None and carries(pid, marker))
        else:
            # Both by the clock that counts from the boot: the wall clock may have been set in between.
            started_by = (process.started + 1) * 1_000_000_000 // ticks_per_second
            young = description.pids_hold and started_by >= description.created_boottime_ns
            belongs = young and process.executed
        if belongs:
            candidates.discard(pid)
            return Started(pid=pid, started=start_time(pid))
    return None


def _ends(pid: int) -> set[str]:
    found: set[str] = set()
    for descriptor in (0, 1, 2):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except OSError:
            continue
    return found


def _write_down(directory: str, started: Started) -> None:
    # Without room for it the process goes on all the same; it is looked for once more by the next server.
    with contextlib.suppress(OSError), open(f"{directory}/process", "ab", buffering=0) as file:
        write_started(file.fileno(), started)


def _is_among(children: set[int], started: Started) -> bool:
    """Whether it is one of *children*, dead or alive, and not another one that was given its number."""
    return started.pid in children and start_time(started.pid) == started.started
