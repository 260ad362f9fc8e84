"""The service may die after any of its transactions: the next one brings the task home, as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa

from holdfast.errors import NotFound
from holdfast.store.store import Store
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, succeed

T = TypeVar("T")


class Death(BaseException):
    """What no handler may catch."""


class MortalStore(Store):
    """A store whose process dies after so many transactions."""

    left: int
    died: asyncio.Event

    async def write(self, function: Callable[[sa.Connection], T], /, *, durable: bool = False) -> T:
        if self.left <= 0:
            self.died.set()
            raise Death
        result = await super().write(function, durable=durable)
        self.left -= 1
        if self.left == 0:
            self.died.set()
            raise Death
        return result


async def die_after(bench: Bench, transactions: int, task_id: str) -> bool:
    """Begin a task and die after so many transactions; ``False`` when the task was finished before."""
    store = await MortalStore.open(bench.directory / "holdfast.db")
    assert isinstance(store, MortalStore)
    store.left, store.died = transactions, asyncio.Event()
    service = await bench.service(store)
    finished = False
    try:
        await service.accept(bench.request(task_id=task_id), b"do it", {"PATH": "/bin"})
        waiting = asyncio.ensure_future(service.wait(task_id, PATIENCE))
        died = asyncio.ensure_future(store.died.wait())
        await asyncio.wait({waiting, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        finished = not store.died.is_set() and waiting.result().state is State.FINISHED
        waiting.cancel()
        await asyncio.wait({waiting})
    except Death:
        pass
    store.left = 0
    await service.aclose()
    await store.aclose()
    return finished


async def bring_home(service: TaskService, task_id: str) -> Result:
    view = await service.wait(task_id, PATIENCE)
    assert view.state is State.FINISHED
    return await service.result(task_id)


# The deaths leave their tasks behind unawaited on purpose, as a killed process does.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_every_transaction_may_be_the_last_one(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for transactions in range(1, 60):
        directory = tmp_path / str(transactions)
        directory.mkdir()
        bench = Bench(directory)
        bench.script(succeed)
        task_id = f"task-number-{transactions}"
        finished = await die_after(bench, transactions, task_id)
        async with await Store.open(bench.directory / "holdfast.db") as store:
            service = await bench.service(store)
            try:
                result = await bring_home(service, task_id)
            except NotFound:
                # Killed before it was accepted: then nothing was started.
                assert bench.host.processes == {}
                continue
            finally:
                await service.aclose()
        assert (result.status, result.message.text) == (Status.COMPLETED, "all done")
        assert result.tool_uses.by_type == {"command": 1}
        assert result.message.segments == 1
        assert result.thread.id == "thread-1"
        assert list(bench.host.processes) == [f"task-{task_id}-1"], "the agent ran once"
        if finished:
            return
    pytest.fail("the task never came to its end by itself")
