"""What Codex keeps in its home directory: the record of each thread, and the configured model provider.

A thread is recorded in ``$CODEX_HOME/sessions/Y/M/D/rollout-<time>-<thread id>.jsonl``, also when a turn failed or
the process was killed.  There, and only there, ``codex exec`` leaves the typed cause of a failure
(``codex_error_info``) and the tokens that a failed turn used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.agents import codex_events, foreign
from holdfast.agents.events import Event, TurnFailed, UsageReported
from holdfast.agents.failure import Failure, FailureClass
from holdfast.agents.foreign import Payload
from holdfast.agents.upstream import by_http_status

_THREAD_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

#: How much of the end of a record is read: every event that matters here is among the last of its turn.
_TAIL_BYTES = 4 * 1024 * 1024

#: ``CodexErrorInfo`` of codex 0.169 (snake case in rollout files, camel case in the app-server protocol).
_ERROR_INFO: dict[str, FailureClass] = {
    "context_window_exceeded": FailureClass.CONTEXT_EXCEEDED,
    "usage_limit_exceeded": FailureClass.USAGE_LIMIT,
    "organization_usage_limit_exceeded": FailureClass.USAGE_LIMIT,
    "session_budget_exceeded": FailureClass.BUDGET,
    "rate_limit_exceeded": FailureClass.RATE_LIMIT,
    "server_overloaded": FailureClass.OVERLOADED,
    "flex_unavailable": FailureClass.OVERLOADED,
    "internal_server_error": FailureClass.OVERLOADED,
    "http_connection_failed": FailureClass.NETWORK,
    "response_stream_connection_failed": FailureClass.NETWORK,
    "response_stream_disconnected": FailureClass.NETWORK,
    "response_too_many_failed_attempts": FailureClass.NETWORK,
    "unauthorized": FailureClass.AUTH,
    "bad_request": FailureClass.BAD_REQUEST,
    "sandbox_error": FailureClass.SANDBOX,
    "model_not_found": FailureClass.MODEL,
    "policy_capacity_unavailable": FailureClass.MODEL,
    "cyber_policy": FailureClass.POLICY,
    "misalignment_policy_violation": FailureClass.POLICY,
    "too_many_denials": FailureClass.DENIED,
    "thread_rollback_failed": FailureClass.BAD_REQUEST,
    "active_turn_not_steerable": FailureClass.BAD_REQUEST,
}


def read(thread_id: str, environment: Mapping[str, str]) -> list[Event]:
    """Usage of the thread so far, and the typed failure of its last turn if it failed; empty if nothing is recorded."""
    path = find(thread_id, environment)
    if path is None:
        return []
    usage: UsageReported | None = None
    failure: Failure | None = None
    for line in _last_lines(path):
        payload = foreign.parse(line)
        if payload is None or foreign.text(payload, "type") != "event_msg":
            continue
        event = foreign.member(payload, "payload")
        match foreign.text(event, "type"):
            case "task_started":
                failure = None
            case "token_count":
                totals = foreign.member(foreign.member(event, "info"), "total_token_usage")
                for reported in codex_events.usage_reported(totals, "rollout_file"):
                    usage = reported if isinstance(reported, UsageReported) else usage
            case "task_complete" | "error":
                error = event if foreign.text(event, "type") == "error" else foreign.member(event, "error")
                failure = typed_failure(error) if error else failure
            case _:
                pass
    found: list[Event] = [usage] if usage is not None else []
    if failure is not None:
        found.append(TurnFailed(failure=failure))
    return found


def typed_failure(error: Payload) -> Failure:
    """The failure described by an object with ``message`` and ``codex_error_info``."""
    described = codex_events.failure(foreign.text(error, "message") or "Codex recorded a failure without a message.")
    code = foreign.text(error, "codex_error_info")
    status: int | None = None
    if code is None:
        detailed = foreign.member(error, "codex_error_info")
        code = next(iter(detailed), None)
        status = foreign.whole(foreign.member(detailed, code), "http_status_code") if code else None
    failure_class = _ERROR_INFO.get(code or "")
    if status is not None and failure_class in (None, FailureClass.NETWORK):
        failure_class = by_http_status(status)
    failure_class = failure_class or described.failure_class
    return Failure(
        failure_class=failure_class,
        message=described.message,
        upstream_code=code or described.upstream_code,
        http_status=status if status is not None else described.http_status,
        remedy=codex_events.remedies(failure_class),
    )


def find(thread_id: str, environment: Mapping[str, str]) -> Path | None:
    """The record of a thread; the newest one where there are several."""
    if not _THREAD_ID.fullmatch(thread_id):
        return None
    sessions = home(environment) / "sessions"
    try:
        found = sorted(sessions.glob(f"*/*/*/rollout-*-{thread_id.lower()}.jsonl"))
    except OSError:
        return None
    return found[-1] if found else None


def home(environment: Mapping[str, str]) -> Path:
    """Codex's home directory as a process with *environment* would find it."""
    configured = environment.get("CODEX_HOME")
    return Path(configured) if configured else Path(environment.get("HOME") or Path.home()) / ".codex"


def configured_provider(environment: Mapping[str, str]) -> str | None:
    """The model provider that config.toml names, if it is not Codex's own (whose login can be asked for)."""
    provider = _config(environment).get("model_provider")
    return provider if isinstance(provider, str) and provider != "openai" else None


def provider_key_names(environment: Mapping[str, str]) -> list[str]:
    """Environment variables that config.toml names as holding the key of a model provider (``env_key``)."""
    names: list[str] = []
    for provider in foreign.member(_config(environment), "model_providers").values():
        if foreign.is_object(provider):
            name = foreign.text(provider, "env_key")
            names += [name] if name else []
    return names


def _config(environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        return tomllib.loads((home(environment) / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Codex itself says what is wrong with its configuration, and better; here it only means that nothing is known.
        return {}


def _last_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            if size > _TAIL_BYTES:
                file.readline()
            while line := file.readline():
                yield line
    except OSError:
        return
