from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from holdfast.store.feed import position
from holdfast.store.schema import attempts, processes, tasks
from holdfast.store.store import Store

from .test_feed_is_whole import Client, snapshot

#: Folds records 1, 2, 3, ...: each transaction appends the numbers to the facts and moves the cursor, and is then
#: acknowledged on standard output.
WRITER = """
import asyncio, os, pathlib, random, sys
import sqlalchemy as sa
from holdfast.store.schema import attempts, processes, tasks
from holdfast.store.store import Store

async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    dice = random.Random(int(sys.argv[2]))

    def begin(c):
        if c.execute(sa.select(tasks.c.id)).first() is None:
            c.execute(tasks.insert().values(id="t", agent="a", state="queued", created_at=0, created_monotonic=0,
                                            boot_id="b", request=b"{}"))
            c.execute(attempts.insert().values(task_id="t", number=1, reason="first", process_id="p",
                                               phase="running", created_at=0, boot_id="b", facts=b""))
            c.execute(processes.insert().values(process_id="p", task_id="t"))
    await store.write(begin)
    while True:
        count = dice.randrange(1, 8)
        def fold(c):
            seq = c.execute(sa.select(processes.c.fold_seq)).scalar_one()
            for n in range(seq + 1, seq + count + 1):
                facts = c.execute(sa.select(attempts.c.facts)).scalar_one()
                c.execute(attempts.update().values(facts=facts + b"%d," % n))
                c.execute(tasks.update().values(label="x" * dice.randrange(3000)))
            c.execute(processes.update().values(fold_seq=seq + count))
            return seq + count
        seq = await store.write(fold, durable=dice.random() < 0.1)
        os.write(1, b"%d\\n" % seq)

asyncio.run(main())
"""


def start_writer(path: Path, seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("seed", range(3))
async def test_after_kill_9_facts_and_cursor_agree_and_nothing_acknowledged_is_missing(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    path = tmp_path / "db"
    client = Client()
    acknowledged = 0
    for round_number in range(5):
        writer = start_writer(path, seed * 100 + round_number)
        assert writer.stdout
        try:
            for _ in range(dice.randrange(1, 150)):
                acknowledged = int(writer.stdout.readline())
            for _ in range(dice.randrange(20_000)):
                pass  # let the kill fall anywhere within a transaction
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines(keepends=True)
            writer.stdout.close()
            writer.wait()
        acknowledged = max([acknowledged, *(int(line) for line in rest if line.endswith(b"\n"))])

        async with await Store.open(path) as store:

            def facts_and_cursor(connection: sa.Connection) -> tuple[bytes, int]:
                return (
                    connection.execute(sa.select(attempts.c.facts)).scalar_one(),
                    connection.execute(sa.select(processes.c.fold_seq)).scalar_one(),
                )

            facts, cursor = await store.read(facts_and_cursor)
            assert facts == b"".join(b"%d," % n for n in range(1, cursor + 1))
            assert cursor >= acknowledged
            assert await store.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one()) == "ok"
            while not await store.read(lambda connection: client.catch_up(connection, 500)):
                pass
            assert client.tables == await store.read(snapshot)
            assert client.cursor == await store.read(position)
            await store.write(lambda c: c.execute(tasks.update().values(state="seen")).rowcount)
    assert client.snapshots == 1
