"""One attempt, from its process's start to the proof that nothing of it is left.

It may be entered at any point: each step is stored before the next, and every step can be done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from holdfast.agents.adapter import Agent, Launch
from holdfast.agents.commands import Interrupt, Steer, encode
from holdfast.agents.events import Waiting
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import monotonic, wall
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
from holdfast.tasks.budget import FINISH_NOW, nearly_spent
from holdfast.tasks.facts import AttemptFacts, fold
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.ports import Hosts, Servers, answered
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.rows import AttemptRow, Phase
from holdfast.tasks.state import State
from holdfast.tasks.watchdog import Watchdog

logger: Final = logging.getLogger(__name__)

#: Between SIGTERM and SIGKILL: long enough for an agent to write down where it was, seconds.
STOP_GRACE: Final = 5.0
#: For an agent to take what it is told, and to end its turn if it is told to before its processes are ended, seconds.
INTERRUPT_GRACE: Final = 5.0
#: For the streams to close once the tree has been ended, seconds.
CLOSE_GRACE: Final = 2.0
#: How long a host that went away is waited for before its processes are given up, seconds.
HOST_PATIENCE: Final = 60.0
#: At most this long is a fold without events kept in memory only (it can be done again), seconds.
_FOLD_INTERVAL: Final = 1.0


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
        holding: asyncio.Future[None] | None = None,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """*first* is the attempt from whose start the total time limit runs, if it is not this one.

        *holding* is the hold of its server, if somebody has it or is about to, for longer than this attempt takes.
        *on_start* is called when the process is stored as started, *on_end* when the agent has come to its own end and
        nothing of it is left, before that is stored.
        """
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
        self._holding = holding
        self._on_start = on_start
        self._on_end = on_end
        #: How far the log is folded into the facts in memory; stored together with them.
        self._cursor: Cursor | None = None
        self._folded_at = 0.0
        #: The facts are not stored as they are in memory.
        self._unstored = False
        self._termination: asyncio.Task[Termination] | None = None
        self._terminated_at: float | None = None
        #: It takes commands, and what it converses with is a process of its own tree.
        self._has_to_be_told = False
        self._exited = asyncio.Event()
        #: The host was asked to start the process; from then on it may be running whatever we hear.
        self._asked = False

    async def run(self) -> AttemptRow:
        """Start the process if it does not run yet, follow it to its end, and leave nothing behind."""
        if self._attempt.phase is Phase.ENDED:
            return self._attempt
        launch = await asyncio.to_thread(self._files.load_launch)
        self._has_to_be_told = launch.commands and launch.server is None
        async with contextlib.AsyncExitStack() as stack:
            if launch.server is not None:
                try:
                    if self._holding is not None:
                        await self._holding
                    else:
                        await stack.enter_async_context(self._servers.hold(launch.server))
                except Unavailable as error:
                    logger.warning("%s: its server is not there: %s", self._attempt.process_id, error)
                    if self._attempt.phase is Phase.PREPARED:
                        self._refuse(error.message, error.hint)
                        return await self._ledger.end_attempt(self._attempt)
            if self._attempt.phase is Phase.PREPARED and not await self._start(launch):
                return await self._ledger.end_attempt(self._attempt)
            if self._facts.unreachable:
                # A daemon before this one had given the host up, and did not come to say so.
                self._facts.lost = self._facts.unreachable = False
            await self._patiently(self._follow)
            if self._unstored:
                # Facts are never stored without their cursor: whoever reads on later would count twice.
                await self._fold()
            if not self._facts.unreachable:
                await self._patiently(self._clear)
            if self._agent.outlives_its_process and self._facts.stop is not None and not self._facts.terminal:
                # The process is gone; what it had begun elsewhere must not go on unseen.
                doubt = await asyncio.to_thread(self._agent.end, launch, self._facts.thread_id)
                if doubt is not None:
                    logger.warning("%s: %s", self._attempt.process_id, doubt)
                    self._facts.unreachable = True
            facts = self._facts
            if facts.terminal and facts.closed and facts.stop is None and not facts.survivors and not facts.unreachable:
                self._on_end()
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
                await answered(self._hosts, host.start(spec))
                started = True

        try:
            await self._patiently(start)
        except StartRefused as refusal:
            there = await asyncio.to_thread(lambda: os.path.isdir(spec.cwd) and os.path.isfile(prompt))
            failure_class = FailureClass.BACKEND_MISSING if there else FailureClass.BAD_REQUEST
            self._refuse(refusal.message, refusal.hint, failure_class)
        if started:
            self._attempt = await self._ledger.mark_started(self._attempt, at=at, monotonic_at=monotonic_at)
            self._on_start()
        return started

    def _refuse(
        self, message: str, hint: str | None, failure_class: FailureClass = FailureClass.BACKEND_MISSING
    ) -> None:
        self._facts.start_failure = Failure(
            failure_class=failure_class,
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
            began: float | None = None
            try:
                host = await self._hosts.host()
                began = monotonic()
                await action(host)
                return
            except UnknownProcess as error:
                logger.warning("%s: %s", self._attempt.process_id, error)
                self._facts.lost = not self._facts.exited
                return
            except HostUnavailable as error:
                logger.warning("%s: host lost: %s", self._attempt.process_id, error)
                if began is not None and monotonic() - began > HOST_PATIENCE:
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
        if self._cursor is None:
            # Only at first: after a host was lost, the facts in memory may go further than what is stored.
            self._cursor = await self._ledger.cursor(self._attempt.process_id)
        watchdog = Watchdog(
            self._attempt,
            limits=self._request.limits,
            agent=self._agent,
            cancelled=self._cancelled,
            first=self._first,
            now=monotonic(),
        )
        if self._facts.stop is not None:
            self._terminate(host)
        async with contextlib.aclosing(follow(host, self._attempt.process_id, self._agent, self._cursor)) as stream:
            try:
                await self._watch(host, stream, watchdog)
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
            if not termination.result().was_running:
                self._facts.stopped_too_late()
            self._note_termination(termination.result())
        if self._unstored or termination is not None:
            await self._fold()

    async def _watch(self, host: Host, stream: AsyncGenerator[Step, None], watchdog: Watchdog) -> None:
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
                patience = self._until_next_bound(watchdog)
                await asyncio.wait(waited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if step.done():
                    finished, step = step.result(), None
                    if finished is None:
                        return
                    await self._take(finished, watchdog)
                if self._given_up_closing():
                    return
                await self._enforce(host, watchdog)
        finally:
            cancelled.cancel()
            if step is not None:
                step.cancel()
                await asyncio.wait({step})

    async def _take(self, step: Step, watchdog: Watchdog) -> None:
        facts = self._facts
        now = monotonic()
        only_waits = bool(step.events) and all(isinstance(event, Waiting) for event in step.events)
        if not only_waits:
            watchdog.progressed(now)
        self._cursor, self._unstored = step.cursor_after, True
        facts.stdout_bytes += step.stdout_bytes
        facts.stderr_bytes += step.stderr_bytes
        facts.lost_records += sum(gap.last - gap.first + 1 for gap in step.gaps)
        message: str | None = None
        for event in step.events:
            message = fold(facts, event, step.time or wall()) or message
        if step.exited is not None:
            facts.exited, facts.lost = True, step.exited.lost
            facts.exit_code, facts.signal = step.exited.exit_code, step.exited.signal
            self._exited.set()
        facts.closed = facts.closed or step.closed
        watchdog.facts_changed(now)
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
        self._folded_at, self._unstored = monotonic(), False

    async def _enforce(self, host: Host, watchdog: Watchdog) -> None:
        if self._termination is not None or self._facts.closed:
            return
        now = monotonic()
        if self._facts.exited:
            if watchdog.output_is_late(now):
                self._terminate(host)
            return
        cause = watchdog.stop_cause(now)
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
        if not nearly_spent(self._facts, self._request.limits, self._agent):
            return
        # Stored first: told twice would be worse than not at all, for the hard limit is there still.
        self._facts.told_to_finish = True
        await self._fold()
        command = encode(Steer(id=f"{self._attempt.process_id}-finish", text=FINISH_NOW))
        try:
            # No limit is looked at meanwhile.
            async with asyncio.timeout(INTERRUPT_GRACE):
                await host.write(self._attempt.process_id, command)
        except (TimeoutError, StdinClosed, WriteUncertain) as error:
            logger.warning("%s: could not be told to finish: %r", self._attempt.process_id, error)

    def _until_next_bound(self, watchdog: Watchdog) -> float | None:
        if self._termination is not None:
            if self._terminated_at is None:
                return None
            return max(0.0, self._terminated_at + CLOSE_GRACE - monotonic())
        now = monotonic()
        bound = watchdog.next_bound(now)
        return None if bound is None else max(0.0, bound - now)

    def _given_up_closing(self) -> bool:
        """Whether the tree was ended and the streams are open still: what holds them cannot be ended."""
        if self._termination is None or not self._termination.done():
            return False
        if self._terminated_at is None:
            self._terminated_at = monotonic()
        return monotonic() >= self._terminated_at + CLOSE_GRACE

    def _terminate(self, host: Host) -> None:
        self._termination = asyncio.ensure_future(answered(self._hosts, self._end(host)))

    async def _end(self, host: Host) -> Termination:
        process_id = self._attempt.process_id
        if self._has_to_be_told and not self._facts.exited:
            # A signal reaches the whole tree at once: its server would be gone before it heard of the interruption.
            try:
                async with asyncio.timeout(INTERRUPT_GRACE):
                    await host.write(process_id, encode(Interrupt(id=f"{process_id}-interrupt")))
                    await self._exited.wait()
            except (TimeoutError, StdinClosed, UnknownProcess, WriteUncertain) as error:
                logger.info("%s: not interrupted, ended: %r", process_id, error)
        return await host.terminate(process_id, grace=STOP_GRACE)

    async def _clear(self, host: Host) -> None:
        """End whatever outlived the agent, and note it."""
        self._note_termination(await answered(self._hosts, host.terminate(self._attempt.process_id, grace=1.0)))

    def _note_termination(self, termination: Termination) -> None:
        if self._facts.stop is None:
            self._facts.ended_leftovers += [f"{member.pid} ({member.command})" for member in termination.ended]
        self._facts.survivors = [member.pid for member in termination.survivors]


async def _next(stream: AsyncGenerator[Step, None]) -> Step | None:
    return await anext(stream, None)
