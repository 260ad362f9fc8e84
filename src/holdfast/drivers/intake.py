"""Taking records from a host as they come, several at a time, with a bound on what waits in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any

from holdfast.host.port import Gap, Record

#: What may wait to be taken; a host is not read any further until some of it is.
MOST_RECORDS = 256
MOST_BYTES = 1024 * 1024


@contextlib.asynccontextmanager
async def closing(records: AsyncIterator[Record | Gap]) -> AsyncGenerator[AsyncIterator[Record | Gap]]:
    """Close an iterator of records when it is left early, so that its host stops reading for it."""
    try:
        yield records
    finally:
        close: Any = getattr(records, "aclose", None)
        if close is not None:
            await close()


class Intake:
    """Reads an iterator of records in the background; to be used as an asynchronous context manager."""

    def __init__(self, records: AsyncIterator[Record | Gap]) -> None:
        self._records = records
        self._waiting: deque[Record | Gap] = deque()
        self._bytes = 0
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Intake:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            if not self._reader.cancelled():
                self._reader.exception()

    async def take(self) -> list[Record | Gap]:
        """Everything that is there, at least one record; empty when there will be none any more.

        What was read before an error is handed out first.

        :raises: whatever reading from the host raised
        """
        await self._something.wait()
        batch = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._room.set()
        if self._reader is not None and self._reader.done():
            if not batch:
                self._reader.result()
        else:
            self._something.clear()
        return batch

    async def _read(self) -> None:
        try:
            async with closing(self._records) as records:
                async for record in records:
                    self._waiting.append(record)
                    self._bytes += len(record.data) if isinstance(record, Record) else 0
                    self._something.set()
                    while len(self._waiting) >= MOST_RECORDS or self._bytes >= MOST_BYTES:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._something.set()
