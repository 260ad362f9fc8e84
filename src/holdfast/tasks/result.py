"""The result of a task: one document, every field always there, ``None`` with a reason in ``unknowns``.

Nothing in it about success is taken from the agent's word alone, and the exit code says the same as the status.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from holdfast.agents.adapter import Sandbox
from holdfast.agents.failure import FailureClass, Remedy

SCHEMA: Final[Literal["holdfast.result/1"]] = "holdfast.result/1"


class Status(StrEnum):
    """How a task ended.  There is no status for "probably fine"."""

    #: The agent reported success, and what can be checked from outside agrees.
    COMPLETED = "completed"
    #: Stopped at a budget, or nearly there and without the verdict asked for: what is there is not the whole.
    PARTIAL = "partial"
    #: The agent reported success and said nothing, or not what was asked for (a verdict, a document of a schema).
    NO_SIGNAL = "no_signal"
    FAILED = "failed"
    #: A time limit was reached and the process tree was ended.
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    #: The host or the machine went away before the end was seen, and nothing is left running.
    ABORTED = "aborted"
    #: The agent is missing or could not be started.
    UNAVAILABLE = "unavailable"
    #: The request was wrong; nothing was started.
    REJECTED = "rejected"
    #: How it ended cannot be told, and something may still be running.
    OUTCOME_UNKNOWN = "outcome_unknown"


#: Exit status of ``run``, ``wait`` and ``result`` for each outcome (docs/exit-codes.md).
EXIT_CODES: Final[dict[Status, int]] = {
    Status.COMPLETED: 0,
    Status.FAILED: 1,
    Status.REJECTED: 2,
    Status.PARTIAL: 3,
    Status.NO_SIGNAL: 4,
    Status.TIMEOUT: 124,
    Status.ABORTED: 125,
    Status.OUTCOME_UNKNOWN: 125,
    Status.UNAVAILABLE: 127,
    Status.CANCELLED: 130,
}


#: Exit status of a completed task that does not approve, for callers who ask for it (``--fail-on-reject``).
REJECTED_EXIT_CODE: Final = 5

#: Exit codes from the worst to the best: what may still be running first, what was never tried last.
_WORST_FIRST: Final = (125, 1, 127, 124, 130, 4, 3, 5, 2, 0)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The one of several tasks' exit codes that a caller must hear of; 0 only if all of them are 0."""
    found = set(codes)
    return next((code for code in _WORST_FIRST if code in found), max(found, default=0))


class Verdict(msgspec.Struct, kw_only=True):
    """A judgement that the task was asked for; ``approved`` is never true because something is absent."""

    required: bool = False
    present: bool = False
    #: As the answer has it.
    value: str | None = None
    #: ``None`` unless there is one.
    approved: bool | None = None
    #: ``marker_line`` (one of the usual words), ``regex`` (a pattern) or ``schema`` (the property ``verdict``).
    source: Literal["marker_line", "regex", "schema"] | None = None
    #: Of the answer, from 1.
    line: int | None = None
    #: The answer as a JSON document, where a schema was given and it fits; what an agent's own reviewer has judged, as
    #: it says it.
    structured: Any = None


class MessagePart(msgspec.Struct, kw_only=True):
    """The agent's answer.  ``text`` is inline up to a bound; the bytes are always in the file at ``path``."""

    text: str | None = None
    bytes: int = 0
    sha256: str | None = None
    inline_truncated: bool = False
    path: str | None = None
    #: True only if a terminal success event followed it.
    complete: bool = False
    #: Its last lines announce work instead of reporting it.
    ends_with_intent: bool = False
    #: How many messages the agent sent in all.
    segments: int = 0


class ToolUses(msgspec.Struct, kw_only=True):
    """Tool uses counted by distinct item."""

    total: int | None = None
    failed: int | None = None
    by_type: dict[str, int] = {}
    soft_limit: int | None = None
    hard_limit: int | None = None
    soft_limit_reached: bool = False


class UsagePart(msgspec.Struct, kw_only=True):
    """Tokens and cost of this task alone (what an earlier task of the thread used is subtracted)."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    cost_usd: float | None = None
    #: False when the figures come from a run that did not end well, or are missing.
    complete: bool = False
    scope: str = "this_task"
    thread_total_tokens: int | None = None
    source: str | None = None


class ChangedFile(msgspec.Struct, kw_only=True):
    """One file that is not as it was when the task began."""

    #: Relative to the working directory.
    path: str
    #: ``added``, ``modified``, ``deleted``, ``renamed`` or ``mode``.
    change: str
    renamed_from: str | None = None
    was_dirty_before: bool = False
    #: Whether the agent said that it changed this file.
    claimed: bool = False


class Files(msgspec.Struct, kw_only=True):
    """File changes as observed from outside."""

    method: str = "none"
    dirty_before: bool | None = None
    changed: list[ChangedFile] = []
    claimed_not_observed: list[str] = []
    outside_workdir: list[str] = []
    head_before: str | None = None
    head_after: str | None = None
    concurrent_tasks_in_workdir: int = 0


class Exit(msgspec.Struct, kw_only=True):
    """How the agent's process ended, and what it left behind."""

    code: int | None = None
    signal: str | None = None
    wrapper_code: int = 0
    #: Processes of the task's tree that could not be ended.
    leftover_pids: list[int] = []


class Thread(msgspec.Struct, kw_only=True):
    """The agent's own conversation, to go on from."""

    id: str | None = None
    resumed_from: str | None = None
    resume_argv: list[str] | None = None


class Backend(msgspec.Struct, kw_only=True):
    """What did the work, under which settings."""

    name: str
    path: str | None = None
    version: str | None = None
    model: str | None = None
    model_source: str = "backend_default"
    effort: str | None = None
    effort_source: str = "backend_default"
    sandbox: Sandbox = Sandbox.READ_ONLY
    workdir: str = ""
    worktree: str | None = None
    #: The branch of the worktree, and whether both are still there; ``False`` when the task left nothing in them.
    branch: str | None = None
    worktree_kept: bool | None = None
    prompt_sha256: str = ""
    prompt_bytes: int = 0


class Timing(msgspec.Struct, kw_only=True):
    """Instants in RFC 3339 UTC, durations in milliseconds."""

    created: str
    started: str | None = None
    ready: str | None = None
    first_event: str | None = None
    last_progress: str | None = None
    ended: str | None = None
    wall_ms: int = 0
    approval_wait_ms: int = 0
    queue_wait_ms: int = 0


class LimitsPart(msgspec.Struct, kw_only=True):
    """The limits that applied, and the one that was hit."""

    total_s: float | None = None
    idle_s: float | None = None
    start_s: float | None = None
    output_bytes: int | None = None
    max_tool_uses: int | None = None
    #: ``total``, ``idle``, ``start``, ``tool_uses`` or ``None``.
    hit: str | None = None


class Output(msgspec.Struct, kw_only=True):
    """The published output file, and the files of the task itself."""

    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    overwrote: bool = False
    result_path: str = ""


class AttemptPart(msgspec.Struct, kw_only=True):
    """One try of the task."""

    n: int
    #: ``first``, ``retry``, ``finalise`` or ``resume``.
    reason: str
    status: str
    wall_ms: int


class ErrorPart(msgspec.Struct, kw_only=True):
    """Why the task is not ``completed``: the real reason, whole, and what to do about it."""

    error_class: FailureClass = msgspec.field(name="class")
    message: str
    upstream_code: str | None = None
    http_status: int | None = None
    retryable: bool = False
    retry_after_s: float | None = None
    remedy: list[Remedy] = []
    #: Last lines (20 at most) of what the process wrote.
    stderr_tail: list[str] = []
    stdout_tail: list[str] = []


class Result(msgspec.Struct, kw_only=True):
    """How a task ended; written once, atomically, per terminal transition."""

    schema: Literal["holdfast.result/1"] = SCHEMA
    revision: int = 1
    task_id: str
    label: str | None = None
    status: Status
    #: ``status`` is ``completed`` and every check that was asked for passed.
    ok: bool
    #: Of a completed task: whether files really changed under a sandbox that may write (``PATCH_APPLIED``) or not
    #: (``FINDINGS_ONLY``).
    marker: Literal["PATCH_APPLIED", "FINDINGS_ONLY"] | None = None
    verdict: Verdict = msgspec.field(default_factory=Verdict)
    message: MessagePart
    tool_uses: ToolUses
    usage: UsagePart
    files: Files
    exit: Exit
    thread: Thread
    backend: Backend
    timing: Timing
    limits: LimitsPart
    output: Output
    attempts: list[AttemptPart] = []
    error: ErrorPart | None = None
    warnings: list[str] = []
    #: Why a field is ``None``: field path to reason.
    unknowns: dict[str, str] = {}
