"""WebSocket on TCP, as the reference exec-server serves it, with its faults mended.

Only path ``/`` upgrades (a query is allowed), ``/readyz`` answers 200, and any request with an ``Origin`` header is a
browser's and gets 403.  So does one whose ``Host`` is a name other than ``localhost``: a page that reached us under a
foreign name (DNS rebinding) sends no ``Origin``, but it cannot hide that name.  ``TCP_NODELAY`` is on, messages above
1 MiB go out in fragments (Codex as a client refuses frames above 16 MiB), and close frames carry a code and a reason.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,  # pyright: ignore[reportUnknownVariableType]
    ws_create_server,  # pyright: ignore[reportUnknownVariableType]
)

from holdfast.jsonrpc.connection import BACKLOG_LIMIT, HIGH_WATER, LOW_WATER, Connection, MessageHandler
from holdfast.jsonrpc.messages import MESSAGE_LIMIT

#: Messages above this size leave in fragments of this size, in bytes.
FRAGMENT: Final = 1024 * 1024
#: Up to this size, in bytes, the messages of a server that answer what was read at once wait for each other ...
SMALL: Final = 4096
#: ... until this many bytes have gathered.
GATHERED: Final = 64 * 1024
#: Seconds of silence after which a peer is asked for a sign of life, and seconds it has to give one.
PING_AFTER: Final = 30.0
PONG_WITHIN: Final = 30.0

_TEXT: Final = WSMsgType.TEXT
#: Headers of unfragmented, unmasked text frames (RFC 6455, section 5.2), by the size of what follows.
_SMALL_HEADS: Final = tuple(bytes((0x81, size)) for size in range(126))
_pack_medium_head = struct.Struct("!BBH").pack
_pack_large_head = struct.Struct("!BBQ").pack

Accept = Callable[[Connection], MessageHandler | None]
#: Decides on the headers of an upgrade: None admits, a text refuses with 401.
Authorize = Callable[[Mapping[str, str]], str | None]
#: Makes the answer to an admitted request.
Route = Callable[[Mapping[str, str]], WSListener | WSUpgradeResponseWithListener]


class WebSocketConnection(WSListener, Connection):
    """Either end of one WebSocket."""

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._handler: MessageHandler | None = None
        self._transport: WSTransport | None = None
        self._fragments: list[bytes] = []
        self._size = 0
        #: Whether the frame being handled is followed by others that were read with it.
        self._more_to_come = False
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._loop = asyncio.get_running_loop()
        self.writable = True

    def on_ws_connected(self, transport: WSTransport) -> None:
        underlying = transport.underlying_transport
        address = underlying.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}"
        self.origin = f"exec-server websocket {self.peer}"
        underlying.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._transport = transport
        self._handler = self._accept(self)
        if self._handler is None:
            self.close(1013, "not accepting connections")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        self._more_to_come = not frame.last_in_buffer
        if kind is _TEXT or kind is WSMsgType.BINARY:
            if frame.fin:
                if self._handler is not None:
                    self._handler.message_received(frame.get_payload_as_bytes())
                return
            self._fragments = [frame.get_payload_as_bytes()]
            self._size = len(self._fragments[0])
        elif kind is WSMsgType.CONTINUATION:
            part = frame.get_payload_as_bytes()
            self._fragments.append(part)
            self._size += len(part)
            if self._size > MESSAGE_LIMIT:
                self._fragments = []
                self.close(1009, "message too big")
            elif frame.fin:
                message = b"".join(self._fragments)
                self._fragments = []
                if self._handler is not None:
                    self._handler.message_received(message)
        elif kind is WSMsgType.CLOSE:
            self._flush()
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None
        self._gathered = []
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.connection_lost()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._handler is not None:
            self._handler.writing_resumed()

    def send(self, message: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        if self._gathered or self._more_to_come:
            if len(message) <= SMALL and not transport.is_client_side:
                # Most of what a reply costs is its system call, so what answers one read leaves in one go.
                if not self._gathered:
                    self._loop.call_soon(self._flush)
                self._gathered.append(message)
                self._gathered_size += len(message)
                if self._gathered_size >= GATHERED:
                    self._flush()
                return
            self._flush()
        self._send_now(transport, message)

    def _flush(self) -> None:
        messages = self._gathered
        if not messages:
            return
        self._gathered, self._gathered_size = [], 0
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        if len(messages) == 1:
            self._send_now(transport, messages[0])
        else:
            self._write_frames(transport, messages)

    def _send_now(self, transport: WSTransport, message: bytes) -> None:
        if len(message) <= FRAGMENT:
            transport.send(_TEXT, message)
        else:
            view = memoryview(message)
            kind = WSMsgType.TEXT
            for start in range(0, len(view), FRAGMENT):
                transport.send(kind, view[start : start + FRAGMENT], start + FRAGMENT >= len(view))
                kind = WSMsgType.CONTINUATION
        if not self.writable:
            self._bound_backlog(transport)

    def _bound_backlog(self, transport: WSTransport) -> None:
        if transport.underlying_transport.get_write_buffer_size() > BACKLOG_LIMIT:
            transport.disconnect(False)

    def send_all(self, messages: list[bytes]) -> None:
        transport = self._transport
        if len(messages) == 1 or transport is None or transport.is_client_side or transport.is_disconnected:
            super().send_all(messages)
            return
        if any(len(message) > FRAGMENT for message in messages):
            super().send_all(messages)
            return
        self._flush()
        self._write_frames(transport, messages)

    def send_pieces(self, messages: list[tuple[bytes, ...]]) -> None:
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        buffers: list[bytes] = []
        for pieces in messages:
            size = sum(map(len, pieces))
            if size > FRAGMENT or transport.is_client_side:
                super().send_pieces(messages)
                return
            buffers += (_frame_head(size), *pieces)
        self._flush()
        transport.underlying_transport.writelines(buffers)
        if not self.writable:
            self._bound_backlog(transport)

    def _write_frames(self, transport: WSTransport, messages: list[bytes]) -> None:
        """Write several messages, none of which needs fragments, in one go."""
        # The library writes each frame by itself; frames of a server need no mask and are as easily made here.
        frames: list[bytes] = []
        for message in messages:
            frames += (_frame_head(len(message)), message)
        transport.underlying_transport.write(b"".join(frames))
        if not self.writable:
            self._bound_backlog(transport)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._transport is not None and not self._transport.is_disconnected:
            self._flush()
            self._transport.send_close(_close_code(code), reason.encode())
            self._transport.disconnect()


def _frame_head(size: int) -> bytes:
    """The header of an unfragmented, unmasked text frame (RFC 6455, section 5.2)."""
    if size < 126:
        return _SMALL_HEADS[size]
    if size < 65536:
        return _pack_medium_head(0x81, 126, size)
    return _pack_large_head(0x81, 127, size)


def _close_code(code: int) -> WSCloseCode:
    try:
        return WSCloseCode(code)
    except ValueError:
        return WSCloseCode.POLICY_VIOLATION


def _answer(status: HTTPStatus, text: str = "") -> WSUpgradeResponseWithListener:
    body = text.encode()
    if status is HTTPStatus.OK:
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_ok_response(body), None)
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, body), None)


def is_own_host(host: str | None) -> bool:
    """Whether a ``Host`` header names this machine in a way that no foreign name can: ``localhost`` or an address."""
    if host is None:
        return False
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name[:1] == "[" and name[-1:] == "]" else name)
    except ValueError:
        return False
    return True


def make_routes(accept: Accept, authorize: Authorize | None) -> dict[bytes, Route]:
    """Every path that is answered by something other than 404."""

    def upgrade(headers: Mapping[str, str]) -> WSListener | WSUpgradeResponseWithListener:
        refusal = None if authorize is None else authorize(headers)
        return WebSocketConnection(accept) if refusal is None else _answer(HTTPStatus.UNAUTHORIZED, refusal)

    def ready(headers: Mapping[str, str]) -> WSListener | WSUpgradeResponseWithListener:
        return _answer(HTTPStatus.OK)

    return {b"/": upgrade, b"/readyz": ready}


async def serve_websocket(
    listener: socket.socket, accept: Accept, authorize: Authorize | None = None
) -> asyncio.Server:
    """Serve WebSocket connections on a bound TCP socket."""
    routes = make_routes(accept, authorize)

    def answer(request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        headers = request.headers
        if "Origin" in headers or (authorize is None and not is_own_host(headers.get("Host"))):
            return _answer(HTTPStatus.FORBIDDEN)
        route = routes.get(request.path.split(b"?", 1)[0])
        return _answer(HTTPStatus.NOT_FOUND) if route is None else route(headers)

    return await ws_create_server(
        answer,
        sock=listener,
        max_frame_size=MESSAGE_LIMIT + 1024,
        enable_auto_ping=True,
        auto_ping_idle_timeout=PING_AFTER,
        auto_ping_reply_timeout=PONG_WITHIN,
    )


async def connect_websocket(
    url: str, accept: Accept, *, token: str | None = None, timeout: float | None = 10.0
) -> Connection:
    """Connect to a WebSocket server, with a bearer *token* if one is given.

    :raises OSError: nobody listens there, or the server refused the upgrade
    """
    connection = WebSocketConnection(accept)
    try:
        await ws_connect(
            lambda: connection,
            url,
            max_frame_size=MESSAGE_LIMIT * 2,
            websocket_handshake_timeout=timeout,
            extra_headers={"Authorization": f"Bearer {token}"} if token is not None else None,
        )
    except WSError as error:
        raise ConnectionRefusedError(f"{url} refused the connection: {error}") from error
    return connection
