"""A client's session: a namespace of processes that survives the loss of its connection for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.host.process import HostedProcess

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection


class Session:
    """Processes that one client started, and the connection that it has at the moment."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.processes: dict[str, HostedProcess] = {}
        self.connection: ClientConnection | None = None
        #: Monotonic seconds of the loss of the last connection.
        self.detached_at = 0.0
