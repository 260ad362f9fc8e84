"""The tasks' rows: the only module that knows their columns.

Every method is one transaction.  A move of a task's state is checked against the transition table inside it.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from enum import StrEnum
from itertools import islice
from typing import Any

import msgspec
import sqlalchemy as sa

from holdfast.agents.events import Usage
from holdfast.clock import boot_id, monotonic, wall
from holdfast.drivers.one_shot import Cursor
from holdfast.errors import InvalidRequest, NotFound
from holdfast.store.schema import attempts, notifications, processes, tasks
from holdfast.store.store import Store
from holdfast.tasks.acceptance import Acceptance
from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.output_file import Reservation
from holdfast.tasks.result import Result, Status, UsagePart
from holdfast.tasks.state import State, check_move
from holdfast.tasks.workspace import Baseline


class Phase(StrEnum):
    """Where an attempt is: a crash between two of them is repaired by doing the next step again."""

    #: Stored; the host may or may not have been asked to start it.
    PREPARED = "prepared"
    #: The host has confirmed the process.
    STARTED = "started"
    #: Its process tree is gone, or could not be started.
    ENDED = "ended"


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task as stored."""

    id: str
    state: State
    created_at: float
    #: A reading of the monotonic clock, which means something in the boot ``boot_id`` only.
    created_monotonic: float
    boot_id: str
    acceptance: Acceptance
    baseline: Baseline | None
    reservation: Reservation | None
    cancel_requested_at: float | None
    finished_at: float | None
    status: Status | None
    exit_code: int | None


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as stored.  ``facts`` is the reader's own copy."""

    task_id: str
    number: int
    reason: str
    process_id: str
    phase: Phase
    created_at: float
    started_at: float | None
    started_monotonic: float | None
    boot_id: str
    facts: AttemptFacts
    ended_at: float | None


class _OnlyUsage(msgspec.Struct):
    usage: UsagePart


class Conflict(InvalidRequest):
    """A task of this id exists already and is another one."""

    code = "conflict"


class Ambiguous(InvalidRequest):
    """A prefix fits more than one task."""

    code = "ambiguous"


class Ledger:
    """Tasks and attempts in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, acceptance: Acceptance, reservation: Reservation | None) -> bool:
        """Store an accepted task; ``False`` if this very task is stored already.

        :raises Conflict: the id is taken by a task with another request or prompt
        """
        request = acceptance.request

        def insert(connection: sa.Connection) -> bool:
            row = connection.execute(sa.select(tasks.c.request).where(tasks.c.id == request.task_id)).first()
            if row is not None:
                known = msgspec.json.decode(row.request, type=Acceptance)
                if (known.prompt_sha256, known.request) == (acceptance.prompt_sha256, request):
                    return False
                raise Conflict(f"There is another task {request.task_id} already.", hint="Leave the id out.")
            connection.execute(
                tasks.insert().values(
                    id=request.task_id,
                    label=request.label,
                    agent=request.agent,
                    state=State.QUEUED,
                    created_at=wall(),
                    created_monotonic=monotonic(),
                    boot_id=boot_id(),
                    request=msgspec.json.encode(acceptance),
                    reservation=None if reservation is None else msgspec.json.encode(reservation),
                )
            )
            for number in range(len(acceptance.notify)):
                connection.execute(notifications.insert().values(task_id=request.task_id, number=number))
            return True

        # An accepted task is a promise: it outlives a loss of power.
        return await self._store.write(insert, durable=True)

    async def task(self, task_id: str) -> TaskRow:
        """The task of exactly this id.

        :raises NotFound: there is none
        """
        row = await self._store.read(lambda connection: connection.execute(_select_tasks(id=task_id)).first())
        if row is None:
            raise NotFound(f"There is no task {task_id}.", hint="See 'holdfast list'.")
        return _task(row)

    async def resolve(self, prefix: str) -> str:
        """The id of the one task whose id begins with *prefix*.

        :raises NotFound: no task fits
        :raises Ambiguous: several do
        """
        escaped = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = sa.select(tasks.c.id).where(tasks.c.id.like(f"{escaped}%", escape="\\")).order_by(tasks.c.id).limit(4)
        found = [row.id for row in await self._store.read(lambda connection: connection.execute(query).fetchall())]
        if prefix in found:
            return prefix
        if not found or not prefix:
            raise NotFound(f"There is no task {prefix!r}.", hint="See 'holdfast list --all'.")
        if len(found) > 1:
            raise Ambiguous(f"{prefix!r} fits several tasks: {', '.join(found)}.", hint="Give more of the id.")
        return found[0]

    async def list(
        self, *, active_only: bool, limit: int, tags: Mapping[str, str] | None = None
    ) -> list[tuple[TaskRow, AttemptRow | None, int]]:
        """Tasks (those that carry all of *tags*), newest first, each with its last attempt and how many there were."""

        def select(connection: sa.Connection) -> list[tuple[TaskRow, AttemptRow | None, int]]:
            order = (tasks.c.created_at.desc(), tasks.c.id.desc())
            query = _select_tasks().order_by(*order).limit(limit)
            if active_only:
                query = query.where(tasks.c.state != State.FINISHED)
            if tags:
                rows = connection.execute(sa.select(tasks.c.id, tasks.c.request).order_by(*order))
                fitting = (row.id for row in rows if tags.items() <= _tags(row.request).items())
                query = query.where(tasks.c.id.in_([*islice(fitting, limit)]))
            found = [_task(row) for row in connection.execute(query)]
            newest: dict[str, AttemptRow] = {}
            ids = [row.id for row in found]
            for row in connection.execute(sa.select(attempts).where(attempts.c.task_id.in_(ids))):
                attempt = _attempt(row)
                if attempt.task_id not in newest or newest[attempt.task_id].number < attempt.number:
                    newest[attempt.task_id] = attempt
            return [(row, last := newest.get(row.id), last.number if last else 0) for row in found]

        return await self._store.read(select)

    async def unfinished(self) -> list[tuple[str, str, State]]:
        """Id, agent and state of all tasks that have no result yet, oldest first."""
        query = (
            sa.select(tasks.c.id, tasks.c.agent, tasks.c.state)
            .where(tasks.c.state != State.FINISHED)
            .order_by(tasks.c.created_at, tasks.c.id)
        )
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return [(row.id, row.agent, State(row.state)) for row in rows]

    async def counts(self) -> tuple[int, int]:
        """How many tasks there are, and how many of them are not finished."""
        query = sa.select(sa.func.count(), sa.func.count().filter(tasks.c.state != State.FINISHED)).select_from(tasks)
        total, active = (await self._store.read(lambda connection: connection.execute(query).one())).tuple()
        return total, active

    async def attempts(self, task_id: str) -> list[AttemptRow]:
        """All attempts of a task, first to last."""
        query = sa.select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.number)
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return [_attempt(row) for row in rows]

    async def message(self, task_id: str, number: int) -> str | None:
        """The last message of an attempt."""
        query = sa.select(attempts.c.message).where(attempts.c.task_id == task_id, attempts.c.number == number)
        return (await self._store.read(lambda connection: connection.execute(query).one())).message

    async def thread(self, thread_id: str) -> AttemptRow | None:
        """The newest attempt that worked in this thread."""
        query = sa.select(attempts).where(attempts.c.thread_id == thread_id).order_by(attempts.c.created_at.desc())
        row = await self._store.read(lambda connection: connection.execute(query.limit(1)).first())
        return None if row is None else _attempt(row)

    async def concurrent_in(self, cwd: str, since: float, task_id: str) -> int:
        """How many other tasks were at work in *cwd* at any time after *since* (UTC seconds)."""
        query = sa.select(tasks.c.request).where(
            tasks.c.id != task_id, sa.or_(tasks.c.finished_at.is_(None), tasks.c.finished_at > since)
        )
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return sum(msgspec.json.decode(row.request, type=Acceptance).settled.cwd == cwd for row in rows)

    async def save_baseline(self, task_id: str, baseline: Baseline) -> None:
        """Keep how the working directory was before the agent started."""
        await self._update_task(task_id, baseline=msgspec.json.encode(baseline))

    async def request_cancel(self, task_id: str) -> bool:
        """Store that the task shall be cancelled; ``False`` if it is finished already."""

        def update(connection: sa.Connection) -> bool:
            changed = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, tasks.c.state != State.FINISHED, tasks.c.cancel_requested_at.is_(None))
                .values(cancel_requested_at=wall())
            )
            if changed.rowcount:
                return True
            return connection.execute(_select_tasks(id=task_id)).one().state != State.FINISHED

        return await self._store.write(update)

    async def begin_attempt(self, task_id: str, number: int, reason: str, facts: AttemptFacts) -> AttemptRow:
        """Store an attempt before its process exists; its process id follows from task and number."""
        row = AttemptRow(
            task_id=task_id,
            number=number,
            reason=reason,
            process_id=f"task-{task_id}-{number}",
            phase=Phase.PREPARED,
            created_at=wall(),
            started_at=None,
            started_monotonic=None,
            boot_id=boot_id(),
            facts=facts,
            ended_at=None,
        )

        def insert(connection: sa.Connection) -> None:
            _move(connection, task_id, State.STARTING)
            connection.execute(
                attempts.insert().values(
                    task_id=task_id,
                    number=number,
                    reason=reason,
                    process_id=row.process_id,
                    phase=row.phase,
                    created_at=row.created_at,
                    boot_id=row.boot_id,
                    thread_id=facts.thread_id,
                    facts=msgspec.json.encode(facts),
                )
            )
            connection.execute(processes.insert().values(process_id=row.process_id, task_id=task_id))

        await self._store.write(insert)
        return row

    async def mark_started(self, attempt: AttemptRow, *, at: float, monotonic_at: float) -> AttemptRow:
        """Store that the host has the process, and when it was asked to start it."""
        started = msgspec.structs.replace(
            attempt, phase=Phase.STARTED, started_at=at, started_monotonic=monotonic_at, boot_id=boot_id()
        )
        values = {
            "phase": started.phase,
            "started_at": at,
            "started_monotonic": monotonic_at,
            "boot_id": started.boot_id,
        }
        await self._store.write(lambda connection: _update_attempt(connection, started, values))
        return started

    async def cursor(self, process_id: str) -> Cursor:
        """How far the log of a process has been folded."""
        query = sa.select(processes).where(processes.c.process_id == process_id)
        row = await self._store.read(lambda connection: connection.execute(query).one())
        return Cursor(seq=row.fold_seq, skip=row.fold_skip, seen=row.fold_seen)

    async def fold(
        self, attempt: AttemptRow, cursor: Cursor | None, *, message: str | None = None, state: State | None = None
    ) -> None:
        """Store the attempt's facts together with the cursor up to which they were folded.

        A *message* replaces the last one; a *state* other than the present one moves the task.
        """
        facts = attempt.facts

        def update(connection: sa.Connection) -> None:
            values: dict[str, Any] = {"facts": msgspec.json.encode(facts), "thread_id": facts.thread_id}
            if message is not None:
                values["message"] = message
            _update_attempt(connection, attempt, values)
            if cursor is not None:
                connection.execute(
                    processes.update()
                    .where(processes.c.process_id == attempt.process_id)
                    .values(fold_seq=cursor.seq, fold_skip=cursor.skip, fold_seen=cursor.seen)
                )
            if state is not None:
                _move(connection, attempt.task_id, state)

        await self._store.write(update)

    async def end_attempt(self, attempt: AttemptRow) -> AttemptRow:
        """Store that nothing of the attempt runs any more (or that what does cannot be ended)."""
        ended = msgspec.structs.replace(attempt, phase=Phase.ENDED, ended_at=wall())
        values = {
            "phase": ended.phase,
            "ended_at": ended.ended_at,
            "facts": msgspec.json.encode(ended.facts),
            "thread_id": ended.facts.thread_id,
        }
        await self._store.write(lambda connection: _update_attempt(connection, ended, values))
        return ended

    async def begin_result(self, task_id: str) -> None:
        """Store that the result is being made."""
        await self._store.write(lambda connection: _move(connection, task_id, State.FINALISING))

    async def finish(self, result: Result) -> None:
        """Store the result; from here on the task is finished."""

        def update(connection: sa.Connection) -> None:
            _move(connection, result.task_id, State.FINISHED)
            connection.execute(
                tasks.update()
                .where(tasks.c.id == result.task_id)
                .values(
                    status=result.status,
                    exit_code=result.exit.wrapper_code,
                    result=msgspec.json.encode(result),
                    revision=result.revision,
                    finished_at=wall(),
                )
            )

        # A result cannot vanish, not even with the power.
        await self._store.write(update, durable=True)

    async def upgrade(self, result: Result) -> bool:
        """Put *result* in the place of one that could not tell the outcome; ``False`` if there is none such any more.

        Nothing else is ever replaced: the known result is ``outcome_unknown``, *result* is not, and its revision is
        the next one.
        """
        statement = (
            tasks.update()
            .where(
                tasks.c.id == result.task_id,
                tasks.c.state == State.FINISHED,
                tasks.c.status == Status.OUTCOME_UNKNOWN,
                tasks.c.revision == result.revision - 1,
            )
            .values(
                status=result.status,
                exit_code=result.exit.wrapper_code,
                result=msgspec.json.encode(result),
                revision=result.revision,
            )
        )
        if result.status is Status.OUTCOME_UNKNOWN:
            return False
        return await self._store.write(lambda connection: connection.execute(statement).rowcount > 0, durable=True)

    async def unknown_outcomes(self, since: float) -> builtins.list[str]:
        """Ids of the tasks that ended as ``outcome_unknown`` after *since* (UTC seconds), oldest first."""
        unknown = sa.select(tasks.c.id).where(tasks.c.status == Status.OUTCOME_UNKNOWN, tasks.c.finished_at > since)
        query = unknown.order_by(tasks.c.finished_at)
        return [row.id for row in await self._store.read(lambda connection: connection.execute(query).fetchall())]

    async def result(self, task_id: str) -> Result | None:
        """The result of a task; ``None`` until it is finished."""
        query = sa.select(tasks.c.result).where(tasks.c.id == task_id)
        row = await self._store.read(lambda connection: connection.execute(query).first())
        return None if row is None or row.result is None else msgspec.json.decode(row.result, type=Result)

    async def usage_since(self, since: float) -> builtins.list[tuple[str, UsagePart]]:
        """Agent and usage of every task that was finished after *since*, UTC seconds."""
        query = sa.select(tasks.c.agent, tasks.c.result).where(tasks.c.finished_at > since, tasks.c.result.is_not(None))
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return [(row.agent, msgspec.json.decode(row.result, type=_OnlyUsage).usage) for row in rows]

    async def finished_before(self, at: float, *, keep: int) -> list[str]:
        """Ids of the tasks that finished before *at* (UTC seconds), oldest first, without the newest *keep*."""
        finished = sa.select(tasks.c.id, tasks.c.finished_at).where(tasks.c.state == State.FINISHED)
        query = finished.order_by(tasks.c.finished_at.desc(), tasks.c.id.desc()).limit(-1).offset(keep)
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return [row.id for row in reversed(rows) if row.finished_at < at]

    async def task_ids(self) -> set[str]:
        """The ids of all tasks."""
        query = sa.select(tasks.c.id)
        return {row.id for row in await self._store.read(lambda connection: connection.execute(query).fetchall())}

    async def process_ids(self) -> set[str]:
        """The ids of the processes of all attempts."""
        query = sa.select(attempts.c.process_id)
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return {row.process_id for row in rows}

    async def delete(self, task_id: str) -> bool:
        """Delete a task with everything stored about it; ``False`` if it is not there, or not finished."""
        statement = tasks.delete().where(tasks.c.id == task_id, tasks.c.state == State.FINISHED)
        return await self._store.write(lambda connection: connection.execute(statement).rowcount > 0)

    async def _update_task(self, task_id: str, **values: Any) -> None:
        statement = tasks.update().where(tasks.c.id == task_id).values(**values)
        await self._store.write(lambda connection: connection.execute(statement))


def usage_of(attempt: AttemptRow | None) -> Usage | None:
    """What a thread had used in all after *attempt*, if its agent counts the whole thread."""
    return attempt.facts.usage if attempt is not None and attempt.facts.usage_of_thread else None


class _TaggedRequest(msgspec.Struct, frozen=True):
    tags: dict[str, str] = {}


class _Tagged(msgspec.Struct, frozen=True):
    """The little of an acceptance that is read of many."""

    request: _TaggedRequest


def _tags(acceptance: bytes) -> dict[str, str]:
    return msgspec.json.decode(acceptance, type=_Tagged).request.tags


def _select_tasks(**where: str) -> sa.Select[Any]:
    columns = [column for column in tasks.c if column.name != "result"]
    return sa.select(*columns).filter_by(**where)


def _move(connection: sa.Connection, task_id: str, target: State) -> None:
    current = State(connection.execute(sa.select(tasks.c.state).where(tasks.c.id == task_id)).scalar_one())
    if current is target and target is not State.STARTING:
        return
    check_move(task_id, current, target)
    connection.execute(tasks.update().where(tasks.c.id == task_id).values(state=target))


def _update_attempt(connection: sa.Connection, attempt: AttemptRow, values: dict[str, Any]) -> None:
    connection.execute(
        attempts.update()
        .where(attempts.c.task_id == attempt.task_id, attempts.c.number == attempt.number)
        .values(**values)
    )


def _task(row: sa.Row[Any]) -> TaskRow:
    return TaskRow(
        id=row.id,
        state=State(row.state),
        created_at=row.created_at,
        created_monotonic=row.created_monotonic,
        boot_id=row.boot_id,
        acceptance=msgspec.json.decode(row.request, type=Acceptance),
        baseline=None if row.baseline is None else msgspec.json.decode(row.baseline, type=Baseline),
        reservation=None if row.reservation is None else msgspec.json.decode(row.reservation, type=Reservation),
        cancel_requested_at=row.cancel_requested_at,
        finished_at=row.finished_at,
        status=None if row.status is None else Status(row.status),
        exit_code=row.exit_code,
    )


def _attempt(row: sa.Row[Any]) -> AttemptRow:
    return AttemptRow(
        task_id=row.task_id,
        number=row.number,
        reason=row.reason,
        process_id=row.process_id,
        phase=Phase(row.phase),
        created_at=row.created_at,
        started_at=row.started_at,
        started_monotonic=row.started_monotonic,
        boot_id=row.boot_id,
        facts=msgspec.json.decode(row.facts, type=AttemptFacts),
        ended_at=row.ended_at,
    )
