"""What is stored about tasks, step by step.

Every method is one transaction.  A move of a task's state is checked against the transition table inside it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from holdfast.clock import boot_id, monotonic, wall
from holdfast.drivers.one_shot import Cursor
from holdfast.errors import InvalidRequest
from holdfast.store.schema import attempts, notifications, processes, tasks
from holdfast.tasks.acceptance import Acceptance
from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.output_file import Reservation
from holdfast.tasks.queries import SELECT_STATE, SELECT_TASK, Queries, read_attempts
from holdfast.tasks.result import Result, Status
from holdfast.tasks.rows import AttemptRow, Phase, TaskRow, task_row
from holdfast.tasks.state import State, check_move
from holdfast.tasks.workspace.changes import Baseline

# Statements are built once: putting one together takes longer than carrying it out.
_MOVE: Final = tasks.update().where(tasks.c.id == sa.bindparam("task_id")).values(state=sa.bindparam("state"))
#: What it sets follows from the parameters that are given beside these two.
_UPDATE_ATTEMPT: Final = attempts.update().where(
    attempts.c.task_id == sa.bindparam("of_task"), attempts.c.number == sa.bindparam("of_number")
)
_UPDATE_PROCESS: Final = processes.update().where(processes.c.process_id == sa.bindparam("of_process"))


class Conflict(InvalidRequest):
    """A task of this id exists already and is another one."""

    code = "conflict"


class Ledger(Queries):
    """Tasks and attempts in the store, to be read and written."""

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
            return connection.execute(SELECT_STATE, {"task_id": task_id}).scalar_one() != State.FINISHED

        return await self._store.write(update)

    async def begin_attempt(
        self, task_id: str, number: int, reason: str, facts: AttemptFacts, *, baseline: Baseline | None = None
    ) -> AttemptRow:
        """Store an attempt before its process exists; its process id follows from task and number.

        With it goes the task's *baseline*, how the working directory was before the first attempt.
        """
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
            if baseline is not None:
                encoded = msgspec.json.encode(baseline)
                connection.execute(tasks.update().where(tasks.c.id == task_id).values(baseline=encoded))
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
                reached = {"fold_seq": cursor.seq, "fold_skip": cursor.skip, "fold_seen": cursor.seen}
                connection.execute(_UPDATE_PROCESS, {"of_process": attempt.process_id, **reached})
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

    async def begin_result(self, task_id: str) -> tuple[TaskRow, list[AttemptRow]]:
        """Store that the result is being made; the task, and its attempts first to last, as they are then."""

        def update(connection: sa.Connection) -> tuple[TaskRow, list[AttemptRow]]:
            _move(connection, task_id, State.FINALISING)
            row = connection.execute(SELECT_TASK, {"task_id": task_id}).one()
            return task_row(row), read_attempts(connection, task_id)

        return await self._store.write(update)

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
        # In the same step: nobody who was told of the unknown outcome is left with it.
        again = (
            notifications.update()
            .where(notifications.c.task_id == result.task_id)
            .values(tries=0, notified_at=None, abandoned_at=None, error=None)
        )

        def replace(connection: sa.Connection) -> bool:
            if connection.execute(statement).rowcount == 0:
                return False
            connection.execute(again)
            return True

        return await self._store.write(replace, durable=True)

    async def delete(self, task_id: str) -> bool:
        """Delete a task with everything stored about it; ``False`` if it is not there, or not finished."""
        statement = tasks.delete().where(tasks.c.id == task_id, tasks.c.state == State.FINISHED)
        return await self._store.write(lambda connection: connection.execute(statement).rowcount > 0)


def _move(connection: sa.Connection, task_id: str, target: State) -> None:
    current = State(connection.execute(SELECT_STATE, {"task_id": task_id}).scalar_one())
    if current is target and target is not State.STARTING:
        return
    check_move(task_id, current, target)
    connection.execute(_MOVE, {"task_id": task_id, "state": target})


def _update_attempt(connection: sa.Connection, attempt: AttemptRow, values: dict[str, Any]) -> None:
    connection.execute(_UPDATE_ATTEMPT, {"of_task": attempt.task_id, "of_number": attempt.number, **values})
