"""Results that come late: of a task whose outcome could not be told when it had to be, and can be told now.

The host went away, nobody could say how the task ended, and that became its result.  When the host is there again its
log says it after all.  Only such a result is ever replaced, only by one that knows more, and its revision says so.
Whoever was to be told of the end is told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.clock import wall
from holdfast.drivers.one_shot import follow
from holdfast.errors import HoldfastError, NotFound
from holdfast.host.port import Host, HostUnavailable, ProcessState, UnknownProcess
from holdfast.tasks.acceptance import TaskFiles, replace_file
from holdfast.tasks.attempt import CLOSE_GRACE, STOP_GRACE
from holdfast.tasks.facts import StopCause, fold
from holdfast.tasks.finalise import Finalisation
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.notification import Notifier
from holdfast.tasks.ports import Hosts, answered
from holdfast.tasks.result import Result, Status
from holdfast.tasks.rows import AttemptRow, TaskRow
from holdfast.tasks.versions import Versions

logger: Final = logging.getLogger(__name__)

#: Between two looks for a host that stays away, seconds; doubled each time.
_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
#: How long after its end a task is looked at again, seconds.
_HOPE: Final = 7 * 86_400.0


class LateOutcomes:
    """Looks again at tasks that ended as ``outcome_unknown``."""

    def __init__(self, ledger: Ledger, hosts: Hosts, directory: Path, versions: Versions, notifier: Notifier) -> None:
        self._ledger = ledger
        self._hosts = hosts
        self._directory = directory
        self._versions = versions
        self._notifier = notifier
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def recover(self) -> None:
        """Look at every task that ended so in the last days."""
        for task_id in await self._ledger.unknown_outcomes(wall() - _HOPE):
            self.watch(task_id)

    def watch(self, task_id: str) -> None:
        """Look at a finished task, in the background, until its outcome is known or nothing more can be learnt."""
        if task_id not in self._watches:
            watch = asyncio.create_task(self._watch(task_id), name=f"late outcome of {task_id}")
            self._watches[task_id] = watch
            watch.add_done_callback(lambda _: self._watches.pop(task_id, None))

    async def aclose(self) -> None:
        """Stop looking; :meth:`recover` goes on with it."""
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        if watches:
            await asyncio.wait(watches)

    async def _watch(self, task_id: str) -> None:
        pause, began = _PAUSE, wall()
        while True:
            try:
                await self.look_again(task_id)
                return
            except HostUnavailable as error:
                logger.info("task %s: its outcome is still not known: %s", task_id, error)
            except NotFound:
                return
            except HoldfastError as error:
                logger.warning("task %s: its outcome stays unknown: %s", task_id, error)
                return
            if not 0 <= wall() - began < _HOPE:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def look_again(self, task_id: str) -> Result | None:
        """The better result of a task that ended as ``outcome_unknown``; ``None`` if it stays as it is.

        What still runs of it is waited for, to the time limit of the task.

        :raises HostUnavailable: the host is still away
        :raises NotFound: there is no such task any more
        """
        task = await self._ledger.task(task_id)
        attempts = await self._ledger.attempts(task_id)
        if task.status is not Status.OUTCOME_UNKNOWN or not attempts:
            return None
        host, last = await self._hosts.host(), attempts[-1]
        status = await host.status(last.process_id)
        if status is None:
            return None
        agent = await asyncio.to_thread(task.acceptance.agent)
        try:
            attempts[-1] = await self._learn(task, last, agent, host, running=status.state is ProcessState.RUNNING)
        except UnknownProcess:
            return None
        if agent.outlives_its_process and not last.facts.terminal:
            # The work may go on elsewhere, whatever became of the process.
            return None
        return await self._replace(task, attempts, agent)

    async def _learn(self, task: TaskRow, last: AttemptRow, agent: Agent, host: Host, *, running: bool) -> AttemptRow:
        """Read the log of the last attempt to its end, and leave nothing of it running."""
        facts = last.facts
        facts.lost = facts.unreachable = False
        limit = task.acceptance.request.limits.total_s
        left = None if limit is None or not running else max(0.0, (last.started_at or wall()) + limit - wall())
        if running and (task.cancel_requested_at is not None or facts.stop is not None):
            # Its end was wanted while nobody could bring it about.
            left, facts.stop = 0.0, facts.stop or StopCause.CANCEL
        try:
            async with asyncio.timeout(left):
                await self._read(last, agent, host)
        except TimeoutError:
            facts.stop, facts.stopped_at = facts.stop or StopCause.TOTAL, facts.stopped_at or wall()
            stopped = await answered(self._hosts, host.terminate(last.process_id, grace=STOP_GRACE))
            running = stopped.was_running
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE):
                    await self._read(last, agent, host)
        if not running:
            facts.stopped_too_late()
        termination = await answered(self._hosts, host.terminate(last.process_id, grace=1.0))
        facts.survivors = [member.pid for member in termination.survivors]
        return await self._ledger.end_attempt(last)

    async def _read(self, attempt: AttemptRow, agent: Agent, host: Host) -> None:
        facts = attempt.facts
        if facts.closed:
            return
        cursor = await self._ledger.cursor(attempt.process_id)
        async with contextlib.aclosing(follow(host, attempt.process_id, agent, cursor)) as stream:
            async for step in stream:
                message: str | None = None
                for event in step.events:
                    message = fold(facts, event, step.time or wall()) or message
                if step.exited is not None:
                    facts.exited, facts.lost = True, step.exited.lost
                    facts.exit_code, facts.signal = step.exited.exit_code, step.exited.signal
                facts.closed = facts.closed or step.closed
                facts.stdout_bytes += step.stdout_bytes
                facts.stderr_bytes += step.stderr_bytes
                facts.lost_records += sum(gap.last - gap.first + 1 for gap in step.gaps)
                await self._ledger.fold(attempt, step.cursor_after, message=message)

    async def _replace(self, task: TaskRow, attempts: list[AttemptRow], agent: Agent) -> Result | None:
        known = await self._ledger.result(task.id)
        if known is None:
            return None
        files = TaskFiles(self._directory, task.id)
        finalisation = Finalisation(
            task,
            attempts,
            agent=agent,
            ledger=self._ledger,
            hosts=self._hosts,
            files=files,
            versions=self._versions,
            revises=known,
        )
        result = await finalisation.result()
        upgraded = False
        if result.status is not Status.OUTCOME_UNKNOWN:
            async with self._notifier.silence(task.id):
                upgraded = await self._ledger.upgrade(result)
        if not upgraded:
            await asyncio.to_thread(replace_file, files.result, [msgspec.json.encode(known)])
            return None
        logger.info("task %s: %s after all", task.id, result.status)
        return result
