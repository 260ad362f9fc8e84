"""The same task sent twice runs once; another one under its id is refused and changes nothing of it."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.host.dummy import DummyProcess
from holdfast.tasks.ledger import Conflict
from holdfast.tasks.service import TaskService
from tests.tasks.conftest import PATIENCE, Bench, succeed

ENVIRONMENT = {"PATH": "/bin"}


def hold(process: DummyProcess) -> None:
    """An agent that says nothing yet."""


async def test_another_task_under_its_id_changes_nothing(service: TaskService, bench: Bench) -> None:
    bench.script(hold)
    request = bench.request(output_file=str(bench.workspace / "answer"))
    await service.accept(request, b"the first", ENVIRONMENT)
    directory = bench.directory / "tasks" / request.task_id
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(Conflict):
        await service.accept(request, b"the second", ENVIRONMENT)
    other = bench.request(task_id=request.task_id, model="other")
    with pytest.raises(Conflict):
        await service.accept(other, b"the first", ENVIRONMENT)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


async def test_many_at_the_same_time_are_one(service: TaskService, bench: Bench) -> None:
    bench.script(succeed)
    request = bench.request(output_file=str(bench.workspace / "answer"))
    accepted = await asyncio.gather(*(service.accept(request, b"do it", ENVIRONMENT) for _ in range(8)))
    assert sorted(created for _, created in accepted) == [False] * 7 + [True]
    await service.wait(request.task_id, PATIENCE)
    assert (await service.result(request.task_id)).ok
    assert len(bench.host.processes) == 1
    assert [path.name for path in bench.workspace.iterdir()] == ["answer"]
