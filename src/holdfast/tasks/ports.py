"""What tasks need of the outside: somebody who keeps a host running, and somebody who keeps agents' servers running."""

from __future__ import annotations

import contextlib
from typing import Protocol

from holdfast.agents.adapter import SharedServer
from holdfast.host.port import Host


class Hosts(Protocol):
    """Where hosts come from."""

    async def host(self) -> Host:
        """A connected host of this machine; one that died is started again.

        :raises HostUnavailable: it cannot be started
        """
        ...


class Servers(Protocol):
    """Where the servers come from that several runs of an agent share."""

    def hold(self, shared: SharedServer) -> contextlib.AbstractAsyncContextManager[None]:
        """As long as the context lasts, the *shared* server is kept running and is started again when it dies.

        :raises Unavailable: it cannot be started
        """
        ...
