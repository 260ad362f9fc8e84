"""What a task looks like from outside while it lives: a status derived from facts and time, with its evidence."""

from __future__ import annotations

import msgspec

from holdfast.tasks.result import Status
from holdfast.tasks.state import State


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """One task, as ``holdfast status --json`` shows it."""

    id: str
    agent: str
    label: str | None
    state: State
    #: How it ended; ``None`` until it is finished.
    status: Status | None
    exit_code: int | None
    #: Why we say so: what was last seen of the agent, such as ``Bash: npm test``.
    evidence: str
    #: Seconds since that was seen.
    evidence_age_s: float | None
    created: str
    #: Seconds from creation to the end, or to now.
    elapsed_s: float
    cwd: str
    sandbox: str
    model: str | None
    thread_id: str | None
    tool_uses: int
    attempts: int
    #: First line of the prompt, shortened.
    summary: str
    cancel_requested: bool


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the progress stream (``GET /v1/tasks/ID/progress``)."""

    #: ``state``, ``thread``, ``tool``, ``tool_failed``, ``message``, ``notice``, ``files``, ``finished``.
    kind: str
    text: str
    #: Seconds since the task was created.
    elapsed_s: float
    tool_uses: int
    state: State
    #: Position in the stream; ask again with ``after`` to go on behind it.
    cursor: str
