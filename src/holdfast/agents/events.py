"""What agents report, in one vocabulary for all of them.

An agent's dialect (Codex's ``exec --json``, Claude Code's ``stream-json``, ...) is translated line by line into these
events.  Translation keeps no state, so the same bytes always give the same events, however often Holdfast restarts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from holdfast.agents.failure import Failure


class ToolType(StrEnum):
    """Kinds of tool use that are counted apart."""

    COMMAND = "command"
    FILE_CHANGE = "file_change"
    FILE_READ = "file_read"
    SEARCH = "search"
    WEB = "web"
    MCP = "mcp"
    SUBAGENT = "subagent"
    OTHER = "other"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and cost; ``None`` is unknown, never zero.  Cached tokens are counted among the input tokens."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    cost_usd: float | None = None


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of everything that a line of an agent's output can mean."""


class ThreadStarted(AgentEvent, frozen=True, kw_only=True, tag="thread_started"):
    """The agent named its conversation; from here on the work can be resumed by this id."""

    thread_id: str
    model: str | None = None


class TurnStarted(AgentEvent, frozen=True, kw_only=True, tag="turn_started"):
    """The agent accepted the prompt and began to work."""

    #: The agent's own name for the turn, where turns have one.
    turn_id: str | None = None


class Message(AgentEvent, frozen=True, kw_only=True, tag="message"):
    """A complete message of the agent.  The last one before the end of the turn is the answer."""

    text: str


class ToolStarted(AgentEvent, frozen=True, kw_only=True, tag="tool_started"):
    """A tool use began.  ``title`` is one line for people: the command, the file, the query."""

    item_id: str
    tool: ToolType
    title: str


class ToolEnded(AgentEvent, frozen=True, kw_only=True, tag="tool_ended"):
    """A tool use ended.

    Some items are only ever reported when they are over: then ``tool`` and ``title`` are given here and no
    ``tool_started`` came before.
    """

    item_id: str
    failed: bool
    tool: ToolType | None = None
    title: str | None = None


class FilesClaimed(AgentEvent, frozen=True, kw_only=True, tag="files_claimed"):
    """The agent says that it changed these files (as it spelled them).  A claim, not an observation."""

    paths: list[str]


class UsageReported(AgentEvent, frozen=True, kw_only=True, tag="usage_reported"):
    """Usage so far."""

    usage: Usage
    #: True when the figures count the whole thread, earlier turns included (Codex); else this run alone.
    of_thread: bool = False
    #: Where they come from: ``turn.completed``, ``result``, ``rollout_file``, ...
    source: str


class Notice(AgentEvent, frozen=True, kw_only=True, tag="notice"):
    """Something worth showing that decides nothing: a warning, a retry that the agent announced."""

    text: str


class Reasoning(AgentEvent, frozen=True, kw_only=True, tag="reasoning"):
    """A summary of what the agent thought, as far as it tells; it is not part of the answer."""

    text: str


class SubagentStep(StrEnum):
    """What a sub-agent has come to."""

    STARTED = "started"
    MESSAGE = "message"
    REASONING = "reasoning"
    ENDED = "ended"


class SubagentReported(AgentEvent, frozen=True, kw_only=True, tag="subagent_reported"):
    """Another agent, which the agent has set to work, got on.  It is never the answer, nor the end of the turn."""

    thread_id: str
    #: What people call it.
    label: str
    step: SubagentStep
    #: The message; the summary of its thoughts; the tool by which it was started; how it ended.
    text: str = ""


class Waiting(AgentEvent, frozen=True, kw_only=True, tag="waiting"):
    """The agent announced that it waits for something and tries again (the network, a rate limit): no progress."""

    text: str


class ApprovalRequested(AgentEvent, frozen=True, kw_only=True, tag="approval_requested"):
    """The agent asks whether it may do something, and waits for the decision."""

    request_id: str
    tool: ToolType
    #: One line for people: the command, the files.
    title: str
    #: Why the agent wants it, in its own words.
    reason: str | None = None


class ApprovalResolved(AgentEvent, frozen=True, kw_only=True, tag="approval_resolved"):
    """A question of the agent was answered, or withdrawn (then there is no decision)."""

    request_id: str
    decision: str | None = None


class ReviewReported(AgentEvent, frozen=True, kw_only=True, tag="review_reported"):
    """What the agent's own reviewer has judged, in the agent's own form; its text is the answer."""

    document: dict[str, Any]


class CommandAnswered(AgentEvent, frozen=True, kw_only=True, tag="command_answered"):
    """A command that was sent to the run (:mod:`holdfast.agents.commands`) was carried out, or refused for a reason."""

    command_id: str
    refusal: str | None = None


class TurnCompleted(AgentEvent, frozen=True, kw_only=True, tag="turn_completed"):
    """The agent reports success.  ``message`` is the answer if the terminal event itself carries it."""

    message: str | None = None


class TurnFailed(AgentEvent, frozen=True, kw_only=True, tag="turn_failed"):
    """The agent reports that the turn failed."""

    failure: Failure
    #: Text that the agent handed over although it failed.
    message: str | None = None


class Unrecognized(AgentEvent, frozen=True, kw_only=True, tag="unrecognized"):
    """A well-formed event of a kind that this dialect does not know; harmless, but counted."""

    name: str


class Malformed(AgentEvent, frozen=True, kw_only=True, tag="malformed"):
    """A line that is not what the dialect promises; kept in the log, counted, and shown in part."""

    excerpt: str


Event = (
    ThreadStarted
    | TurnStarted
    | Message
    | ToolStarted
    | ToolEnded
    | FilesClaimed
    | UsageReported
    | Notice
    | Reasoning
    | SubagentReported
    | Waiting
    | ApprovalRequested
    | ApprovalResolved
    | ReviewReported
    | CommandAnswered
    | TurnCompleted
    | TurnFailed
    | Unrecognized
    | Malformed
)
