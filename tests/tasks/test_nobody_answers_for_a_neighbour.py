"""Who was at work beside a task is counted when its changes have been looked at: what is theirs may be among them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.tasks import observation
from holdfast.tasks.queries import Queries
from holdfast.tasks.rows import TaskRow
from holdfast.tasks.workspace.changes import Baseline, Changes, observe_changes, take_baseline


class Neighbours:
    """The queries, as far as they are asked here."""

    def __init__(self) -> None:
        self.at_work = 0

    async def concurrent_in(self, cwd: str, since: float, task_id: str) -> int:
        return self.at_work


async def test_a_neighbour_that_begins_while_changes_are_looked_at_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    baseline = await take_baseline(workspace)
    neighbours = Neighbours()

    async def look(baseline: Baseline, **options: Any) -> Changes:
        neighbours.at_work = 1
        (workspace / "theirs").touch()
        changes = await observe_changes(baseline, **options)
        neighbours.at_work = 2
        return changes

    monkeypatch.setattr(observation, "observe_changes", look)
    task = SimpleNamespace(
        id="task",
        created_at=0.0,
        baseline=baseline,
        reservation=None,
        acceptance=SimpleNamespace(settled=SimpleNamespace(cwd=str(workspace))),
    )
    observed = await observation.observe(
        cast(TaskRow, task),
        cast(Any, SimpleNamespace(claimed_files=[])),
        queries=cast(Queries, neighbours),
        kept=tmp_path / "kept",
    )
    assert [file.path for file in observed.files.changed] == ["theirs"]
    assert observed.files.concurrent_tasks_in_workdir == 2
