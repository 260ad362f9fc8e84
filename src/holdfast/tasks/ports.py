"""What tasks need of the outside: somebody who keeps a host running, and somebody who keeps agents' servers running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from holdfast.agents.adapter import SharedServer
from holdfast.host.port import Host

#: How long a host may take over something before it is asked whether it answers at all, seconds.
HOST_SILENCE: Final = 5.0

_T = TypeVar("_T")


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


async def answered(hosts: Hosts, request: Coroutine[Any, Any, _T]) -> _T:
    """What the host answers to *request*, for which it may take its time as long as it answers other questions.

    :raises HostUnavailable: it does not
    """
    answer = asyncio.ensure_future(request)
    try:
        while not (await asyncio.wait({answer}, timeout=HOST_SILENCE))[0]:
            await hosts.host()
        return answer.result()
    finally:
        answer.cancel()
        await asyncio.wait({answer})
