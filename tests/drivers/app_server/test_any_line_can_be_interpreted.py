"""Whatever a line holds, it is understood, counted as unknown, or shown as unreadable; nothing is raised."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from holdfast.agents.events import Malformed, Message, TurnCompleted, TurnFailed, Unrecognized, UsageReported, Waiting
from holdfast.agents.failure import FailureClass
from holdfast.drivers.app_server import dialect
from holdfast.drivers.app_server.dialect import interpret

WORDS = [
    *["item", "turn", "error", "type", "id", "status", "changes", "tokenUsage", "total", "codexErrorInfo", "params"],
    *[
        "label",
        "method",
        "holdfast",
        "failure",
        "message",
        "threadId",
        "turnId",
        "tool",
        "usage",
        "text",
        "summary",
        "path",
    ],
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
METHODS = ["item/started", "item/completed", "turn/completed", "error", "thread/tokenUsage/updated", "warning"]
OWN = [
    "thread",
    "begun",
    "attached",
    "collected",
    "failed",
    "lost",
    "reconnecting",
    "asked",
    "resolved",
    "decided",
    "subagent",
]
TYPES = ["agentMessage", "commandExecution", "fileChange", "mcpToolCall", "exitedReviewMode", "reasoning", "webSearch"]


@given(st.binary(max_size=60))
def test_bytes(line: bytes) -> None:
    interpret(line)


@given(st.dictionaries(st.sampled_from(WORDS), values, max_size=6))
def test_any_object(message: dict[str, object]) -> None:
    interpret(json.dumps(message).encode())


@given(st.sampled_from(METHODS), st.sampled_from(TYPES), st.dictionaries(st.sampled_from(WORDS), values, max_size=6))
def test_any_notification(method: str, kind: str, fields: dict[str, object]) -> None:
    params = {**fields, "item": {**fields, "type": kind}}
    interpret(json.dumps({"method": method, "params": params}).encode())
    of_subagent = interpret(json.dumps({"method": method, "params": params, "holdfast": "subagent"}).encode())
    assert not any(isinstance(event, Message | TurnCompleted | TurnFailed | UsageReported) for event in of_subagent)


@given(st.sampled_from(OWN), st.dictionaries(st.sampled_from(WORDS), values, max_size=6))
def test_any_line_of_our_own(kind: str, fields: dict[str, object]) -> None:
    interpret(json.dumps({**fields, "holdfast": kind}).encode())


def test_what_is_unknown_is_counted() -> None:
    assert interpret(b"{") == [Malformed(excerpt="{")]
    assert interpret(b'{"method":"a/b","params":{}}') == [Unrecognized(name="a/b")]
    assert interpret(b'{"method":"item/started","params":{"item":{"type":"x"}}}') == [
        Unrecognized(name="item/started/x")
    ]


def test_a_retry_is_waiting_and_an_end_is_typed() -> None:
    def turn(error: object) -> FailureClass:
        line = {"method": "turn/completed", "params": {"turn": {"status": "failed", "error": error}}}
        (event,) = interpret(json.dumps(line).encode())
        assert isinstance(event, TurnFailed)
        return event.failure.failure_class

    error = {"message": "m", "codexErrorInfo": "other", "additionalDetails": "why"}
    again = {"method": "error", "params": {"error": error, "willRetry": True}}
    assert interpret(json.dumps(again).encode()) == [Waiting(text="m (why)")]
    assert interpret(json.dumps({**again, "params": {"error": error, "willRetry": False}}).encode()) == []
    assert turn({"message": "m", "codexErrorInfo": "usageLimitExceeded"}) is FailureClass.USAGE_LIMIT
    assert turn({"message": "m", "codexErrorInfo": "contextWindowExceeded"}) is FailureClass.CONTEXT_EXCEEDED
    assert turn({"message": "m", "codexErrorInfo": {"httpConnectionFailed": {"httpStatusCode": 401}}}) is (
        FailureClass.AUTH
    )
    assert turn({"message": "m", "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": None}}}) is (
        FailureClass.NETWORK
    )
    assert turn(None) is FailureClass.UNKNOWN
    assert dialect.interpret(b"") == []
