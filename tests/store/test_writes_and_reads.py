from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from holdfast.store.database import connect_raw
from holdfast.store.feed import StoreClosed
from holdfast.store.schema import attempts, processes, tasks
from holdfast.store.store import Store

from .rows import add_attempt, add_process, add_task


class Unexpected(Exception):
    pass


def task_ids(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(tasks.c.id).order_by(tasks.c.id)).scalars())


async def test_a_write_returns_its_value_and_is_seen_by_every_later_read(store: Store) -> None:
    def write(connection: sa.Connection) -> str:
        add_task(connection, "a")
        return "value"

    assert await store.write(write) == "value"
    assert await asyncio.gather(*(store.read(task_ids) for _ in range(20))) == [["a"]] * 20


async def test_an_exception_undoes_the_whole_write_and_arrives_unchanged(store: Store) -> None:
    def write(connection: sa.Connection) -> None:
        add_task(connection, "a")
        raise Unexpected("this one")

    with pytest.raises(Unexpected, match="this one"):
        await store.write(write)
    with pytest.raises(IntegrityError):
        await store.write(lambda connection: (add_task(connection, "a"), add_task(connection, "a")))
    assert await store.read(task_ids) == []
    assert await store.feed.latest() == 0
    await store.write(lambda connection: add_task(connection, "b"))
    assert await store.read(task_ids) == ["b"]


async def test_a_write_is_done_even_if_nobody_waits_for_it_any_more(store: Store) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        entered.set()
        add_task(connection, "slow")
        assert go_on.wait(60)

    first = asyncio.create_task(store.write(slow))
    await asyncio.to_thread(entered.wait, 10)
    second = asyncio.create_task(store.write(lambda connection: add_task(connection, "queued")))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    for cancelled in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    go_on.set()
    assert await asyncio.wait_for(store.feed.wait_beyond(1), 60) == 2
    assert await store.read(task_ids) == ["queued", "slow"]


async def test_a_read_sees_one_snapshot_while_writes_go_on(store: Store) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def twice(connection: sa.Connection) -> tuple[list[str], list[str]]:
        before = task_ids(connection)
        entered.set()
        assert go_on.wait(60)
        return before, task_ids(connection)

    reading = asyncio.create_task(store.read(twice))
    await asyncio.to_thread(entered.wait, 10)
    await store.write(lambda connection: add_task(connection, "a"))
    go_on.set()
    assert await reading == ([], [])


async def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await store.read(lambda connection: add_task(connection, "a"))


async def test_writes_are_done_one_after_the_other_in_the_order_they_were_asked_for(store: Store) -> None:
    order: list[int] = []

    def write(number: int) -> None:
        order.append(number)

    await asyncio.gather(*(store.write(lambda _, n=n: write(n)) for n in range(100)))
    assert order == list(range(100))


async def test_references_are_enforced_and_a_deleted_task_takes_its_rows_along(store: Store) -> None:
    with pytest.raises(IntegrityError):
        await store.write(lambda connection: add_attempt(connection, "nobody", 1))

    def write(connection: sa.Connection) -> None:
        add_task(connection, "a")
        add_attempt(connection, "a", 1)
        add_process(connection, "a-1", "a")

    await store.write(write)
    await store.write(lambda connection: connection.execute(tasks.delete()).rowcount)
    for table in (attempts, processes):
        assert await store.read(lambda connection, table=table: connection.execute(table.select()).all()) == []


async def test_a_durable_write_waits_for_the_disk_and_others_do_not(store: Store) -> None:
    def synchronous(connection: sa.Connection) -> int:
        return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    normal, full = 1, 2
    assert await store.write(synchronous, durable=True) == full
    assert await store.write(synchronous) == normal


async def test_a_closed_store_says_so_and_leaves_one_file(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")
    pending = asyncio.create_task(store.write(lambda connection: add_task(connection, "a")))
    await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    await pending
    for use in (store.write(task_ids), store.read(task_ids), store.feed.latest()):
        with pytest.raises(StoreClosed):
            await use
    assert set(os.listdir(tmp_path)) <= {"db", "db.migration-lock"}
    connection = connect_raw(tmp_path / "db")
    assert connection.execute("SELECT id FROM tasks").fetchall() == [("a",)]
    connection.close()
