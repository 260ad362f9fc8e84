"""Newline-delimited JSON, over a Unix socket; :mod:`holdfast.jsonrpc.stdio` has it over standard input and output.

One message is one line, LF or CRLF; blank lines are ignored; the last one needs no line feed behind it.  The Unix
transport speaks lines rather than WebSocket: there is no browser to defend against behind a 0600 socket, and lines need
no masking.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

from holdfast.jsonrpc.connection import BACKLOG_LIMIT, HIGH_WATER, LOW_WATER, Connection, MessageHandler
from holdfast.jsonrpc.messages import MESSAGE_LIMIT
from holdfast.jsonrpc.streams import Serving, serve_socket

#: Makes the handler of a new connection, or returns None to refuse it.
Accept = Callable[[Connection], MessageHandler | None]


class LineConnection(asyncio.Protocol, Connection):
    """Both ends of a stream of lines."""

    def __init__(self, accept: Accept, *, peer: str, origin: str, expected_uid: int | None = None) -> None:
        self.peer = peer
        self.origin = origin
        #: What ended the connection, if anything failed.
        self.failure: Exception | None = None
        self._accept = accept
        self._expected_uid = expected_uid
        self._handler: MessageHandler | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        if self._expected_uid is not None and _peer_uid(stream.get_extra_info("socket")) != self._expected_uid:
            stream.abort()
            return
        self.begin(stream)

    def begin(self, writer: asyncio.WriteTransport) -> None:
        """Send through *writer*, and let the handler know."""
        self._transport = writer
        writer.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._handler = self._accept(self)
        if self._handler is None:
            writer.abort()

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._transport is None

    def data_received(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            return
        if b"\n" not in data:
            self._hold(data)
            return
        lines = data.split(b"\n")
        if self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts = []
        rest = lines.pop()
        self._size = 0
        if rest:
            self._hold(rest)
        for line in lines:
            if len(line) > MESSAGE_LIMIT:
                self._refuse_length()
                return
            if line and not line.isspace():
                handler.message_received(line)
                if self._transport is None or self._transport.is_closing():
                    # What came behind that is not carried out.
                    return

    def _hold(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MESSAGE_LIMIT:
            self._parts = []
            self._refuse_length()

    def _refuse_length(self) -> None:
        self.failure = OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self.close()

    def input_ended(self) -> None:
        """There will be no more: what has no line feed behind it is a message all the same."""
        parts, self._parts = self._parts, []
        if parts:
            self.data_received(b"".join([*parts, b"\n"]))

    def eof_received(self) -> bool:
        self.input_ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        handler, self._handler = self._handler, None
        if handler is not None:
            self.failure = exc or self.failure
            handler.connection_lost()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._handler is not None:
            self._handler.writing_resumed()

    def send(self, message: bytes) -> None:
        self._write(message + b"\n")

    def send_all(self, messages: list[bytes]) -> None:
        self._write(b"\n".join(messages) + b"\n")

    def send_pieces(self, messages: list[tuple[bytes, ...]]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        buffers: list[bytes] = []
        for pieces in messages:
            buffers += (*pieces, b"\n")
        transport.writelines(buffers)
        self._bound_backlog(transport)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        self._bound_backlog(transport)

    def _bound_backlog(self, transport: asyncio.WriteTransport) -> None:
        if not self.writable and transport.get_write_buffer_size() > BACKLOG_LIMIT:
            transport.abort()

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _peer_uid(endpoint: socket.socket) -> int:
    credentials = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


async def serve_unix(listener: socket.socket, accept: Accept) -> Serving:
    """Serve lines on a bound Unix socket; peers that run as another user are dropped."""
    return await serve_socket(
        listener,
        lambda: LineConnection(accept, peer="unix", origin="exec-server unix socket", expected_uid=os.geteuid()),
    )


async def connect_unix(path: Path, accept: Accept) -> Connection:
    """Connect to a Unix socket.

    :raises OSError: nobody listens there
    """
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_unix_connection(
        lambda: LineConnection(accept, peer=str(path), origin="exec-server unix socket"), str(path)
    )
    return protocol
