"""One exchange with an HTTP/1.1 server: send a request, read the head of the answer, then its body piece by piece.

Written on asyncio streams alone.  A connection serves one exchange; nothing is pooled, nothing is decompressed, and no
more than a piece of the body is in memory at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from holdfast.errors import HoldfastError
from holdfast.host.http.request import Request
from holdfast.host.http.resolving import Resolver, connect
from holdfast.host.threads import NoThread

#: Bytes of a body handed on at once.
PIECE: Final = 256 * 1024
#: Bytes of the head of an answer; one header may take nearly all of them, as with the reference implementation.
HEAD_LIMIT: Final = 416 * 1024
#: Bytes that are buffered of what arrives, before somebody asks for them.
_BUFFER: Final = 64 * 1024
#: The largest length that a body may claim.
_LENGTH_LIMIT: Final = 2**64 - 3
_BODILESS: Final = frozenset({101, 204, 304})
#: What is read as an answer, and nothing else: what one program takes for a header may be none to another.
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?\r?\n")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,65535}):([^\x00-\x08\x0a-\x1f\x7f]*)\r?\n")
_CHUNK: Final = re.compile(rb"0*([0-9A-Fa-f]{1,16})[\t ]*(?:;[^\r\n]*)?\r\n")
_BLANKS: Final = b" \t"
#: An empty line.
_NOTHING: Final = frozenset({b"\r\n", b"\n"})


class ExchangeFailed(HoldfastError):
    """The server cannot be reached, or does not answer in HTTP/1.1."""

    code = "http_exchange_failed"


class Reader(Protocol):
    """What an answer is read from: the part of :class:`asyncio.StreamReader` that is used."""

    async def read(self, size: int, /) -> bytes: ...

    async def readuntil(self, separator: bytes, /) -> bytes: ...


class Answer:
    """An answer whose head has arrived.

    :raises ValueError: its headers contradict each other about its length
    """

    def __init__(self, reader: Reader, status: int, headers: list[tuple[str, bytes]], method: str) -> None:
        self.status = status
        #: Names in lower case, in the order of arrival, duplicates included.
        self.headers = headers
        self._reader = reader
        self._empty = method == "HEAD" or status in _BODILESS or (method == "CONNECT" and status < 300)
        codings = _listed(headers, "transfer-encoding")
        self._chunked = codings[-1:] == [b"chunked"]
        # A transfer coding overrides the length; without either the body goes on to the end of the connection.
        self._length = None if self._empty or codings else _length(_listed(headers, "content-length"))

    def header(self, name: str) -> str | None:
        """The first header of that name, None if there is none or it is not ASCII."""
        for found, value in self.headers:
            if found == name:
                return value.decode("ascii") if value.isascii() else None
        return None

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body, as it arrives.

        :raises ExchangeFailed: it breaks off
        """
        if self._empty:
            return
        try:
            if self._chunked:
                pieces = self._chunks()
            elif self._length is not None:
                pieces = self._sized(self._length)
            else:
                pieces = self._until_the_end()
            async for piece in pieces:
                yield piece
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ExchangeFailed("error decoding response body") from error

    async def _sized(self, left: int) -> AsyncGenerator[bytes]:
        while left:
            piece = await self._reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    async def _until_the_end(self) -> AsyncGenerator[bytes]:
        while piece := await self._reader.read(PIECE):
            yield piece

    async def _chunks(self) -> AsyncGenerator[bytes]:
        while size := _chunk_size(await self._reader.readuntil(b"\n")):
            async for piece in self._sized(size):
                yield piece
            if await self._reader.readuntil(b"\n") != b"\r\n":
                raise ValueError("a chunk is not as long as it says")
        left = HEAD_LIMIT
        while (line := await _read_line(self._reader, left)) != b"\r\n":
            left -= len(line)
            _header(line)


def _header(line: bytes) -> tuple[str, bytes]:
    """The name, in lower case, and the value of a header.

    :raises ValueError: it is none
    """
    found = _HEADER.fullmatch(line)
    if found is None:
        raise ValueError("malformed header")
    return found[1].decode("ascii").lower(), found[2].strip(_BLANKS)


def _listed(headers: list[tuple[str, bytes]], name: str) -> list[bytes]:
    """The values of all headers of that name, which may hold several each."""
    return [value.strip().lower() for found, values in headers if found == name for value in values.split(b",")]


def _length(values: list[bytes]) -> int | None:
    """The length of a body, however often it is told.

    :raises ValueError: it is no number, or not always the same: the two sides would disagree on where the body ends
    """
    if not values:
        return None
    digits = {value.lstrip(b"0") for value in values}
    if not all(value.isdigit() for value in values) or any(len(value) > 20 for value in digits):
        raise ValueError("content-length is no number")
    length = int(digits.pop() or b"0")
    if digits or length > _LENGTH_LIMIT:
        raise ValueError("content-length is ambiguous or too large")
    return length


async def _read_line(reader: Reader, limit: int) -> bytes:
    """A line of up to *limit* bytes, which may be more than the reader buffers.

    :raises ValueError: it is longer
    """
    line = b""
    while True:
        try:
            line += await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line += await reader.read(error.consumed)
            if len(line) <= limit:
                continue
        if len(line) > limit:
            raise ValueError("a line is too long")
        return line


def _chunk_size(line: bytes) -> int:
    found = _CHUNK.fullmatch(line)
    if found is None:
        raise ValueError("the size of a chunk is no number")
    return int(found[1], 16)


@contextlib.asynccontextmanager
async def exchange(request: Request, resolver: Resolver) -> AsyncGenerator[Answer]:
    """Send *request* and wait for the head of the answer; the connection is closed at the end of the block.

    :raises ExchangeFailed: the server cannot be reached or does not answer properly
    """
    try:
        connected = await connect(resolver, request.address.host, request.address.port)
        stream, writer = await asyncio.open_connection(sock=connected, limit=_BUFFER)
    except (OSError, ValueError) as error:
        raise _unsent(request) from error
    except NoThread as error:
        raise ExchangeFailed(error.message) from error
    try:
        try:
            reader: Reader = stream
            message = request.head() + request.body
            if request.address.secure:
                from holdfast.host.http.tls import TlsReader

                reader = encrypted = await TlsReader.connect(stream, writer, request.address.host, _BUFFER)
                message = encrypted.encrypt(message)
            writer.write(message)
            # A server may answer, and close, before it has read all of the body.
            sending = asyncio.create_task(writer.drain())
            sending.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                answer = await _read_head(reader, request.method)
            finally:
                sending.cancel()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise _unsent(request) from error
        yield answer
    finally:
        writer.transport.abort()


def _unsent(request: Request) -> ExchangeFailed:
    return ExchangeFailed(f"error sending request for url ({request.address.url})")


async def _read_head(reader: Reader, method: str) -> Answer:
    while True:
        left = HEAD_LIMIT
        while (first := await _read_line(reader, left)) in _NOTHING:
            left -= len(first)
        found = _STATUS.fullmatch(first)
        if found is None:
            raise ValueError("not an HTTP/1.1 answer")
        status = int(found[2])
        headers: list[tuple[str, bytes]] = []
        left -= len(first)
        while (line := await _read_line(reader, left)) not in _NOTHING:
            left -= len(line)
            headers.append(_header(line))
        if found[1] == b"0" and method != "HEAD" and any(name == "transfer-encoding" for name, _ in headers):
            raise ValueError("HTTP/1.0 has no transfer codings")
        if status >= 200 or status == 101:
            return Answer(reader, status, headers, method)
