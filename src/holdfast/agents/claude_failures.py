"""Why Claude Code failed (2.1.329): its own words for it, as classes of failure, with what a user can do about them."""

from __future__ import annotations

from holdfast.agents import foreign
from holdfast.agents.failure import Failure, FailureClass, Remedy, usual_remedies
from holdfast.agents.foreign import Payload
from holdfast.agents.upstream import by_http_status

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


def of_result(payload: Payload) -> Failure | None:
    """Why the run failed that a line of type ``result`` ends; ``None`` if it did not fail.

    A failed API call is reported as ``subtype: "success"`` with ``is_error: true``, so ``is_error`` is looked at first.
    """
    subtype = foreign.text(payload, "subtype") or ""
    reason = foreign.text(payload, "terminal_reason") or ""
    if foreign.flag(payload, "is_error") is False and subtype == "success" and reason not in _REASONS:
        return None
    errors = foreign.texts(payload, "errors")
    startup = foreign.text(payload, "startup_failure_reason")
    status = foreign.whole(payload, "api_error_status")
    typed = foreign.text(payload, "api_error")
    if foreign.text(payload, "stop_reason") == "refusal":
        typed = "refusal"
    api_error = foreign.text(payload, "api_error_type")
    message = (
        "\n".join(errors)
        or foreign.text(payload, "result")
        or f"Claude Code ended with {subtype or 'an error'} and gave no reason."
    )
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
    return failure(message, failure_class=known, status=status, code=code)


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


def _remedies(failure_class: FailureClass) -> list[Remedy]:
    match failure_class:
        case FailureClass.AUTH:
            return [Remedy(text="Log in to Claude Code again.", argv=["claude", "auth", "login"])]
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
            return usual_remedies(failure_class)
