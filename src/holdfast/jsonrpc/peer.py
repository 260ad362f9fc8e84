"""The calling side of a connection: requests with their replies, and notifications as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.messages import (
    MalformedMessage,
    RpcError,
    decode,
    encode_json,
    encode_request,
)

#: Called with method and undecoded params of each notification.
OnNotification = Callable[[str, msgspec.Raw], None]


class ConnectionClosed(Exception):
    """The connection ended before the reply came; whether the request was carried out is not known."""


class Peer:
    """Calls methods of the other side.  It is the handler of one :class:`Connection`."""

    def __init__(self, on_notification: OnNotification, on_lost: Callable[[], None]) -> None:
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._pending: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._next_id = 0
        self._closed = False

    def accept(self, connection: Connection) -> Peer:
        """Take the connection; has the shape that the ``connect_*`` functions want."""
        self._connection = connection
        return self

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed

    async def call(self, method: str, params: Any) -> msgspec.Raw:
        """Call *method* and wait for its result.

        :raises RpcError: the other side answered with an error
        :raises ConnectionClosed: the connection ended first
        """
        if self._closed or self._connection is None:
            raise ConnectionClosed
        self._next_id += 1
        identity = self._next_id
        reply: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._pending[identity] = reply
        self._connection.send(encode_request(identity, method, params))
        try:
            return await reply
        finally:
            self._pending.pop(identity, None)

    def notify(self, method: str, params: Any) -> None:
        """Send a notification; nothing happens when the connection is gone."""
        if self._connection is not None and not self._closed:
            self._connection.send(encode_json({"method": method, "params": params}))

    def discard(self, method: str, params: Any) -> None:
        """Call *method* without waiting for its result."""
        if self._connection is not None and not self._closed:
            self._next_id += 1
            self._connection.send(encode_request(self._next_id, method, params))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def message_received(self, message: bytes) -> None:
        try:
            decoded = decode(message)
        except MalformedMessage:
            # A peer that does not speak the protocol cannot be talked to: end it, callers see a closed connection.
            self.close()
            return
        if isinstance(decoded.method, str):
            self._on_notification(decoded.method, decoded.params)
            return
        reply = self._pending.get(decoded.id) if isinstance(decoded.id, int) else None
        if reply is None or reply.done():
            return
        failure = decoded.failure()
        if failure is None:
            reply.set_result(decoded.result)
        else:
            reply.set_exception(RpcError(failure.code, failure.message))

    def writing_resumed(self) -> None:
        pass

    def connection_lost(self) -> None:
        if self._closed:
            return
        self._closed = True
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(ConnectionClosed())
        self._on_lost()
