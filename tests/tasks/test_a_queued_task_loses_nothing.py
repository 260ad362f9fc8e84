"""A task that waits for a slot keeps its place, its time and its right to be cancelled, across restarts too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.request import Limits
from holdfast.tasks.result import Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, succeed, until

ENVIRONMENT = {"PATH": "/bin"}


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("[slots]\ntotal = 1\n")


@pytest.fixture
async def store(bench: Bench) -> AsyncIterator[Store]:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        yield store


async def accept(service: TaskService, bench: Bench, name: str, **changes: object) -> str:
    request = bench.request(task_id=f"task-{name}", **changes)
    await service.accept(request, b"do it", ENVIRONMENT)
    return request.task_id


def hold(process: DummyProcess) -> None:
    """An agent that is at work until the test lets it finish."""


async def evidence(service: TaskService, task_id: str) -> str:
    return (await service.view(task_id)).evidence


async def test_the_order_survives_a_restart(bench: Bench, store: Store) -> None:
    bench.script(hold)
    service = await bench.service(store)
    first, second, third = [await accept(service, bench, name) for name in ("zzzz", "yyyy", "xxxx")]
    await until(service, store, first, lambda view: view.state is State.STARTING)
    for number, waiting in enumerate((second, third)):
        assert (await service.view(waiting)).state is State.QUEUED
        assert await evidence(service, waiting) == f"waits for a slot ({number} before it)"
    await service.aclose()

    service = await bench.service(store)
    assert await evidence(service, second) == "waits for a slot (0 before it)"
    assert await evidence(service, third) == "waits for a slot (1 before it)"
    assert list(bench.host.processes) == [f"task-{first}-1"]
    bench.script(succeed)
    succeed(bench.host.processes[f"task-{first}-1"])
    for task_id in (first, second, third):
        assert (await service.wait(task_id, PATIENCE)).status is Status.COMPLETED
    assert list(bench.host.processes) == [f"task-{task_id}-1" for task_id in (first, second, third)]
    assert (await service.result(third)).timing.queue_wait_ms >= 0
    await service.aclose()


async def test_it_can_be_cancelled_where_it_waits(bench: Bench, store: Store) -> None:
    bench.script(hold)
    service = await bench.service(store)
    first, second, third = [await accept(service, bench, name) for name in ("aaaa", "bbbb", "cccc")]
    await service.cancel(second)
    assert (await service.wait(second, PATIENCE)).status is Status.CANCELLED
    assert await evidence(service, third) == "waits for a slot (0 before it)"
    await until(service, store, first, lambda view: view.state is State.STARTING)
    assert f"task-{second}-1" not in bench.host.processes
    await service.cancel(first)
    await until(service, store, third, lambda view: view.state is State.STARTING)
    await service.cancel(third)
    await service.wait(third, PATIENCE)
    await service.aclose()


async def test_it_may_be_given_up(bench: Bench, store: Store) -> None:
    bench.script(hold)
    service = await bench.service(store)
    first = await accept(service, bench, "aaaa")
    second = await accept(service, bench, "bbbb", limits=Limits(slot_s=0.01))
    assert (await service.wait(second, PATIENCE)).status is Status.UNAVAILABLE
    result = await service.result(second)
    assert result.error is not None
    assert (result.error.error_class, result.error.retryable) == ("overloaded", True)
    assert result.error.message == "No slot was free within 0.01 s; nothing was started."
    assert result.exit.wrapper_code == 127
    assert result.attempts == []
    await service.cancel(first)
    await service.wait(first, PATIENCE)
    await service.aclose()


async def test_its_time_limit_begins_when_it_does(bench: Bench, store: Store) -> None:
    bench.script(hold)
    service = await bench.service(store)
    first = await accept(service, bench, "aaaa", limits=Limits(total_s=0.2))
    second = await accept(service, bench, "bbbb", limits=Limits(total_s=30.0))
    bench.script(succeed)
    assert (await service.wait(first, PATIENCE)).status in (Status.TIMEOUT, Status.COMPLETED)
    assert (await service.wait(second, PATIENCE)).status is Status.COMPLETED
    await service.aclose()
