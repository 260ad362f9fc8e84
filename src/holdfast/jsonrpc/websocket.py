"""WebSocket on TCP, as the reference exec-server serves it, with its faults mended.

Only path ``/`` upgrades (a query is allowed), ``/readyz`` answers 200, and any request with an ``Origin`` header is a
browser's and gets 403.  So does one whose ``Host`` is a name other than ``localhost``: a page that reached us under a
foreign name (DNS rebinding) sends no ``Origin``, but it cannot hide that name.  ``TCP_NODELAY`` is on, messages above
1 MiB go out in fragments (Codex as a client refuses frames above 16 MiB), and close frames carry a code and a reason.

Frames are those of RFC 6455, section 5.  No extension is offered or accepted: what is sent is base64, mostly of what
was never repeated, and time matters more than bytes on one machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

from websockets.speedups import apply_mask

from holdfast.jsonrpc.connection import BACKLOG_LIMIT, HIGH_WATER, LOW_WATER, Connection, MessageHandler
from holdfast.jsonrpc.messages import MESSAGE_LIMIT
from holdfast.jsonrpc.streams import Serving, serve_socket
from holdfast.jsonrpc.upgrade import Admit, Answer, Refused, Unauthorized, UpgradeClient, UpgradeServer

#: Messages above this size leave in fragments of this size, in bytes.
FRAGMENT: Final = 1024 * 1024
#: A message up to this size, in bytes, is copied behind its header; a larger one is handed over beside it.
_SMALL: Final = 16 * 1024
#: Seconds of silence after which a peer is asked for a sign of life, and which it then has to give one.
SILENCE: Final = 30.0

_FIN: Final = 0x80
_MASKED: Final = 0x80


class Opcode(IntEnum):
    """What a frame is."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_WHOLE: Final = frozenset({_FIN | Opcode.TEXT, _FIN | Opcode.BINARY})
#: What a frame may begin with; the bits between are those of extensions.
_FIRST_BYTES: Final = frozenset({last | opcode for last in (0, _FIN) for opcode in Opcode})
#: Opcodes from here on are of control frames, which carry no more than so many bytes.
_CONTROL: Final = 8
_CONTROL_LIMIT: Final = 125
#: What is said to a peer that breaks the protocol, sends what is too long, or is not wanted now.
PROTOCOL_ERROR: Final = 1002
TOO_BIG: Final = 1009
TRY_AGAIN_LATER: Final = 1013
#: What a close frame may say (RFC 6455, section 7.4, and the registry it made).
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})

_pack_medium_head = struct.Struct("!BBH").pack
_pack_large_head = struct.Struct("!BBQ").pack
_unpack_large = struct.Struct("!Q").unpack_from

Accept = Callable[[Connection], MessageHandler | None]
#: Decides on the headers of an upgrade (names in lower case): None admits, a text refuses with 401.
Authorize = Callable[[Mapping[str, str]], str | None]


class WebSocketConnection(asyncio.Protocol, Connection):
    """Either end of one WebSocket, from the end of the handshake on."""

    def __init__(self, accept: Accept, *, is_client: bool = False) -> None:
        self._accept = accept
        self._is_client = is_client
        #: What the frames of the other side have, and ours have not; or the other way round.
        self._mask_bit = 0 if is_client else _MASKED
        self._frame_limit = MESSAGE_LIMIT * 2 if is_client else MESSAGE_LIMIT
        self._handler: MessageHandler | None = None
        self._transport: asyncio.Transport | None = None
        #: Whether the closing handshake has begun, or the connection is lost: what arrives means nothing any more.
        self._ended = False
        #: The beginning of a frame whose rest has not arrived.
        self._partial = bytearray()
        #: What has arrived of a message in fragments.
        self._fragments: bytearray | None = None
        self._heard = True
        self._asked = False
        self._watchdog: asyncio.TimerHandle | None = None
        self.writable = True

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = self._transport = cast(asyncio.Transport, transport)
        address = stream.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "unknown"
        self.origin = f"exec-server websocket {self.peer}"
        stream.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._watchdog = asyncio.get_running_loop().call_later(SILENCE, self._look)
        self._handler = self._accept(self)
        if self._handler is None:
            self.close(TRY_AGAIN_LATER, "not accepting connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.connection_lost()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._handler is not None:
            self._handler.writing_resumed()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        received: bytes | bytearray = data
        if self._partial:
            self._partial += data
            received = self._partial
        position = self._take_frames(received)
        if received is self._partial:
            del self._partial[:position]
        elif position < len(data):
            self._partial += data[position:] if position else data

    def _look(self) -> None:
        """Ask a silent peer whether it is there, and give up one that says nothing to that."""
        transport = self._transport
        if transport is None:
            return
        if self._heard:
            self._asked = False
        elif self._asked:
            transport.abort()
            return
        else:
            self._asked = True
            self._write_frame(Opcode.PING, b"")
        self._heard = False
        self._watchdog = asyncio.get_running_loop().call_later(SILENCE, self._look)

    # Receiving

    def _take_frames(self, received: bytes | bytearray) -> int:
        """Take what frames are there; returns where the first one begins that is not complete."""
        begin, end = 0, len(received)
        masked = self._mask_bit
        while end - begin >= 2 and not self._ended:
            first, second = received[begin], received[begin + 1]
            size = second & 0x7F
            payload = begin + 2
            if size == 126:
                payload += 2
                size = received[begin + 2] << 8 | received[begin + 3] if end >= payload else 0
            elif size == 127:
                payload += 8
                size = cast(int, _unpack_large(received, begin + 2)[0]) if end >= payload else 0
            if second & _MASKED != masked or first not in _FIRST_BYTES:
                self._fail(PROTOCOL_ERROR, "malformed frame")
                break
            if size > self._frame_limit:
                self._fail(TOO_BIG, "message too big")
                break
            if masked:
                payload += 4
            if end < payload + size:
                return begin
            begin = payload + size
            content = received[payload:begin]
            content = apply_mask(content, received[payload - 4 : payload]) if masked else bytes(content)
            if first in _WHOLE and self._fragments is None:
                if self._handler is not None:
                    self._handler.message_received(content)
            else:
                self._take_other(first, content)
        return end if self._ended else begin

    def _take_other(self, first: int, content: bytes) -> None:
        """A control frame, or a part of a message."""
        opcode, last = first & 0x0F, bool(first & _FIN)
        if opcode >= _CONTROL:
            if not last or len(content) > _CONTROL_LIMIT:
                self._fail(PROTOCOL_ERROR, "malformed control frame")
            elif opcode == Opcode.CLOSE:
                # Its code goes back, without the reason; one that nobody may send does not.
                fine = not content or int.from_bytes(content[:2], "big") in _CLOSE_CODES
                self._write_frame(Opcode.CLOSE, content[:2] if fine else struct.pack("!H", PROTOCOL_ERROR))
                self._hang_up()
            elif opcode == Opcode.PING:
                self._write_frame(Opcode.PONG, content)
            return
        fragments = self._fragments
        if (fragments is None) is (opcode == Opcode.CONTINUATION):
            self._fail(PROTOCOL_ERROR, "a fragment out of place")
            return
        if fragments is None:
            fragments = self._fragments = bytearray()
        if len(fragments) + len(content) > self._frame_limit:
            self._fragments = None
            self._fail(TOO_BIG, "message too big")
            return
        # Kept as one, because they may be many: a million of one byte each.
        fragments += content
        if last:
            self._fragments = None
            if self._handler is not None:
                self._handler.message_received(bytes(fragments))

    def _fail(self, code: int, reason: str) -> None:
        self._partial.clear()
        self.close(code, reason)

    # Sending

    def send(self, message: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        size = len(message)
        if self._is_client or size > FRAGMENT:
            self._send_fragments(message)
        elif size <= _SMALL:
            transport.write(_frame_head(size) + message)
        else:
            transport.writelines((_frame_head(size), message))
        if not self.writable:
            self._bound_backlog(transport)

    def _send_fragments(self, message: bytes) -> None:
        opcode = Opcode.TEXT
        view = memoryview(message)
        for start in range(0, len(view) or 1, FRAGMENT):
            self._write_frame(opcode, view[start : start + FRAGMENT], last=start + FRAGMENT >= len(view))
            opcode = Opcode.CONTINUATION

    def _write_frame(self, opcode: Opcode, content: bytes | memoryview, *, last: bool = True) -> None:
        transport = self._transport
        if transport is None:
            return
        head = _frame_head(len(content), (_FIN if last else 0) | opcode, _MASKED if self._is_client else 0)
        if self._is_client:
            mask = os.urandom(4)
            head += mask
            content = apply_mask(content, mask)
        transport.writelines((head, content))

    def send_all(self, messages: list[bytes]) -> None:
        transport = self._transport
        if transport is None or self._is_client or any(len(message) > FRAGMENT for message in messages):
            super().send_all(messages)
            return
        frames: list[bytes] = []
        for message in messages:
            frames += (_frame_head(len(message)), message)
        transport.write(b"".join(frames))
        if not self.writable:
            self._bound_backlog(transport)

    def send_pieces(self, messages: list[tuple[bytes, ...]]) -> None:
        transport = self._transport
        if transport is None:
            return
        buffers: list[bytes] = []
        for pieces in messages:
            size = sum(map(len, pieces))
            if size > FRAGMENT or self._is_client:
                super().send_pieces(messages)
                return
            buffers += (_frame_head(size), *pieces)
        transport.writelines(buffers)
        if not self.writable:
            self._bound_backlog(transport)

    def _bound_backlog(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size() > BACKLOG_LIMIT:
            transport.abort()

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._write_frame(Opcode.CLOSE, struct.pack("!H", code) + reason.encode()[: _CONTROL_LIMIT - 2])
            self._hang_up()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        self._ended = True
        if self._transport is not None:
            self._transport.close()


@lru_cache(maxsize=1024)
def _frame_head(size: int, first: int = _FIN | Opcode.TEXT, mask_bit: int = 0) -> bytes:
    """The header of a frame, without the mask: if nothing else is said, of an unfragmented, unmasked text."""
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return _pack_medium_head(first, mask_bit | 126, size)
    return _pack_large_head(first, mask_bit | 127, size)


# Server


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


def make_routes(accept: Accept, authorize: Authorize | None) -> dict[str, Admit | Answer]:
    """Every path that is answered by something other than 404."""

    def upgrade(headers: Mapping[str, str]) -> asyncio.Protocol | Answer:
        refusal = None if authorize is None else authorize(headers)
        return WebSocketConnection(accept) if refusal is None else Answer(HTTPStatus.UNAUTHORIZED, refusal)

    return {"/": upgrade, "/readyz": Answer(HTTPStatus.OK)}


async def serve_websocket(listener: socket.socket, accept: Accept, authorize: Authorize | None = None) -> Serving:
    """Serve WebSocket connections on a bound TCP socket."""
    routes = make_routes(accept, authorize)
    unfinished: dict[UpgradeServer, None] = {}

    def decide(path: str, headers: Mapping[str, str]) -> Admit | Answer:
        if "origin" in headers or (authorize is None and not is_own_host(headers.get("host"))):
            return Answer(HTTPStatus.FORBIDDEN)
        return routes.get(path, Answer(HTTPStatus.NOT_FOUND))

    return await serve_socket(listener, lambda: UpgradeServer(decide, unfinished))


# Client


async def connect_websocket(
    url: str, accept: Accept, *, token: str | None = None, timeout: float | None = 10.0
) -> Connection:
    """Connect to a WebSocket server, with a bearer *token* if one is given.

    :raises ValueError: *url* is none of a WebSocket
    :raises PermissionError: the server wants another token
    :raises OSError: nobody listens there, or the server refused the upgrade for another reason
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise ValueError(f"{url} is not the URL of a WebSocket")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    connection = WebSocketConnection(accept, is_client=True)
    try:
        async with asyncio.timeout(timeout):
            transport, handshake = await asyncio.get_running_loop().create_connection(
                lambda: UpgradeClient(host, target, connection, token=token),
                parts.hostname,
                parts.port or (443 if secure else 80),
                ssl=True if secure else None,
            )
            try:
                await handshake.done
            except BaseException:
                transport.abort()
                raise
    except Unauthorized as refusal:
        raise PermissionError(f"{url} refused the connection: {refusal}") from None
    except Refused as refusal:
        raise ConnectionRefusedError(f"{url} refused the connection: {refusal}") from None
    except TimeoutError:
        raise ConnectionRefusedError(f"{url} did not answer within {timeout:.0f} seconds") from None
    return connection
