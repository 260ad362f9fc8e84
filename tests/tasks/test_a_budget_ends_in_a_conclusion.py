"""An agent at its budget of tool uses is told to finish; one that cannot be told is ended and asked to conclude."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.agents import rehearsal
from holdfast.agents.commands import Steer, decode
from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.budget import FINISH_NOW
from holdfast.tasks.request import Limits
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from tests.tasks.conftest import PATIENCE, Bench, say

ENVIRONMENT = {"PATH": "/bin"}
THREAD = '{"event":"thread_started","thread_id":"12345678-1234-4234-8234-123456789abc"}'


def tools(process: DummyProcess, *numbers: int) -> None:
    for number in numbers:
        say(process, f'{{"event":"tool_started","item_id":"t{number}","tool":"command","title":"look {number}"}}')
        say(process, f'{{"event":"tool_ended","item_id":"t{number}","failed":false}}')


class Looker:
    """An agent that uses tools until it is ended, and concludes when it is asked to."""

    def __init__(self) -> None:
        self.prompts: list[bytes] = []

    def __call__(self, process: DummyProcess) -> None:
        assert process.spec.stdin_file is not None
        self.prompts.append(Path(process.spec.stdin_file).read_bytes())
        say(process, THREAD)
        if len(self.prompts) == 1:
            tools(process, 1, 2, 3)
            return
        say(process, '{"event":"message","text":"What I found."}', '{"event":"turn_completed"}')
        process.finish(0)


async def result_of(service: TaskService, bench: Bench, limits: Limits) -> Result:
    request = bench.request(limits=limits)
    await service.accept(request, b"look at everything", ENVIRONMENT)
    await service.wait(request.task_id, PATIENCE)
    return await service.result(request.task_id)


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(soft_tool_uses=2), Status.COMPLETED), (Limits(max_tool_uses=2), Status.PARTIAL)],
    ids=["soft", "hard"],
)
async def test_r33_it_is_ended_and_asked_once_for_its_conclusion(
    service: TaskService, bench: Bench, limits: Limits, status: Status
) -> None:
    looker = Looker()
    bench.script(looker)
    result = await result_of(service, bench, limits)
    assert looker.prompts == [b"look at everything", FINISH_NOW.encode()]
    assert (result.status, result.message.text) == (status, "What I found.")
    assert [attempt.reason for attempt in result.attempts] == ["first", "finalise"]
    assert result.tool_uses.total == 3
    assert result.thread.id == "12345678-1234-4234-8234-123456789abc"


async def test_a_conclusion_that_goes_on_working_is_ended_for_good(service: TaskService, bench: Bench) -> None:
    def act(process: DummyProcess) -> None:
        say(process, THREAD)
        tools(process, 1, 2, 3, 4, 5)

    bench.script(act)
    result = await result_of(service, bench, Limits(max_tool_uses=2))
    assert result.status is Status.PARTIAL
    assert [attempt.reason for attempt in result.attempts] == ["first", "finalise"]
    assert result.limits.hit == "tool_uses"


async def test_an_agent_that_can_be_told_is_told_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal.RehearsalAgent, "can_steer", True)
    said: list[bytes] = []

    async def write(process_id: str, data: bytes) -> None:
        said.append(data)
        process = bench.host.processes[process_id]
        tools(process, 3, 4)
        say(process, '{"event":"message","text":"Done."}', '{"event":"turn_completed"}')
        process.finish(0)

    def act(process: DummyProcess) -> None:
        say(process, THREAD)
        tools(process, 1, 2)

    bench.script(act)
    monkeypatch.setattr(bench.host, "write", write)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        result = await result_of(service, bench, Limits(soft_tool_uses=2))
        await service.aclose()
    command = decode(said[0])
    assert isinstance(command, Steer)
    assert command.text == FINISH_NOW
    assert len(said) == 1
    assert (result.status, len(result.attempts)) == (Status.COMPLETED, 1)


async def test_limits_hold_while_an_agent_does_not_take_what_it_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal.RehearsalAgent, "can_steer", True)
    monkeypatch.setattr("holdfast.tasks.attempt.INTERRUPT_GRACE", 0.05)

    async def write(process_id: str, data: bytes) -> None:
        await asyncio.Future()

    def act(process: DummyProcess) -> None:
        say(process, THREAD)
        tools(process, 1, 2)

    bench.script(act)
    monkeypatch.setattr(bench.host, "write", write)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        result = await result_of(service, bench, Limits(soft_tool_uses=2, total_s=1.0))
        await service.aclose()
    assert (result.status, result.limits.hit) == (Status.TIMEOUT, "total")
