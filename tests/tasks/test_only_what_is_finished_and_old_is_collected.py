"""Collection deletes finished tasks that are old enough, whole; and never anything else."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from holdfast.errors import InvalidRequest, NotFound
from holdfast.host.dummy import DummyProcess
from holdfast.host.port import HostUnavailable, ProcessSpec
from holdfast.store.schema import attempts, processes, tasks
from holdfast.store.store import Store
from holdfast.tasks.collected import CollectionRequest
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, say, succeed

DAY = 86_400.0
EVERYTHING = CollectionRequest(older_than_s=0.0)


async def finish(bench: Bench, service: TaskService) -> str:
    bench.script(succeed)
    request = bench.request()
    await service.accept(request, b"do it", {"PATH": "/bin"})
    assert (await service.wait(request.task_id, PATIENCE)).state is State.FINISHED
    return request.task_id


async def age(store: Store, task_id: str, days: float) -> None:
    """Let a task have finished so many days ago."""
    change = tasks.update().where(tasks.c.id == task_id).values(finished_at=time.time() - days * DAY)
    await store.write(lambda connection: connection.execute(change))


async def rows(store: Store) -> int:
    def count(connection: sa.Connection) -> int:
        tables = (tasks, attempts, processes)
        return sum(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables)

    return await store.read(count)


@pytest.fixture
async def store(service: TaskService) -> Store:
    return service._store  # pyright: ignore[reportPrivateUsage]


async def test_nothing_of_an_old_task_is_left_and_a_young_one_stays(
    bench: Bench, service: TaskService, store: Store
) -> None:
    old, young = await finish(bench, service), await finish(bench, service)
    await age(store, old, 40)
    before = await rows(store)
    request = CollectionRequest(older_than_s=30 * DAY)
    would = await service.collect(CollectionRequest(older_than_s=30 * DAY, dry_run=True))
    assert (would.tasks, would.processes, would.dry_run) == ([old], 1, True)
    assert would.log_bytes > 0
    assert would.file_bytes > 0
    assert (await rows(store), len(bench.host.processes)) == (before, 2)
    collected = await service.collect(request)
    assert collected.tasks == [old]
    assert (collected.log_bytes, collected.file_bytes > 0) == (would.log_bytes, True)
    assert await rows(store) == before // 2
    assert list(bench.host.processes) == [f"task-{young}-1"]
    assert [path.name for path in (bench.directory / "tasks").iterdir()] == [young]
    with pytest.raises(NotFound):
        await service.result(old)
    assert (await service.result(young)).message.text == "all done"
    again = await service.collect(request)
    assert (again.tasks, again.bytes) == ([], 0)


async def test_the_newest_are_kept_however_old(bench: Bench, service: TaskService, store: Store) -> None:
    ids = [await finish(bench, service) for _ in range(4)]
    for number, task_id in enumerate(ids):
        await age(store, task_id, 100 - number)
    assert (await service.collect(CollectionRequest(older_than_s=30 * DAY, keep=3))).tasks == ids[:1]
    assert (await service.collect(CollectionRequest(older_than_s=97.5 * DAY, keep=1))).tasks == ids[1:3]
    assert (await service.collect(CollectionRequest(older_than_s=None))).tasks == []
    assert (await service.collect(EVERYTHING)).tasks == ids[3:]


async def test_what_is_not_finished_is_never_touched(bench: Bench, service: TaskService) -> None:
    def work(process: DummyProcess) -> None:
        say(process, '{"event":"thread_started","thread_id":"t"}')

    bench.script(work)
    request = bench.request()
    await service.accept(request, b"do it", {"PATH": "/bin"})
    collected = await service.collect(EVERYTHING)
    assert (collected.tasks, collected.processes, collected.still_running) == ([], 0, [])
    await service.cancel(request.task_id)
    assert (await service.wait(request.task_id, PATIENCE)).state is State.FINISHED


async def test_a_task_whose_process_is_still_open_is_named_and_left(bench: Bench, service: TaskService) -> None:
    task_id = await finish(bench, service)
    process = bench.host.processes[f"task-{task_id}-1"]
    process.closed = False
    collected = await service.collect(EVERYTHING)
    assert (collected.tasks, collected.still_open) == ([], [task_id])
    assert (await service.result(task_id)).message.text == "all done"
    process.closed = True
    assert (await service.collect(EVERYTHING)).tasks == [task_id]


async def test_what_belongs_to_no_task_goes_and_strangers_stay(bench: Bench, service: TaskService) -> None:
    for name in ("task-gone-1", "task-alive-2", "somebody-elses", "task-"):
        await bench.host.start(ProcessSpec(process_id=name, argv=["x"], cwd=Path("/"), env={}))
        if name != "task-alive-2":
            bench.host.processes[name].finish(0)
    for name in ("forsaken", "just-begun"):
        (bench.directory / "tasks" / name).mkdir()
        (bench.directory / "tasks" / name / "prompt").write_text("x")
    os.utime(bench.directory / "tasks" / "forsaken", (0, 0))
    collected = await service.collect(CollectionRequest(older_than_s=None))
    assert (collected.orphaned_processes, collected.orphaned_directories) == (1, 1)
    assert collected.still_running == ["task-alive-2"]
    assert set(bench.host.processes) == {"task-alive-2", "somebody-elses", "task-"}
    assert [path.name for path in (bench.directory / "tasks").iterdir()] == ["just-begun"]


async def test_the_log_of_a_server_goes_when_it_has_ended(bench: Bench, service: TaskService) -> None:
    for number, name in enumerate(("codex-server-abc-1", "codex-server-abc-2", "codex-server-abc-3")):
        await bench.host.start(ProcessSpec(process_id=name, argv=["x"], cwd=Path("/"), env={}))
        bench.host.processes[name].emit("stderr", b"a word\n")
        if number < 2:
            bench.host.processes[name].finish(0)
    # It has ended, and something that it left behind has not.
    bench.host.processes["codex-server-abc-2"].closed = False
    for dry_run in (True, False):
        collected = await service.collect(CollectionRequest(older_than_s=None, dry_run=dry_run))
        assert (collected.ended_servers, collected.processes, collected.still_running) == (1, 1, [])
        assert collected.log_bytes > 0
    assert set(bench.host.processes) == {"codex-server-abc-2", "codex-server-abc-3"}


async def test_without_a_host_nothing_is_deleted(bench: Bench, service: TaskService) -> None:
    task_id = await finish(bench, service)
    bench.host.unavailable = True
    with pytest.raises(HostUnavailable):
        await service.collect(EVERYTHING)
    bench.host.unavailable = False
    assert (await service.result(task_id)).message.text == "all done"
    for wrong in (CollectionRequest(older_than_s=-1.0), CollectionRequest(older_than_s=float("nan"))):
        with pytest.raises(InvalidRequest):
            await service.collect(wrong)


async def test_two_collections_at_once_are_one_after_the_other(bench: Bench, service: TaskService) -> None:
    ids = [await finish(bench, service) for _ in range(3)]
    first, second = await asyncio.gather(service.collect(EVERYTHING), service.collect(EVERYTHING))
    assert (first.tasks, second.tasks) == (ids, [])
