from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

import holdfast.store.database as database
from holdfast.store.feed import Change, CursorExpired, Operation, changes_after, position
from holdfast.store.schema import attempts, metadata, processes, tasks, watched_tables
from holdfast.store.store import Store

from .rows import add_attempt, add_process, add_task

Tables = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]


def snapshot(connection: sa.Connection) -> Tables:
    return {
        table.name: {
            tuple(row._mapping[column] for column in table.primary_key): tuple(row)
            for row in connection.execute(table.select())
        }
        for table in watched_tables()
    }


class Client:
    """Holds a copy of the tables, as a dashboard would, and keeps it true by following the feed."""

    def __init__(self) -> None:
        self.tables: Tables = {}
        self.cursor = -1
        self.snapshots = 0

    def catch_up(self, connection: sa.Connection, limit: int) -> bool:
        """Take in some changes; True when there were none."""
        try:
            batch = changes_after(connection, self.cursor, limit)
        except CursorExpired:
            self.tables, self.cursor = snapshot(connection), position(connection)
            self.snapshots += 1
            return False
        for change in batch:
            table = metadata.tables[change.table]
            condition = sa.and_(*(c == v for c, v in zip(table.primary_key, change.key, strict=True)))
            row = connection.execute(table.select().where(condition)).first()
            if row is None:
                self.tables[change.table].pop(change.key, None)
            else:
                self.tables[change.table][change.key] = tuple(row)
            self.cursor = change.seq
        return not batch


def change_something(connection: sa.Connection, dice: random.Random) -> None:
    """One random change, among them those that are easy to miss: cascades, REPLACE, new keys, upserts."""
    task = f"t{dice.randrange(6)}"
    number = dice.randrange(3)
    existing = list(connection.execute(sa.select(tasks.c.id)).scalars())
    match dice.randrange(9):
        case 0 | 1 if task not in existing:
            add_task(connection, task)
        case 2 if existing:
            connection.execute(
                tasks.update().where(tasks.c.id == dice.choice(existing)).values(state=str(dice.random()))
            )
        case 3 if existing:
            connection.execute(tasks.delete().where(tasks.c.id == dice.choice(existing)))
        case 4 | 5 if existing:
            statement = attempts.insert().prefix_with("OR REPLACE")
            connection.execute(
                statement.values(
                    task_id=dice.choice(existing),
                    number=number,
                    reason="first",
                    process_id=f"p{dice.randrange(4)}",
                    phase="running",
                    created_at=dice.random(),
                    boot_id="boot",
                    facts=dice.randbytes(8),
                )
            )
        case 6:
            connection.execute(
                attempts.update().prefix_with("OR REPLACE").where(attempts.c.number == number).values(number=number + 1)
            )
        case 7 if existing:
            connection.exec_driver_sql(
                "INSERT INTO processes (process_id, task_id) VALUES (?, ?) "
                "ON CONFLICT (process_id) DO UPDATE SET fold_seq = fold_seq + 1",
                (f"p{dice.randrange(4)}", dice.choice(existing)),
            )
        case 8:
            connection.execute(processes.delete().where(processes.c.fold_seq > dice.randrange(4)))
        case _:
            pass


@pytest.mark.parametrize("seed", range(6))
async def test_a_client_that_resumes_from_its_cursor_holds_exactly_what_the_tables_hold(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    client = Client()
    store = await Store.open(tmp_path / "db")
    for _ in range(120):
        try:
            await store.write(lambda connection: [change_something(connection, dice) for _ in range(dice.randrange(5))])
        except IntegrityError:
            pass
        match dice.randrange(12):
            case 0 | 1 | 2 | 3:
                await store.read(lambda connection: client.catch_up(connection, dice.randrange(1, 6)))
            case 4 if dice.random() < 0.3:
                await store.feed.prune(keep=dice.randrange(30))
            case 5 if dice.random() < 0.3:
                await store.aclose()
                store = await Store.open(tmp_path / "db")
            case _:
                pass
    while not await store.read(lambda connection: client.catch_up(connection, 7)):
        pass
    assert client.tables == await store.read(snapshot)
    assert client.cursor == await store.feed.latest()
    await store.aclose()


async def test_each_change_names_its_row_and_what_happened(store: Store) -> None:
    def write(connection: sa.Connection) -> None:
        add_task(connection, 'quote"d')
        add_attempt(connection, 'quote"d', 2)
        add_process(connection, "p", 'quote"d')
        connection.execute(attempts.update().values(number=3))
        connection.execute(processes.update().values(fold_seq=5))
        connection.execute(tasks.delete())

    await store.write(write)
    changes = await store.feed.changes(0)
    assert [(change.table, change.key, change.operation) for change in changes[:6]] == [
        ("tasks", ('quote"d',), Operation.INSERT),
        ("attempts", ('quote"d', 2), Operation.INSERT),
        ("processes", ("p",), Operation.INSERT),
        ("attempts", ('quote"d', 2), Operation.DELETE),
        ("attempts", ('quote"d', 3), Operation.INSERT),
        ("processes", ("p",), Operation.UPDATE),
    ]
    assert {(change.table, change.operation) for change in changes[6:]} == {
        ("attempts", Operation.DELETE),
        ("processes", Operation.DELETE),
        ("tasks", Operation.DELETE),
    }
    assert [change.seq for change in changes] == list(range(1, 10))


async def test_every_follower_gets_every_change_once_while_they_are_made(store: Store) -> None:
    total = 1200  # more than two batches

    async def collect(after: int) -> list[int]:
        seen: list[int] = []
        async for change in store.feed.follow(after):
            seen.append(change.seq)
            if change.seq == total:
                break
        return seen

    followers = [asyncio.create_task(collect(0)), asyncio.create_task(collect(0))]
    for number in range(100):
        ids = [f"{number}-{n}" for n in range(total // 100)]
        await store.write(lambda connection, ids=ids: [add_task(connection, task_id) for task_id in ids])
        if number == 60:
            followers.append(asyncio.create_task(collect(700)))
    seen = await asyncio.wait_for(asyncio.gather(*followers), 60)
    assert seen == [list(range(1, total + 1)), list(range(1, total + 1)), list(range(701, total + 1))]


async def test_a_cursor_that_was_pruned_away_is_told_so_with_the_first_that_is_left(store: Store) -> None:
    await store.write(lambda connection: [add_task(connection, str(n)) for n in range(50)])
    assert await store.feed.prune(keep=20) == 30
    assert await store.feed.prune(keep=20) == 0
    for cursor in (0, 29, 51):
        with pytest.raises(CursorExpired) as caught:
            await store.feed.changes(cursor)
        assert caught.value.first_available == 31
    assert [change.seq for change in await store.feed.changes(30)] == list(range(31, 51))
    assert await store.feed.changes(50) == []


async def test_pruning_everything_gives_no_number_out_again(tmp_path: Path) -> None:
    async with await Store.open(tmp_path / "db") as store:
        await store.write(lambda connection: [add_task(connection, str(n)) for n in range(5)])
        assert await store.feed.prune(keep=0) == 5
        assert await store.feed.latest() == 5
    async with await Store.open(tmp_path / "db") as store:
        assert await store.feed.latest() == 5
        assert await store.feed.changes(5) == []
        await store.write(lambda connection: add_task(connection, "next"))
        assert [change.seq for change in await store.feed.changes(5)] == [6]


async def test_a_slow_follower_that_was_overtaken_by_pruning_is_told_and_skips_nothing(store: Store) -> None:
    await store.write(lambda connection: [add_task(connection, str(n)) for n in range(5)])
    follower = store.feed.follow(0)
    seen = [(await anext(follower)).seq for _ in range(5)]
    await store.write(lambda connection: [add_task(connection, f"x{n}") for n in range(5)])
    await store.feed.prune(keep=2)
    with pytest.raises(CursorExpired):
        await anext(follower)
    assert seen == [1, 2, 3, 4, 5]


async def test_positions_do_not_outlive_a_restart_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.open(tmp_path / "db") as store:
        await store.write(lambda connection: add_task(connection, "a"))
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    for _ in ("first start of the boot", "second"):
        async with await Store.open(tmp_path / "db") as store:
            latest = await store.feed.latest()
            assert latest > 1000
            with pytest.raises(CursorExpired):
                await store.feed.changes(1)
            assert await store.feed.changes(latest) == []
    async with await Store.open(tmp_path / "db") as store:
        await store.write(lambda connection: add_task(connection, "b"))
        assert [(change.key, change.seq) for change in await store.feed.changes(latest)] == [(("b",), latest + 1)]


async def test_followers_end_when_the_store_is_closed(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")

    async def collect() -> list[Change]:
        return [change async for change in store.feed.follow(0)]

    follower = asyncio.create_task(collect())
    await store.write(lambda connection: add_task(connection, "a"))
    while not follower.done():
        await asyncio.sleep(0)
        if await store.feed.latest() == 1:
            break
    await store.aclose()
    assert len(await asyncio.wait_for(follower, 60)) <= 1
