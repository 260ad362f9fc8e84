"""A task and an attempt as stored."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.agents.events import Usage
from holdfast.tasks.acceptance import Acceptance
from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.output_file import Reservation
from holdfast.tasks.result import Status
from holdfast.tasks.state import State
from holdfast.tasks.workspace.changes import Baseline

if TYPE_CHECKING:
    import sqlalchemy as sa


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


def usage_of(attempt: AttemptRow | None) -> Usage | None:
    """What a thread had used in all after *attempt*, if its agent counts the whole thread."""
    return attempt.facts.usage if attempt is not None and attempt.facts.usage_of_thread else None


def task_row(row: sa.Row[Any]) -> TaskRow:
    """Read what :data:`holdfast.tasks.queries.SELECT_TASK` selects."""
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


def attempt_row(row: sa.Row[Any]) -> AttemptRow:
    """Read a whole row of the attempts."""
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
