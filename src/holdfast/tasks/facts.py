"""What is known of an attempt, folded from its log record by record.

Folding is a pure function of the facts so far and the next events, so a restart that replays what was not yet
stored comes to the same facts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from holdfast.agents.events import (
    ApprovalRequested,
    ApprovalResolved,
    CommandAnswered,
    Event,
    FilesClaimed,
    Malformed,
    Message,
    Notice,
    Reasoning,
    ReviewReported,
    SubagentReported,
    ThreadStarted,
    ToolEnded,
    ToolStarted,
    ToolType,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unrecognized,
    Usage,
    UsageReported,
    Waiting,
)
from holdfast.agents.failure import Failure

#: Bounds of what facts keep; beyond them only the count goes on.
_KEPT_NOTICES: Final = 20
_KEPT_CLOSED_TOOLS: Final = 64
_KEPT_CLAIMS: Final = 10_000
_KEPT_ANSWERS: Final = 256
_KEPT_REASONING: Final = 50
_REASONING_LENGTH: Final = 2_000


class StopCause(StrEnum):
    """Why Holdfast itself ended the process tree."""

    CANCEL = "cancel"
    TOTAL = "total"
    IDLE = "idle"
    START = "start"
    TOOL_USES = "tool_uses"
    #: It was to come to an end, and can only be told so by being ended and asked again.
    SOFT_TOOL_USES = "soft_tool_uses"
    #: The agent reported its end and then did not exit.
    LINGER = "linger"


class OpenTool(msgspec.Struct, kw_only=True):
    """A tool use that has begun and not ended."""

    tool: ToolType
    title: str


class OpenApproval(msgspec.Struct, kw_only=True):
    """A question of the agent that nobody has answered yet."""

    tool: ToolType
    title: str
    reason: str | None = None
    #: UTC seconds.
    since: float


class AttemptFacts(msgspec.Struct, kw_only=True):
    """Everything that an attempt's log has told so far."""

    #: The command line that was run (secrets live in the environment, never here).
    argv: list[str] = []
    thread_id: str | None = None
    model: str | None = None
    turn_started: bool = False
    turn_id: str | None = None
    messages: int = 0
    open_tools: dict[str, OpenTool] = {}
    closed_tools: list[str] = []
    open_approvals: dict[str, OpenApproval] = {}
    #: Seconds that the agent waited for answers.
    approval_wait_s: float = 0.0
    #: Commands that the run has answered: id to the reason of a refusal, ``None`` for done.
    answered: dict[str, str | None] = {}
    #: What the agent says it waits for, until something happens again.
    waiting: str | None = None
    #: What the agent told of its thoughts, shortened.
    reasoning: list[str] = []
    #: What the agent's own reviewer has judged, as it says it.
    review: dict[str, Any] | None = None
    #: The agent was told to come to an end, because of its tool uses.
    told_to_finish: bool = False
    #: Why the attempt before this one, which this one concludes, was ended.
    concludes: StopCause | None = None
    tool_total: int = 0
    tool_failed: int = 0
    tools_by_type: dict[str, int] = {}
    claimed_files: list[str] = []
    usage: Usage | None = None
    usage_of_thread: bool = False
    usage_source: str | None = None
    notices: list[str] = []
    malformed: int = 0
    unrecognized: int = 0
    #: Terminal events seen.
    completions: int = 0
    failures: int = 0
    failure: Failure | None = None
    #: The agent's words about what it is doing, for people.
    evidence: str = "starting"
    evidence_at: float = 0.0
    #: UTC seconds.
    first_event_at: float | None = None
    last_progress_at: float | None = None
    terminal_at: float | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    #: Ranges of the log that are gone.
    lost_records: int = 0
    exited: bool = False
    exit_code: int | None = None
    signal: int | None = None
    #: The host lost sight of the process: how it ended is not known.
    lost: bool = False
    #: The host stayed away: whether the process still runs is not known either.
    unreachable: bool = False
    closed: bool = False
    stop: StopCause | None = None
    stopped_at: float | None = None
    #: Commands of processes that outlived the agent and were ended, and pids that could not be ended.
    ended_leftovers: list[str] = []
    survivors: list[int] = []
    #: Why the process could not be started at all.
    start_failure: Failure | None = None

    @property
    def terminal(self) -> bool:
        """Whether the agent reported an end, good or bad."""
        return self.completions + self.failures > 0

    def stopped_too_late(self) -> None:
        """The process had ended when it was to be stopped: if that was a success, it was not for our doing.

        When it ended is not known: a host that hung tells the time at which it came to read that.
        """
        if self.exited and not self.lost and self.exit_code == 0 and self.completions and not self.failures:
            self.stop = self.stopped_at = None

    @property
    def did_nothing(self) -> bool:
        """Whether the attempt provably left no trace: no tool use and no message."""
        return self.tool_total == 0 and self.messages == 0 and not self.claimed_files


def fold(facts: AttemptFacts, event: Event, at: float) -> str | None:
    """Fold one *event* of time *at* (UTC seconds) into *facts*; return the message text if it carried one."""
    if facts.first_event_at is None:
        facts.first_event_at = at
    if isinstance(event, Waiting):
        facts.waiting = _first_line(event.text)
        _evidence(facts, f"waits: {facts.waiting}", at)
        return None
    facts.last_progress_at = at
    facts.waiting = None
    match event:
        case ThreadStarted():
            facts.thread_id = event.thread_id
            facts.model = event.model or facts.model
            _evidence(facts, "thread started", at)
        case TurnStarted():
            facts.turn_started = True
            facts.turn_id = event.turn_id or facts.turn_id
            _evidence(facts, "thinking", at)
        case Message():
            facts.messages += 1
            _evidence(facts, f"says: {_first_line(event.text)}", at)
            return event.text
        case ToolStarted():
            _start_tool(facts, event.item_id, event.tool, event.title)
            _evidence(facts, event.title, at)
        case ToolEnded():
            if event.item_id in facts.closed_tools:
                return None
            if event.item_id not in facts.open_tools:
                _start_tool(facts, event.item_id, event.tool or ToolType.OTHER, event.title or "")
            title = facts.open_tools.pop(event.item_id).title
            facts.closed_tools = [*facts.closed_tools, event.item_id][-_KEPT_CLOSED_TOOLS:]
            facts.tool_failed += event.failed
            _evidence(facts, f"{'failed' if event.failed else 'did'}: {title}", at)
        case FilesClaimed():
            known = set(facts.claimed_files)
            room = _KEPT_CLAIMS - len(facts.claimed_files)
            facts.claimed_files += [path for path in dict.fromkeys(event.paths) if path not in known][:room]
        case UsageReported():
            facts.usage = event.usage
            facts.usage_of_thread = event.of_thread
            facts.usage_source = event.source
        case Notice():
            facts.notices = [*facts.notices, event.text][-_KEPT_NOTICES:]
            _evidence(facts, _first_line(event.text), at)
        case Reasoning():
            facts.reasoning = [*facts.reasoning, event.text[:_REASONING_LENGTH]][-_KEPT_REASONING:]
            _evidence(facts, f"thinks: {_first_line(event.text)}", at)
        case SubagentReported():
            _evidence(facts, f"subagent {event.label} {event.step}: {_first_line(event.text)}".rstrip(": "), at)
        case ReviewReported():
            facts.review = event.document
        case ApprovalRequested():
            facts.open_approvals[event.request_id] = OpenApproval(
                tool=event.tool, title=event.title, reason=event.reason, since=at
            )
            _evidence(facts, f"asks to be allowed: {event.title}", at)
        case ApprovalResolved():
            approval = facts.open_approvals.pop(event.request_id, None)
            if approval is not None:
                facts.approval_wait_s += max(0.0, at - approval.since)
                _evidence(facts, f"{event.decision or 'no longer asks'}: {approval.title}", at)
        case CommandAnswered():
            facts.answered[event.command_id] = event.refusal
            while len(facts.answered) > _KEPT_ANSWERS:
                del facts.answered[next(iter(facts.answered))]
        case TurnCompleted():
            facts.completions += 1
            facts.terminal_at = facts.terminal_at or at
            _evidence(facts, "reported success", at)
            return event.message
        case TurnFailed():
            facts.failures += 1
            facts.failure = facts.failure or event.failure
            facts.terminal_at = facts.terminal_at or at
            _evidence(facts, f"reported failure: {_first_line(event.failure.message)}", at)
            return event.message
        case Unrecognized():
            facts.unrecognized += 1
        case Malformed():
            facts.malformed += 1
            facts.notices = [*facts.notices, f"unreadable line: {event.excerpt}"][-_KEPT_NOTICES:]
    return None


def _start_tool(facts: AttemptFacts, item_id: str, tool: ToolType, title: str) -> None:
    if item_id in facts.open_tools or item_id in facts.closed_tools:
        return
    facts.open_tools[item_id] = OpenTool(tool=tool, title=title)
    facts.tool_total += 1
    facts.tools_by_type[tool.value] = facts.tools_by_type.get(tool.value, 0) + 1


def _evidence(facts: AttemptFacts, text: str, at: float) -> None:
    facts.evidence = text[:200]
    facts.evidence_at = at


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
