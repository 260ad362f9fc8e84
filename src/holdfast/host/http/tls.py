"""TLS over asyncio streams, for an event loop that was imported without OpenSSL (:mod:`holdfast.host.imports`)."""

from __future__ import annotations

import asyncio
import ssl
from functools import cache
from typing import Final

#: Bytes read from the network at once.
_PIECE: Final = 256 * 1024
#: Seconds that a server has to agree on a key.
_HANDSHAKE_WITHIN: Final = 60.0


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


class TlsReader:
    """What a server that proved its name says, decrypted; read as from an :class:`asyncio.StreamReader`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str, limit: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._limit = limit
        #: Decrypted and not read yet.
        self._buffer = bytearray()

    @classmethod
    async def connect(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, limit: int
    ) -> TlsReader:
        """Agree on a key with the server, which must be *host*; *limit* is the longest line in bytes.

        :raises OSError: it is not, or it breaks off
        """
        # Reading the certificates of the system takes a while.
        context = await asyncio.to_thread(_context)
        stream = cls(reader, writer, context, host, limit)
        async with asyncio.timeout(_HANDSHAKE_WITHIN):
            await stream._agree()
        return stream

    async def _agree(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                await self._receive()
            finally:
                # Also when it fails: the server is told why.
                self._flush()

    def encrypt(self, data: bytes) -> bytes:
        """What to write so that the server reads *data*."""
        self._tls.write(data)
        return self._outgoing.read()

    async def read(self, size: int) -> bytes:
        """At most *size* bytes; none at the end.

        :raises OSError: it breaks off, or what arrives was tampered with
        """
        if not self._buffer and not await self._decrypt():
            return b""
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def readuntil(self, separator: bytes) -> bytes:
        """Everything up to *separator* and it.

        :raises OSError: it breaks off, or what arrives was tampered with
        :raises asyncio.IncompleteReadError: it ends before
        :raises asyncio.LimitOverrunError: it does not come within the limit
        """
        start = 0
        while (found := self._buffer.find(separator, start)) < 0:
            start = max(0, len(self._buffer) - len(separator) + 1)
            if len(self._buffer) > self._limit:
                raise asyncio.LimitOverrunError("Separator is not found, and chunk exceed the limit", start)
            if not await self._decrypt():
                raise asyncio.IncompleteReadError(bytes(self._buffer), None)
        if found > self._limit:
            raise asyncio.LimitOverrunError("Separator is found, but chunk is longer than limit", found)
        return await self.read(found + len(separator))

    async def _decrypt(self) -> bool:
        """Take what comes next into the buffer; False at the end."""
        while True:
            try:
                data = self._tls.read(_PIECE)
            except ssl.SSLWantReadError:
                self._flush()
                await self._receive()
            except ssl.SSLZeroReturnError:
                # Only what is said under the key is an end: anybody on the way can cut the connection.
                return False
            else:
                self._buffer += data
                return bool(data)

    async def _receive(self) -> None:
        data = await self._reader.read(_PIECE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._writer.write(data)
