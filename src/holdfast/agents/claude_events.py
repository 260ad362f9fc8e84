"""The dialect of ``claude -p --output-format stream-json --verbose`` (Claude Code 2.1.329).

One JSON object per line, told apart by ``type``.  ``system``/``init`` comes first and names the session; ``assistant``
and ``user`` lines carry the blocks of the model's messages and the results of its tools; ``result`` ends the run.
A failed API call is reported as ``subtype: "success"`` with ``is_error: true``, so ``is_error`` is looked at first.
"""

from __future__ import annotations

import msgspec

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
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.agents.foreign import Payload
from holdfast.agents.upstream import by_http_status

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

#: ``subtype`` of a result that is no success.
_SUBTYPES: dict[str, FailureClass] = {
    "error_max_turns": FailureClass.BUDGET,
    "error_max_budget_usd": FailureClass.BUDGET,
    "error_max_structured_output_retries": FailureClass.SCHEMA_UNMET,
}
#: ``terminal_reason`` of a result that Claude Code itself counts as failed, whatever its ``subtype``.
_REASONS: dict[str, FailureClass] = {
    "prompt_too_long": FailureClass.CONTEXT_EXCEEDED,
    "blocking_limit": FailureClass.CONTEXT_EXCEEDED,
    "rapid_refill_breaker": FailureClass.CONTEXT_EXCEEDED,
    "budget_exhausted": FailureClass.BUDGET,
    "max_turns": FailureClass.BUDGET,
    "structured_output_retry_exhausted": FailureClass.SCHEMA_UNMET,
    "malformed_tool_use_exhausted": FailureClass.MODEL,
    "model_error": FailureClass.MODEL,
    "image_error": FailureClass.BAD_REQUEST,
    "tool_deferred_unavailable": FailureClass.UNKNOWN,
    "turn_setup_failed": FailureClass.UNKNOWN,
    "aborted_streaming": FailureClass.CANCELLED,
    "aborted_tools": FailureClass.CANCELLED,
    "api_error": FailureClass.UNKNOWN,
}
#: ``api_error``: what Claude Code itself made of a failed call, where that is more than the server's answer.
_API_ERROR: dict[str, FailureClass] = {
    "usage_limit_reached": FailureClass.USAGE_LIMIT,
    "model_requires_usage_credits": FailureClass.USAGE_LIMIT,
    "long_context_credits_required": FailureClass.USAGE_LIMIT,
    "max_output_tokens": FailureClass.CONTEXT_EXCEEDED,
    "message_over_context_limit": FailureClass.CONTEXT_EXCEEDED,
    "autocompact_thrashing": FailureClass.CONTEXT_EXCEEDED,
    "connection_failed": FailureClass.NETWORK,
    "no_response": FailureClass.NETWORK,
    "stream_idle_timeout": FailureClass.NETWORK,
    "computer_slept": FailureClass.NETWORK,
    "network_edge_blocked": FailureClass.NETWORK,
    "gateway_content_type": FailureClass.NETWORK,
    "tls_untrusted_ca": FailureClass.NETWORK,
    "tls_cert_signature_failure": FailureClass.NETWORK,
    "stored_login_refused": FailureClass.AUTH,
    "oauth_refresh_store_refused": FailureClass.AUTH,
    "provider_credentials": FailureClass.AUTH,
    "gateway_signin_required": FailureClass.AUTH,
    "gateway_session_expired": FailureClass.AUTH,
    "api_key_auth_disabled": FailureClass.AUTH,
    "org_disabled_credential": FailureClass.AUTH,
    "invalid_credential_header": FailureClass.AUTH,
    "claude_code_version_too_old": FailureClass.BACKEND_INCOMPATIBLE,
    "safety_monitor_blocked": FailureClass.POLICY,
    "dlp_request_denied": FailureClass.POLICY,
    "hook_denied": FailureClass.DENIED,
    "no_allowed_fallback": FailureClass.MODEL,
    "model_substitution_disabled": FailureClass.MODEL,
    "empty_completion": FailureClass.MODEL,
    "malformed_tool_use_exhausted": FailureClass.MODEL,
}
#: ``api_error_type``: the error type of the Anthropic API, as the server spelled it.
_API_ERROR_TYPES: dict[str, FailureClass] = {
    "authentication_error": FailureClass.AUTH,
    "permission_error": FailureClass.AUTH,
    "billing_error": FailureClass.USAGE_LIMIT,
    "rate_limit_error": FailureClass.RATE_LIMIT,
    "overloaded_error": FailureClass.OVERLOADED,
    "api_error": FailureClass.OVERLOADED,
    "timeout_error": FailureClass.NETWORK,
    "not_found_error": FailureClass.MODEL,
    "request_too_large": FailureClass.CONTEXT_EXCEEDED,
    "invalid_request_error": FailureClass.BAD_REQUEST,
}
#: ``startup_failure_reason``: why Claude Code refused to start.  What is not here is a matter of configuration.
_STARTUP: dict[str, FailureClass] = {
    "bypass_root": FailureClass.SANDBOX,
    "sandbox_required_unavailable": FailureClass.SANDBOX,
    "cli_version_too_old": FailureClass.BACKEND_INCOMPATIBLE,
    "session_held_by_background": FailureClass.THREAD_BUSY,
    "org_pin_api_key_conflict": FailureClass.AUTH,
    "org_verify_failed": FailureClass.AUTH,
    "org_pin_mismatch": FailureClass.AUTH,
    "org_config_refused": FailureClass.AUTH,
    "gateway_signin_required": FailureClass.AUTH,
    "gateway_access_denied": FailureClass.AUTH,
    "org_config_required_unavailable": FailureClass.NETWORK,
    "remote_settings_required_unavailable": FailureClass.NETWORK,
}
#: Sentences of Claude Code itself, by their beginnings, for the failures that it does not type.
_SENTENCES: tuple[tuple[str, FailureClass], ...] = (
    ("No conversation found with session ID", FailureClass.THREAD_UNKNOWN),
    ("Not logged in", FailureClass.AUTH),
    ("Invalid API key", FailureClass.AUTH),
    ("Failed to authenticate", FailureClass.AUTH),
    ("OAuth token", FailureClass.AUTH),
    ("You've hit your", FailureClass.USAGE_LIMIT),
    ("You’ve hit your", FailureClass.USAGE_LIMIT),
    ("Claude AI usage limit reached", FailureClass.USAGE_LIMIT),
    ("Claude usage limit reached", FailureClass.USAGE_LIMIT),
    ("Credit balance is too low", FailureClass.USAGE_LIMIT),
    ("Prompt is too long", FailureClass.CONTEXT_EXCEEDED),
    ("API Error: Connection", FailureClass.NETWORK),
    ("API Error: Unable to connect", FailureClass.NETWORK),
    ("API Error: Request timed out", FailureClass.NETWORK),
    ("API Error: Claude's response exceeded", FailureClass.CONTEXT_EXCEEDED),
    ("API Error: The model has reached its context window", FailureClass.CONTEXT_EXCEEDED),
    ("--dangerously-skip-permissions cannot be used with root", FailureClass.SANDBOX),
    ("Error: Session ID", FailureClass.THREAD_BUSY),
    ("Error: Input must be provided", FailureClass.BAD_REQUEST),
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


def failure(
    message: str, *, failure_class: FailureClass | None = None, status: int | None = None, code: str | None = None
) -> Failure:
    """A failure with what a user of Claude Code can do about it; its class is read from *message* if not given."""
    known = failure_class or by_message(message) or FailureClass.UNKNOWN
    return Failure(
        failure_class=known, message=message, upstream_code=code, http_status=status, remedy=_remedies(known)
    )


def by_message(message: str) -> FailureClass | None:
    """The class of a failure of which only Claude Code's sentence is known."""
    return next((known for beginning, known in _SENTENCES if message.startswith(beginning)), None)


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
    subtype = foreign.text(payload, "subtype") or ""
    reason = foreign.text(payload, "terminal_reason") or ""
    if foreign.flag(payload, "is_error") is not False or subtype != "success" or reason in _REASONS:
        found.append(_failed(payload, subtype, reason, text))
    elif foreign.whole(payload, "num_turns") == 0:
        # A prompt that is one of Claude Code's own commands (/help, /clear, ...) is carried out without any model.
        message = f"Claude Code took the prompt for a command of its own and asked no model: {text or 'no answer'}"
        found.append(TurnFailed(failure=failure(message, failure_class=FailureClass.BAD_REQUEST, code="local_command")))
    else:
        found.append(TurnCompleted(message=text))
    return found


def _failed(payload: Payload, subtype: str, reason: str, text: str | None) -> TurnFailed:
    errors = foreign.texts(payload, "errors")
    startup = foreign.text(payload, "startup_failure_reason")
    status = foreign.whole(payload, "api_error_status")
    typed = foreign.text(payload, "api_error")
    if foreign.text(payload, "stop_reason") == "refusal":
        typed = "refusal"
    api_error = foreign.text(payload, "api_error_type")
    message = "\n".join(errors) or text or f"Claude Code ended with {subtype or 'an error'} and gave no reason."
    known: FailureClass | None = None
    if startup is not None:
        known = _STARTUP.get(startup, FailureClass.BAD_REQUEST)
    elif typed is not None:
        known = FailureClass.POLICY if typed == "refusal" else _API_ERROR.get(typed)
    known = known or _SUBTYPES.get(subtype)
    if known is None and reason != "api_error":
        known = _REASONS.get(reason)
    # Releases that do not type a used-up subscription answer it with 429 like any other; the sentence tells.
    known = known or by_message(message) or _API_ERROR_TYPES.get(api_error or "")
    if known is None and status is not None:
        known = by_http_status(status)
    if known is FailureClass.CANCELLED:
        message = "Claude Code was interrupted."
    if reason == "completed":
        # Releases before 2.1.260 say so of a failed call, too.
        reason = ""
    code = startup or typed or api_error or reason or subtype or None
    # The result of a failed run is the description of the failure; what the model had said are messages before it.
    return TurnFailed(failure=failure(message, failure_class=known, status=status, code=code))


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


def _remedies(failure_class: FailureClass) -> list[Remedy]:
    match failure_class:
        case FailureClass.AUTH:
            return [Remedy(text="Log in to Claude Code again.", argv=["claude", "auth", "login"])]
        case FailureClass.USAGE_LIMIT:
            return [Remedy(text="Wait until the limit is reset, or use another account or agent.")]
        case FailureClass.RATE_LIMIT:
            return [Remedy(text="Try again later, or run fewer tasks at the same time.")]
        case FailureClass.OVERLOADED | FailureClass.NETWORK:
            return [Remedy(text="Try again later.")]
        case FailureClass.CONTEXT_EXCEEDED:
            return [Remedy(text="Start a fresh thread, or ask for less at once.")]
        case FailureClass.MODEL:
            return [Remedy(text="Choose a model that this account can use.")]
        case FailureClass.SANDBOX:
            return [
                Remedy(text="Run as a user other than root, or set IS_SANDBOX=1 if this machine is a sandbox itself.")
            ]
        case FailureClass.BACKEND_INCOMPATIBLE:
            return [
                Remedy(
                    text="Install a current Claude Code: this one does not know an option that Holdfast uses.",
                    argv=["npm", "install", "-g", "@anthropic-ai/claude-code@latest"],
                )
            ]
        case FailureClass.THREAD_BUSY:
            return [Remedy(text="Wait for the other run of this session to end, then try again.")]
        case FailureClass.THREAD_UNKNOWN:
            return [Remedy(text="Start a fresh thread: Claude Code has no record of this one.")]
        case _:
            return []
