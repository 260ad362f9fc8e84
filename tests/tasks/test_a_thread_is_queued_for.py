"""A task that goes on with a busy thread is refused, or waits for it if it says so; across a restart too."""

from __future__ import annotations

import pytest

from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.admission import ThreadBusy
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, say, until

ENVIRONMENT = {"PATH": "/bin"}
THREAD = '{"event":"thread_started","thread_id":"12345678-1234-4234-8234-123456789abc"}'


def begin(process: DummyProcess) -> None:
    say(process, THREAD)


def end(process: DummyProcess) -> None:
    say(process, '{"event":"message","text":"done"}', '{"event":"turn_completed"}')
    process.finish(0)


async def at_work(service: TaskService, store: Store, bench: Bench) -> TaskRequest:
    bench.script(begin)
    first = bench.request()
    await service.accept(first, b"do it", ENVIRONMENT)
    await until(service, store, first.task_id, lambda view: view.thread_id is not None)
    return first


async def test_it_waits_for_the_end_and_survives_a_restart(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        first = await at_work(service, store, bench)
        with pytest.raises(ThreadBusy):
            await service.accept(bench.request(resume=first.task_id), b"go on", ENVIRONMENT)
        second = bench.request(resume=first.task_id, queue=True)
        view, _ = await service.accept(second, b"go on", ENVIRONMENT)
        assert (view.state, view.evidence) == (State.QUEUED, f"goes on when task {first.task_id} has ended")
        await service.aclose()

        service = await bench.service(store)
        (process,) = bench.host.processes.values()
        bench.script(lambda started: (begin(started), end(started))[0])
        end(process)
        await service.wait(second.task_id, PATIENCE)
        assert (await service.result(second.task_id)).thread.resumed_from == "12345678-1234-4234-8234-123456789abc"
        assert len(bench.host.processes) == 2
        await service.aclose()


async def test_it_can_be_cancelled_while_it_waits(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        first = await at_work(service, store, bench)
        second = bench.request(resume=first.task_id, queue=True)
        await service.accept(second, b"go on", ENVIRONMENT)
        await service.cancel(second.task_id)
        await service.wait(second.task_id, PATIENCE)
        assert (await service.result(second.task_id)).status is Status.CANCELLED
        assert (await service.view(first.task_id)).status is None
        await service.aclose()
