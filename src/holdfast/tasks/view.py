"""What a task looks like from outside while it lives: a status derived from facts and time, with its evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.clock import isoformat, wall
from holdfast.errors import HoldfastError
from holdfast.tasks.result import Status
from holdfast.tasks.state import State

if TYPE_CHECKING:
    # Only for the annotations: what a client decodes must not cost it the import of the store.
    from holdfast.tasks.facts import AttemptFacts
    from holdfast.tasks.rows import AttemptRow, TaskRow


class NotFinished(HoldfastError):
    """The task has no result yet."""

    code = "not_finished"
    exit_code = 75


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """One question of an agent that nobody has answered."""

    request_id: str
    tool: str
    title: str
    reason: str | None
    #: Seconds since it was asked.
    age_s: float


class NotificationView(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is with telling somebody of the task's end."""

    #: Who: ``command NAME``, the host of a URL, or ``desktop``.
    to: str
    #: ``pending``, ``sent`` or ``abandoned``.
    state: str
    tries: int
    notified_at: str | None = None
    #: Why the last try failed.
    error: str | None = None


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
    notifications: list[NotificationView] = []
    #: What the agent asks to be allowed, and waits for (``holdfast approve``).
    approvals: list[Approval] = []
    #: What the agent says it waits for before it tries again, such as the network.
    waiting: str | None = None
    #: The agent's own name for the turn that it works on or worked on last, where turns have one.
    turn_id: str | None = None
    #: Free words that came with the request.
    tags: dict[str, str] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the progress stream (``GET /v1/tasks/ID/progress``)."""

    #: ``state``, ``thread``, ``turn``, ``tool``, ``tool_failed``, ``message``, ``reasoning``, ``notice``, ``files``,
    #: ``approval``, ``subagent``, ``subagent_message``, ``subagent_reasoning``, ``finished``.
    kind: str
    text: str
    #: What the sub-agent is called that one of the three kinds for them is about.
    subagent: str | None = None
    #: Seconds since the task was created.
    elapsed_s: float
    tool_uses: int
    state: State
    #: Position in the stream; ask again with ``after`` to go on behind it.
    cursor: str


def derive_view(row: TaskRow, attempt: AttemptRow | None, attempts: int, now: float | None = None) -> TaskView:
    """The status of a task: a function of what is stored and of the time *now* (UTC seconds), and of nothing else."""
    now = wall() if now is None else now
    facts = None if attempt is None else attempt.facts
    request = row.acceptance.settled
    evidence, seen_at = _evidence(row, attempt)
    return TaskView(
        id=row.id,
        agent=request.agent,
        label=request.label,
        state=row.state,
        status=row.status,
        exit_code=row.exit_code,
        evidence=evidence,
        evidence_age_s=None if seen_at is None else round(max(0.0, now - seen_at), 3),
        created=isoformat(row.created_at),
        elapsed_s=round(max(0.0, (row.finished_at or now) - row.created_at), 3),
        cwd=request.cwd,
        sandbox=request.sandbox.value,
        model=request.model or (facts.model if facts is not None else None),
        thread_id=facts.thread_id if facts is not None else None,
        tool_uses=facts.tool_total if facts is not None else 0,
        attempts=attempts,
        summary=row.acceptance.summary,
        cancel_requested=row.cancel_requested_at is not None,
        approvals=[] if facts is None or row.state is State.FINISHED else _approvals(facts, now),
        waiting=None if facts is None or row.state is State.FINISHED else facts.waiting,
        turn_id=facts.turn_id if facts is not None else None,
        tags=request.tags,
    )


def _approvals(facts: AttemptFacts, now: float) -> list[Approval]:
    return [
        Approval(
            request_id=name,
            tool=question.tool.value,
            title=question.title,
            reason=question.reason,
            age_s=round(max(0.0, now - question.since), 3),
        )
        for name, question in facts.open_approvals.items()
    ]


def _evidence(row: TaskRow, attempt: AttemptRow | None) -> tuple[str, float | None]:
    if row.state is State.FINISHED:
        return f"finished: {row.status}", row.finished_at
    if attempt is None and row.acceptance.after is not None:
        return f"goes on when task {row.acceptance.after} has ended", row.created_at
    if attempt is None:
        return "accepted, not started", row.created_at
    facts = attempt.facts
    if row.state is State.STOPPING:
        return f"being ended: {facts.stop}", facts.stopped_at
    if facts.first_event_at is None:
        return "started, nothing heard yet" if attempt.started_at else "starting", attempt.started_at
    return facts.evidence, facts.evidence_at


def finished_line(view: TaskView, cursor: str) -> Progress:
    """The line that ends a progress stream."""
    return Progress(
        kind="finished",
        text=str(view.status),
        elapsed_s=view.elapsed_s,
        tool_uses=view.tool_uses,
        state=view.state,
        cursor=cursor,
    )
