"""Who waits for a child: the server that started it, the keeper that inherited it, or (both dead) a stranger."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
from collections.abc import Callable
from typing import Final, Protocol

from holdfast.host.keeper import end_of, stat_fields
from holdfast.host.keeping import KeeperLink
from holdfast.host.os_process import open_handle
from holdfast.jsonrpc.event_loop import ONCE_EACH, READABLE, Poller

#: ``struct pidfd_info`` of ``linux/pidfd.h`` (first version) with the request to fill it in.
_PIDFD_INFO: Final = struct.Struct("=QQ11Ii")
_PIDFD_INFO_EXIT: Final = 1 << 3
_PIDFD_GET_INFO: Final = 0xC0000000 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11


class Child(Protocol):
    """A child whose exit status can be looked at before it is reaped."""

    @property
    def handle(self) -> int:
        """A pidfd for who comes after this process and is not the parent; -1 if there is none, or no need of one."""
        ...

    def watch(self, ended: Callable[[], None]) -> None:
        """Call *ended* when the child has ended (it may be called without need)."""

    def end(self) -> tuple[int | None, int] | None:
        """Exit code (None if nobody can know it) and signal number (or 0), without reaping; None while it runs."""

    def reap(self) -> None:
        """Forget it: its end is on disk."""


class OwnChild:
    """A child of this process, by its pidfd."""

    def __init__(self, pid: int, poller: Poller) -> None:
        self.handle = -1
        self._pidfd = os.pidfd_open(pid)
        self._poller = poller

    def watch(self, ended: Callable[[], None]) -> None:
        # Once: what has ended may have to wait for room in its log before it is reaped.
        self._poller.watch(self._pidfd, READABLE | ONCE_EACH, lambda events: ended())

    def end(self) -> tuple[int, int] | None:
        info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return None if info is None else end_of(info)

    def reap(self) -> None:
        # One that has not ended is left to be reaped as an orphan.
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self._poller.forget(self._pidfd)
        os.close(self._pidfd)


class KeptChild:
    """A child that the keeper inherited; the keeper tells of its end and reaps it when told."""

    def __init__(self, pid: int, started: int, link: KeeperLink, poller: Poller, handle: int = -1) -> None:
        self._pid = pid
        self._started = started
        self._link = link
        self._poller = poller
        self.handle = handle
        if handle < 0:
            # While it is there: if the keeper dies, whoever inherits the child may reap it at once.
            with contextlib.suppress(OSError):
                self.handle = open_handle(pid, started)
        self._end: tuple[int, int] | None = None
        self._ended: Callable[[], None] = lambda: None
        self._stranger: StrangersChild | None = None

    def watch(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def told(self, code: int, number: int) -> None:
        """The keeper has seen the end."""
        self._end = (code, number)
        self._ended()

    def forsaken(self) -> None:
        """The keeper has died, and nobody takes its place for now."""
        self._stranger = StrangersChild(self._pid, self._started, self._poller, self.handle)
        self._stranger.watch(self._ended)
        self._ended()

    def end(self) -> tuple[int | None, int] | None:
        return self._end if self._stranger is None else self._stranger.end()

    def reap(self) -> None:
        if self._stranger is not None:
            self._stranger.reap()
        else:
            self._link.reap(self._pid)
            if self.handle >= 0:
                os.close(self.handle)
        self.handle = -1


class KeptChildren:
    """All of them, of one server."""

    def __init__(self, link: KeeperLink, poller: Poller) -> None:
        self._link = link
        self._poller = poller
        self._children: dict[int, KeptChild] = {}
        link.on_ended = self._ended

    def add(self, pid: int, started: int, handle: int) -> KeptChild:
        """One more; *handle* is its pidfd, or -1."""
        child = self._children[pid] = KeptChild(pid, started, self._link, self._poller, handle)
        return child

    def pids(self) -> set[int]:
        """Those that have not ended, as far as the keeper has told."""
        return set(self._children)

    def _ended(self, pid: int, code: int, number: int) -> None:
        child = self._children.pop(pid, None)
        if child is not None:
            child.told(code, number)

    def forsaken(self) -> None:
        """The keeper has died, and nobody takes its place for now: see by themselves how they end."""
        for pid, child in tuple(self._children.items()):
            try:
                child.forsaken()
            except OSError:
                # No descriptors or watches are left; this is called again with the next try to find a keeper.
                continue
            del self._children[pid]


class StrangersChild:
    """A child of a dead server and then of a dead keeper: whoever inherited it will reap it.

    Its end is seen by its pidfd.  How it ended is read where Linux tells it, else it stays unknown.
    """

    def __init__(self, pid: int, started: int, poller: Poller, handle: int = -1) -> None:
        self._pid = pid
        self._poller = poller
        self.handle = handle if handle >= 0 else open_handle(pid, started)
        # Without one it has ended, was reaped, and its pid may be another's by now.
        self._end: tuple[int | None, int] | None = None if self.handle >= 0 else (None, 0)

    def watch(self, ended: Callable[[], None]) -> None:
        if self.handle >= 0:
            self._poller.watch(self.handle, READABLE | ONCE_EACH, lambda events: ended())

    def end(self) -> tuple[int | None, int] | None:
        if self._end is None and _readable(self.handle):
            self._end = _decoded(end_of_stranger(self._pid, self.handle))
        return self._end

    def reap(self) -> None:
        if self.handle >= 0:
            self._poller.unwatch(self.handle)
            os.close(self.handle)
            self.handle = -1


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def end_of_stranger(pid: int, pidfd: int = -1) -> int | None:
    """The wait status of a process that has ended and is not ours, None where the kernel does not tell.

    While it is a zombie, ``/proc`` shows it to its own user; since Linux 6.15 a pidfd tells it afterwards.
    """
    try:
        fields = stat_fields(pid)
        # To other users it is shown as 0.
        if fields[0] == b"Z" and os.stat(f"/proc/{pid}").st_uid == os.geteuid():
            return int(fields[-1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # It is gone, or hidden.
        pass
    information = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, information)
    except (OSError, ValueError):
        return None
    fields = _PIDFD_INFO.unpack(information)
    return fields[-1] if fields[0] & _PIDFD_INFO_EXIT else None


def _decoded(status: int | None) -> tuple[int | None, int]:
    if status is None:
        return None, 0
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return 128 + number if number else os.WEXITSTATUS(status), number
