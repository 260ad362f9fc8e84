"""One writer, a few readers, and what they promise.

A transaction whose :meth:`Store.write` has returned survives the death (``kill -9``) of any process.  After a loss of
power the database is always consistent, but the last transactions may be missing - all of them from some point on,
never one in the middle - unless they, or a later one, were written with ``durable=True``.  Facts and the cursor up to
which they were folded are in one transaction, so what is missing is folded again from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import sqlalchemy as sa

from holdfast.store.database import create_engine, prepare
from holdfast.store.feed import Feed, StoreClosed, position

#: Connections, and threads, that read at the same time.
READERS: Final = 4

T = TypeVar("T")


class Store:
    """The database of one daemon, used from one event loop."""

    def __init__(self, path: Path, writer: ThreadPoolExecutor, write_engine: sa.Engine, newest: int) -> None:
        """For :meth:`open` only."""
        self.path = path
        self.feed = Feed(self.read, self.write, newest)
        self._writer = writer
        self._write_engine = write_engine
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._read_engine = create_engine(path, read_only=True, connections=READERS)
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the database *path*; it, and its 0700 directory, are created where missing, and migrated where old.

        :raises InsecureStore: the file is a symlink, somebody else's, or open to others
        :raises InsecureDirectory: the same of its directory
        :raises SchemaTooNew: a newer Holdfast wrote it
        :raises StoreUnusable: it is damaged, or not a database of Holdfast
        :raises StoreBusy: another process kept it locked
        """
        writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")

        def prepare_and_connect() -> tuple[sa.Engine, int]:
            prepare(path)
            engine = create_engine(path, read_only=False, connections=1)
            with engine.begin() as connection:
                return engine, position(connection)

        try:
            engine, newest = await asyncio.get_running_loop().run_in_executor(writer, prepare_and_connect)
        except BaseException:
            writer.shutdown(wait=False)
            raise
        return cls(path, writer, engine, newest)

    async def write(self, function: Callable[[sa.Connection], T], /, *, durable: bool = False) -> T:
        """Run *function* in a transaction of its own, after all earlier writes; returns what it returns.

        Whatever it raises rolls the transaction back and is raised here.  Once called, the write is done even if the
        caller is cancelled while waiting.  *function* runs in the writer's thread: it touches the connection only.

        :param durable: do not return before the disk has it; for what must survive a loss of power
        :raises StoreClosed: the store is closed
        """
        if self._closed:
            raise StoreClosed("The store is closed.")

        def transaction() -> tuple[T, int]:
            with self._write_engine.connect() as connection:
                _set_synchronous(connection, durable)
                with connection.begin():
                    result = function(connection)
                    newest = position(connection)
            return result, newest

        future = asyncio.get_running_loop().run_in_executor(self._writer, transaction)
        # A callback, not a line after the await: followers are woken even if the caller is cancelled.
        future.add_done_callback(self._committed)
        result, _ = await asyncio.shield(future)
        return result

    async def read(self, function: Callable[[sa.Connection], T], /) -> T:
        """Run *function* on a read-only connection, on one snapshot of the database; returns what it returns.

        :raises StoreClosed: the store is closed
        """
        if self._closed:
            raise StoreClosed("The store is closed.")

        def transaction() -> T:
            with self._read_engine.connect() as connection, connection.begin():
                return function(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, transaction)

    async def aclose(self) -> None:
        """Finish what was begun, then close.  Followers of the feed end; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.feed.close()
        await asyncio.get_running_loop().run_in_executor(None, self._shut_down)

    def _shut_down(self) -> None:
        self._readers.shutdown(wait=True)
        self._read_engine.dispose()
        self._writer.shutdown(wait=True)
        self._write_engine.dispose()

    def _committed(self, future: asyncio.Future[tuple[T, int]]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.feed.advance(future.result()[1])

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _set_synchronous(connection: sa.Connection, durable: bool) -> None:
    # Only outside of a transaction, so beneath SQLAlchemy, which would begin one.
    driver_connection = connection.connection.driver_connection
    assert driver_connection is not None
    driver_connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
