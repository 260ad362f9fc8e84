"""HTTP/1.1 over the daemon's Unix socket, for every client: one connection for each request.

Of HTTP it knows what the daemon speaks: an answer whose length is told, one in chunks, and one that ends with its
connection.  ``http.client`` knows more and brings ``ssl`` and ``email`` along, which take longer to import than the
daemon takes to answer; so this imports ``socket`` and little else.  What an answer means is for others to say.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from holdfast.errors import HoldfastError, InvalidRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

#: Seconds in which a daemon answers anything that does not wait by design.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds of silence on a followed stream after which the reader looks whether the daemon still answers.
STREAM_SILENCE: Final = 60.0
#: Longest wait in one system call, seconds: one that begins just after a signal came is not interrupted by it.
_TURN: Final = 1.0
#: What helps against a daemon that is not there.
HINT: Final = "Try again; if that does not help, run: holdfast doctor"

#: Bytes read at a time.
CHUNK: Final = 65_536
#: Longest head of an answer, and longest line about a chunk of it, bytes.
LONGEST_HEAD: Final = 65_536
LONGEST_CHUNK_LINE: Final = 4_096
#: Longest answer that is taken whole, and longest line of a stream, bytes.
LONGEST_ANSWER: Final = 1 << 30

#: A stream that fails on the way says so in its last line.
_ERROR_LINE: Final = b'{"error":'
_DIGITS: Final = frozenset(b"0123456789")
_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")


class DaemonGone(Unavailable):
    """The daemon does not answer, or went away in the middle of an answer; the task itself is not affected."""

    code = "daemon_gone"


class StreamSilent(DaemonGone):
    """A followed stream said nothing for :data:`STREAM_SILENCE` seconds; ask again behind the last cursor."""

    code = "stream_silent"


class _Malformed(Exception):
    """What came is not HTTP as the daemon speaks it."""


class Transport:
    """The way to the daemon that listens on *socket_path*; used from several threads at a time."""

    def __init__(self, socket_path: str | Path, refusal: Callable[[int, bytes], HoldfastError]) -> None:
        """*refusal* makes an error of the status and the body of an answer that is one."""
        self._socket_path = str(socket_path)
        self._refusal = refusal
        self._interrupted = False
        self._open: set[socket.socket] = set()

    def interrupt(self) -> None:
        """End every call that waits for an answer in another thread, and every later one, with :exc:`DaemonGone`."""
        self._interrupted = True
        for connection in self._open.copy():
            # Whoever reads there sees the end of the stream; closing would not wake them.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def call(self, method: str, target: str, body: bytes | None = None, *, timeout: float = ANSWER_TIMEOUT) -> bytes:
        """The whole answer to a request; *target* is the path with its query, *body* a JSON document.

        :raises DaemonGone: it did not come, or the daemon was silent for *timeout* seconds
        :raises HoldfastError: the daemon refused; made by ``refusal``
        """
        with self.response(method, target, body, timeout=timeout) as response:
            return response.read()

    def lines(self, target: str, *, timeout: float) -> Iterator[bytes]:
        """The lines of a stream, without their line feeds.

        :raises StreamSilent: nothing came for *timeout* seconds
        :raises DaemonGone: the daemon went away
        :raises HoldfastError: the daemon refused, or its stream failed on the way
        """
        with self.response("GET", target, timeout=timeout) as response:
            parts: list[bytes] = []
            length = 0
            while chunk := response.read_some():
                first, *others = chunk.split(b"\n")
                parts.append(first)
                length += len(first)
                if length > LONGEST_ANSWER:
                    raise DaemonGone(f"A line of the daemon's is longer than {LONGEST_ANSWER} bytes.", hint=HINT)
                if not others:
                    continue
                for line in (b"".join(parts), *others[:-1]):
                    if line.startswith(_ERROR_LINE):
                        raise self._refusal(response.status, line)
                    if line:
                        yield line
                parts, length = [others[-1]], len(others[-1])
            if length:
                raise DaemonGone("The daemon went away in the middle of a line.", hint=HINT)

    @contextlib.contextmanager
    def response(
        self, method: str, target: str, body: bytes | None = None, *, timeout: float = ANSWER_TIMEOUT
    ) -> Generator[Response]:
        """An answer that has begun, to be read; it raises as :meth:`call` does."""
        request = _request(method, target, body)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                connection.settimeout(timeout)
                connection.connect(self._socket_path)
                _check_peer(connection, self._socket_path)
                self._open.add(connection)
                if self._interrupted:
                    raise ConnectionAbortedError("interrupted")
                connection.sendall(request)
                response = Response(connection, timeout)
            except TimeoutError as error:
                raise DaemonGone(f"The daemon did not answer within {timeout:g} seconds.", hint=HINT) from error
            except (OSError, _Malformed) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                message = f"The daemon at {self._socket_path} does not answer ({reason})."
                raise DaemonGone(message, hint=HINT) from error
            if response.status >= 400:
                raise self._refusal(response.status, response.read())
            yield response
        finally:
            self._open.discard(connection)
            connection.close()


class Response:
    """An answer whose head was read.

    :ivar status: the HTTP status
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """Read the head; for :class:`Transport` only."""
        self._connection = connection
        self._timeout = timeout
        self._buffer = b""
        self.status = 100
        fields: dict[bytes, bytes] = {}
        while self.status == 100:
            self.status, fields = _head(self._until(b"\r\n\r\n", LONGEST_HEAD))
        self._chunked = b"transfer-encoding" in fields
        #: Bytes that are still to come, of the answer or of its present chunk; ``None``: until the connection ends.
        self._left: int | None = None
        if self._chunked:
            if fields[b"transfer-encoding"].lower() != b"chunked" or b"content-length" in fields:
                raise _Malformed("it encodes its answer in an unknown way")
            self._left = 0
        elif self.status in (204, 304):
            self._left = 0
        elif b"content-length" in fields:
            self._left = _number(fields[b"content-length"], 10)
        self._ended = False
        self._in_chunks = False

    def read(self) -> bytes:
        """All that is left of it.

        :raises DaemonGone: it did not come whole
        """
        parts: list[bytes] = []
        length = 0
        while part := self.read_some():
            parts.append(part)
            length += len(part)
            if length > LONGEST_ANSWER:
                raise DaemonGone(f"The daemon's answer is longer than {LONGEST_ANSWER} bytes.", hint=HINT)
        return b"".join(parts)

    def read_some(self) -> bytes:
        """What is there of it, as soon as there is something; nothing at its end.

        :raises StreamSilent: nothing came in time
        :raises DaemonGone: the daemon went away in the middle of it
        """
        try:
            return self._some()
        except TimeoutError as error:
            raise StreamSilent(f"The daemon said nothing for {self._timeout:g} seconds.", hint=HINT) from error
        except (OSError, _Malformed) as error:
            message = f"The daemon went away in the middle of an answer ({error})."
            raise DaemonGone(message, hint=HINT) from error

    def _some(self) -> bytes:
        if self._chunked and self._left == 0 and not self._ended:
            self._begin_chunk()
        if self._ended or self._left == 0:
            return b""
        if not self._buffer:
            self._buffer = self._receive()
        if not self._buffer:
            if self._left is not None:
                raise _Malformed("the connection ended")
            self._ended = True
            return b""
        if self._left is None:
            part, self._buffer = self._buffer, b""
            return part
        part, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(part)
        return part

    def _begin_chunk(self) -> None:
        if self._in_chunks and self._until(b"\r\n", 2):
            raise _Malformed("a chunk is longer than was told")
        self._in_chunks = True
        self._left = _number(self._until(b"\r\n", LONGEST_CHUNK_LINE).partition(b";")[0].strip(), 16)
        if self._left == 0:
            # The daemon sends no trailer; one that comes all the same says nothing to us.
            while self._until(b"\r\n", LONGEST_CHUNK_LINE):
                pass
            self._ended = True

    def _receive(self) -> bytes:
        left = self._timeout
        while True:
            turn = min(left, _TURN)
            self._connection.settimeout(turn)
            try:
                return self._connection.recv(CHUNK)
            except TimeoutError:
                left -= turn
                if left <= 0:
                    raise

    def _until(self, end: bytes, limit: int) -> bytes:
        """What comes before *end*, which is taken away with it."""
        while (length := self._buffer.find(end)) < 0:
            if len(self._buffer) >= limit + len(end):
                raise _Malformed("it says more than it may")
            part = self._receive()
            if not part:
                raise _Malformed("the connection ended")
            self._buffer += part
        if length > limit:
            raise _Malformed("it says more than it may")
        found, self._buffer = self._buffer[:length], self._buffer[length + len(end) :]
        return found


def _request(method: str, target: str, body: bytes | None) -> bytes:
    if any(not "!" <= each <= "~" for each in target):
        raise InvalidRequest(f"{target!r} is no path of the daemon's.")
    head = f"{method} {target} HTTP/1.1\r\nHost: holdfast\r\nConnection: close\r\n"
    if body is None:
        return f"{head}\r\n".encode("ascii")
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii") + body


def _head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The status, and the fields by their names in small letters."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or words[0] not in (b"HTTP/1.1", b"HTTP/1.0") or len(words[1]) != 3:
        raise _Malformed("it does not speak HTTP")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise _Malformed("it does not speak HTTP")
        if name in fields and name in (b"content-length", b"transfer-encoding"):
            raise _Malformed("it tells the length of its answer twice")
        fields[name] = value.strip()
    return _number(words[1], 10), fields


def _number(text: bytes, base: int) -> int:
    if not 0 < len(text) <= 16 or not _HEX_DIGITS.issuperset(text) or (base == 10 and not _DIGITS.issuperset(text)):
        raise _Malformed("it does not speak HTTP")
    return int(text, base)


def _check_peer(connection: socket.socket, path: str) -> None:
    """Refuse a socket that another user answers on: prompts and environments are not for them."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    # struct ucred: process, user and group, 32 bits each.
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(credentials[4:8], sys.byteorder, signed=True)
    if uid not in (0, os.geteuid()):
        raise InvalidRequest(
            f"The daemon at {path} belongs to user {uid}, not to you.",
            hint="Set HOLDFAST_STATE_DIR to a directory of your own.",
        )
