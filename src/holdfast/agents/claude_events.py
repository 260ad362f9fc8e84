"""The dialect of ``claude -p --output-format stream-json --verbose`` (Claude Code 2.1.329).

One JSON object per line, told apart by ``type``.  ``system``/``init`` comes first and names the session; ``assistant``
and ``user`` lines carry the blocks of the model's messages and the results of its tools; ``result`` ends the run.
"""

from __future__ import annotations

import msgspec

from holdfast.agents import claude_failures, foreign
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
from holdfast.agents.failure import FailureClass
from holdfast.agents.foreign import Payload

_TOOLS: dict[str, ToolType] = {
    "Bash": ToolType.COMMAND,
    "BashOutput": ToolType.COMMAND,
    "PowerShell": ToolType.COMMAND,
    "Monitor": ToolType.COMMAND,
    "Edit": ToolType.FILE_CHANGE,
    "MultiEdit": ToolType.FILE_CHANGE,
    "Write": ToolType.FILE_CHANGE,
    "NotebookEdit": ToolType.FILE_CHANGE,
    "Read": ToolType.FILE_READ,
    "Glob": ToolType.SEARCH,
    "Grep": ToolType.SEARCH,
    "LSP": ToolType.SEARCH,
    "WebFetch": ToolType.WEB,
    "WebSearch": ToolType.WEB,
    "Task": ToolType.SUBAGENT,
    "Agent": ToolType.SUBAGENT,
}

#: Types of lines that decide and show nothing here.
_SILENT = frozenset(
    {
        "auth_status",
        "control_request",
        "control_response",
        "keep_alive",
        "prompt_suggestion",
        "stream_event",
        "tool_progress",
        "tool_use_summary",
    }
)


def interpret(line: bytes) -> list[Event]:
    """Translate one line; see :meth:`holdfast.agents.adapter.Agent.interpret`."""
    if not line.strip():
        return []
    payload = foreign.parse(line)
    kind = foreign.text(payload, "type") if payload is not None else None
    if payload is None or kind is None:
        return [Malformed(excerpt=foreign.excerpt(line))]
    match kind:
        case "system":
            return _system(payload, line)
        case "assistant":
            return _assistant(payload)
        case "user":
            return _user(payload)
        case "result":
            return _result(payload)
        case "rate_limit_event":
            return _rate_limit(foreign.member(payload, "rate_limit_info"))
        case _:
            return [] if kind in _SILENT else [Unrecognized(name=kind)]


def _system(payload: Payload, line: bytes) -> list[Event]:
    match foreign.text(payload, "subtype"):
        case "init":
            session = foreign.text(payload, "session_id")
            if not session:
                return [Malformed(excerpt=foreign.excerpt(line))]
            return [ThreadStarted(thread_id=session, model=foreign.text(payload, "model")), TurnStarted()]
        case "api_retry":
            status = foreign.whole(payload, "error_status")
            reason = foreign.text(payload, "error") or "unknown"
            return [
                Notice(
                    text=f"Claude Code tries its model again ({foreign.whole(payload, 'attempt')} of "
                    f"{foreign.whole(payload, 'max_retries')}): {reason}{f', HTTP {status}' if status else ''}"
                )
            ]
        case "permission_denied":
            return [Notice(text=f"Permission denied: {foreign.text(payload, 'tool_name') or 'a tool use'}")]
        case "informational" | "model_fallback" | "model_refusal_fallback" | "compact_boundary":
            return [Notice(text=foreign.one_line(foreign.text(payload, "content") or str(payload["subtype"])))]
        case _:
            # Every other subtype tells a host program about the state of its screen, hooks, plugins or helpers.
            return []


def _assistant(payload: Payload) -> list[Event]:
    of_subagent = foreign.text(payload, "parent_tool_use_id") is not None
    is_error = foreign.text(payload, "error") is not None
    found: list[Event] = []
    for block in foreign.members(foreign.member(payload, "message"), "content"):
        match foreign.text(block, "type"):
            case "text" if is_error:
                found.append(Notice(text=foreign.one_line(foreign.text(block, "text") or "API error")))
            case "text" if not of_subagent:
                found.append(Message(text=foreign.text(block, "text") or ""))
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                name = foreign.text(block, "name") or "?"
                found.append(
                    ToolStarted(
                        item_id=foreign.text(block, "id") or "",
                        tool=_tool(name),
                        title=_title(name, foreign.member(block, "input")),
                    )
                )
            case _:
                pass
    return found


def _user(payload: Payload) -> list[Event]:
    found: list[Event] = []
    for block in foreign.members(foreign.member(payload, "message"), "content"):
        if foreign.text(block, "type") == "tool_result":
            failed = foreign.flag(block, "is_error") or False
            found.append(ToolEnded(item_id=foreign.text(block, "tool_use_id") or "", failed=failed))
            # Only the editing tools leave a patch in their result; a read has a file name but none.
            outcome = foreign.member(payload, "tool_use_result")
            path = foreign.text(outcome, "filePath") or foreign.text(outcome, "notebook_path")
            if path and not failed and ("structuredPatch" in outcome or "new_source" in outcome):
                found.append(FilesClaimed(paths=[path]))
    return found


def _result(payload: Payload) -> list[Event]:
    found = _usage(payload)
    denied = [foreign.text(denial, "tool_name") or "?" for denial in foreign.members(payload, "permission_denials")]
    if denied:
        found.append(Notice(text=f"{len(denied)} tool use(s) were denied: {', '.join(sorted(set(denied)))}"))
    text = foreign.text(payload, "result")
    failed = claude_failures.of_result(payload)
    if failed is not None:
        # The result of a failed run is the description of the failure; what the model had said are messages before it.
        found.append(TurnFailed(failure=failed))
    elif foreign.whole(payload, "num_turns") == 0:
        # A prompt that is one of Claude Code's own commands (/help, /clear, ...) is carried out without any model.
        message = f"Claude Code took the prompt for a command of its own and asked no model: {text or 'no answer'}"
        refused = claude_failures.failure(message, failure_class=FailureClass.BAD_REQUEST, code="local_command")
        found.append(TurnFailed(failure=refused))
    else:
        found.append(TurnCompleted(message=text))
    return found


def _usage(payload: Payload) -> list[Event]:
    """What this run used, as far as its version says.

    ``model_usage_since_last_result`` is exactly this run (2.1.329).  Without it there are two figures: ``usage``, which
    leaves out sub-agents, and ``modelUsage``, which in a resumed session goes on counting where the earlier run stopped
    (2.1.300) or does not (2.1.260).  Where they agree it is this run; where they do not, only the latter is complete,
    and may count the whole session, as may the cost.
    """
    this_run = _models(foreign.member(payload, "model_usage_since_last_result"))
    if this_run is not None:
        return [UsageReported(usage=this_run, source="result")]
    counts = foreign.member(payload, "usage")
    if not counts or foreign.whole(payload, "num_turns") == 0:
        return []
    cached = foreign.whole(counts, "cache_read_input_tokens") or 0
    written = foreign.whole(counts, "cache_creation_input_tokens") or 0
    fresh = foreign.whole(counts, "input_tokens")
    main_loop = Usage(
        input_tokens=fresh + cached + written if fresh is not None else None,
        cached_input_tokens=cached,
        output_tokens=foreign.whole(counts, "output_tokens"),
        reasoning_output_tokens=foreign.whole(foreign.member(counts, "output_tokens_details"), "thinking_tokens"),
        cost_usd=foreign.number(payload, "total_cost_usd"),
    )
    models = _models(foreign.member(payload, "modelUsage"))
    if models is None or models.input_tokens == main_loop.input_tokens:
        return [UsageReported(usage=main_loop, source="result")]
    return [UsageReported(usage=msgspec.structs.replace(models, cost_usd=None), of_thread=True, source="result")]


def _models(by_model: Payload) -> Usage | None:
    entries = [entry for entry in by_model.values() if foreign.is_object(entry)]
    if not entries:
        return None

    def total(key: str) -> int:
        return sum(foreign.whole(entry, key) or 0 for entry in entries)

    cached = total("cacheReadInputTokens")
    return Usage(
        input_tokens=total("inputTokens") + cached + total("cacheCreationInputTokens"),
        cached_input_tokens=cached,
        output_tokens=total("outputTokens"),
        reasoning_output_tokens=total("thinkingTokens"),
        cost_usd=sum(foreign.number(entry, "costUSD") or 0.0 for entry in entries),
    )


def _rate_limit(info: Payload) -> list[Event]:
    status = foreign.text(info, "status")
    if status in (None, "allowed"):
        return []
    return [Notice(text=f"Claude usage limit ({foreign.text(info, 'rateLimitType') or 'unknown'}): {status}")]


def _tool(name: str) -> ToolType:
    if name.startswith("mcp__"):
        return ToolType.MCP
    return _TOOLS.get(name, ToolType.OTHER)


def _title(name: str, arguments: Payload) -> str:
    for key in ("command", "file_path", "notebook_path", "pattern", "query", "url", "description"):
        value = foreign.text(arguments, key)
        if value:
            return foreign.one_line(value if name == "Bash" else f"{name} {value}")
    return name
