"""The dialect of ``codex exec --json`` (codex 0.169; the same since 0.44).

One JSON object per line, told apart by ``type``.  The first is ``thread.started``; a run ends with ``turn.completed``
or ``turn.failed``, or with neither when a signal ended it.  ``error`` *lines* announce retries and repeat the message
of the ``turn.failed`` that follows; ``error`` *items* are warnings.
"""

from __future__ import annotations

import re

from holdfast.agents import foreign
from holdfast.agents.events import (
    Event,
    FilesClaimed,
    Malformed,
    Message,
    Notice,
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
)
from holdfast.agents.failure import Failure, FailureClass, Remedy, usual_remedies
from holdfast.agents.foreign import Payload
from holdfast.agents.upstream import by_http_status

#: Items that are uses of a tool.
_TOOLS: dict[str, ToolType] = {
    "command_execution": ToolType.COMMAND,
    "file_change": ToolType.FILE_CHANGE,
    "mcp_tool_call": ToolType.MCP,
    "web_search": ToolType.WEB,
    "collab_tool_call": ToolType.SUBAGENT,
    "dynamic_tool_call": ToolType.OTHER,
    "image_generation": ToolType.OTHER,
}
#: Items that say nothing about what was done or answered.
_SILENT_ITEMS = frozenset({"reasoning", "todo_list", "plan"})

#: Codex reports a failed turn as a sentence of its own making; the status code in it is the only typed part.
_STATUS = re.compile(r"\b(?:unexpected|last) status:? (\d{3})\b")
#: Sentences of Codex itself (not of a model or a server), by their beginnings.
_SENTENCES: tuple[tuple[str, FailureClass], ...] = (
    ("You’ve hit your usage limit", FailureClass.USAGE_LIMIT),
    ("You've hit your usage limit", FailureClass.USAGE_LIMIT),
    ("Quota exceeded", FailureClass.USAGE_LIMIT),
    ("Codex ran out of room in the model's context window", FailureClass.CONTEXT_EXCEEDED),
    ("We’re currently experiencing high demand", FailureClass.OVERLOADED),
    ("Selected model is at capacity", FailureClass.OVERLOADED),
    ("stream disconnected before completion", FailureClass.NETWORK),
    ("error sending request", FailureClass.NETWORK),
    ("Connection failed", FailureClass.NETWORK),
)
#: Error codes of the OpenAI API, where Codex hands on an answer of the server as it is.
_API_CODES: dict[str, FailureClass] = {
    "context_length_exceeded": FailureClass.CONTEXT_EXCEEDED,
    "insufficient_quota": FailureClass.USAGE_LIMIT,
    "usage_limit_reached": FailureClass.USAGE_LIMIT,
    "rate_limit_exceeded": FailureClass.RATE_LIMIT,
    "model_not_found": FailureClass.MODEL,
    "invalid_api_key": FailureClass.AUTH,
    "server_error": FailureClass.OVERLOADED,
}


def interpret(line: bytes) -> list[Event]:
    """Translate one line; see :meth:`holdfast.agents.adapter.Agent.interpret`."""
    if not line.strip():
        return []
    payload = foreign.parse(line)
    kind = foreign.text(payload, "type") if payload is not None else None
    if payload is None or kind is None:
        return [Malformed(excerpt=foreign.excerpt(line))]
    match kind:
        case "thread.started":
            thread_id = foreign.text(payload, "thread_id")
            return [ThreadStarted(thread_id=thread_id)] if thread_id else [Malformed(excerpt=foreign.excerpt(line))]
        case "turn.started":
            return [TurnStarted()]
        case "item.started":
            return _item_started(foreign.member(payload, "item"))
        case "item.updated":
            return []
        case "item.completed":
            return _item_completed(foreign.member(payload, "item"))
        case "turn.completed":
            return [*usage_reported(foreign.member(payload, "usage"), "turn.completed"), TurnCompleted()]
        case "turn.failed":
            message = foreign.text(foreign.member(payload, "error"), "message")
            return [TurnFailed(failure=failure(message or "Codex reported a failed turn and no reason."))]
        case "error":
            return [Notice(text=foreign.text(payload, "message") or foreign.excerpt(line))]
        case _:
            return [Unrecognized(name=kind)]


def usage_reported(counts: Payload, source: str) -> list[Event]:
    """Token counts as Codex writes them, which are always those of the whole thread; nothing if there are none."""
    if not counts:
        return []
    return [
        UsageReported(
            usage=Usage(
                input_tokens=foreign.whole(counts, "input_tokens"),
                cached_input_tokens=foreign.whole(counts, "cached_input_tokens"),
                output_tokens=foreign.whole(counts, "output_tokens"),
                reasoning_output_tokens=foreign.whole(counts, "reasoning_output_tokens"),
            ),
            of_thread=True,
            source=source,
        )
    ]


def failure(message: str) -> Failure:
    """The failure that a sentence of Codex describes.

    When the model API refuses a request (400), the sentence is the body of its answer.
    """
    refusal = foreign.member(foreign.parse(message.encode("utf-8", "replace")) or {}, "error")
    if refusal:
        code = foreign.text(refusal, "code") or foreign.text(refusal, "type")
        known = _API_CODES.get(code or "", FailureClass.BAD_REQUEST)
        return Failure(
            failure_class=known,
            message=foreign.text(refusal, "message") or message,
            upstream_code=code,
            remedy=remedies(known),
        )
    failure_class = by_message(message) or FailureClass.UNKNOWN
    status = _STATUS.search(message)
    return Failure(
        failure_class=failure_class,
        message=message,
        http_status=int(status.group(1)) if status else None,
        remedy=remedies(failure_class),
    )


def by_message(message: str) -> FailureClass | None:
    """The class of a failure of which only Codex's sentence is known."""
    status = _STATUS.search(message)
    if status is not None:
        return by_http_status(int(status.group(1)))
    return next((known for beginning, known in _SENTENCES if message.startswith(beginning)), None)


def remedies(failure_class: FailureClass) -> list[Remedy]:
    """What a user of Codex can do about a failure of this class."""
    match failure_class:
        case FailureClass.AUTH:
            return [Remedy(text="Log in to Codex again.", argv=["codex", "login"])]
        case FailureClass.BACKEND_INCOMPATIBLE:
            return [
                Remedy(
                    text="Install a current Codex: this one does not know an option that Holdfast uses.",
                    argv=["npm", "install", "-g", "@openai/codex@latest"],
                )
            ]
        case FailureClass.THREAD_BUSY:
            return [Remedy(text="Wait for the other run of this thread to end, then try again.")]
        case FailureClass.THREAD_UNKNOWN:
            return [Remedy(text="Start a fresh thread: Codex has no record of this one in its home directory.")]
        case _:
            return usual_remedies(failure_class)


def _item_started(item: Payload) -> list[Event]:
    kind, item_id = foreign.text(item, "type") or "", foreign.text(item, "id") or ""
    tool = _TOOLS.get(kind)
    if tool is not None:
        return [ToolStarted(item_id=item_id, tool=tool, title=title(tool, kind, item))]
    if kind in _SILENT_ITEMS or kind in ("agent_message", "error"):
        return []
    return [Unrecognized(name=f"item.started/{kind}")]


def _item_completed(item: Payload) -> list[Event]:
    kind, item_id = foreign.text(item, "type") or "", foreign.text(item, "id") or ""
    if kind == "agent_message":
        return [Message(text=foreign.text(item, "text") or "")]
    if kind == "error":
        return [Notice(text=foreign.text(item, "message") or "Codex reported a warning without text.")]
    tool = _TOOLS.get(kind)
    if tool is None:
        return [] if kind in _SILENT_ITEMS else [Unrecognized(name=f"item.completed/{kind}")]
    failed = foreign.text(item, "status") in ("failed", "declined") or foreign.whole(item, "exit_code") not in (None, 0)
    ended = ToolEnded(item_id=item_id, failed=failed, tool=tool, title=title(tool, kind, item))
    if kind == "file_change" and not failed and (paths := changed_paths(item)):
        return [ended, FilesClaimed(paths=paths)]
    return [ended]


def title(tool: ToolType, kind: str, item: Payload) -> str:
    """One line for people about a tool use; all dialects of Codex spell the fields alike, but not the *kind*."""
    match tool:
        case ToolType.COMMAND:
            return foreign.one_line(foreign.text(item, "command") or "command")
        case ToolType.FILE_CHANGE:
            return foreign.one_line(", ".join(changed_paths(item)) or "file change")
        case ToolType.FILE_READ:
            return foreign.one_line(foreign.text(item, "path") or "image")
        case ToolType.MCP:
            return foreign.one_line(f"{foreign.text(item, 'server') or '?'}.{foreign.text(item, 'tool') or '?'}")
        case ToolType.WEB:
            return foreign.one_line(foreign.text(item, "query") or "web search")
        case _:
            return foreign.one_line(foreign.text(item, "tool") or kind)


def changed_paths(item: Payload) -> list[str]:
    """What a file change says that it changed."""
    return [path for change in foreign.members(item, "changes") if (path := foreign.text(change, "path"))]
