"""One connection over standard input and output, of whatever kind they are.

The event loop watches what can be watched: pipes, terminals, sockets.  Regular files and most devices cannot be,
because they are always ready: those are read and written at once.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
from io import FileIO
from typing import Final

from holdfast.jsonrpc.lines import Accept, LineConnection

_INPUT: Final = 0
_OUTPUT: Final = 1
#: Bytes that are read from a file before something else has its turn.
_PORTION: Final = 256 * 1024


async def serve_stdio(accept: Accept) -> LineConnection:
    """Serve the one connection that standard input and output make; both are open."""
    loop = asyncio.get_running_loop()
    connection = LineConnection(accept, peer="stdio", origin="exec-server stdio")
    if _are_one_socket():
        await loop.connect_accepted_socket(lambda: connection, socket.socket(fileno=os.dup(_INPUT)))
        return connection
    writer: asyncio.WriteTransport = _FileWriter(connection)
    if _can_be_watched(_OUTPUT):
        output = FileIO(_OUTPUT, "wb", closefd=False)
        writer, _ = await loop.connect_write_pipe(lambda: _Forwarding(connection), output)
    if _can_be_watched(_INPUT):
        await loop.connect_read_pipe(lambda: _PipeReader(connection, writer), FileIO(_INPUT, "rb", closefd=False))
    else:
        connection.begin(writer)
        _read_file(loop, connection)
    return connection


def _are_one_socket() -> bool:
    status = os.fstat(_INPUT)
    return stat.S_ISSOCK(status.st_mode) and os.path.samestat(status, os.fstat(_OUTPUT))


def _can_be_watched(descriptor: int) -> bool:
    with select.epoll() as poll:
        try:
            poll.register(descriptor, 0)
        except PermissionError:
            return False
    return True


def _read_file(loop: asyncio.AbstractEventLoop, connection: LineConnection) -> None:
    """Pass the next portion of standard input to the connection, and come back for the rest."""
    if connection.lost:
        return
    try:
        data = os.read(_INPUT, _PORTION)
    except OSError as error:
        connection.connection_lost(error)
        return
    if data:
        connection.data_received(data)
        loop.call_soon(_read_file, loop, connection)
    else:
        connection.input_ended()
        connection.connection_lost(None)


class _FileWriter(asyncio.WriteTransport):
    """Writes what it is given to standard output, at once; what fails ends the connection."""

    def __init__(self, connection: LineConnection) -> None:
        super().__init__()
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        try:
            while rest and not self._closing:
                rest = rest[os.write(_OUTPUT, rest) :]
        except OSError as error:
            self._end(error)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._connection.connection_lost, error)


class _Forwarding(asyncio.BaseProtocol):
    """Passes the flow control of the write pipe to the connection."""

    def __init__(self, connection: LineConnection) -> None:
        self._connection = connection

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


class _PipeReader(asyncio.Protocol):
    """Passes what arrives on the read pipe to the connection, which begins when the pipe is ready."""

    def __init__(self, connection: LineConnection, writer: asyncio.WriteTransport) -> None:
        self._connection = connection
        self._writer = writer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.begin(self._writer)

    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)

    def eof_received(self) -> None:
        self._connection.input_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
