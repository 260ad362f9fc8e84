"""Work that outlives its process is collected; what was heard before is kept if nothing is on record any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.agents import rehearsal
from holdfast.host.dummy import DummyProcess
from holdfast.tasks.request import Limits
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from tests.tasks.conftest import PATIENCE, Bench, say

ENVIRONMENT = {"PATH": "/bin"}
THREAD = '{"event":"thread_started","thread_id":"12345678-1234-4234-8234-123456789abc"}'
USAGE = '{"event":"usage_reported","usage":{"input_tokens":100,"output_tokens":10},"source":"turn"}'
COMPLETED = '{"event":"turn_completed"}'
CUT_OFF = '{"event":"turn_failed","failure":{"class":"backend_crash","message":"There is no record of it."}}'
KEPT = "the answer is the last that attempt 1 heard before it broke off; none was on record afterwards"

Act = Callable[[DummyProcess], None]


@pytest.fixture(autouse=True)
def outliving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal.RehearsalAgent, "outlives_its_process", True)


def tool(process: DummyProcess, item_id: str) -> None:
    say(process, f'{{"event":"tool_started","item_id":"{item_id}","tool":"command","title":"look"}}')
    say(process, f'{{"event":"tool_ended","item_id":"{item_id}","failed":false}}')


def break_off(process: DummyProcess) -> None:
    say(process, THREAD)
    tool(process, "1")
    say(process, USAGE, '{"event":"message","text":"half"}')
    process.finish(signal=9)


def say_and_exit(*lines: str) -> Act:
    def act(process: DummyProcess) -> None:
        say(process, *lines)
        process.finish(0)

    return act


def die(process: DummyProcess) -> None:
    process.finish(signal=9)


async def result_of(service: TaskService, bench: Bench, *acts: Act, limits: Limits | None = None) -> Result:
    """The result of a task whose attempts act like this, one after the other."""
    following = iter(acts)
    bench.script(lambda process: next(following)(process))
    request = bench.request(limits=limits or Limits())
    await service.accept(request, b"do it", ENVIRONMENT)
    await service.wait(request.task_id, PATIENCE)
    assert next(following, None) is None, "every attempt was made"
    return await service.result(request.task_id)


@pytest.mark.parametrize("dead_between", [0, 2])
async def test_an_answer_that_is_on_record_nowhere_is_kept_and_no_success(
    service: TaskService, bench: Bench, dead_between: int
) -> None:
    acts = [break_off, *[die] * dead_between, say_and_exit(THREAD, CUT_OFF)]
    result = await result_of(service, bench, *acts)
    assert [attempt.reason for attempt in result.attempts] == ["first", *["reattach"] * (dead_between + 1)]
    assert (result.status, result.ok) == (Status.FAILED, False)
    assert (result.message.text, result.message.complete) == ("half", False)
    assert result.warnings == [KEPT]
    assert "message.text" not in result.unknowns
    assert result.tool_uses.by_type == {"command": 1}
    assert (result.usage.input_tokens, result.usage.complete) == (100, False)


async def test_it_completes_a_turn_whose_end_is_on_record(service: TaskService, bench: Bench) -> None:
    result = await result_of(service, bench, break_off, say_and_exit(COMPLETED))
    assert (result.status, result.message.text) == (Status.COMPLETED, "half")
    assert KEPT in result.warnings


async def test_what_is_on_record_outweighs_what_was_heard(service: TaskService, bench: Bench) -> None:
    def collect(process: DummyProcess) -> None:
        tool(process, "1")
        tool(process, "2")
        say(process, '{"event":"message","text":"all"}', COMPLETED)
        process.finish(0)

    result = await result_of(service, bench, break_off, collect)
    assert (result.status, result.message.text, result.warnings) == (Status.COMPLETED, "all", [])
    assert result.tool_uses.total == 2


async def test_nothing_is_taken_from_work_that_is_not_continued(service: TaskService, bench: Bench) -> None:
    def look(process: DummyProcess) -> None:
        say(process, THREAD, '{"event":"message","text":"on my way"}')
        for number in range(3):
            tool(process, str(number))

    def begin_to_conclude(process: DummyProcess) -> None:
        tool(process, "4")
        process.finish(signal=9)

    limits = Limits(max_tool_uses=2)
    result = await result_of(service, bench, look, begin_to_conclude, say_and_exit(CUT_OFF), limits=limits)
    assert [attempt.reason for attempt in result.attempts] == ["first", "finalise", "reattach"]
    assert (result.status, result.message.text) == (Status.FAILED, None)
    assert result.tool_uses.total == 4


async def test_what_was_begun_and_cannot_be_collected_is_not_said_to_be_unavailable(
    service: TaskService, bench: Bench
) -> None:
    def break_for_good(process: DummyProcess) -> None:
        break_off(process)
        bench.host.refuse = "no such program"

    result = await result_of(service, bench, break_for_good)
    assert (result.status, result.message.text, result.message.complete) == (Status.OUTCOME_UNKNOWN, "half", False)
    assert result.error is not None
    assert "no such program" in result.error.message
