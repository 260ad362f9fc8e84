"""Everything that can be asked about tasks: accept, show, wait for, cancel, read.

There is one way a task runs, and it runs here; whoever asked for it may come back, or not.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.clock import monotonic
from holdfast.host.port import Gap, HostUnavailable, Record, UnknownProcess
from holdfast.store.store import Store
from holdfast.tasks.acceptance import Acceptance, TaskFiles
from holdfast.tasks.accounts import Accounts
from holdfast.tasks.admission import Admission
from holdfast.tasks.collected import Collected, CollectionRequest
from holdfast.tasks.collection import Collector
from holdfast.tasks.conversation import Conversation
from holdfast.tasks.late import LateOutcomes
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.notification import Notifier
from holdfast.tasks.ports import Hosts, Servers
from holdfast.tasks.progress import Position, read_attempt
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import Result
from holdfast.tasks.rows import AttemptRow, TaskRow
from holdfast.tasks.runner import TaskRunner
from holdfast.tasks.slots import Slots, Ticket
from holdfast.tasks.state import State
from holdfast.tasks.versions import Versions
from holdfast.tasks.view import NotFinished, Progress, TaskView, derive_view, finished_line
from holdfast.tasks.workspace.changes import Baseline, take_baseline

logger: Final = logging.getLogger(__name__)


class TaskService:
    """The tasks of one state directory.  Used from one event loop, by one process at a time."""

    def __init__(self, store: Store, hosts: Hosts, servers: Servers, directory: Path) -> None:
        self._store = store
        self._ledger = Ledger(store)
        self._hosts = hosts
        self._servers = servers
        self._directory = directory
        self._versions = Versions()
        self._slots = Slots()
        self._notifier = Notifier(store, hosts, directory)
        self._late = LateOutcomes(self._ledger, hosts, directory, self._versions, self._notifier)
        self._closing = False
        #: What belongs to agents and not to one task.
        self.accounts = Accounts(self._ledger, servers)
        #: What can be said to tasks at work.
        self.conversation = Conversation(store, self._ledger, hosts)
        self._collector = Collector(self._ledger, hosts, directory)
        self._admission = Admission(self._ledger, directory, self._versions, self._collector)
        self._runners: dict[str, tuple[TaskRunner, asyncio.Task[None]]] = {}

    async def recover(self) -> int:
        """Take up every task that has no result yet; returns how many there are."""
        unfinished = await self._ledger.unfinished()
        # Whoever was at work keeps the place, before anybody who waits is given one.
        places = {
            row.id: self._enter(row.acceptance, at_work=True) for row in unfinished if row.state is not State.QUEUED
        }
        for row in unfinished:
            self._launch(row.id, places.get(row.id) or self._enter(row.acceptance))
        await self._notifier.recover()
        await self._late.recover()
        return len(unfinished)

    async def aclose(self) -> None:
        """Stop working on tasks.  Their processes go on, and :meth:`recover` takes them up again."""
        self._closing = True
        running = [work for _, work in self._runners.values()]
        for work in running:
            work.cancel()
        if running:
            await asyncio.wait(running)
        await self._late.aclose()
        await self._notifier.aclose()
        await self._versions.aclose()

    async def accept(self, request: TaskRequest, prompt: bytes, environment: dict[str, str]) -> tuple[TaskView, bool]:
        """Check a request, store it, and begin; returns its view, and ``False`` if it was accepted before.

        Everything that can be found wrong is found here, before anything is started or stored.

        :raises InvalidRequest: or a subclass of it, naming what is wrong
        :raises AgentMissing: the agent is not installed where *environment* says
        """
        baseline = _look_ahead(request)
        try:
            acceptance = await self._admission.admit(request, prompt, environment)
            if acceptance is not None:
                self._launch(request.task_id, self._enter(acceptance), baseline)
                baseline = None
        finally:
            if baseline is not None:
                baseline.cancel()
        return await self.view(request.task_id), acceptance is not None

    async def resolve(self, prefix: str) -> str:
        """The id of the one task whose id begins with *prefix*.

        :raises NotFound: no task fits
        :raises Ambiguous: several do
        """
        return await self._ledger.resolve(prefix)

    async def view(self, task_id: str) -> TaskView:
        """What a task looks like now.

        :raises NotFound: there is no such task
        """
        return (await self._complete([await self._ledger.shown(task_id)]))[0]

    async def list(self, *, active_only: bool, limit: int, tags: Mapping[str, str] | None = None) -> list[TaskView]:
        """Tasks (those that carry all of *tags*), newest first."""
        rows = await self._ledger.list(active_only=active_only, limit=limit, tags=tags)
        return await self._complete(rows)

    async def _complete(self, rows: builtins.list[tuple[TaskRow, AttemptRow | None, int]]) -> builtins.list[TaskView]:
        """The views of *rows*, with what is known beside the task itself: its place in the queue, and who was told."""
        told = await self._notifier.views({row.id: row.acceptance for row, _, _ in rows})
        views: builtins.list[TaskView] = []
        for row, attempt, number in rows:
            view = derive_view(row, attempt, number)
            before = self._slots.before(row.id)
            if before is not None and row.state is State.QUEUED:
                view = msgspec.structs.replace(view, evidence=f"waits for a slot ({before} before it)")
            if row.id in told:
                view = msgspec.structs.replace(view, notifications=told[row.id])
            views.append(view)
        return views

    async def counts(self) -> tuple[int, int]:
        """How many tasks there are, and how many of them are not finished."""
        return await self._ledger.counts()

    async def wait(self, task_id: str, timeout: float) -> TaskView:
        """The view of a task as soon as it is finished, or as it is after *timeout* seconds."""
        deadline = monotonic() + timeout
        while True:
            runner = self._runners.get(task_id)
            if runner is not None:
                await asyncio.wait({runner[1]}, timeout=deadline - monotonic())
                return await self.view(task_id)
            position = await self._store.feed.latest()
            view = await self.view(task_id)
            if view.status is not None or monotonic() >= deadline:
                return view
            # Nobody carries it yet, or any more because it could not even be given up: whoever asks again and again
            # must not be answered at once.
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    await self._store.feed.wait_beyond(position)
            except TimeoutError:
                pass

    async def cancel(self, task_id: str) -> TaskView:
        """Have a task's process tree ended; a finished task is left as it is."""
        if await self._ledger.request_cancel(task_id) and task_id in self._runners:
            self._runners[task_id][0].cancel()
        return await self.view(task_id)

    async def collect(self, request: CollectionRequest) -> Collected:
        """Delete finished tasks that *request* lets go, with their files and the logs of their processes.

        :raises InvalidRequest: the request makes no sense
        :raises HostUnavailable: there is no host
        """
        return await self._collector.collect(request, self._runners.keys)

    async def result(self, task_id: str) -> Result:
        """The result of a task.

        :raises NotFinished: there is none yet
        """
        result = await self._ledger.result(task_id)
        if result is None:
            row = await self._ledger.task(task_id)
            raise NotFinished(f"Task {row.id} is still {row.state}.", hint=f"Wait for it: holdfast wait {row.id}")
        return result

    async def message(self, task_id: str) -> tuple[Path | None, Result]:
        """The file that holds a finished task's answer (``None`` if it gave none), and its result."""
        result = await self.result(task_id)
        return None if result.message.path is None else Path(result.message.path), result

    async def progress(self, task_id: str, after: str | None, *, follow: bool) -> AsyncGenerator[Progress, None]:
        """What the agent reported, as lines for people, from behind the position *after*.

        With *follow* it goes on until the task is finished and then says so.
        """
        position = Position.parse(after)
        agent: Agent | None = None
        while True:
            # Taken before it is looked at, so that nothing can happen in between.
            runner = self._runners.get(task_id)
            moved = None if runner is None else runner[0].moved
            feed, row, attempts = await self._ledger.standing(task_id)
            agent = agent or await asyncio.to_thread(row.acceptance.agent)
            for attempt in attempts:
                if attempt.number < position.attempt or attempt.started_at is None:
                    continue
                if attempt.number > position.attempt:
                    position = Position(attempt=attempt.number, tool_uses=position.tool_uses)
                try:
                    host = await self._hosts.host()
                    lines = read_attempt(host, agent, row, attempt, position, follow_on=follow)
                    async for line, reached in lines:
                        yield line
                        position = reached
                except (HostUnavailable, UnknownProcess) as error:
                    # The runner finds out what became of the process, and the change feed tells us.
                    logger.warning("progress of %s: %s", attempt.process_id, error)
                    moved = None
                    break
                # What was read to its end is not read again, even if its process is still held open.
                position = Position(attempt=attempt.number + 1, tool_uses=position.tool_uses)
            if row.state is State.FINISHED:
                if follow:
                    yield finished_line(await self.view(task_id), position.encode())
                return
            if not follow:
                return
            if moved is not None:
                await moved.wait()
            else:
                await self._store.feed.wait_beyond(feed)

    async def log(
        self, task_id: str, *, attempt: int | None, after: int, follow: bool
    ) -> AsyncGenerator[tuple[int, Record | Gap], None]:
        """The records of a task's processes, each with the number of its attempt."""
        for row in await self._ledger.attempts(task_id):
            if (attempt is not None and row.number != attempt) or row.started_at is None:
                continue
            host = await self._hosts.host()
            async for record in host.records(row.process_id, after_seq=after, follow=follow):
                yield row.number, record

    def _enter(self, acceptance: Acceptance, *, at_work: bool = False) -> Ticket:
        request = acceptance.request
        return self._slots.enter(request.task_id, request.agent, at_work=at_work, nested=acceptance.nested)

    def _launch(self, task_id: str, place: Ticket, baseline: asyncio.Task[Baseline] | None = None) -> None:
        files = TaskFiles(self._directory, task_id)
        runner = TaskRunner(
            task_id,
            ledger=self._ledger,
            hosts=self._hosts,
            servers=self._servers,
            files=files,
            versions=self._versions,
            place=place,
            baseline=baseline,
        )
        work = asyncio.create_task(runner.run(), name=f"task {task_id}")
        self._runners[task_id] = (runner, work)
        work.add_done_callback(lambda _: self._ended(task_id, place))

    def _ended(self, task_id: str, place: Ticket) -> None:
        runner = self._runners.pop(task_id, None)
        if runner is not None:
            runner[0].wake()
        self._slots.leave(place)
        if not self._closing:
            self._notifier.tell(task_id)
            self._late.watch(task_id)


def _look_ahead(request: TaskRequest) -> asyncio.Task[Baseline] | None:
    """Begin to look at the working directory while the request is still being checked: most tasks start at once.

    ``None`` where the directory is another one by then, or gets a file of ours.
    """
    if request.worktree is not None or request.output_file is not None or not os.path.isabs(request.cwd):
        return None
    return asyncio.create_task(take_baseline(Path(request.cwd)), name=f"baseline {request.task_id}")
