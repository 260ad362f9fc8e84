"""Stream sockets of servers: accepted, read and written on the poller, with asyncio's protocols on top.

What little is written to a connection while events are being dealt with leaves in one go afterwards, or before the next
requests are read: the answers to what was read at once, or the notifications of several processes, cost one system
call, and who is woken by them finds the processor free.  Anything else is written at once, and only what the kernel
does not take is kept.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from holdfast.jsonrpc.event_loop import READABLE, WRITABLE, EventLoop, Poller

#: Bytes read at one go.
_PORTION: Final = 64 * 1024
#: What is no larger than this, in bytes, waits for the end of the event, until so many bytes have gathered.
_SMALL: Final = 4096
_GATHERED: Final = 64 * 1024
#: Buffers handed to the kernel at one go; it takes no more than 1024.
_VECTOR: Final = 512
#: Connections accepted before others get their turn.
_ACCEPTED: Final = 64
#: Seconds until connections are accepted again after there were no descriptors left.
_PAUSE: Final = 1.0
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class SocketTransport(asyncio.Transport):
    """One connection; the protocol's methods are called as asyncio's own transports do."""

    def __init__(self, poller: Poller, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._poller = poller
        self._socket = connection
        self._descriptor = connection.fileno()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[bytes | memoryview] = deque()
        self._size = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        #: Whether the kernel took less than it was given.
        self._blocked = False
        self._paused = False
        self._closing = False
        self._lost = False
        poller.watch(self._descriptor, READABLE, self._ready)
        protocol.connection_made(self)

    # What asyncio defines

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._socket
        if name == "peername":
            try:
                return self._socket.getpeername()
            except OSError:
                # It is gone already.
                return default
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        size = len(data)
        if self._poller.defers and not self._blocked and size <= _SMALL and self._size < _GATHERED:
            if not self._buffer:
                self._poller.afterwards(self._release)
            self._buffer.append(bytes(data))
            self._size += size
            return
        if self._blocked or self._buffer:
            self._keep(bytes(data))
            if not self._blocked:
                self._flush()
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent < size:
            self._keep(bytes(data)[sent:])
            self._block()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._closing:
            return
        waits = bool(self._buffer)
        for data in list_of_data:
            self._keep(bytes(data) if isinstance(data, bytearray) else data)
        if self._blocked:
            return
        if self._poller.defers and self._size <= _SMALL:
            if not waits:
                self._poller.afterwards(self._release)
        else:
            self._flush()

    def close(self) -> None:
        if self._closing:
            return
        if self._buffer and not self._blocked:
            self._flush()
        if self._closing:
            return
        self._closing = True
        if self._buffer:
            self._poller.change(self._descriptor, WRITABLE)
        else:
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    # Reading

    def _ready(self, events: int) -> None:
        if events != READABLE:
            if events & WRITABLE and self._blocked:
                self._flush()
            if self._closing:
                if events & ~(WRITABLE | READABLE):
                    # The other side is gone, and what is left will never be taken.
                    self._lose(None)
                return
            if not events & ~WRITABLE:
                return
        self._poller.catch_up()
        try:
            data = self._socket.recv(_PORTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        try:
            if data:
                self._poller.conversing = True
                self._protocol.data_received(data)
            else:
                self._protocol.eof_received()
                self.close()
        except Exception as error:
            # What it had taken of the data is unknown, so nothing that comes after it can be understood.
            self._loop.call_exception_handler(
                {"message": "a protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            )
            self._lose(error)

    # Writing

    def _release(self) -> None:
        if self._buffer and not self._blocked:
            self._flush()

    def _keep(self, data: bytes | memoryview) -> None:
        self._buffer.append(data)
        self._size += len(data)
        if self._blocked:
            self._hold_back()

    def _hold_back(self) -> None:
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._poller.change(self._descriptor, WRITABLE if self._closing else READABLE | WRITABLE)
        self._hold_back()

    def _flush(self) -> None:
        """Give the kernel what is kept, as much as it takes."""
        buffer = self._buffer
        while buffer:
            try:
                if self._size <= _GATHERED:
                    # Copied together small pieces cost less than a vector of them.
                    data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
                    sent = self._socket.send(data)
                    if sent == self._size:
                        buffer.clear()
                        self._size = 0
                        break
                elif len(buffer) <= _VECTOR:
                    sent = self._socket.sendmsg(buffer)
                else:
                    sent = self._socket.sendmsg([buffer[number] for number in range(_VECTOR)])
            except (BlockingIOError, InterruptedError):
                self._block()
                self._let_go_on()
                return
            except OSError as error:
                self._lose(error)
                return
            self._size -= sent
            while sent:
                first = buffer[0]
                if sent < len(first):
                    buffer[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                buffer.popleft()
        if self._blocked:
            self._blocked = False
            if self._closing:
                self._lose(None)
                return
            self._poller.change(self._descriptor, READABLE)
        if self._paused:
            self._let_go_on()

    def _let_go_on(self) -> None:
        if self._paused and self._size <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        """End it; the protocol hears of it afterwards, and the socket is closed then."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._buffer.clear()
        self._size = 0
        self._poller.unwatch(self._descriptor)
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()


class Serving(Protocol):
    """A listening socket that is being served."""

    def close(self) -> None:
        """Accept no more; connections go on."""


class Listener:
    """Accepts connections on the poller."""

    def __init__(self, poller: Poller, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        self._poller = poller
        self._listener = listener
        self._make = make
        listener.setblocking(False)
        poller.watch(listener.fileno(), READABLE, self._accept)

    def _accept(self, events: int) -> None:
        for _ in range(_ACCEPTED):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                # Gone before it was looked at.
                continue
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._poller.unwatch(self._listener.fileno())
                asyncio.get_running_loop().call_later(_PAUSE, self._go_on)
                return
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            SocketTransport(self._poller, connection, self._make())

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0:
            self._poller.watch(self._listener.fileno(), READABLE, self._accept)

    def close(self) -> None:
        """Accept no more; connections go on."""
        if self._listener.fileno() >= 0:
            self._poller.unwatch(self._listener.fileno())
            self._listener.close()


async def serve_socket(listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> Serving:
    """Serve connections to a bound stream socket, each with a protocol that *make* makes."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, EventLoop):
        listener.listen(socket.SOMAXCONN)
        return Listener(loop.poller, listener, make)
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(make, sock=listener)
    return await loop.create_server(make, sock=listener)
