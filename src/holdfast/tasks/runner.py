"""One task, from wherever it stands to its result.  Recovery is the normal start path: there is no other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent, Installation, Sandbox
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import boot_id, monotonic, wall
from holdfast.errors import HoldfastError
from holdfast.tasks.acceptance import TaskFiles, replace_file
from holdfast.tasks.attempt import AttemptRunner
from holdfast.tasks.budget import FINALISE, FINISH_NOW
from holdfast.tasks.continuation import REATTACH
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.finalise import Finalisation
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.observation import Observed, observe
from holdfast.tasks.ports import Hosts, Servers, answered
from holdfast.tasks.rows import AttemptRow, Phase, TaskRow
from holdfast.tasks.slots import Ticket
from holdfast.tasks.state import State
from holdfast.tasks.versions import Versions
from holdfast.tasks.workspace.changes import Baseline, take_baseline
from holdfast.tasks.worktree import discard

logger: Final = logging.getLogger(__name__)

#: Between attempts when the upstream names no time, seconds; doubled each time.
_RETRY_PAUSE: Final = 2.0
#: Faults of Holdfast itself (a full disk, a locked database) in a row before a task is closed as failed.
_FAULTS_BEFORE_GIVING_UP: Final = 5
#: The reason of an attempt that does again what provably did nothing.
RETRY: Final = "retry"
#: How often in a row that is tried: whoever dies this often will not stop dying.
_REATTACHMENTS: Final = 5


class TaskRunner:
    """Carries one task to its result."""

    def __init__(
        self,
        task_id: str,
        *,
        ledger: Ledger,
        hosts: Hosts,
        servers: Servers,
        files: TaskFiles,
        versions: Versions,
        place: Ticket,
        baseline: asyncio.Task[Baseline] | None = None,
    ) -> None:
        """*place* is where the task stands in the queue for a slot.

        *baseline* is that of its working directory, on its way already; it is good for a task that starts at once.
        """
        self._task_id = task_id
        self._ledger = ledger
        self._hosts = hosts
        self._servers = servers
        self._files = files
        self._versions = versions
        self._place = place
        self._baseline = baseline
        self._observing: asyncio.Future[Observed] | None = None
        self._cancelled = asyncio.Event()
        #: Set when there is a log to follow, or a result; then another one takes its place.
        self.moved = asyncio.Event()

    def cancel(self) -> None:
        """Wake the runner after a request to cancel has been stored."""
        self._cancelled.set()

    def wake(self) -> None:
        """Have everybody who waits for :attr:`moved` look again."""
        self.moved.set()
        self.moved = asyncio.Event()

    async def run(self) -> None:
        """Work until the task is finished.

        A fault of Holdfast itself does not end the task: the work is taken up again from what is stored, a few times,
        and after that the task is finished as failed with the fault as its reason.
        """
        last = ""
        for fault in range(1, _FAULTS_BEFORE_GIVING_UP + 1):
            try:
                await self._advance()
                return
            except Exception as error:
                logger.exception("task %s: fault %d", self._task_id, fault)
                last = "".join(traceback.format_exception_only(error)).strip()
                await asyncio.sleep(min(2.0**fault / 4, 5.0))
            finally:
                self._drop_baseline()
                self._drop_observation()
        await self._give_up(last)

    async def _advance(self) -> None:
        task = await self._ledger.task(self._task_id)
        if task.state is State.FINISHED:
            return
        if task.cancel_requested_at is not None:
            self._cancelled.set()
        agent = await asyncio.to_thread(task.acceptance.agent)
        attempt = await self._attempts(task, agent)
        task, attempts = await self._ledger.begin_result(task.id)
        finalisation = Finalisation(
            task,
            attempts,
            agent=agent,
            ledger=self._ledger,
            hosts=self._hosts,
            files=self._files,
            versions=self._versions,
            observing=self._observing,
        )
        result = await finalisation.result()
        await self._ledger.finish(result)
        self.wake()
        if task.acceptance.worktree is not None and result.backend.worktree_kept is False:
            # After the result is stored: until then what it was made from must stay.
            await asyncio.to_thread(discard, task.acceptance.worktree)
        logger.info("task %s: %s%s", task.id, result.status, "" if attempt else " before it started")

    async def _attempts(self, task: TaskRow, agent: Agent) -> AttemptRow | None:
        state = task.state
        # A task that is only queued has none.
        attempts = [] if state is State.QUEUED else await self._ledger.attempts(task.id)
        attempt = attempts[-1] if attempts else None
        async with contextlib.AsyncExitStack() as held:
            if attempt is None:
                at_once = task.acceptance.after is None and self._place.granted.is_set()
                if state is State.FINALISING or not await self._thread_is_free(task) or not await self._slot(task):
                    return None
                if not at_once:
                    self._drop_baseline()
                task, attempt, holding = await self._begin_first(task, agent, held)
                return await self._carry(task, agent, attempt, None, State.STARTING, holding)
            return await self._carry(task, agent, attempt, attempts[0], state)

    async def _begin_first(
        self, task: TaskRow, agent: Agent, held: contextlib.AsyncExitStack
    ) -> tuple[TaskRow, AttemptRow, asyncio.Future[None] | None]:
        """Note how the working directory is, and that there will be an attempt; both rows as they are stored then.

        Meanwhile its server, if it has one, is made ready; what that comes to is returned.  It is *held* from then on.
        """
        cwd = Path(task.acceptance.settled.cwd)
        baseline = self._baseline = self._baseline or asyncio.ensure_future(take_baseline(cwd))
        launch = await asyncio.to_thread(self._files.load_launch)
        holding: asyncio.Future[None] | None = None
        if launch.server is not None:
            holding = asyncio.ensure_future(held.enter_async_context(self._servers.hold(launch.server)))
            held.push_async_callback(_end, holding)
        reason = "resume" if task.acceptance.resume_thread else "first"
        facts = AttemptFacts(argv=launch.argv, thread_id=launch.thread_id, model=task.acceptance.settled.model)
        attempt = await self._ledger.begin_attempt(task.id, 1, reason, facts, baseline=await baseline)
        return msgspec.structs.replace(task, baseline=await baseline), attempt, holding

    def _look(self, task: TaskRow, facts: AttemptFacts) -> None:
        """Begin to look at what *task* changed; good as long as no other attempt follows."""
        self._drop_observation()
        looking = observe(task, facts, queries=self._ledger, kept=self._files.kept)
        self._observing = asyncio.ensure_future(looking)

    def _drop_observation(self) -> None:
        if self._observing is not None:
            self._observing.cancel()
            self._observing = None

    def _drop_baseline(self) -> None:
        if self._baseline is not None:
            self._baseline.cancel()
            self._baseline = None

    async def _carry(
        self,
        task: TaskRow,
        agent: Agent,
        attempt: AttemptRow,
        first: AttemptRow | None,
        state: State,
        holding: asyncio.Future[None] | None = None,
    ) -> AttemptRow:
        """From *attempt* on to the last one that there has to be; *holding* is the hold of its server."""
        request = task.acceptance.settled
        while True:
            self._drop_observation()
            runner = AttemptRunner(
                attempt,
                request=request,
                agent=agent,
                files=self._files,
                ledger=self._ledger,
                hosts=self._hosts,
                servers=self._servers,
                cancelled=self._cancelled,
                state=state,
                first=first,
                holding=holding,
                on_start=self.wake,
                on_end=partial(self._look, task, attempt.facts),
            )
            attempt, holding = await runner.run(), None
            first = first or attempt
            following = await self._following(task, agent, attempt, state)
            if following is not None:
                attempt, state = following, State.STARTING
                continue
            pause = self._retry_pause(attempt, request.retries)
            if pause is None or state is State.FINALISING:
                return attempt
            logger.info("task %s: attempt %d failed, next in %.1f s", task.id, attempt.number, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cancelled.wait(), pause)
            if self._cancelled.is_set():
                return attempt
            attempt, state = await self._begin(task, agent, attempt.number + 1, RETRY), State.STARTING

    async def _thread_is_free(self, task: TaskRow) -> bool:
        """Wait for the task that this one goes on behind; ``False`` when it was cancelled meanwhile."""
        if task.acceptance.after is None:
            return True
        ended = asyncio.ensure_future(self._ledger.until_finished(task.acceptance.after))
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({ended, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
        finally:
            ended.cancel()
            cancelled.cancel()
        return not self._cancelled.is_set()

    async def _slot(self, task: TaskRow) -> bool:
        """Wait for a place to work in; ``False`` when the task was cancelled or its time to wait is over."""
        if self._place.granted.is_set() or self._cancelled.is_set():
            return not self._cancelled.is_set()
        bound = task.acceptance.request.limits.slot_s
        waited = monotonic() - task.created_monotonic if task.boot_id == boot_id() else wall() - task.created_at
        waits = [asyncio.ensure_future(event.wait()) for event in (self._place.granted, self._cancelled)]
        try:
            timeout = None if bound is None else max(0.0, bound - waited)
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._place.granted.is_set() and not self._cancelled.is_set()

    async def _following(self, task: TaskRow, agent: Agent, attempt: AttemptRow, state: State) -> AttemptRow | None:
        """The attempt that goes on with what *attempt* began, if there must be one."""
        facts = attempt.facts
        if self._cancelled.is_set() or state is State.FINALISING or facts.start_failure is not None:
            return None
        if agent.outlives_its_process and facts.stop is None and not facts.terminal:
            attempts = await self._ledger.attempts(task.id)
            if sum(earlier.reason == REATTACH for earlier in attempts) < _REATTACHMENTS:
                logger.info("task %s: attempt %d broke off; collecting", task.id, attempt.number)
                return await self._begin(task, agent, attempt.number + 1, REATTACH, collects=attempt)
        if facts.stop not in (StopCause.TOOL_USES, StopCause.SOFT_TOOL_USES) or facts.terminal:
            return None
        if facts.concludes is not None or not agent.can_resume or facts.thread_id is None:
            return None
        return await self._begin(task, agent, attempt.number + 1, FINALISE, concludes=attempt)

    async def _begin(
        self,
        task: TaskRow,
        agent: Agent,
        number: int,
        reason: str,
        *,
        concludes: AttemptRow | None = None,
        collects: AttemptRow | None = None,
    ) -> AttemptRow:
        launch = await asyncio.to_thread(self._files.load_launch)
        if reason != REATTACH:
            # A fresh command line (an agent may need a new thread id), in the environment of the first one.
            work = task.acceptance.work(self._files.prompt)
            if concludes is not None:
                await asyncio.to_thread(replace_file, self._files.closing_prompt, [FINISH_NOW.encode()])
                work = msgspec.structs.replace(
                    work,
                    prompt_file=self._files.closing_prompt,
                    work_id=f"{task.id}-{reason}",
                    resume=concludes.facts.thread_id,
                    fork=None,
                    review=None,
                    # A conclusion is words.
                    sandbox=Sandbox.READ_ONLY,
                    add_dirs=[],
                )
            elif reason == RETRY:
                # Work by the same name would be collected, with the failure that it ended in.
                work = msgspec.structs.replace(work, work_id=f"{task.id}-{number}")
            launch = agent.launch(Installation(command=task.acceptance.command), work, launch.env)
            await asyncio.to_thread(self._files.save_launch, launch)
        facts = AttemptFacts(argv=launch.argv, thread_id=launch.thread_id, model=task.acceptance.settled.model)
        if concludes is not None:
            facts.concludes, facts.thread_id = concludes.facts.stop, concludes.facts.thread_id
        if collects is not None:
            # The very same work: told of its budget already, or a conclusion itself.
            facts.concludes, facts.told_to_finish = collects.facts.concludes, collects.facts.told_to_finish
            facts.thread_id = collects.facts.thread_id
        return await self._ledger.begin_attempt(task.id, number, reason, facts)

    def _retry_pause(self, attempt: AttemptRow, retries: int) -> float | None:
        """Seconds until the next attempt, or ``None`` when there must not be one.

        Only an attempt that provably left no trace is repeated: anything else may have written files already.
        """
        facts = attempt.facts
        failure = facts.failure
        if attempt.number > retries or failure is None or not failure.retryable or not facts.did_nothing:
            return None
        if facts.stop is not None or facts.lost or self._cancelled.is_set():
            return None
        return failure.retry_after_s or _RETRY_PAUSE * 2 ** (attempt.number - 1)

    async def _give_up(self, reason: str) -> None:
        """Finish a task that Holdfast cannot carry on with, after ending what runs of it."""
        task = await self._ledger.task(self._task_id)
        attempts = await self._ledger.attempts(self._task_id)
        failure = Failure(
            failure_class=FailureClass.INTERNAL,
            message=f"Holdfast could not go on with this task: {reason}",
            remedy=[Remedy(text="Run the checks, and report the daemon's log.", argv=["holdfast", "doctor"])],
        )
        if attempts and attempts[-1].phase is not Phase.ENDED:
            last = attempts[-1]
            try:
                host = await self._hosts.host()
                ended = await answered(self._hosts, host.terminate(last.process_id, grace=1.0))
                last.facts.survivors = [member.pid for member in ended.survivors]
            except HoldfastError as error:
                logger.error("task %s: its process could not be ended: %s", task.id, error)
            await self._ledger.end_attempt(last)
        task, attempts = await self._ledger.begin_result(task.id)
        finalisation = Finalisation(
            task,
            attempts,
            agent=None,
            ledger=self._ledger,
            hosts=self._hosts,
            files=self._files,
            versions=self._versions,
            fault=failure,
        )
        await self._ledger.finish(await finalisation.result())


async def _end(future: asyncio.Future[None]) -> None:
    future.cancel()
    await asyncio.wait({future})
    if not future.cancelled():
        # Looked at here for when nobody else did.
        future.exception()
