"""One exchange with an HTTP/1.1 server: send a request, read the head of the answer, then its body piece by piece.

Written on asyncio streams alone.  A connection serves one exchange; nothing is pooled, nothing is decompressed, and no
more than a piece of the body is in memory at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from holdfast.errors import HoldfastError
from holdfast.host.http.request import Request

#: Bytes of a body handed on at once.
PIECE: Final = 256 * 1024
#: Bytes of the head of an answer, of one line of it, and number of its headers.
HEAD_LIMIT: Final = 256 * 1024
_LINE_LIMIT: Final = 64 * 1024
_BODILESS: Final = frozenset({204, 304})


class ExchangeFailed(HoldfastError):
    """The server cannot be reached, or does not answer in HTTP/1.1."""

    code = "http_exchange_failed"


class Reader(Protocol):
    """What an answer is read from: the part of :class:`asyncio.StreamReader` that is used."""

    async def read(self, size: int, /) -> bytes: ...

    async def readuntil(self, separator: bytes, /) -> bytes: ...


class Answer:
    """An answer whose head has arrived."""

    def __init__(self, reader: Reader, status: int, headers: list[tuple[str, bytes]], method: str) -> None:
        self.status = status
        #: Names in lower case, in the order of arrival, duplicates included.
        self.headers = headers
        self._reader = reader
        self._empty = method == "HEAD" or status in _BODILESS

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
            if (self.header("transfer-encoding") or "").lower().rpartition(",")[2].strip() == "chunked":
                pieces = self._chunks()
            elif (length := self.header("content-length")) is not None:
                pieces = self._sized(_length(length))
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
            if (await self._reader.readuntil(b"\n")).strip():
                raise ValueError("a chunk is longer than it says")
        trailers = 0
        while (line := await self._reader.readuntil(b"\n")).strip():
            trailers += len(line)
            if trailers > HEAD_LIMIT:
                raise ValueError("too many trailers")


def _length(text: str) -> int:
    if not text.isdigit():
        raise ValueError("content-length is no number")
    return int(text)


def _chunk_size(line: bytes) -> int:
    text = line.split(b";")[0].strip()
    if not text or len(text) > 16 or text.strip(b"0123456789abcdefABCDEF"):
        raise ValueError("the size of a chunk is no number")
    return int(text, 16)


@contextlib.asynccontextmanager
async def exchange(request: Request) -> AsyncGenerator[Answer]:
    """Send *request* and wait for the head of the answer; the connection is closed at the end of the block.

    :raises ExchangeFailed: the server cannot be reached or does not answer properly
    """
    try:
        stream, writer = await asyncio.open_connection(request.host, request.port, limit=_LINE_LIMIT)
    except (OSError, ValueError) as error:
        raise _unsent(request) from error
    try:
        try:
            reader: Reader = stream
            message = request.head() + request.body
            if request.secure:
                from holdfast.host.http.tls import TlsReader

                reader = encrypted = await TlsReader.connect(stream, writer, request.host, _LINE_LIMIT)
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
    return ExchangeFailed(f"error sending request for url ({_without_credentials(request)})")


def _without_credentials(request: Request) -> str:
    scheme, _, rest = request.url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


async def _read_head(reader: Reader, method: str) -> Answer:
    while True:
        words = (await reader.readuntil(b"\n")).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
            raise ValueError("not an HTTP/1.1 answer")
        status = int(words[1])
        headers: list[tuple[str, bytes]] = []
        size = 0
        while line := (await reader.readuntil(b"\n")).rstrip(b"\r\n"):
            size += len(line)
            name, colon, value = line.partition(b":")
            if size > HEAD_LIMIT or not colon or not name or name != name.strip():
                raise ValueError("malformed header")
            headers.append((name.decode("latin-1").lower(), value.strip()))
        if status >= 200 or status == 101:
            return Answer(reader, status, headers, method)
