"""The task service over a real store and an imagined host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from holdfast.agents.adapter import SharedServer
from holdfast.host.dummy import DummyHost, DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.request import TaskRequest, new_task_id
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from holdfast.tasks.view import TaskView

#: Bounds every wait, seconds.
PATIENCE = 60.0
#: What a task is asked for with.
ENVIRONMENT = {"PATH": "/bin"}


class OneHost:
    """Hosts of which there is one."""

    def __init__(self, host: DummyHost) -> None:
        self._host = host

    async def host(self) -> DummyHost:
        return self._host


class NoServers:
    """For agents that need none."""

    @contextlib.asynccontextmanager
    async def hold(self, shared: SharedServer) -> AsyncIterator[None]:
        raise AssertionError(f"nobody asked for {shared}")
        yield


class Bench:
    """A state directory, a host that outlives every service on it, and a way to ask for work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "state"
        self.directory.mkdir(mode=0o700)
        self.workspace = directory / "workspace"
        self.workspace.mkdir()
        self.host = DummyHost()

    def script(self, act: Callable[[DummyProcess], None]) -> None:
        """What every process does when it is started."""
        self.host.on_start = act

    def request(self, **changes: object) -> TaskRequest:
        """A request to the rehearsal agent."""
        fields: dict[str, object] = {"task_id": new_task_id(), "agent": "rehearsal", "cwd": str(self.workspace)}
        return TaskRequest(**(fields | changes))  # type: ignore[arg-type]

    async def service(self, store: Store) -> TaskService:
        """A service as a daemon starts it: with everything that is unfinished taken up."""
        tasks = self.directory / "tasks"
        tasks.mkdir(exist_ok=True, mode=0o700)
        service = TaskService(store, OneHost(self.host), NoServers(), tasks)
        await service.recover()
        return service

    async def running(
        self, store: Store, act: Callable[[DummyProcess], None], **changes: object
    ) -> tuple[TaskService, TaskRequest]:
        """A service with one task, which runs and does what *act* does."""
        self.script(act)
        request = self.request(**changes)
        service = await self.service(store)
        await service.accept(request, b"do it", ENVIRONMENT)
        await until(service, store, request.task_id, lambda view: view.state is State.RUNNING)
        return service, request


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
async def service(bench: Bench) -> AsyncIterator[TaskService]:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        yield service
        await service.aclose()


def say(process: DummyProcess, *lines: str) -> None:
    """Write events in the neutral dialect."""
    process.emit("stdout", "".join(f"{line}\n" for line in lines).encode())


def succeed(process: DummyProcess) -> None:
    """An agent that uses a tool, answers, reports success, and exits."""
    say(process, '{"event":"thread_started","thread_id":"thread-1"}', '{"event":"turn_started"}')
    say(process, '{"event":"tool_started","item_id":"1","tool":"command","title":"make"}')
    say(process, '{"event":"tool_ended","item_id":"1","failed":false}')
    # A message in two chunks: a line need not end where a record ends.
    process.emit("stdout", b'{"event":"message","te')
    process.emit("stderr", b"a word on the side\n")
    say(process, 'xt":"all done"}', '{"event":"turn_completed"}')
    process.finish(0)


async def until(service: TaskService, store: Store, task_id: str, reached: Callable[[TaskView], bool]) -> None:
    """Wait until the task looks as *reached* wants it, waking with every change."""
    while True:
        position = await store.feed.latest()
        if reached(await service.view(task_id)):
            return
        await asyncio.wait_for(store.feed.wait_beyond(position), PATIENCE)
