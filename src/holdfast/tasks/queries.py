"""What is asked about the tasks' rows.  Every method is one transaction that changes nothing."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from holdfast.drivers.one_shot import Cursor
from holdfast.errors import InvalidRequest, NotFound
from holdfast.store.feed import position
from holdfast.store.schema import attempts, processes, tasks
from holdfast.store.store import Store
from holdfast.tasks.acceptance import Acceptance
from holdfast.tasks.result import Result, Status, UsagePart
from holdfast.tasks.rows import AttemptRow, TaskRow, attempt_row, task_row
from holdfast.tasks.state import State

#: What comes after everything else that can be in an id.
_BEYOND: Final = "\U0010ffff"

# Statements are built once: putting one together takes longer than carrying it out.

#: Everything that is stored of tasks but their results.
_SELECT_TASKS: Final = sa.select(*(column for column in tasks.c if column.name != "result"))
SELECT_TASK: Final = _SELECT_TASKS.where(tasks.c.id == sa.bindparam("task_id"))
#: The same without their baselines, which can be large and which nobody is shown.
_SELECT_TASKS_TO_SHOW: Final = sa.select(
    sa.null().label("baseline"), *(column for column in tasks.c if column.name not in ("result", "baseline"))
)
_SELECT_TASK_TO_SHOW: Final = _SELECT_TASKS_TO_SHOW.where(tasks.c.id == sa.bindparam("task_id"))
SELECT_STATE: Final = sa.select(tasks.c.state).where(tasks.c.id == sa.bindparam("task_id"))
_SELECT_RESULT: Final = sa.select(tasks.c.result).where(tasks.c.id == sa.bindparam("task_id"))
#: Without the last message, which can be large.
_SELECT_ATTEMPTS: Final = sa.select(*(column for column in attempts.c if column.name != "message"))
_OF_TASK: Final = attempts.c.task_id == sa.bindparam("task_id")
_SELECT_ATTEMPTS_OF_TASK: Final = _SELECT_ATTEMPTS.where(_OF_TASK).order_by(attempts.c.number)
_SELECT_NEWEST_ATTEMPT: Final = _SELECT_ATTEMPTS.where(_OF_TASK).order_by(attempts.c.number.desc()).limit(1)
_SELECT_MESSAGE: Final = sa.select(attempts.c.message).where(_OF_TASK, attempts.c.number == sa.bindparam("number"))
_SELECT_PROCESS: Final = sa.select(processes).where(processes.c.process_id == sa.bindparam("process_id"))


class Ambiguous(InvalidRequest):
    """A prefix fits more than one task."""

    code = "ambiguous"


class Queries:
    """Tasks and attempts in the store, to be read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def task(self, task_id: str) -> TaskRow:
        """The task of exactly this id.

        :raises NotFound: there is none
        """
        row = await self._store.read(lambda connection: connection.execute(SELECT_TASK, {"task_id": task_id}).first())
        if row is None:
            raise _no_task(task_id)
        return task_row(row)

    async def shown(self, task_id: str) -> tuple[TaskRow, AttemptRow | None, int]:
        """What is shown of a task: itself without its baseline, its last attempt, and how many there were.

        :raises NotFound: there is no such task
        """

        def select(connection: sa.Connection) -> tuple[sa.Row[Any] | None, sa.Row[Any] | None]:
            named = {"task_id": task_id}
            return (
                connection.execute(_SELECT_TASK_TO_SHOW, named).first(),
                connection.execute(_SELECT_NEWEST_ATTEMPT, named).first(),
            )

        row, newest = await self._store.read(select)
        if row is None:
            raise _no_task(task_id)
        attempt = None if newest is None else attempt_row(newest)
        return task_row(row), attempt, 0 if attempt is None else attempt.number

    async def standing(self, task_id: str) -> tuple[int, TaskRow, builtins.list[AttemptRow]]:
        """Where a task is: the position to follow the change feed from, itself without its baseline, its attempts.

        :raises NotFound: there is no such task
        """

        def select(connection: sa.Connection) -> tuple[int, sa.Row[Any] | None, builtins.list[AttemptRow]]:
            task = connection.execute(_SELECT_TASK_TO_SHOW, {"task_id": task_id}).first()
            return position(connection), task, read_attempts(connection, task_id)

        seen, row, its_attempts = await self._store.read(select)
        if row is None:
            raise _no_task(task_id)
        return seen, task_row(row), its_attempts

    async def resolve(self, prefix: str) -> str:
        """The id of the one task whose id begins with *prefix*.

        :raises NotFound: no task fits
        :raises Ambiguous: several do
        """

        def look(connection: sa.Connection) -> list[str]:
            # Not LIKE, which cannot use the index and takes A for a.
            fitting = sa.select(tasks.c.id).where(tasks.c.id >= prefix, tasks.c.id < prefix + _BEYOND)
            if connection.execute(SELECT_STATE, {"task_id": prefix}).first() is not None:
                return [prefix]
            return [*connection.execute(fitting.order_by(tasks.c.id).limit(4)).scalars()]

        found = await self._store.read(look)
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
            query = _SELECT_TASKS_TO_SHOW.order_by(*order).limit(limit)
            if active_only:
                query = query.where(tasks.c.state != State.FINISHED)
            if tags:
                rows = connection.execute(sa.select(tasks.c.id, tasks.c.request).order_by(*order))
                fitting = (row.id for row in rows if tags.items() <= _tags(row.request).items())
                query = query.where(tasks.c.id.in_([*islice(fitting, limit)]))
            found = [task_row(row) for row in connection.execute(query)]
            newest: dict[str, AttemptRow] = {}
            ids = [row.id for row in found]
            for row in connection.execute(_SELECT_ATTEMPTS.where(attempts.c.task_id.in_(ids))):
                attempt = attempt_row(row)
                if attempt.task_id not in newest or newest[attempt.task_id].number < attempt.number:
                    newest[attempt.task_id] = attempt
            return [(row, last := newest.get(row.id), last.number if last else 0) for row in found]

        return await self._store.read(select)

    async def unfinished(self) -> list[TaskRow]:
        """All tasks that have no result yet, oldest first."""
        query = _SELECT_TASKS.where(tasks.c.state != State.FINISHED).order_by(tasks.c.created_at, tasks.c.id)
        return [
            task_row(row) for row in await self._store.read(lambda connection: connection.execute(query).fetchall())
        ]

    async def until_finished(self, task_id: str) -> None:
        """Wait for the end of a task; one that is not there (any more) has ended.

        :raises StoreClosed: the store was closed meanwhile
        """
        query = sa.select(tasks.c.state).where(tasks.c.id == task_id)
        while True:
            seen = await self._store.feed.latest()
            row = await self._store.read(lambda connection: connection.execute(query).first())
            if row is None or row.state == State.FINISHED:
                return
            await self._store.feed.wait_beyond(seen)

    async def counts(self) -> tuple[int, int]:
        """How many tasks there are, and how many of them are not finished."""
        query = sa.select(sa.func.count(), sa.func.count().filter(tasks.c.state != State.FINISHED)).select_from(tasks)
        row = await self._store.read(lambda connection: connection.execute(query).one())
        return row[0], row[1]

    async def concurrent_in(self, cwd: str, since: float, task_id: str) -> int:
        """How many other tasks were at work in *cwd* at any time after *since* (UTC seconds)."""
        query = sa.select(tasks.c.request).where(
            tasks.c.id != task_id, sa.or_(tasks.c.finished_at.is_(None), tasks.c.finished_at > since)
        )
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return sum(msgspec.json.decode(row.request, type=Acceptance).settled.cwd == cwd for row in rows)

    async def unknown_outcomes(self, since: float) -> builtins.list[str]:
        """Ids of the tasks that ended as ``outcome_unknown`` after *since* (UTC seconds), oldest first."""
        unknown = sa.select(tasks.c.id).where(tasks.c.status == Status.OUTCOME_UNKNOWN, tasks.c.finished_at > since)
        query = unknown.order_by(tasks.c.finished_at)
        return [row.id for row in await self._store.read(lambda connection: connection.execute(query).fetchall())]

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

    async def result(self, task_id: str) -> Result | None:
        """The result of a task; ``None`` until it is finished."""
        named = {"task_id": task_id}
        row = await self._store.read(lambda connection: connection.execute(_SELECT_RESULT, named).first())
        return None if row is None or row.result is None else msgspec.json.decode(row.result, type=Result)

    async def usage_since(self, since: float) -> builtins.list[tuple[str, UsagePart]]:
        """Agent and usage of every task that was finished after *since*, UTC seconds."""
        query = sa.select(tasks.c.agent, tasks.c.result).where(tasks.c.finished_at > since, tasks.c.result.is_not(None))
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return [(row.agent, msgspec.json.decode(row.result, type=_OnlyUsage).usage) for row in rows]

    async def attempts(self, task_id: str) -> list[AttemptRow]:
        """All attempts of a task, first to last."""
        return await self._store.read(lambda connection: read_attempts(connection, task_id))

    async def process_ids(self) -> set[str]:
        """The ids of the processes of all attempts."""
        query = sa.select(attempts.c.process_id)
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return {row.process_id for row in rows}

    async def message(self, task_id: str, number: int) -> str | None:
        """The last message of an attempt."""
        named = {"task_id": task_id, "number": number}
        return (await self._store.read(lambda connection: connection.execute(_SELECT_MESSAGE, named).one())).message

    async def thread(self, thread_id: str) -> AttemptRow | None:
        """The newest attempt that worked in this thread."""
        query = _SELECT_ATTEMPTS.where(attempts.c.thread_id == thread_id).order_by(attempts.c.created_at.desc())
        row = await self._store.read(lambda connection: connection.execute(query.limit(1)).first())
        return None if row is None else attempt_row(row)

    async def cursor(self, process_id: str) -> Cursor:
        """How far the log of a process has been folded."""
        named = {"process_id": process_id}
        row = await self._store.read(lambda connection: connection.execute(_SELECT_PROCESS, named).one())
        return Cursor(seq=row.fold_seq, skip=row.fold_skip, seen=row.fold_seen)


def read_attempts(connection: sa.Connection, task_id: str) -> list[AttemptRow]:
    """All attempts of a task, first to last."""
    return [attempt_row(row) for row in connection.execute(_SELECT_ATTEMPTS_OF_TASK, {"task_id": task_id})]


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"There is no task {task_id}.", hint="See 'holdfast list'.")


class _OnlyUsage(msgspec.Struct):
    usage: UsagePart


class _TaggedRequest(msgspec.Struct, frozen=True):
    tags: dict[str, str] = {}


class _Tagged(msgspec.Struct, frozen=True):
    """The little of an acceptance that is read of many."""

    request: _TaggedRequest


def _tags(acceptance: bytes) -> dict[str, str]:
    return msgspec.json.decode(acceptance, type=_Tagged).request.tags
