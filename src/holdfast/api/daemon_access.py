"""The daemon as a caller sees it: there when it is needed, and found again when it went away."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Final, Self, TypeVar

from holdfast.api.interruption import Interrupted
from holdfast.daemon.client import DaemonClient
from holdfast.daemon.transport import DaemonGone
from holdfast.directories import state_directory

#: Seconds to wait before each further try in a row; a daemon that is not back after the last is given up.
PAUSES: Final = (0.0, 0.2, 1.0, 3.0)

_T = TypeVar("_T")


class Daemon:
    """The daemon of the state directory.  One that died is replaced, and the question asked again.

    Asking again is safe because every call of :class:`DaemonClient` that goes through here may be sent twice.
    Threads may share it.
    """

    def __init__(self) -> None:
        self._client: DaemonClient | None = None
        self._losses = 0
        self._lock = threading.Lock()
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._client is not None:
            self._let_go(self._client)

    @property
    def client(self) -> DaemonClient:
        """The connected client; connects, and starts a daemon where there is none.

        :raises Unavailable: none could be started
        :raises Interrupted: :meth:`interrupt` was called
        """
        with self._lock:
            if self._interrupted:
                raise Interrupted
            if self._client is None:
                from holdfast.daemon.lifecycle import connect

                self._client = connect(state_directory())
                if self._client.notice:
                    self._tell(self._client.notice)
            return self._client

    def call(self, ask: Callable[[DaemonClient], _T]) -> _T:
        """Ask the daemon, and ask again when it goes away meanwhile."""
        while True:
            client = self._client
            try:
                client = self.client
                answer = ask(client)
            except DaemonGone as error:
                self.lost(client, error)
            else:
                self.found()
                return answer

    def lost(self, client: DaemonClient | None, error: DaemonGone) -> None:
        """Give up *client* because of *error*; the next use connects anew.

        :raises DaemonGone: this happened too often in a row
        :raises Interrupted: :meth:`interrupt` was called, and that is why
        """
        with self._lock:
            if self._interrupted:
                raise Interrupted from error
            if client is not None and client is not self._client:
                # Another thread noticed first; one death counts once, however many were waiting.
                return
            if self._losses == len(PAUSES):
                raise error
            pause = PAUSES[self._losses]
            self._losses += 1
            if client is not None and not client.in_process:
                client.close()
                self._client = None
        time.sleep(pause)

    def found(self) -> None:
        """Note that the daemon answers."""
        self._losses = 0

    def interrupt(self) -> None:
        """Make every call that waits here, in any thread, and every later one raise :exc:`Interrupted`."""
        with self._lock:
            self._interrupted = True
            client = self._client
        if client is not None:
            client.interrupt()

    def _tell(self, notice: str) -> None:
        """Pass on a sentence about the daemon that a person should know."""
        import logging

        logging.getLogger("holdfast").warning("%s", notice)

    def _let_go(self, client: DaemonClient) -> None:
        if client.in_process:
            # Other threads, and later calls, find it on its socket as they would find any other.
            atexit.register(client.close)
        else:
            client.close()
