"""What the lines of a turn program mean: notifications of the app-server (codex 0.142 to 0.169), and its own lines."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from holdfast.agents import codex_events, codex_rollout, foreign
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
    SubagentStep,
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
from holdfast.agents.failure import Failure, FailureClass
from holdfast.agents.foreign import Payload

#: Items that are uses of a tool.
_TOOLS: dict[str, ToolType] = {
    "commandExecution": ToolType.COMMAND,
    "fileChange": ToolType.FILE_CHANGE,
    "mcpToolCall": ToolType.MCP,
    "webSearch": ToolType.WEB,
    "collabAgentToolCall": ToolType.SUBAGENT,
    "dynamicToolCall": ToolType.OTHER,
    "imageView": ToolType.FILE_READ,
    "imageGeneration": ToolType.OTHER,
}
#: Items that say nothing about what was done or answered.
_SILENT_ITEMS = frozenset(
    {"userMessage", "hookPrompt", "plan", "functionCallOutput", "subAgentActivity", "sleep", "enteredReviewMode"}
)
#: Notifications about a thread that change nothing about what is known of the turn.
_SILENT = frozenset(
    {
        "thread/started",
        "thread/closed",
        "thread/status/changed",
        "thread/name/updated",
        "thread/settings/updated",
        "thread/goal/updated",
        "thread/goal/cleared",
        "thread/queue/changed",
        "thread/readState/changed",
        "thread/section/changed",
        "thread/environment/connected",
        "thread/environment/disconnected",
        "turn/started",
        "turn/plan/updated",
        "turn/diff/updated",
        "turn/moderationMetadata",
        "hook/started",
        "hook/completed",
        "serverRequest/resolved",
        "deprecationNotice",
        "model/verification",
        "model/safetyBuffering/updated",
        "modelProvider/authRecoveryStarted",
        "modelProvider/authRecoveryCompleted",
        "item/autoApprovalReview/started",
        "item/autoApprovalReview/completed",
        "mcpServer/startupStatus/updated",
        "thread/archived",
        "thread/deleted",
        "thread/unarchived",
    }
)
_FAILURES: dict[str, FailureClass] = {member.value: member for member in FailureClass}
_TOOL_TYPES: dict[str, ToolType] = {member.value: member for member in ToolType}
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def interpret(line: bytes) -> list[Event]:
    """Translate one line; see :meth:`holdfast.agents.adapter.Agent.interpret`."""
    if not line.strip():
        return []
    payload = foreign.parse(line)
    if payload is None:
        return [Malformed(excerpt=foreign.excerpt(line))]
    kind, method = foreign.text(payload, "holdfast"), foreign.text(payload, "method")
    if method is None:
        own = _OWN.get(kind or "")
        return own(payload) if own is not None else [Malformed(excerpt=foreign.excerpt(line))]
    params = foreign.member(payload, "params")
    if kind == "subagent":
        return _of_subagent(method, params, foreign.text(payload, "label") or "?")
    if "id" in payload:
        # A question of the server; the program's own lines tell what became of it.
        return []
    match method:
        case "item/started":
            return _item_started(foreign.member(params, "item"))
        case "item/completed":
            return _item_completed(foreign.member(params, "item"))
        case "thread/tokenUsage/updated":
            return _usage(foreign.member(foreign.member(params, "tokenUsage"), "total"), method, of_thread=True)
        case "turn/completed":
            return _turn_completed(foreign.member(params, "turn"))
        case "error":
            text = _error_text(foreign.member(params, "error"))
            # Without willRetry it is the failure that turn/completed repeats.
            return [Waiting(text=text)] if foreign.flag(params, "willRetry") else []
        case "warning" | "guardianWarning":
            return [Notice(text=foreign.text(params, "message") or foreign.excerpt(line))]
        case "configWarning":
            return [Notice(text=foreign.text(params, "summary") or foreign.excerpt(line))]
        case "model/rerouted":
            to = foreign.text(params, "toModel") or "another model"
            return [Notice(text=f"Codex goes on with {to}: {foreign.text(params, 'reason') or 'no reason given'}")]
        case "thread/compacted":
            return [Notice(text="Codex summarised the conversation to make room.")]
        case _:
            return [] if method in _SILENT else [Unrecognized(name=method)]


def _of_subagent(method: str, params: Payload, label: str) -> list[Event]:
    """What a notification about a sub-agent means; its tools are uses of tools like any other."""
    thread_id = foreign.text(params, "threadId") or ""
    if method == "turn/completed":
        turn = foreign.member(params, "turn")
        how = foreign.text(turn, "status") or "unknown"
        if how == "failed":
            how = f"failed: {foreign.one_line(_error_text(foreign.member(turn, 'error')))}"
        return [SubagentReported(thread_id=thread_id, label=label, step=SubagentStep.ENDED, text=how)]
    item = foreign.member(params, "item")
    events = _item_started(item) if method == "item/started" else _item_completed(item)
    found: list[Event] = []
    for event in events:
        match event:
            case Message(text=said) if said:
                found.append(SubagentReported(thread_id=thread_id, label=label, step=SubagentStep.MESSAGE, text=said))
            case Reasoning(text=said):
                found.append(SubagentReported(thread_id=thread_id, label=label, step=SubagentStep.REASONING, text=said))
            case ToolStarted() | ToolEnded(title=str()):
                found.append(msgspec.structs.replace(event, title=f"Subagent {label}: {event.title}"))
            case ToolEnded() | FilesClaimed():
                found.append(event)
            case _:
                pass
    return found


def _subagent(line: Payload) -> list[Event]:
    return [
        SubagentReported(
            thread_id=foreign.text(line, "threadId") or "",
            label=foreign.text(line, "label") or "?",
            step=SubagentStep.STARTED,
            text=foreign.text(line, "tool") or "",
        )
    ]


def _review(line: Payload) -> list[Event]:
    output = foreign.member(line, "output")
    return [ReviewReported(document=output)] if output else []


def _thread(line: Payload) -> list[Event]:
    thread_id = foreign.text(line, "threadId")
    return [ThreadStarted(thread_id=thread_id, model=foreign.text(line, "model"))] if thread_id else []


def _begun(line: Payload) -> list[Event]:
    return [TurnStarted(turn_id=foreign.text(line, "turnId"))]


def _taken_up(line: Payload) -> list[Event]:
    thread_id = foreign.text(line, "threadId")
    thread: list[Event] = [ThreadStarted(thread_id=thread_id)] if thread_id else []
    return [*thread, TurnStarted(turn_id=foreign.text(line, "turnId"))]


def _failed(line: Payload) -> list[Event]:
    failure_class = _FAILURES.get(foreign.text(line, "failure") or "", FailureClass.UNKNOWN)
    failure = Failure(
        failure_class=failure_class,
        message=foreign.text(line, "message") or "The turn failed.",
        upstream_code=foreign.text(line, "upstream"),
        remedy=codex_events.remedies(failure_class),
    )
    return [TurnFailed(failure=failure)]


def _lost(line: Payload) -> list[Event]:
    return [Notice(text=f"The Codex server could not be reached again: {foreign.text(line, 'reason')}")]


def _waiting(line: Payload) -> list[Event]:
    return [Waiting(text=f"Connecting to the Codex server again: {foreign.text(line, 'reason')}")]


def _asked(line: Payload) -> list[Event]:
    return [
        ApprovalRequested(
            request_id=foreign.text(line, "requestId") or "",
            tool=_TOOL_TYPES.get(foreign.text(line, "tool") or "", ToolType.OTHER),
            title=foreign.one_line(foreign.text(line, "title") or "something"),
            reason=foreign.text(line, "reason"),
        )
    ]


def _resolved(line: Payload) -> list[Event]:
    decision = foreign.text(line, "decision")
    return [ApprovalResolved(request_id=foreign.text(line, "requestId") or "", decision=decision)]


def _decided(line: Payload) -> list[Event]:
    title = foreign.one_line(foreign.text(line, "title") or "something")
    given = "given" if foreign.text(line, "decision") == "accept" else "declined"
    return [Notice(text=f"Codex asked for approval, which was {given} without asking anybody: {title}")]


def _refused(line: Payload) -> list[Event]:
    return [Notice(text=f"Codex asked for something that Holdfast does not answer: {foreign.text(line, 'request')}")]


def _answered(line: Payload) -> list[Event]:
    return [
        CommandAnswered(command_id=foreign.text(line, "commandId") or "", refusal=foreign.text(line, "refusal")),
    ]


def _forgotten(line: Payload) -> list[Event]:
    return [ToolEnded(item_id=foreign.text(line, "itemId") or "", failed=False)]


def _answer(line: Payload) -> list[Event]:
    return [Message(text=foreign.text(line, "text") or "")]


def _turn_usage(line: Payload) -> list[Event]:
    return _usage(foreign.member(line, "usage"), "turn", of_thread=False)


def _notice(line: Payload) -> list[Event]:
    return [Notice(text=foreign.text(line, "text") or "")]


_OWN: dict[str, Callable[[Payload], list[Event]]] = {
    "thread": _thread,
    "begun": _begun,
    "attached": _taken_up,
    "collected": _taken_up,
    "failed": _failed,
    "lost": _lost,
    "reconnecting": _waiting,
    "asked": _asked,
    "resolved": _resolved,
    "decided": _decided,
    "refused": _refused,
    "answered": _answered,
    "forgotten": _forgotten,
    "answer": _answer,
    "usage": _turn_usage,
    "notice": _notice,
    "subagent": _subagent,
    "review": _review,
}


def _item_started(item: Payload) -> list[Event]:
    kind, item_id = foreign.text(item, "type") or "", foreign.text(item, "id") or ""
    tool = _TOOLS.get(kind)
    if tool is not None:
        return [ToolStarted(item_id=item_id, tool=tool, title=codex_events.title(tool, kind, item))]
    if kind in _SILENT_ITEMS or kind in ("agentMessage", "reasoning", "exitedReviewMode", "contextCompaction"):
        return []
    return [Unrecognized(name=f"item/started/{kind}")]


def _parts(item: Payload, key: str) -> list[str]:
    """The parts of what was thought: texts in the protocol, objects where Codex hands on what the model said."""
    return [part for part in foreign.texts(item, key) if part.strip()] or [
        text for part in foreign.members(item, key) if (text := foreign.text(part, "text")) and text.strip()
    ]


def _item_completed(item: Payload) -> list[Event]:
    kind, item_id = foreign.text(item, "type") or "", foreign.text(item, "id") or ""
    match kind:
        case "agentMessage":
            return [Message(text=foreign.text(item, "text") or "")]
        case "exitedReviewMode":
            return [Message(text=foreign.text(item, "review") or "")]
        case "reasoning":
            return [Reasoning(text=part) for part in _parts(item, "summary") or _parts(item, "content")]
        case "contextCompaction":
            return [Notice(text="Codex summarised the conversation to make room.")]
        case _:
            pass
    tool = _TOOLS.get(kind)
    if tool is None:
        return [] if kind in _SILENT_ITEMS else [Unrecognized(name=f"item/completed/{kind}")]
    failed = (
        foreign.text(item, "status") in ("failed", "declined")
        or foreign.whole(item, "exitCode") not in (None, 0)
        or foreign.flag(item, "success") is False
    )
    ended = ToolEnded(item_id=item_id, failed=failed, tool=tool, title=codex_events.title(tool, kind, item))
    if kind == "fileChange" and not failed and (paths := codex_events.changed_paths(item)):
        return [ended, FilesClaimed(paths=paths)]
    return [ended]


def _usage(counts: Payload, source: str, *, of_thread: bool) -> list[Event]:
    if not counts:
        return []
    usage = Usage(
        input_tokens=foreign.whole(counts, "inputTokens"),
        cached_input_tokens=foreign.whole(counts, "cachedInputTokens"),
        output_tokens=foreign.whole(counts, "outputTokens"),
        reasoning_output_tokens=foreign.whole(counts, "reasoningOutputTokens"),
    )
    return [UsageReported(usage=usage, of_thread=of_thread, source=source)]


def _turn_completed(turn: Payload) -> list[Event]:
    match foreign.text(turn, "status"):
        case "completed":
            return [TurnCompleted()]
        case "interrupted":
            interrupted = Failure(failure_class=FailureClass.CANCELLED, message="The turn was interrupted.")
            return [TurnFailed(failure=interrupted)]
        case _:
            return [TurnFailed(failure=_failure(foreign.member(turn, "error")))]


def _failure(error: Payload) -> Failure:
    """A ``TurnError``; its ``codexErrorInfo`` is what rollout files call ``codex_error_info``, in another spelling."""
    info: object = error.get("codexErrorInfo")
    if isinstance(info, str):
        info = _snake(info)
    elif foreign.is_object(info):
        details = {name: foreign.member(info, name) for name in info}
        info = {
            _snake(name): {"http_status_code": value.get("httpStatusCode") or value.get("http_status_code")}
            for name, value in details.items()
        }
    return codex_rollout.typed_failure({"message": _error_text(error), "codex_error_info": info})


def _error_text(error: Payload) -> str:
    message = foreign.text(error, "message") or "Codex reported a failure and no reason."
    details = foreign.text(error, "additionalDetails")
    return f"{message} ({details})" if details and details not in message else message


def _snake(name: str) -> str:
    return _HUMP.sub("_", name).lower()
