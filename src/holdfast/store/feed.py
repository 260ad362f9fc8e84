"""The change feed: every change of every table, in commit order, followed by cursor.

A client reads a snapshot together with :func:`position` in one transaction, then follows from there and reads again
each row that a change names.  Rows may be newer than the change; once the client has reached the end of the feed, what
it holds is what the tables hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from holdfast.errors import HoldfastError, InternalError
from holdfast.store.schema import changes, feed_state

#: Changes that :meth:`Feed.prune` leaves by default; at some 100 bytes each about 10 MB.
KEEP_CHANGES: Final = 100_000
#: Changes fetched at a time; bounds the memory of one follower.
_BATCH: Final = 500

#: Built once: every write asks.
_FLOOR: Final = sa.select(feed_state.c.floor)
_POSITION: Final = sa.select(
    sa.func.coalesce(sa.select(sa.func.max(changes.c.seq)).scalar_subquery(), _FLOOR.scalar_subquery())
)

T = TypeVar("T")


class Operation(StrEnum):
    """What happened to a row."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One row was inserted, updated or deleted."""

    #: Position in the feed; grows with every change, with holes only across a restart of the machine.
    seq: int
    table: str
    #: The primary key of the row, in the order of its columns.
    key: tuple[str | int, ...]
    operation: Operation
    #: UTC seconds since the epoch.
    at: float


class CursorExpired(HoldfastError):
    """The feed cannot be continued from the given position: changes after it are gone, or never were."""

    code = "cursor_expired"

    def __init__(self, *, after: int, first_available: int) -> None:
        super().__init__(
            f"The change feed cannot be followed from {after}; the first change available is {first_available}.",
            hint="Read the present state again, and follow from the position that was read with it.",
        )
        self.after = after
        #: The lowest sequence number that can still be read (or will be given out next).
        self.first_available = first_available


class StoreClosed(InternalError):
    """The store was closed while, or before, it was used."""

    code = "store_closed"


class _Transact(Protocol):
    """The part of a store that its feed needs: to run a function in a transaction."""

    def __call__(self, function: Callable[[sa.Connection], T], /) -> Awaitable[T]: ...


def position(connection: sa.Connection) -> int:
    """The position of the feed as of the transaction of *connection*: follow from here to miss nothing."""
    return connection.execute(_POSITION).scalar_one()


def changes_after(connection: sa.Connection, after: int, limit: int = _BATCH) -> list[Change]:
    """Up to *limit* changes after position *after*, oldest first.

    :raises CursorExpired: *after* is not a position that this feed can be continued from
    """
    floor = connection.execute(_FLOOR).scalar_one()
    rows = connection.execute(
        sa.select(changes.c.seq, changes.c.table_name, changes.c.row_key, changes.c.operation, changes.c.at)
        .where(changes.c.seq > after)
        .order_by(changes.c.seq)
        .limit(limit)
    ).fetchall()
    if after < floor or (not rows and after > position(connection)):
        raise CursorExpired(after=after, first_available=floor + 1)
    return [
        Change(
            seq=row.seq,
            table=row.table_name,
            key=msgspec.json.decode(row.row_key, type=tuple[str | int, ...]),
            operation=Operation(row.operation),
            at=row.at,
        )
        for row in rows
    ]


class Feed:
    """The change feed of an open store.  Followers wake when this process commits; nothing is polled."""

    def __init__(self, read: _Transact, write: _Transact, newest: int) -> None:
        self._read = read
        self._write = write
        self._newest = newest
        self._closed = False
        self._moved = asyncio.Event()

    async def latest(self) -> int:
        """The position of the newest change, as the database has it."""
        return await self._read(position)

    async def changes(self, after: int, limit: int = _BATCH) -> list[Change]:
        """Up to *limit* changes after position *after*; empty at the end of the feed.

        :raises CursorExpired: *after* is not a position that this feed can be continued from
        """
        return await self._read(lambda connection: changes_after(connection, after, limit))

    async def follow(self, after: int) -> AsyncGenerator[Change, None]:
        """Yield every change after position *after*, then wait for more; ends only when the store is closed.

        :raises CursorExpired: changes that were not yielded yet are gone; nothing is skipped in silence
        """
        while True:
            try:
                batch = await self.changes(after)
                for change in batch:
                    yield change
                    after = change.seq
                if not batch:
                    await self.wait_beyond(after)
            except StoreClosed:
                return

    async def wait_beyond(self, seq: int) -> int:
        """Wait until a change after *seq* has been committed; returns the position of the newest one.

        :raises StoreClosed: the store was closed
        """
        while self._newest <= seq:
            if self._closed:
                raise StoreClosed("The store was closed.")
            await self._moved.wait()
        return self._newest

    async def prune(self, keep: int = KEEP_CHANGES) -> int:
        """Delete all but the newest *keep* changes; returns how many went.  Older positions expire."""

        def delete(connection: sa.Connection) -> int:
            floor = position(connection) - keep
            if floor <= connection.execute(_FLOOR).scalar_one():
                return 0
            connection.execute(feed_state.update().values(floor=floor))
            return connection.execute(changes.delete().where(changes.c.seq <= floor)).rowcount

        return await self._write(delete)

    def advance(self, newest: int) -> None:
        """Wake every follower: the store has committed changes up to *newest*.  Called by the store."""
        if newest > self._newest:
            self._newest = newest
            self._wake()

    def close(self) -> None:
        """Let every follower end.  Called by the store."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
