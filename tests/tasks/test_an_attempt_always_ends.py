"""Whatever the process, its descendants or its host do, an attempt comes to an end and says the truth about it."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.clock import monotonic
from holdfast.host.dummy import DummyHost, DummyProcess
from holdfast.host.port import (
    HostUnavailable,
    Kind,
    ProcessSpec,
    ProcessStatus,
    Record,
    StartRefused,
    Termination,
    TreeMember,
)
from holdfast.store.store import Store
from holdfast.tasks import attempt as attempt_module
from holdfast.tasks import late
from holdfast.tasks import watchdog as watchdog_module
from holdfast.tasks.queries import Queries
from holdfast.tasks.request import Limits
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import ENVIRONMENT, PATIENCE, Bench, OneHost, say, succeed, until


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
    monkeypatch.setattr("holdfast.tasks.ports.HOST_SILENCE", 0.05)
    monkeypatch.setattr(late, "_PAUSE", 0.01)
    monkeypatch.setattr(late, "_LONGEST_PAUSE", 0.05)


class FreezingHost(DummyHost):
    """Answers nobody while it is frozen, and carries out later what it was asked meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.thawed = asyncio.Event()
        self.thawed.set()
        #: What it was asked while it was frozen.
        self.asked: list[str] = []

    async def _turn(self, request: str) -> None:
        if not self.thawed.is_set():
            self.asked.append(request)
            await self.thawed.wait()

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        await self._turn("start")
        return await super().start(spec)

    async def status(self, process_id: str) -> ProcessStatus | None:
        await self._turn("status")
        return await super().status(process_id)

    async def write(self, process_id: str, data: bytes) -> None:
        await self._turn("write")
        await super().write(process_id, data)

    async def terminate(self, process_id: str, *, grace: float = 0.0) -> Termination:
        await self._turn("terminate")
        return await super().terminate(process_id, grace=grace)


class FreezingHosts(OneHost):
    """Notices at once that its host is frozen."""

    def __init__(self, host: FreezingHost) -> None:
        super().__init__(host)
        self._freezing = host

    async def host(self) -> DummyHost:
        if not self._freezing.thawed.is_set():
            raise HostUnavailable("The host does not answer.")
        return self._freezing


@pytest.fixture
async def frozen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> FreezingHost:
    """The host of the bench, which is not frozen yet."""
    bench.host = host = FreezingHost()
    monkeypatch.setattr("tests.tasks.conftest.OneHost", FreezingHosts)
    return host


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


@pytest.mark.parametrize("gone", ["the prompt", "the directory", "neither"])
async def test_who_is_not_started_for_what_is_gone_is_not_called_missing(
    service: TaskService, bench: Bench, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    async def refuse(spec: ProcessSpec) -> ProcessStatus:
        if gone == "the prompt":
            assert spec.stdin_file is not None
            spec.stdin_file.unlink()
        elif gone == "the directory":
            bench.workspace.rmdir()
        raise StartRefused("The host did not start it.")

    monkeypatch.setattr(bench.host, "start", refuse)
    result = await outcome(service, bench)
    assert result.status is Status.UNAVAILABLE
    assert result.error is not None
    assert result.error.error_class == ("backend_missing" if gone == "neither" else "bad_request")


async def test_a_host_that_goes_away_in_the_middle_leaves_the_outcome_unknown(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        bench.host.unavailable = True
        await service.cancel(request.task_id)
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.OUTCOME_UNKNOWN
        await service.aclose()


@pytest.mark.parametrize("hit", ["total", "idle"])
async def test_a_limit_holds_while_the_host_hangs_and_nothing_is_called_ended(
    bench: Bench, frozen: FreezingHost, hit: str
) -> None:
    limits = Limits(**{"total_s": None, "idle_s": None, "start_s": None, f"{hit}_s": 1.0})
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk, limits=limits)
        frozen.thawed.clear()
        await service.wait(request.task_id, PATIENCE)
        result = await service.result(request.task_id)
        assert (result.status, result.limits.hit, result.revision) == (Status.OUTCOME_UNKNOWN, hit, 1)
        assert result.error is not None
        assert result.error.message.endswith(
            "1 s, but its host does not answer: whether the process has ended is not known."
        )
        assert frozen.asked == ["terminate"]
        frozen.thawed.set()
        await until(service, store, request.task_id, lambda view: view.status is not Status.OUTCOME_UNKNOWN)
        result = await service.result(request.task_id)
        assert (result.status, result.limits.hit, result.revision) == (Status.TIMEOUT, hit, 2)
        await service.aclose()


async def test_a_host_that_thaws_in_time_ends_what_reached_its_limit(
    bench: Bench, frozen: FreezingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "HOST_PATIENCE", PATIENCE)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk, limits=Limits(total_s=0.5, idle_s=None, start_s=None))
        frozen.thawed.clear()
        await until(service, store, request.task_id, lambda view: view.state is State.STOPPING)
        frozen.thawed.set()
        await service.wait(request.task_id, PATIENCE)
        result = await service.result(request.task_id)
        assert (result.status, result.limits.hit, result.revision) == (Status.TIMEOUT, "total", 1)
        await service.aclose()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("wanted", ["limit", "cancel"])
async def test_what_had_ended_before_a_host_that_hung_could_end_it_is_told_as_it_ended(
    bench: Bench, frozen: FreezingHost, monkeypatch: pytest.MonkeyPatch, wanted: str, late: bool
) -> None:
    if not late:
        monkeypatch.setattr(attempt_module, "HOST_PATIENCE", PATIENCE)
    total = 0.5 if wanted == "limit" else None
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk, limits=Limits(total_s=total, idle_s=None, start_s=None))
        (process,) = frozen.processes.values()
        frozen.thawed.clear()
        if wanted == "cancel":
            await service.cancel(request.task_id)
        await until(service, store, request.task_id, lambda view: view.state is State.STOPPING)
        if late:
            await service.wait(request.task_id, PATIENCE)
            assert (await service.result(request.task_id)).status is Status.OUTCOME_UNKNOWN
        # Whenever that was: a host that hangs does not know, and writes down when it came to read it.
        succeed(process)
        frozen.thawed.set()
        ended = (None, Status.OUTCOME_UNKNOWN)
        await until(service, store, request.task_id, lambda view: view.status not in ended)
        result = await service.result(request.task_id)
        assert (result.status, result.limits.hit, result.message.text) == (Status.COMPLETED, None, "all done")
        await service.aclose()


async def test_what_ends_while_the_host_hangs_is_told_when_it_thaws(bench: Bench, frozen: FreezingHost) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk, limits=Limits(total_s=PATIENCE, idle_s=None, start_s=None))
        (process,) = frozen.processes.values()
        # Its log is not told to the end before the host hangs.
        frozen.away_after = process.emit("stderr", b"x").seq
        await asyncio.wait_for(frozen.went_away.wait(), PATIENCE)
        frozen.thawed.clear()
        frozen.unavailable = False
        succeed(process)
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.OUTCOME_UNKNOWN
        frozen.thawed.set()
        await until(service, store, request.task_id, lambda view: view.status is not Status.OUTCOME_UNKNOWN)
        result = await service.result(request.task_id)
        assert (result.status, result.message.text, result.revision) == (Status.COMPLETED, "all done", 2)
        await service.aclose()


async def test_what_is_cancelled_while_the_host_hangs_is_not_called_cancelled(
    bench: Bench, frozen: FreezingHost
) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        frozen.thawed.clear()
        await service.cancel(request.task_id)
        await service.wait(request.task_id, PATIENCE)
        result = await service.result(request.task_id)
        assert result.status is Status.OUTCOME_UNKNOWN
        assert result.error is not None
        assert result.error.message.startswith("The task was to be cancelled, but its host does not answer")
        frozen.thawed.set()
        await until(service, store, request.task_id, lambda view: view.status is not Status.OUTCOME_UNKNOWN)
        assert (await service.result(request.task_id)).status is Status.CANCELLED
        await service.aclose()


async def test_a_start_that_a_host_never_answers_leaves_the_outcome_unknown(
    bench: Bench, frozen: FreezingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.script(succeed)
    start = frozen.start

    async def freeze(spec: ProcessSpec) -> ProcessStatus:
        frozen.thawed.clear()
        return await start(spec)

    monkeypatch.setattr(frozen, "start", freeze)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        result = await outcome(service, bench)
        assert result.status is Status.OUTCOME_UNKNOWN
        await service.aclose()


async def test_who_leaves_while_the_host_hangs_need_not_wait_for_it(bench: Bench, frozen: FreezingHost) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        frozen.thawed.clear()
        await service.cancel(request.task_id)
        await until(service, store, request.task_id, lambda view: view.state is State.STOPPING)
        await asyncio.wait_for(service.aclose(), PATIENCE)
        frozen.thawed.set()
        again = await bench.service(store)
        await again.wait(request.task_id, PATIENCE)
        assert (await again.result(request.task_id)).status is Status.CANCELLED
        await again.aclose()


async def test_what_an_agent_printed_is_not_known_while_its_host_is_away(
    bench: Bench, frozen: FreezingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def print_half(process: DummyProcess) -> None:
        process.emit("stdout", b"half")

    configuration = bench.directory / "config.toml"
    configuration.write_text('[agents.plain]\ncommand = ["true"]\ndialect = "text"\nsandbox = { read-only = [] }\n')
    monkeypatch.setenv("HOLDFAST_CONFIG", str(configuration))
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, print_half, agent="plain")
        frozen.thawed.clear()
        await service.cancel(request.task_id)
        await service.wait(request.task_id, PATIENCE)
        result = await service.result(request.task_id)
        assert result.status is Status.OUTCOME_UNKNOWN
        assert result.unknowns["message.text"] == "The host does not answer."
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
