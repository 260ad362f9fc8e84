"""One client connection: its requests, the replies, and what is pushed to it.

Requests are carried out as they arrive, at once where nothing has to be waited for, so what concerns one process
happens in the order in which it was asked for.  A request that waits (a long poll, a full stdin, an ending) waits
alone; for a start that waits, only what concerns the same process does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec

from holdfast.errors import HoldfastError
from holdfast.host import control, handshake, parameters, reading, starting, status, subscribing
from holdfast.host.methods import METHODS, Deferred, Method, decode_params, find_method
from holdfast.host.pending import Waiting
from holdfast.host.process import HostedProcess
from holdfast.host.push import Cursor, Notifications, Subscription
from holdfast.host.server import ProcessHost
from holdfast.host.session import Session
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.messages import (
    ABSENT,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MalformedMessage,
    RequestId,
    RpcError,
    decode,
    encode_error,
    encode_result,
)

#: Requests of one connection that may be waiting at the same time.
IN_FLIGHT: Final = 4096
_TOO_MANY: Final = "too many requests in flight"
#: Their methods are in the table from the start; the others are imported when one of them is called.
EVERYDAY: Final = (control, handshake, reading, starting, status, subscribing)

_log = logging.getLogger(__name__)


class PlainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What nearly every message is; decoding it alone is twice as fast as telling all shapes apart."""

    id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str
    method: str
    params: msgspec.Raw = ABSENT


_decode_request: Final = msgspec.json.Decoder(PlainRequest).decode


class Resource(Protocol):
    """Something that a connection has one of, and that ends with it."""

    def close(self) -> None:
        """Let go of everything."""


_R = TypeVar("_R", bound=Resource)


class ClientConnection:
    """The host's side of one connection."""

    def __init__(self, host: ProcessHost, connection: Connection, *, root: str | None = None) -> None:
        self.host = host
        self.connection = connection
        #: The directory outside of which ``fs/*`` touches nothing; None for no limit.
        self.root = root
        self.session: Session | None = None
        self._ready = False
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deferred: set[Deferred] = set()
        #: How many requests wait for the start of a process.
        self._behind_starts = 0
        self._waiting_for_room: dict[Cursor, None] = {}
        self._room_waiters: list[asyncio.Future[None]] = []
        self._pushes: set[Cursor] = set()
        self.subscriptions: dict[int, Subscription] = {}
        self._resources: dict[type[Resource], Resource] = {}
        host.connection_opened()

    # What the connection calls

    def message_received(self, message: bytes) -> None:
        try:
            decoded = _decode_request(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._other_received(message)
            return
        self._requested(decoded.id, decoded.method, decoded.params)

    def _other_received(self, message: bytes) -> None:
        """A message that is not a request without ornaments."""
        try:
            decoded = decode(message)
        except MalformedMessage as error:
            channel = "websocket " if "websocket" in self.connection.origin else ""
            text = f"failed to parse {channel}JSON-RPC message from {self.connection.origin}: {error.message}"
            self.connection.send(encode_error(-1, INVALID_REQUEST, text))
            return
        method = decoded.method
        if not isinstance(method, str):
            self.connection.close(1002, "a response to a request that was never made")
            return
        identity = decoded.id
        if identity is None or isinstance(identity, msgspec.UnsetType):
            self._notified(method, decoded.params)
        else:
            self._requested(identity, method, decoded.params)

    def _requested(self, identity: RequestId, name: str, params: msgspec.Raw) -> None:
        try:
            method = METHODS.get(name) or find_method(name)
            if method is None:
                raise RpcError(METHOD_NOT_FOUND, f"exec-server stub does not implement `{name}` yet")
            value = decode_params(method.decoder, params)
        except Exception as error:
            self._fail(identity, error)
            return
        self._carry_out(identity, name, method, value)

    def _carry_out(self, identity: RequestId, name: str, method: Method, value: Any) -> None:
        try:
            if (self.session is None or not self._ready) and name != "initialize":
                step = "call initialize" if self.session is None else "send initialized"
                raise RpcError(INVALID_REQUEST, f"client must {step} before using {method.group} methods")
            if self.host.pending_starts and self._waits_for_start(identity, name, method, value):
                return
            reply = method.call(self, value)
        except Exception as error:
            self._fail(identity, error)
            return
        if isinstance(reply, bytes):
            self.connection.send(encode_result(identity, reply))
            return
        if self._is_full:
            # It has not begun.
            if asyncio.iscoroutine(reply):
                reply.close()
            self.connection.send(encode_error(identity, INVALID_REQUEST, _TOO_MANY))
            return
        if isinstance(reply, Deferred):
            self._defer(identity, reply)
            return
        task = self._loop.create_task(self._finish(identity, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _waits_for_start(self, identity: RequestId, name: str, method: Method, value: Any) -> bool:
        """Whether the request is about a process whose start is pending: then it is carried out after that.

        :raises RpcError: nothing more may wait
        """
        waiting = self.host.pending_starts.before(self, value)
        if waiting is None:
            return False
        self.require_place()
        self._behind_starts += 1

        def carry_out() -> None:
            self._behind_starts -= 1
            self._carry_out(identity, name, method, value)

        waiting.append(Waiting(self, value, carry_out))
        return True

    @property
    def _is_full(self) -> bool:
        return len(self._tasks) + len(self._deferred) + self._behind_starts >= IN_FLIGHT

    def require_place(self) -> None:
        """For a request that has an effect before it waits.

        :raises RpcError: nothing more may wait
        """
        if self._is_full:
            raise RpcError(INVALID_REQUEST, _TOO_MANY)

    def writing_resumed(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiting = self._waiting_for_room
        while waiting and self.connection.writable:
            cursor = next(iter(waiting))
            del waiting[cursor]
            cursor.pump()

    async def room(self) -> None:
        """Wait until the connection is writable."""
        while not self.connection.writable:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room_waiters.append(waiter)
            await waiter

    def when_writable(self, call: Callable[[], None]) -> None:
        """Call *call* when the connection is writable again, if ever."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiter.add_done_callback(lambda waiter: call())
        self._room_waiters.append(waiter)

    def connection_lost(self) -> None:
        # What still waits for a start is not carried out any more.
        session, self.session = self.session, None
        for task in tuple(self._tasks):
            task.cancel()
        for deferred in self._deferred:
            deferred.abandon()
        self._deferred.clear()
        self._stop_pushing()
        for subscription in self.subscriptions.values():
            subscription.stop()
        self.subscriptions.clear()
        for resource in self._resources.values():
            resource.close()
        self._resources.clear()
        if session is not None and session.connection is self:
            session.detach()
        self.host.connection_closed()

    # Requests

    def resource(self, kind: type[_R], make: Callable[[ClientConnection], _R]) -> _R:
        """The connection's one resource of a kind, made when it is first asked for."""
        found = self._resources.get(kind)
        if found is None:
            found = self._resources[kind] = make(self)
        assert isinstance(found, kind)
        return found

    async def _finish(self, identity: RequestId, reply: Awaitable[bytes]) -> None:
        try:
            self.connection.send(encode_result(identity, await reply))
        except Exception as error:
            self._fail(identity, error)

    def _defer(self, identity: RequestId, reply: Deferred) -> None:
        def answer(make: Callable[[], bytes]) -> None:
            self._deferred.discard(reply)
            try:
                self.connection.send(encode_result(identity, make()))
            except Exception as error:
                self._fail(identity, error)

        self._deferred.add(reply)
        reply.begin(answer)

    def _fail(self, identity: RequestId, error: Exception) -> None:
        if isinstance(error, HoldfastError):
            self._refuse(identity, error)
            return
        # A fault of ours: the client must not wait for ever for the answer.
        _log.error("a request failed", exc_info=error)
        self.connection.send(encode_error(identity, INTERNAL_ERROR, "internal error"))

    def _refuse(self, identity: RequestId, error: HoldfastError) -> None:
        code = error.rpc_code if isinstance(error, RpcError) else INTERNAL_ERROR
        # A message may name a path, and a path may be bytes that are no text.
        message = error.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self.connection.send(encode_error(identity, code, message))

    def _notified(self, name: str, params: msgspec.Raw) -> None:
        if name == "initialized":
            if self.session is None:
                self.connection.close(1002, "initialized before initialize")
            self._ready = True
        elif name == "process/acknowledge":
            try:
                acknowledgement = msgspec.json.decode(params, type=parameters.Acknowledge)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # How much the client has taken is not known any more; on a new connection it says so by its cursor.
                self.connection.close(1002, "malformed acknowledgement")
                return
            subscription = self.subscriptions.get(acknowledgement.subscription_id)
            if subscription is not None:
                subscription.acknowledge(acknowledgement.bytes)
        else:
            self.connection.close(1002, "unknown notification")

    # Pushing

    def wait_for_room(self, cursor: Cursor) -> None:
        """Pump *cursor* again when the connection is writable (or, if it still is, after the others)."""
        self._waiting_for_room[cursor] = None
        if self.connection.writable:
            self._loop.call_soon(self.writing_resumed)

    def push(self, process: HostedProcess, after: int) -> None:
        """Send notifications of everything after *after*."""
        cursor = Notifications(self, process, after)
        self._pushes.add(cursor)

    def push_ended(self, cursor: Cursor) -> None:
        """*cursor* sends nothing any more."""
        self._pushes.discard(cursor)

    def _stop_pushing(self) -> None:
        for cursor in tuple(self._pushes):
            cursor.stop()
        self._waiting_for_room.clear()

    def taken_over(self) -> None:
        """Another connection resumed the session: this one has nothing any more."""
        self.session = None
        self._stop_pushing()
        self.connection.close(1008, "the session was resumed by another connection")

    def attach(self, session: Session) -> None:
        """Make *session* this connection's."""
        self.session = session
        session.connection = self

    def find(self, process_id: str) -> HostedProcess | None:
        """The process of that id: the session's own, else the host's."""
        assert self.session is not None
        return self.session.processes.get(process_id) or self.host.persistent.get(process_id)

    def require(self, process_id: str) -> HostedProcess:
        """The process of that id, or the protocol's error."""
        process = self.find(process_id)
        if process is None:
            raise RpcError(INVALID_REQUEST, f"unknown process id {process_id}")
        return process
