"""Who waits for a child: the server that started it, or the keeper that inherited it from a dead server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from holdfast.host.keeper import end_of
from holdfast.host.keeping import KeeperLink
from holdfast.host.poller import READABLE, Poller


class Child(Protocol):
    """A child whose exit status can be looked at before it is reaped."""

    def watch(self, ended: Callable[[], None]) -> None:
        """Call *ended* when the child has ended (it may be called without need)."""

    def end(self) -> tuple[int, int] | None:
        """Exit code and signal number (or 0), without reaping; None while it runs."""

    def reap(self) -> None:
        """Forget it: its end is on disk."""


class OwnChild:
    """A child of this process, by its pidfd."""

    def __init__(self, pid: int, poller: Poller) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._poller = poller

    def watch(self, ended: Callable[[], None]) -> None:
        self._poller.watch(self._pidfd, READABLE, ended)

    def end(self) -> tuple[int, int] | None:
        info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return None if info is None else end_of(info)

    def reap(self) -> None:
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._poller.unwatch(self._pidfd)
        os.close(self._pidfd)


class KeptChild:
    """A child that the keeper inherited; the keeper tells of its end and reaps it when told."""

    def __init__(self, pid: int, link: KeeperLink) -> None:
        self._pid = pid
        self._link = link
        self._end: tuple[int, int] | None = None
        self._ended: Callable[[], None] = lambda: None

    def watch(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def told(self, code: int, number: int) -> None:
        """The keeper has seen the end."""
        self._end = (code, number)
        self._ended()

    def end(self) -> tuple[int, int] | None:
        return self._end

    def reap(self) -> None:
        self._link.reap(self._pid)
