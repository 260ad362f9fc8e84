"""Whatever happens to a task, and whoever dies in whichever order: it ends, once, in a state that the history allows.

The agent here may be one whose work outlives its process (as a turn in a shared server does); then the process may be
killed as well, and is replaced by one that collects.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.agents import rehearsal
from holdfast.host.dummy import DummyProcess
from holdfast.host.port import Record
from holdfast.store.store import Store
from holdfast.tasks import attempt as attempt_module
from holdfast.tasks import runner as runner_module
from holdfast.tasks import watchdog as watchdog_module
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, say

ENVIRONMENT = {"PATH": "/bin"}
THREAD = '{"event":"thread_started","thread_id":"12345678-1234-4234-8234-123456789abc"}'
ANSWER = ('{"event":"message","text":"all"}', '{"event":"turn_completed"}')


class LifeAndDeath:
    """One task from its acceptance to its end.  What cannot happen at a point does not happen there."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory)
        self.store: Store | None = None
        self.service: TaskService | None = None
        self.request = self.bench.request(retries=1)
        self.cancelled = self.succeeded = self.failed = self.killed = self.host_was_away = False
        self.ended: tuple[Status, str | None] | None = None

    @property
    def process(self) -> DummyProcess | None:
        """The newest process, as long as it lives."""
        newest = list(self.bench.host.processes.values())[-1:]
        return newest[0] if newest and newest[0].exit is None else None

    @property
    def speaker(self) -> DummyProcess | None:
        """The newest process, as long as it has not reported an end."""
        return None if self.succeeded or self.failed else self.process

    async def a_daemon_comes(self) -> None:
        if self.service is None:
            self.store = await Store.open(self.bench.directory / "holdfast.db")
            self.service = await self.bench.service(self.store)

    async def the_daemon_dies(self) -> None:
        if self.service is not None and self.store is not None:
            await self.service.aclose()
            await self.store.aclose()
            self.service = self.store = None

    async def time_passes(self) -> None:
        await asyncio.sleep(0.02)

    async def the_host_goes_away(self) -> None:
        self.bench.host.unavailable = self.host_was_away = True

    async def the_host_comes_back(self) -> None:
        self.bench.host.unavailable = False

    async def the_agent_says_something(self) -> None:
        if self.speaker is not None:
            say(self.speaker, '{"event":"message","text":"half"}')

    async def the_agent_says_nonsense(self) -> None:
        if self.speaker is not None:
            say(self.speaker, "not JSON")

    async def the_agent_succeeds(self) -> None:
        if self.speaker is not None:
            self.succeed(self.speaker)

    async def the_agent_fails(self) -> None:
        process = self.speaker
        if process is not None:
            say(process, '{"event":"turn_failed","failure":{"class":"policy","message":"no"}}')
            process.finish(1)
            self.failed = True

    async def the_process_is_killed(self) -> None:
        if self.process is not None and not self.killed:
            self.process.finish(signal=9)
            self.killed = True

    async def somebody_cancels(self) -> None:
        if self.service is not None:
            view = await self.service.cancel(self.request.task_id)
            self.cancelled = self.cancelled or view.status is None

    def succeed(self, process: DummyProcess) -> None:
        say(process, *ANSWER)
        process.finish(0)
        self.succeeded = True

    async def check(self) -> None:
        """What is finished stays as it is."""
        if self.service is None:
            return
        view = await self.service.view(self.request.task_id)
        if view.status is None:
            assert self.ended is None, "a finished task came to life again"
            return
        end = (view.status, (await self.service.result(self.request.task_id)).message.text)
        assert self.ended in (None, end)
        self.ended = end

    async def live(self, plan: list[str]) -> Result:
        """Go through *plan*, then let everybody live until the task has ended."""
        self.bench.script(lambda process: say(process, THREAD))
        await self.a_daemon_comes()
        assert self.service is not None
        await self.service.accept(self.request, b"do it", ENVIRONMENT)
        for action in plan:
            await getattr(self, action)()
            await self.check()
        self.bench.host.unavailable = False
        await self.a_daemon_comes()
        while (await self.service.wait(self.request.task_id, 0.05)).state is not State.FINISHED:
            # Whoever collects, or does it again, finds an agent that succeeds.
            if self.process is not None:
                self.succeed(self.process)
        await self.check()
        result = await self.service.result(self.request.task_id)
        await self.the_daemon_dies()
        return result

    def allowed(self) -> set[Status]:
        """How it may have ended."""
        allowed = {
            Status.CANCELLED: self.cancelled,
            Status.COMPLETED: self.succeeded,
            Status.FAILED: self.failed or self.killed,
        }
        # A host that stays away for longer than is waited for leaves doubt, and doubt is said.
        doubt = dict.fromkeys((Status.OUTCOME_UNKNOWN, Status.UNAVAILABLE, Status.ABORTED), self.host_was_away)
        return {status for status, may_be in {**allowed, **doubt}.items() if may_be}


ACTIONS = [
    name for name in vars(LifeAndDeath) if name.partition("_")[0] in ("a", "the", "time", "somebody") and name != "the"
]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (attempt_module, "STOP_GRACE"),
        (attempt_module, "CLOSE_GRACE"),
        (watchdog_module, "LATE_OUTPUT"),
        (watchdog_module, "LINGER"),
    ):
        monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr(attempt_module, "HOST_PATIENCE", 0.2)
    monkeypatch.setattr(runner_module, "_RETRY_PAUSE", 0.01)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.sampled_from(ACTIONS), max_size=15))
@pytest.mark.parametrize("outlives", [False, True], ids=["one process", "outlives its process"])
def test_a_task_ends_once_and_as_its_history_allows(
    monkeypatch: pytest.MonkeyPatch, outlives: bool, plan: list[str]
) -> None:
    monkeypatch.setattr(rehearsal.RehearsalAgent, "outlives_its_process", outlives)
    with tempfile.TemporaryDirectory() as directory:
        life = LifeAndDeath(Path(directory))
        result = asyncio.run(asyncio.wait_for(life.live(plan), PATIENCE))
        assert result.status in life.allowed()
        assert result.ok == (result.status is Status.COMPLETED)
        processes = list(life.bench.host.processes.values())
        assert all(process.exit is not None for process in processes)
        if not outlives:
            # What may have left a trace is not done again.
            said = [entry.data for each in processes[:-1] for entry in each.entries if isinstance(entry, Record)]
            assert not any(b'"message"' in data for data in said)
