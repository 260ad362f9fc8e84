"""Ending the waiting of another thread: what cancels a blocking call that somebody awaits."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast.api.daemon_access import Daemon


class Interrupted(BaseException):
    """Nobody wants the answer of this call any more.  Like :exc:`KeyboardInterrupt` it is no failure of the call."""


class Interruption:
    """One thread waits, another may :meth:`set` this; what is not waiting is never torn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._waits_for: Daemon | None = None

    def set(self) -> None:
        """End the waiting that goes on, or the next one."""
        with self._lock:
            self._is_set = True
            daemon = self._waits_for
        if daemon is not None:
            daemon.interrupt()

    @contextmanager
    def allowed(self, daemon: Daemon) -> Generator[None]:
        """Let :meth:`set` end what is asked of *daemon* here.

        :raises Interrupted: it did, or had been called before
        """
        with self._lock:
            if self._is_set:
                raise Interrupted
            self._waits_for = daemon
        try:
            yield
        finally:
            with self._lock:
                self._waits_for = None


#: What may end the waiting of the code that runs in this context.
_current: Final[ContextVar[Interruption | None]] = ContextVar("holdfast_interruption", default=None)


def interruptible_by(interruption: Interruption) -> None:
    """Let *interruption* end the waiting of whatever runs in this context from now on."""
    _current.set(interruption)


@contextmanager
def waiting(daemon: Daemon) -> Generator[None]:
    """Mark what may be interrupted from outside, if the caller of this context can do that at all."""
    interruption = _current.get()
    if interruption is None:
        yield
    else:
        with interruption.allowed(daemon):
            yield
