"""A client's session: a namespace of processes that survives the loss of its connection for a while.

The keeper knows the ids, under keys without descriptors, so that the next server knows a session without a process too.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from holdfast.clock import monotonic
from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import Held
from holdfast.host.process import HostedProcess

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Seconds for which a closed process of a session stays readable (the reference implementation's).
RETAIN_CLOSED: Final = 80.0
#: Seconds for which a session waits for its client to come back.
RETAIN_SESSION: Final = 80.0
#: How the keys begin under which the keeper knows sessions; no directory of a process is called so.
_KEY: Final = "session-"


class Session:
    """Processes that one client started, and the connection that it has at the moment."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.processes: dict[str, HostedProcess] = {}
        self.connection: ClientConnection | None = None
        #: Monotonic seconds of the loss of the last connection.
        self.detached_at = monotonic()

    def detach(self) -> None:
        """The connection is gone; the session waits for its client for a while."""
        self.connection = None
        self.detached_at = monotonic()


class Sessions:
    """The sessions of a host, and for how long what has closed in them is readable."""

    def __init__(self, link: KeeperLink) -> None:
        self._link = link
        self._sessions: dict[str, Session] = {}
        #: Closed processes and the monotonic second in which they are forgotten, the soonest first.
        self._expiring: deque[tuple[float, HostedProcess]] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def recover(self, held: Held) -> None:
        """Go on with those of an earlier server, whose keys are taken out of *held*."""
        for key in [key for key in held if key.startswith(_KEY)]:
            del held[key]
            session_id = key.removeprefix(_KEY)
            self._sessions[session_id] = Session(session_id)

    def holdings(self) -> Held:
        """What a keeper has to hold."""
        return {_KEY + session_id: {} for session_id in self._sessions}

    def find(self, session_id: str) -> Session | None:
        """The session of that id."""
        return self._sessions.get(session_id)

    def open(self, session_id: str | None = None) -> Session:
        """A new session; with an id the one of that id, made if there is none, as when it was an earlier server's."""
        if session_id is None:
            session_id = str(uuid.uuid4())
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id)
            self._link.hold({_KEY + session_id: {}})
        return session

    def count(self, process: HostedProcess) -> None:
        """From now on it is closed: readable for a while, or not at all if its session is over."""
        if process.description.session_id in self._sessions:
            self._expiring.append((monotonic() + RETAIN_CLOSED, process))
        else:
            self._expiring.appendleft((0.0, process))

    def end_the_forsaken(self) -> list[HostedProcess]:
        """Forget sessions to which no client came back; returns their processes that are not closed."""
        now = monotonic()
        left: list[HostedProcess] = []
        for session in tuple(self):
            if session.connection is None and now - session.detached_at > RETAIN_SESSION:
                del self._sessions[session.session_id]
                self._link.let(_KEY + session.session_id)
                left += [process for process in session.processes.values() if not process.closed]
        return left

    def expire(self, limit: int) -> list[HostedProcess]:
        """Forget closed processes whose time is over; returns up to *limit* of them.

        One of which a client that is still connected has not been sent everything gets the same time once more.
        """
        now = monotonic()
        expired: list[HostedProcess] = []
        while self._expiring and len(expired) < limit and self._expiring[0][0] <= now:
            _, process = self._expiring.popleft()
            if process.observers:
                self._expiring.append((now + RETAIN_CLOSED, process))
                continue
            session = self._sessions.get(process.description.session_id or "")
            if session is not None and session.processes.get(process.process_id) is process:
                del session.processes[process.process_id]
            expired.append(process)
        return expired
