"""Which files changed while a task was at work, as its result tells it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.queries import Queries
from holdfast.tasks.result import ChangedFile, Files
from holdfast.tasks.rows import TaskRow
from holdfast.tasks.workspace.changes import observe_changes, reconcile_claims


class Observed(NamedTuple):
    """Which files changed, what is doubtful about that, and what is not known of it."""

    files: Files
    warnings: list[str]
    unknowns: dict[str, str]


async def observe(task: TaskRow, facts: AttemptFacts, *, queries: Queries, kept: Path) -> Observed:
    """What changed in *task*'s working directory since its baseline, beside what its agent claims in *facts*.

    :param kept: where Holdfast keeps its own files
    """
    cwd = task.acceptance.settled.cwd
    if task.baseline is None:
        concurrent = await queries.concurrent_in(cwd, task.created_at, task.id)
        return Observed(Files(concurrent_tasks_in_workdir=concurrent), [], {"files": "nothing was started"})
    reservation = task.reservation
    # Ours, not the agent's.  The output file is there already if the result is being made for a second time.
    # A worktree may lie among it, and is what we look at.
    leave_out = [] if Path(cwd).is_relative_to(kept) else [kept]
    if reservation is not None:
        leave_out.append(Path(reservation.path))
    changes = await observe_changes(task.baseline, leave_out=leave_out)
    # Only now: what a task that was begun meanwhile has changed may be among it.
    concurrent = await queries.concurrent_in(cwd, task.created_at, task.id)
    claims = await asyncio.to_thread(reconcile_claims, changes, facts.claimed_files, Path(cwd))
    unknowns = {} if changes.reason is None else {"files": changes.reason}
    warnings = [*changes.notes]
    if changes.omitted:
        warnings.append(f"{changes.omitted} more files changed than are listed")
    files = Files(
        method=changes.method.value,
        dirty_before=changes.dirty_before,
        changed=[
            ChangedFile(
                path=change.path,
                change=change.change.value,
                renamed_from=change.renamed_from,
                was_dirty_before=change.was_dirty_before,
                claimed=change.path in claims.claimed,
            )
            for change in changes.changed
        ],
        claimed_not_observed=claims.not_observed,
        outside_workdir=claims.outside_workdir,
        head_before=changes.head_before,
        head_after=changes.head_after,
        concurrent_tasks_in_workdir=concurrent,
    )
    return Observed(files, warnings, unknowns)
