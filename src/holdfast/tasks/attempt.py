"""One attempt, from its process's start to the proof that nothing of it is left.

It may be entered at any point: each step is stored before the next, and every step can be done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from holdfast.agents.adapter import Agent, Launch, SharedServer
from holdfast.agents.commands import Steer, encode
from holdfast.agents.events import Waiting
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import boot_id, monotonic, wall
from holdfast.drivers.one_shot import Cursor, Step, follow
from holdfast.errors import Unavailable
from holdfast.host.port import (
    Host,
    HostUnavailable,
    ProcessSpec,
    StartRefused,
    StdinClosed,
    Termination,
    UnknownProcess,
    WriteUncertain,
)
from holdfast.tasks.acceptance import TaskFiles
from holdfast.tasks.facts import AttemptFacts, StopCause, fold
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.rows import AttemptRow, Phase
from holdfast.tasks.state import State

logger: Final = logging.getLogger(__name__)

#: Between SIGTERM and SIGKILL: long enough for an agent to write down where it was, seconds.
STOP_GRACE: Final = 5.0
#: For output that descendants still write after the agent's exit, before they are ended, seconds.
LATE_OUTPUT: Final = 2.0
#: For an agent that has reported its end to exit by itself, seconds.
LINGER: Final = 10.0
#: For the streams to close once the tree has been ended, seconds.
CLOSE_GRACE: Final = 2.0
#: For the log to tell whether a task was finished before it was cancelled, seconds.
CANCEL_PATIENCE: Final = 0.5
#: How long a host that went away is waited for before its processes are given up, seconds.
HOST_PATIENCE: Final = 60.0
#: At most this long is a fold without events kept in memory only (it can be done again), seconds.
_FOLD_INTERVAL: Final = 1.0


#: The reason of the attempt that asks for a conclusion of what an earlier one did.
FINALISE: Final = "finalise"
#: What an agent is told when it has used up its tools.
FINISH_NOW: Final = (
    "Your budget of tool uses is nearly spent. Use no further tools. Finish now: give your final answer or verdict on "
    "the basis of what you have found so far, and say plainly what remains undone."
)


#: What an agent that shall only conclude may still use, in tool uses.
CLOSING_TOOL_USES: Final = 3


class Hosts(Protocol):
    """Where hosts come from."""

    async def host(self) -> Host:
        """A connected host of this machine; one that died is started again.

        :raises HostUnavailable: it cannot be started
        """
        ...


class Servers(Protocol):
    """Where the servers come from that several runs of an agent share."""

    def hold(self, shared: SharedServer) -> contextlib.AbstractAsyncContextManager[None]:
        """As long as the context lasts, the *shared* server is kept running and is started again when it dies.

        :raises Unavailable: it cannot be started
        """
        ...


class AttemptRunner:
    """Carries one attempt to its end."""

    def __init__(
        self,
        attempt: AttemptRow,
        *,
        request: TaskRequest,
        agent: Agent,
        files: TaskFiles,
        ledger: Ledger,
        hosts: Hosts,
        servers: Servers,
        cancelled: asyncio.Event,
        state: State,
        first: AttemptRow | None = None,
    ) -> None:
        """*first* is the attempt from whose start the total time limit runs, if it is not this one."""
        self._attempt = attempt
        self._facts: AttemptFacts = attempt.facts
        self._request = request
        self._agent = agent
        self._files = files
        self._ledger = ledger
        self._hosts = hosts
        self._servers = servers
        self._cancelled = cancelled
        self._state = state
        self._first = first
        #: How far the log is folded into the facts in memory; stored together with them.
        self._cursor: Cursor | None = None
        self._folded_at = 0.0
        self._progress_at = monotonic()
        self._exited_at: float | None = None
        self._terminal_at: float | None = None
        self._termination: asyncio.Task[Termination] | None = None
        self._terminated_at: float | None = None
        #: The host was asked to start the process; from then on it may be running whatever we hear.
        self._asked = False

    async def run(self) -> AttemptRow:
        """Start the process if it does not run yet, follow it to its end, and leave nothing behind."""
        if self._attempt.phase is Phase.ENDED:
            return self._attempt
        launch = await asyncio.to_thread(self._files.load_launch)
        async with contextlib.AsyncExitStack() as stack:
            if launch.server is not None:
                try:
                    await stack.enter_async_context(self._servers.hold(launch.server))
                except Unavailable as error:
                    logger.warning("%s: its server is not there: %s", self._attempt.process_id, error)
                    if self._attempt.phase is Phase.PREPARED:
                        self._refuse(error.message, error.hint)
                        return await self._ledger.end_attempt(self._attempt)
            if self._attempt.phase is Phase.PREPARED and not await self._start(launch):
                return await self._ledger.end_attempt(self._attempt)
            await self._patiently(self._follow)
            await self._patiently(self._clear)
            if self._agent.outlives_its_process and self._facts.stop is not None and not self._facts.terminal:
                # The process is gone; what it had begun elsewhere must not go on unseen.
                doubt = await asyncio.to_thread(self._agent.end, launch, self._facts.thread_id)
                if doubt is not None:
                    logger.warning("%s: %s", self._attempt.process_id, doubt)
                    self._facts.unreachable = True
            return await self._ledger.end_attempt(self._attempt)

    async def _start(self, launch: Launch) -> bool:
        prompt = self._files.closing_prompt if self._facts.concludes is not None else self._files.prompt
        spec = ProcessSpec(
            process_id=self._attempt.process_id,
            argv=launch.argv,
            cwd=Path(self._request.cwd),
            env=launch.env,
            stdin_file=None if launch.commands else prompt,
            pipe_stdin=launch.commands,
        )
        at, monotonic_at = wall(), monotonic()
        started = False

        async def start(host: Host) -> None:
            nonlocal started
            # After a crash the process may be there already; only one that is not there need not be started.
            if not self._cancelled.is_set() or await host.status(spec.process_id) is not None:
                self._asked = True
                await host.start(spec)
                started = True

        try:
            await self._patiently(start)
        except StartRefused as refusal:
            self._refuse(refusal.message, refusal.hint)
        if started:
            self._attempt = await self._ledger.mark_started(self._attempt, at=at, monotonic_at=monotonic_at)
        return started

    def _refuse(self, message: str, hint: str | None) -> None:
        self._facts.start_failure = Failure(
            failure_class=FailureClass.BACKEND_MISSING,
            message=f"{self._agent.title} could not be started: {message}",
            remedy=[Remedy(text=hint or "Check the installation.", argv=["holdfast", "doctor"])],
        )

    async def _patiently(self, action: Callable[[Host], Awaitable[None]]) -> None:
        """Do *action* with a host; when the host dies under it, start the host again and repeat.

        Gives up after :data:`HOST_PATIENCE` without a host, or when the process is unknown to it: the end is lost.
        """
        given_up_at = monotonic() + HOST_PATIENCE
        pause = 0.1
        while True:
            began = monotonic()
            try:
                await action(await self._hosts.host())
                return
            except UnknownProcess as error:
                logger.warning("%s: %s", self._attempt.process_id, error)
                self._facts.lost = not self._facts.exited
                return
            except HostUnavailable as error:
                logger.warning("%s: host lost: %s", self._attempt.process_id, error)
                if monotonic() - began > HOST_PATIENCE:
                    given_up_at, pause = monotonic() + HOST_PATIENCE, 0.1
                if monotonic() > given_up_at:
                    self._give_up_host(error)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _give_up_host(self, error: HostUnavailable) -> None:
        if self._attempt.phase is Phase.PREPARED and not self._asked:
            self._facts.start_failure = Failure(
                failure_class=FailureClass.HOST_LOST,
                message=f"No process host could be reached: {error.message}",
                remedy=[Remedy(text=error.hint or "Run the checks.", argv=["holdfast", "doctor"])],
            )
        elif not self._facts.exited:
            self._facts.lost = self._facts.unreachable = True

    async def _follow(self, host: Host) -> None:
        self._cursor = await self._ledger.cursor(self._attempt.process_id)
        now = self._progress_at = monotonic()
        # What was known before a restart has waited long enough to be given its time anew.
        self._exited_at = now if self._facts.exited else None
        self._terminal_at = now if self._facts.terminal else None
        if self._facts.stop is not None:
            self._terminate(host)
        async with contextlib.aclosing(follow(host, self._attempt.process_id, self._agent, self._cursor)) as stream:
            try:
                await self._watch(host, stream)
            finally:
                termination, self._termination = self._termination, None
                self._terminated_at = None
                if termination is not None and not termination.done():
                    # The stream is at its end, or broken: either way the tree is being ended, and that is waited for.
                    await asyncio.wait({termination})
                if termination is not None and not termination.cancelled():
                    # Looked at here, because below it is not when the stream broke first.
                    termination.exception()
        if termination is not None:
            self._note_termination(termination.result())
        await self._fold()

    async def _watch(self, host: Host, stream: AsyncGenerator[Step, None]) -> None:
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        step: asyncio.Task[Step | None] | None = None
        try:
            while not self._facts.closed:
                if step is None:
                    step = asyncio.ensure_future(_next(stream))
                waited: set[asyncio.Future[Any]] = {step}
                if not self._cancelled.is_set():
                    waited.add(cancelled)
                if self._termination is not None and not self._termination.done():
                    waited.add(self._termination)
                await asyncio.wait(waited, timeout=self._until_next_bound(), return_when=asyncio.FIRST_COMPLETED)
                if step.done():
                    finished, step = step.result(), None
                    if finished is None:
                        return
                    await self._take(finished)
                if self._given_up_closing():
                    return
                await self._enforce(host)
        finally:
            cancelled.cancel()
            if step is not None:
                step.cancel()
                await asyncio.wait({step})

    async def _take(self, step: Step) -> None:
        facts = self._facts
        now = monotonic()
        only_waits = bool(step.events) and all(isinstance(event, Waiting) for event in step.events)
        if not only_waits:
            self._progress_at = now
        self._cursor = step.cursor_after
        facts.stdout_bytes += step.stdout_bytes
        facts.stderr_bytes += step.stderr_bytes
        facts.lost_records += sum(gap.last - gap.first + 1 for gap in step.gaps)
        message: str | None = None
        for event in step.events:
            message = fold(facts, event, step.time or wall()) or message
        if facts.terminal and self._terminal_at is None:
            self._terminal_at = now
        if step.exited is not None:
            facts.exited, facts.lost = True, step.exited.lost
            facts.exit_code, facts.signal = step.exited.exit_code, step.exited.signal
            self._exited_at = now
        facts.closed = facts.closed or step.closed
        spoke = bool(step.events) or (self._agent.plain_text and step.stdout_bytes > 0)
        if spoke and facts.first_event_at is None:
            facts.first_event_at = step.time or wall()
        state = State.RUNNING if self._state is State.STARTING and spoke else None
        says_nothing = state is None and not step.events and step.exited is None and not step.closed
        if says_nothing and now - self._folded_at < _FOLD_INTERVAL:
            return
        await self._fold(message=message, state=state)

    async def _fold(self, *, message: str | None = None, state: State | None = None) -> None:
        await self._ledger.fold(self._attempt, self._cursor, message=message, state=state)
        self._state = state or self._state
        self._folded_at = monotonic()

    async def _enforce(self, host: Host) -> None:
        if self._termination is not None or self._facts.closed:
            return
        now = monotonic()
        if self._exited_at is not None:
            if now >= self._exited_at + LATE_OUTPUT:
                self._terminate(host)
            return
        cause = self._stop_cause(now)
        if cause is None:
            await self._mind_the_budget(host)
            return
        logger.info("%s: stopping: %s", self._attempt.process_id, cause)
        self._facts.stop = cause
        self._facts.stopped_at = wall()
        # Stored first: whoever finds this attempt after a crash ends it too, for the same reason.
        await self._fold(state=State.STOPPING)
        self._terminate(host)

    async def _mind_the_budget(self, host: Host) -> None:
        """Tell the agent, once, that its tool uses are nearly spent."""
        facts, soft = self._facts, self._request.limits.soft_tool_uses
        if soft is None or facts.tool_total < soft or facts.told_to_finish or facts.terminal or facts.exited:
            return
        if not self._agent.can_steer or facts.concludes is not None:
            return
        # Stored first: told twice would be worse than not at all, for the hard limit is there still.
        facts.told_to_finish = True
        await self._fold()
        command = encode(Steer(id=f"{self._attempt.process_id}-finish", text=FINISH_NOW))
        try:
            await host.write(self._attempt.process_id, command)
        except (StdinClosed, WriteUncertain) as error:
            logger.warning("%s: could not be told to finish: %s", self._attempt.process_id, error)

    def _stop_cause(self, now: float) -> StopCause | None:
        facts, limits = self._facts, self._request.limits
        if facts.terminal:
            lingers = self._terminal_at is not None and now >= self._terminal_at + LINGER
            if lingers:
                return StopCause.LINGER
        if self._cancelled.is_set():
            return StopCause.CANCEL
        for cause, bound in self._time_bounds():
            if now >= bound:
                return cause
        hard = CLOSING_TOOL_USES if facts.concludes is not None else limits.max_tool_uses
        if hard is not None and facts.tool_total > hard and not facts.terminal:
            return StopCause.TOOL_USES
        soft = limits.soft_tool_uses
        if soft is not None and facts.tool_total >= soft and not facts.terminal and self._may_conclude:
            return StopCause.SOFT_TOOL_USES
        return None

    @property
    def _may_conclude(self) -> bool:
        """Whether an agent that cannot be told anything is ended at the soft limit, to be asked for a conclusion."""
        facts = self._facts
        idle = not facts.open_tools
        return not self._agent.can_steer and self._agent.can_resume and facts.concludes is None and idle

    def _time_bounds(self) -> list[tuple[StopCause, float]]:
        facts, limits = self._facts, self._request.limits
        bounds: list[tuple[StopCause, float]] = []
        started = self._attempt.started_monotonic
        if started is None or self._attempt.boot_id != boot_id():
            started = self._progress_at
        if facts.exited:
            return []
        if limits.total_s is not None:
            bounds.append((StopCause.TOTAL, self._clock_started(started) + limits.total_s))
        if limits.start_s is not None and facts.first_event_at is None:
            bounds.append((StopCause.START, started + limits.start_s))
        # A long build is not idleness, nor is a question that a person has not answered: only the total limit counts.
        if limits.idle_s is not None and not facts.open_tools and not facts.open_approvals:
            bounds.append((StopCause.IDLE, self._progress_at + limits.idle_s))
        return bounds

    def _clock_started(self, started: float) -> float:
        first = self._first
        if first is None or first.started_monotonic is None or first.boot_id != boot_id():
            return started
        return first.started_monotonic

    def _until_next_bound(self) -> float | None:
        if self._termination is not None:
            if self._terminated_at is None:
                return None
            return max(0.0, self._terminated_at + CLOSE_GRACE - monotonic())
        bounds = [at for _, at in self._time_bounds()]
        if self._exited_at is not None:
            bounds.append(self._exited_at + LATE_OUTPUT)
        elif self._terminal_at is not None:
            bounds.append(self._terminal_at + LINGER)
        if self._cancelled.is_set():
            # It came before the watch began, so nothing else wakes us; what is in the log already still comes first.
            bounds.append(monotonic() + CANCEL_PATIENCE)
        return max(0.0, min(bounds) - monotonic()) if bounds else None

    def _given_up_closing(self) -> bool:
        """Whether the tree was ended and the streams are open still: what holds them cannot be ended."""
        if self._termination is None or not self._termination.done():
            return False
        if self._terminated_at is None:
            self._terminated_at = monotonic()
        return monotonic() >= self._terminated_at + CLOSE_GRACE

    def _terminate(self, host: Host) -> None:
        self._termination = asyncio.ensure_future(host.terminate(self._attempt.process_id, grace=STOP_GRACE))

    async def _clear(self, host: Host) -> None:
        """End whatever outlived the agent, and note it."""
        self._note_termination(await host.terminate(self._attempt.process_id, grace=1.0))

    def _note_termination(self, termination: Termination) -> None:
        if self._facts.stop is None:
            self._facts.ended_leftovers += [f"{member.pid} ({member.command})" for member in termination.ended]
        self._facts.survivors = [member.pid for member in termination.survivors]


async def _next(stream: AsyncGenerator[Step, None]) -> Step | None:
    return await anext(stream, None)
