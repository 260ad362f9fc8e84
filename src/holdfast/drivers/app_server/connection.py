"""Two ways to carry JSON messages to an app-server and back: a WebSocket over a Unix socket, and lines over pipes.

Both are synchronous and never block without a bound.  Whatever goes wrong with the carrier is a :class:`Dropped`; what
that means for the turn is for others to find out.
"""

from __future__ import annotations

import os
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

#: The longest message that is put together, in bytes; of a longer one only the beginning is kept.
LONGEST_MESSAGE = 48 * 1024 * 1024
#: How much of the beginning of a longer message is kept, in bytes: enough to see what it was.
KEPT = 2048
#: For the server to take what is written to it, seconds.
WRITE_WITHIN = 15.0
_READ = 256 * 1024

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Dropped(Exception):
    """The connection is gone, or of no use any more; the message says how that was seen."""


class NobodyListens(Dropped):
    """There is no server on the socket."""


class Overlong:
    """A message longer than :data:`LONGEST_MESSAGE`: its beginning and its length in bytes."""

    def __init__(self, beginning: bytes, length: int) -> None:
        self.beginning = beginning
        self.length = length


class Connection:
    """A carrier of whole messages in both directions."""

    def fileno(self) -> int:
        """What to wait on for :meth:`receive`."""
        raise NotImplementedError

    def send(self, message: bytes) -> None:
        """Hand over one message.

        :raises Dropped: it could not be written in time; whether it arrives is not known
        """
        raise NotImplementedError

    def receive(self) -> list[bytes | Overlong]:
        """The messages that are complete by now; does not wait.

        :raises Dropped: the other side ended the connection, or broke the protocol
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give the connection up; never fails."""
        raise NotImplementedError


def left(deadline: float) -> float:
    """Seconds until *deadline* on the monotonic clock, not less than zero."""
    return max(0.0, deadline - time.monotonic())


def milliseconds(seconds: float) -> int:
    """*seconds* as poll(2) takes them, rounded up so that a wait never ends just before its time."""
    return int(seconds * 1000) + 1


class WebSocketConnection(Connection):
    """A WebSocket (RFC 6455, client side, no extensions) over the Unix socket at *path*.

    :raises NobodyListens: there is no server
    :raises Dropped: the opening handshake was not answered by *deadline*
    """

    def __init__(self, path: str, deadline: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        #: The parts of a message of which more is to come, and its length so far.
        self._parts: list[bytes] = []
        self._length = 0
        #: What is left of the payload of a frame that is too long to keep.
        self._skipping = 0
        self._skip_ends_message = False
        self._broken: Dropped | None = None
        try:
            self._socket.settimeout(max(0.01, left(deadline)))
            try:
                self._socket.connect(path)
            except OSError as error:
                raise NobodyListens(f"nobody listens on {path}: {error.strerror or error}") from None
            self._socket.setblocking(False)
            self._open(deadline)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        self._send_frame(_TEXT, message)

    def receive(self) -> list[bytes | Overlong]:
        found: list[bytes | Overlong] = []
        while self._broken is None:
            try:
                ended = self._fill()
                self._take(found)
                if ended is True:
                    raise Dropped("the server closed the connection")
            except Dropped as drop:
                # What arrived before is handed out first.
                self._broken = drop
                break
            if ended is None or found:
                return found
        if not found:
            raise self._broken
        return found

    def close(self) -> None:
        try:
            self._socket.setblocking(False)
            self._socket.send(_frame(_CLOSE, b"\x03\xe8"))
        except OSError:
            pass
        self._socket.close()

    def _open(self, deadline: float) -> None:
        import base64

        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._write(
            (
                "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode("ascii"),
            deadline,
        )
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > 65536:
                raise Dropped("what listens on the socket does not speak WebSocket")
            if self._fill() is True:
                raise Dropped("the server closed the connection during the opening handshake")
            if self._buffer.find(b"\r\n\r\n") < 0 and not _wait(self.fileno(), select.POLLIN, left(deadline)):
                raise Dropped("the server did not answer the opening handshake in time")
        status = bytes(self._buffer[: self._buffer.find(b"\r\n")])
        del self._buffer[: end + 4]
        if b" 101 " not in status + b" ":
            raise Dropped(f"the server refused the opening handshake: {status[:100].decode('latin-1')}")

    def _fill(self) -> bool | None:
        """Read what is there: ``True`` at the end of the stream, ``None`` when there is nothing at the moment."""
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise Dropped(f"the connection broke: {error.strerror or error}") from None
        self._buffer += data
        return not data

    def _take(self, found: list[bytes | Overlong]) -> None:
        while True:
            if self._skipping:
                gone = min(self._skipping, len(self._buffer))
                del self._buffer[:gone]
                self._skipping -= gone
                if self._skipping:
                    return
                if self._skip_ends_message:
                    found.append(self._finish())
                continue
            header = _header(self._buffer)
            if header is None:
                return
            begin, length, first = header
            opcode, final = first & 0x0F, bool(first & 0x80)
            if first & 0x70 or (opcode >= _CLOSE and (length > 125 or not final)):
                raise Dropped("the server sent a frame that WebSocket does not allow")
            if opcode < _CLOSE and self._length + length > LONGEST_MESSAGE:
                if len(self._buffer) < begin + min(length, KEPT):
                    return
                self._parts.append(bytes(self._buffer[begin : begin + KEPT]))
                self._length += length
                del self._buffer[:begin]
                self._skipping, self._skip_ends_message = length, final
                if length == 0 and final:
                    found.append(self._finish())
                continue
            if len(self._buffer) < begin + length:
                return
            payload = bytes(memoryview(self._buffer)[begin : begin + length])
            del self._buffer[: begin + length]
            if opcode in (_CONTINUATION, _TEXT, _BINARY):
                self._parts.append(payload)
                self._length += length
                if final:
                    found.append(self._finish())
            elif opcode == _PING:
                try:
                    self._send_frame(_PONG, payload)
                except Dropped:
                    # Whoever does not take it any more may still have something to say.
                    pass
            elif opcode == _CLOSE:
                raise Dropped(f"the server closed the connection: {payload[2:100].decode('utf-8', 'replace') or 'bye'}")
            elif opcode != _PONG:
                raise Dropped("the server sent a frame that WebSocket does not know")

    def _finish(self) -> bytes | Overlong:
        parts, length = self._parts, self._length
        self._parts, self._length = [], 0
        if length > LONGEST_MESSAGE:
            return Overlong(b"".join(parts)[:KEPT], length)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        self._write(_frame(opcode, payload), time.monotonic() + WRITE_WITHIN)

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                if not _wait(self.fileno(), select.POLLOUT, left(deadline)):
                    raise Dropped("the server does not read what is sent to it") from None
            except OSError as error:
                raise Dropped(f"the connection broke: {error.strerror or error}") from None


class StdioConnection(Connection):
    """An app-server of our own, started as *argv*, with one JSON message per line on its pipes.

    It ends when its standard input is closed, so it dies with us however we die.  It gets a process group of its own:
    a signal to ours must leave it alone until we have interrupted the turn.

    :raises Dropped: it could not be started
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        import subprocess

        self._buffer = bytearray()
        self._searched = 0
        self._dropped = 0
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                list(argv), env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0
            )
        except OSError as error:
            raise Dropped(f"{argv[0]} could not be started: {error.strerror or error}") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def fileno(self) -> int:
        return self._stdout

    def send(self, message: bytes) -> None:
        view = memoryview(message + b"\n")
        deadline = time.monotonic() + WRITE_WITHIN
        while view:
            try:
                view = view[os.write(self._stdin, view) :]
            except (BlockingIOError, InterruptedError):
                if not _wait(self._stdin, select.POLLOUT, left(deadline)):
                    raise Dropped("the server does not read what is sent to it") from None
            except OSError as error:
                raise Dropped(f"the server went away: {error.strerror or error}") from None

    def receive(self) -> list[bytes | Overlong]:
        found: list[bytes | Overlong] = []
        while not found:
            try:
                data = os.read(self._stdout, _READ)
            except (BlockingIOError, InterruptedError):
                break
            if not data:
                raise Dropped(f"the server exited ({self._status()})")
            self._buffer += data
            self._take(found)
        return found

    def close(self) -> None:
        import subprocess

        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _status(self) -> str:
        import subprocess

        try:
            return f"exit status {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            return "it closed its output"

    def _take(self, found: list[bytes | Overlong]) -> None:
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(memoryview(self._buffer)[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if self._dropped:
                found.append(Overlong(line[:KEPT], self._dropped + len(line)))
                self._dropped = 0
            elif line.strip():
                found.append(line)
        if len(self._buffer) > LONGEST_MESSAGE:
            self._dropped += len(self._buffer) - KEPT
            del self._buffer[KEPT:]
        self._searched = len(self._buffer)


def _wait(descriptor: int, event: int, seconds: float) -> bool:
    """Wait until *descriptor* is ready for *event* (or broken, which the next call on it tells)."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(milliseconds(seconds)))


def _header(buffer: bytearray) -> tuple[int, int, int] | None:
    """Where the payload of the next frame begins, how long it is, and the first byte; ``None`` before it is all there.

    :raises Dropped: the frame is masked, which only a client may do
    """
    if len(buffer) < 2:
        return None
    if buffer[1] & 0x80:
        raise Dropped("the server sent a masked frame")
    length = buffer[1]
    if length < 126:
        return 2, length, buffer[0]
    size = 2 if length == 126 else 8
    if len(buffer) < 2 + size:
        return None
    return 2 + size, int.from_bytes(buffer[2 : 2 + size], "big"), buffer[0]


def _frame(opcode: int, payload: bytes) -> bytes:
    """One final frame, masked as RFC 6455 asks of clients; the masking is one exclusive or of two long integers."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65536:
        size = b"\xfe" + length.to_bytes(2, "big")
    else:
        size = b"\xff" + length.to_bytes(8, "big")
    key = os.urandom(4)
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "little")
    masked = (int.from_bytes(payload, "little") ^ mask).to_bytes(length, "little")
    return bytes([0x80 | opcode]) + size + key + masked
