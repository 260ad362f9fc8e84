"""What the rest of Holdfast can ask of a host: start a process, read its log, end it.

This is the only door to a process.  :mod:`holdfast.host.client` implements it over the exec-server protocol,
:mod:`holdfast.host.dummy` in memory for tests.
"""

from __future__ import annotations

import abc
import base64
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from holdfast.errors import HoldfastError, InvalidRequest, Unavailable


class Kind(StrEnum):
    """What a record of a process's log holds."""

    STDOUT = "stdout"
    STDERR = "stderr"
    PTY = "pty"
    SIGNAL = "signal"
    EXITED = "exited"
    CLOSED = "closed"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a process's log.  Sequence numbers run 1, 2, 3, ... over all kinds of one process."""

    seq: int
    kind: Kind
    #: UTC seconds since the epoch when the host recorded it; 0.0 from a host that does not say (a foreign one).
    time: float = 0.0
    #: The bytes as read (stdout, stderr, pty) or the event as JSON (signal); empty for exited and closed.
    data: bytes = b""
    #: ``exited`` only: 0-255, or 128 + signal number when a signal ended the process; ``None`` when the host died
    #: before anybody saw the end (the process is then LOST; ``closed`` follows, so a reader always comes to an end).
    exit_code: int | None = None
    #: ``exited`` only: the number of the signal that ended the process.
    signal: int | None = None

    def document(self) -> dict[str, Any]:
        """As programs get it, in JSON."""
        return {
            "seq": self.seq,
            "kind": self.kind,
            "time": self.time,
            "data_base64": base64.b64encode(self.data).decode(),
            "exit_code": self.exit_code,
            "signal": self.signal,
        }


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A range of records that the host no longer holds (retention, or a foreign host that dropped them)."""

    first: int
    last: int

    def document(self) -> dict[str, Any]:
        """As programs get it, in JSON."""
        return {"gap": [self.first, self.last]}


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to start.  The child gets exactly ``env`` and nothing else."""

    process_id: str
    argv: list[str]
    cwd: Path
    env: dict[str, str]
    tty: bool = False
    #: Open a pipe for :meth:`Host.write`; without it (and without ``stdin_file``) standard input is empty.
    pipe_stdin: bool = False
    #: A regular file on the host that becomes standard input: byte-exact, and indifferent to our own death.
    stdin_file: Path | None = None
    #: Give the process a drop for hook events (:meth:`Host.signal_drop`); each file left there becomes a ``signal``
    #: record.
    signal_drop: bool = False


class ProcessState(StrEnum):
    """Where a hosted process is in its life."""

    RUNNING = "running"
    #: The watched process ended, but a stream is still held open by a descendant.
    EXITED = "exited"
    CLOSED = "closed"
    #: The host that ran it died (or the machine was rebooted) before the end was seen: how it ended is not known.
    LOST = "lost"


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process as its host sees it now."""

    process_id: str
    state: ProcessState
    pid: int | None = None
    #: The highest sequence number in the log.
    last_seq: int = 0
    exit_code: int | None = None
    signal: int | None = None
    #: Why the host reads no output at the moment (a full disk), if it does not; the process waits, nothing is lost.
    stalled: str | None = None
    #: The beginning of its command line, and the seconds since it was started: told by :meth:`Host.list` only, and by
    #: Holdfast hosts only.
    command: str = ""
    age: float | None = None


class TreeMember(msgspec.Struct, frozen=True, kw_only=True):
    """One operating-system process that belongs to a hosted process."""

    pid: int
    command: str


class Termination(msgspec.Struct, frozen=True, kw_only=True):
    """The proof of an ending: what was alive when it began, and what, if anything, would not die."""

    #: Whether the watched process itself was still running.
    was_running: bool
    #: Everything of the tree that was found alive and is dead now.
    ended: list[TreeMember] = []
    #: Everything of the tree that is still alive.
    survivors: list[TreeMember] = []


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What forgetting a process did, or would do."""

    #: Whether the host knew the process.
    existed: bool
    #: Bytes of disk that its log and its drop took.
    bytes: int = 0


class HostUnavailable(Unavailable):
    """The host cannot be reached, and reconnecting did not help."""

    code = "host_unavailable"


class InvalidUrl(InvalidRequest):
    """What should be the URL of a host is none."""

    code = "invalid_url"


class UnknownProcess(HoldfastError):
    """The host has no process of that id."""

    code = "unknown_process"


class NotClosed(InvalidRequest):
    """The process, or something that it left behind, still runs: its log is not complete."""

    code = "process_not_closed"


class StdinClosed(HoldfastError):
    """The process takes no input: it was started without, closed it, or has ended.  Nothing more was written."""

    code = "stdin_closed"


class WriteUncertain(HoldfastError):
    """The host was killed in the middle of the write; how much of it the process got is not known."""

    code = "write_uncertain"


class SignalUncertain(HoldfastError):
    """The host was killed at the instant of the signal; whether the process got it is not known."""

    code = "signal_uncertain"


class NoTerminal(InvalidRequest):
    """The process has no terminal, or not any more."""

    code = "no_terminal"


class StartRefused(InvalidRequest):
    """The host did not start the process (missing program, bad directory, ...); nothing runs."""

    code = "start_refused"


class Host(abc.ABC):
    """A machine's exec-server, seen by a client of it."""

    @abc.abstractmethod
    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        """Start a process that outlives this connection, or return the one that already has this id.

        :raises StartRefused: the operating system or the host refused; nothing runs
        :raises HostUnavailable: no answer; whether it was started can be asked with :meth:`status`
        """

    def signal_drop(self, process_id: str) -> Path:
        """Where on the host the signal drop of a process is; known before the start, so that arguments can name it.

        A hook writes its event (JSON, at most 1 MiB) to a file in ``tmp`` there and renames it into ``new``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no signal drops")

    @abc.abstractmethod
    async def status(self, process_id: str) -> ProcessStatus | None:
        """What the host knows of a process; ``None`` if it never had it or no longer keeps it."""

    @abc.abstractmethod
    async def list(self) -> list[ProcessStatus]:
        """Every process that the host keeps, ended ones included."""

    @abc.abstractmethod
    def records(self, process_id: str, *, after_seq: int = 0, follow: bool = True) -> AsyncIterator[Record | Gap]:
        """Yield the log from ``after_seq + 1`` on, without holes: what is gone is announced by a :class:`Gap`.

        Ends after ``closed`` (or, with ``follow=False``, at the present end of the log).  A lost connection is
        re-established and reading goes on at the cursor; nothing is yielded twice.

        :raises UnknownProcess: the host does not have it
        :raises HostUnavailable: the host stayed away
        """

    @abc.abstractmethod
    async def write(self, process_id: str, data: bytes) -> None:
        """Write to the process's stdin or terminal, exactly once even across a reconnect.

        Returns when the operating system has taken all of it, so it waits for a process that does not read.

        :raises StdinClosed: the process takes no input (any more); how much of *data* it got is not known
        :raises WriteUncertain: the host was killed in mid-write, so that repeating it could double it
        """

    @abc.abstractmethod
    async def close_stdin(self, process_id: str) -> None:
        """Let the process see end of file on its stdin; returns when all that was written before has been read.

        :raises WriteUncertain: the host was killed before all of that had arrived, and stdin stays open
        """

    @abc.abstractmethod
    async def resize(self, process_id: str, *, columns: int, rows: int) -> None:
        """Change the size of the process's terminal, in characters.

        :raises NoTerminal: it has none
        """

    @abc.abstractmethod
    async def signal(self, process_id: str, signal_number: int) -> None:
        """Send a signal to the process group of the process, once; nothing happens when it is gone.

        :raises SignalUncertain: the host was killed at that instant
        """

    @abc.abstractmethod
    async def terminate(self, process_id: str, *, grace: float = 0.0) -> Termination:
        """End the whole tree: SIGTERM, then after *grace* seconds SIGKILL, descendants that left the group included.

        Works on an exited process too (whatever it left behind is ended), and returns when the tree is gone or has
        proved to be unkillable.
        """

    @abc.abstractmethod
    async def members(self, process_id: str) -> list[TreeMember]:
        """What is alive of a process's tree, the process itself first."""

    @abc.abstractmethod
    async def forget(self, process_id: str, *, dry_run: bool = False) -> Forgotten:
        """Delete the log and the signal drop of a closed (or lost) process; its id may be used again.

        An unknown process is no error.  With *dry_run* nothing is deleted, only told.

        :raises NotClosed: it is still running, or a stream of it is open; nothing was deleted
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Leave the host; its processes go on."""
