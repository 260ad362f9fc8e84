"""Starts that wait for something, and the requests about their processes, which wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.host.methods import Deferred
from holdfast.host.parameters import Start

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection
    from holdfast.host.session import Session

#: The session in whose namespace it is, None for that of the host; and the process id.
Key = tuple[str | None, str]


def key_of(session: Session, params: Start) -> Key:
    """What a start is for."""
    persistent = params.holdfast is not None and params.holdfast.persistent
    return None if persistent else session.session_id, params.process_id


class Waiting(NamedTuple):
    """A request that waits for a start."""

    client: ClientConnection
    params: object
    carry_out: Callable[[], None]


class PendingStarts:
    """The starts of a host that are not decided yet, and in their order the requests that came after each."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[Waiting]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def before(self, client: ClientConnection, params: object) -> list[Waiting] | None:
        """Where a request of *client* has to wait until a start is decided which it is about; None if it need not."""
        session = client.session
        if session is None:
            return None
        if isinstance(params, Start):
            return self._waiting.get(key_of(session, params))
        subscription_id = getattr(params, "subscription_id", None)
        if subscription_id is not None and (behind := self._behind_subscription(client, subscription_id)) is not None:
            return behind
        process_id = getattr(params, "process_id", None)
        if process_id is None:
            return None
        waiting = self._waiting.get((session.session_id, process_id))
        if waiting is None and process_id not in session.processes:
            waiting = self._waiting.get((None, process_id))
        return waiting

    def _behind_subscription(self, client: ClientConnection, subscription_id: int) -> list[Waiting] | None:
        """Where others wait that are about the same subscription, which has no other process than theirs."""
        for waiting in self._waiting.values():
            for other in waiting:
                if other.client is client and getattr(other.params, "subscription_id", None) == subscription_id:
                    return waiting
        return None

    def begin(self, key: Key) -> None:
        """A start begins; none is pending for the same id."""
        self._waiting[key] = []

    def decided(self, key: Key) -> None:
        """It runs, or it does not and will not: whoever waited goes on, or waits for the next start among them."""
        for waiting in self._waiting.pop(key):
            waiting.carry_out()


class PendingStart(Deferred):
    """The reply to a start that waits; if its connection is lost before it is decided, it does not happen."""

    def __init__(
        self, client: ClientConnection, params: Start, start: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> None:
        assert client.session is not None
        self._starts = client.host.pending_starts
        self._key = key_of(client.session, params)
        self._start = start

    def begin(self, answer: Callable[[Callable[[], bytes]], None]) -> None:
        self._starts.begin(self._key)
        self._task = asyncio.get_running_loop().create_task(self._decide(answer))

    async def _decide(self, answer: Callable[[Callable[[], bytes]], None]) -> None:
        outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            outcome.set_result(await self._start())
        except Exception as error:
            outcome.set_exception(error)
        # At once: nothing of the process may be told before.
        answer(outcome.result)
        self._starts.decided(self._key)

    def abandon(self) -> None:
        # It is cancelled where it waits, and starts nothing after that.
        self._task.cancel()
        self._starts.decided(self._key)
