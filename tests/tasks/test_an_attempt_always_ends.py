"""Whatever the process, its descendants or its host do, an attempt comes to an end and says the truth about it."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.clock import monotonic
from holdfast.host.dummy import DummyProcess
from holdfast.host.port import Kind, Record, Termination, TreeMember
from holdfast.store.store import Store
from holdfast.tasks import attempt as attempt_module
from holdfast.tasks import watchdog as watchdog_module
from holdfast.tasks.queries import Queries
from holdfast.tasks.request import Limits
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import ENVIRONMENT, PATIENCE, Bench, say, succeed, until


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (attempt_module, "STOP_GRACE"),
        (attempt_module, "CLOSE_GRACE"),
        (watchdog_module, "LATE_OUTPUT"),
        (watchdog_module, "LINGER"),
    ):
        monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr(attempt_module, "HOST_PATIENCE", 0.3)


async def outcome(service: TaskService, bench: Bench, **changes: object) -> Result:
    request = bench.request(**changes)
    await service.accept(request, b"do it", ENVIRONMENT)
    view = await service.wait(request.task_id, PATIENCE)
    assert view.state is State.FINISHED
    return await service.result(request.task_id)


def talk(process: DummyProcess) -> None:
    say(process, '{"event":"thread_started","thread_id":"thread-1"}', '{"event":"message","text":"half"}')


async def test_streams_that_a_descendant_holds_open_are_closed_by_ending_it(service: TaskService, bench: Bench) -> None:
    def act(process: DummyProcess) -> None:
        talk(process)
        say(process, '{"event":"turn_completed"}')
        process.finish(0, close=False)
        process.members = [TreeMember(pid=4711, command="sleep infinity")]

    bench.script(act)
    result = await outcome(service, bench)
    assert result.status is Status.COMPLETED
    assert result.warnings == ["processes outlived the agent and were ended: 4711 (sleep infinity)"]


async def test_what_cannot_be_ended_is_named_and_not_waited_for(
    service: TaskService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(process: DummyProcess) -> None:
        talk(process)
        say(process, '{"event":"turn_completed"}')
        process.finish(0, close=False)

    async def terminate(process_id: str, *, grace: float = 0.0) -> Termination:
        # It goes on writing, too: output is no reason to wait for ever.
        bench.host.processes[process_id].emit("stderr", b"still here\n")
        return Termination(was_running=False, survivors=[TreeMember(pid=4711, command="[unkillable]")])

    bench.script(act)
    monkeypatch.setattr(bench.host, "terminate", terminate)
    result = await outcome(service, bench)
    assert result.status is Status.COMPLETED
    assert result.exit.leftover_pids == [4711]


async def test_a_restart_between_exit_and_close_still_ends(bench: Bench) -> None:
    processes: list[DummyProcess] = []

    def act(process: DummyProcess) -> None:
        processes.append(process)
        talk(process)

    async with await Store.open(bench.directory / "holdfast.db") as store:
        first, request = await bench.running(store, act)
        say(processes[0], '{"event":"turn_completed"}')
        processes[0].finish(0, close=False)
        await until(first, store, request.task_id, lambda view: view.evidence.startswith("reported"))
        await first.aclose()
        second = await bench.service(store)
        await second.wait(request.task_id, PATIENCE)
        assert (await second.result(request.task_id)).status is Status.COMPLETED
        await second.aclose()


async def test_an_agent_that_stays_after_its_end_is_ended(service: TaskService, bench: Bench) -> None:
    def act(process: DummyProcess) -> None:
        talk(process)
        say(process, '{"event":"turn_completed"}')

    bench.script(act)
    result = await outcome(service, bench)
    assert result.status is Status.COMPLETED
    assert "the agent did not exit after it had finished, and was ended" in result.warnings


@pytest.mark.parametrize(
    ("limits", "hit"),
    [
        (Limits(total_s=0.5, idle_s=None, start_s=None), "total"),
        (Limits(total_s=None, idle_s=0.5, start_s=None), "idle"),
    ],
)
async def test_limits_end_what_does_not_end(service: TaskService, bench: Bench, limits: Limits, hit: str) -> None:
    bench.script(talk)
    result = await outcome(service, bench, limits=limits)
    assert (result.status, result.limits.hit) == (Status.TIMEOUT, hit)
    assert (result.message.text, result.message.complete) == ("half", False)


async def test_an_agent_that_never_speaks_is_ended_at_the_start_limit(service: TaskService, bench: Bench) -> None:
    result = await outcome(service, bench, limits=Limits(total_s=None, idle_s=None, start_s=0.1))
    assert (result.status, result.limits.hit) == (Status.TIMEOUT, "start")


async def test_a_tool_that_runs_long_is_not_idleness(service: TaskService, bench: Bench) -> None:
    def act(process: DummyProcess) -> None:
        talk(process)
        say(process, '{"event":"tool_started","item_id":"1","tool":"command","title":"make world"}')

    bench.script(act)
    result = await outcome(service, bench, limits=Limits(total_s=2.0, idle_s=0.5, start_s=None))
    assert result.limits.hit == "total"


async def test_a_process_whose_end_nobody_saw_is_aborted(service: TaskService, bench: Bench) -> None:
    def act(process: DummyProcess) -> None:
        talk(process)
        process.finish(None)

    bench.script(act)
    result = await outcome(service, bench)
    assert (result.status, result.exit.code, result.exit.wrapper_code) == (Status.ABORTED, None, 125)
    assert result.message.text == "half"


async def test_a_process_that_its_host_does_not_know_any_more_is_aborted(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        first, request = await bench.running(store, talk)
        await first.aclose()
        bench.host.processes.clear()
        second = await bench.service(store)
        await second.wait(request.task_id, PATIENCE)
        result = await second.result(request.task_id)
        assert (result.status, result.message.text) == (Status.ABORTED, "half")
        assert bench.host.processes == {}, "what may have written files is not run again"
        await second.aclose()


async def test_a_host_that_never_answers_leaves_the_outcome_unknown(service: TaskService, bench: Bench) -> None:
    bench.host.unavailable = True
    result = await outcome(service, bench)
    # It was asked to start the process, and never said whether it did.
    assert result.status is Status.OUTCOME_UNKNOWN
    assert result.exit.wrapper_code == 125


async def test_a_host_that_refuses_is_unavailable_with_its_reason(service: TaskService, bench: Bench) -> None:
    bench.host.refuse = "no such program"
    result = await outcome(service, bench)
    assert (result.status, result.exit.wrapper_code) == (Status.UNAVAILABLE, 127)
    assert result.error is not None
    assert "no such program" in result.error.message


async def test_a_host_that_goes_away_in_the_middle_leaves_the_outcome_unknown(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        bench.host.unavailable = True
        await service.cancel(request.task_id)
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.OUTCOME_UNKNOWN
        await service.aclose()


async def test_a_host_that_goes_away_between_two_folds_has_nothing_counted_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "HOST_PATIENCE", PATIENCE)
    # What has no events stays in memory.
    monkeypatch.setattr(attempt_module, "_FOLD_INTERVAL", PATIENCE)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        (process,) = bench.host.processes.values()
        process.emit("stderr", b"0123456789")
        bench.host.away_after = process.emit("stdout", b'{"event":').seq
        await asyncio.wait_for(bench.host.went_away.wait(), PATIENCE)
        say(process, '"turn_completed"}')
        process.finish(0)
        bench.host.unavailable = False
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.COMPLETED
        (attempt,) = await Queries(store).attempts(request.task_id)
        said = b"".join(each.data for each in process.entries if isinstance(each, Record) and each.kind is Kind.STDOUT)
        assert (attempt.facts.stdout_bytes, attempt.facts.stderr_bytes) == (len(said), 10)
        await service.aclose()


async def test_what_is_cancelled_before_it_starts_never_starts(bench: Bench) -> None:
    bench.script(succeed)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        bench.host.unavailable = True
        request = bench.request()
        await service.accept(request, b"do it", ENVIRONMENT)
        await service.cancel(request.task_id)
        bench.host.unavailable = False
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.CANCELLED
        assert bench.host.processes == {}
        await service.aclose()


async def test_who_waits_for_what_nobody_carries_is_not_answered_at_once(service: TaskService, bench: Bench) -> None:
    bench.script(talk)
    request = bench.request()
    await service.accept(request, b"do it", ENVIRONMENT)
    # As if the daemon had failed so badly that it could not even give the task up.
    runner, work = service._runners.pop(request.task_id)  # pyright: ignore[reportPrivateUsage]
    began, rounds = monotonic(), 0
    while monotonic() - began < 0.5:
        assert (await service.wait(request.task_id, 0.5)).status is None
        rounds += 1
    # The first of them ends when time is up, or was woken by what was still to be stored.
    assert rounds == 1
    service._runners[request.task_id] = (runner, work)  # pyright: ignore[reportPrivateUsage]
    await service.cancel(request.task_id)
    assert (await service.wait(request.task_id, PATIENCE)).status is Status.CANCELLED
