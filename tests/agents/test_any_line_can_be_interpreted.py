"""No line of output, however broken, raises or is lost; and one that means an end is never taken for less."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.agents import neutral
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
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
from holdfast.agents.rehearsal import RehearsalAgent

AGENTS = [CodexAgent(), ClaudeAgent(), RehearsalAgent()]

#: Words that the dialects give a meaning to, so that random objects come near to real ones.
WORDS = st.sampled_from(
    [
        "type", "event", "item", "id", "thread_id", "session_id", "subtype", "init", "system", "assistant", "user",
        "result", "message", "content", "text", "tool_use", "tool_result", "error", "usage", "is_error", "status",
        "thread.started", "turn.completed", "turn.failed", "item.started", "item.completed", "agent_message",
        "command_execution", "file_change", "changes", "path", "turn_failed", "failure", "class", "success",
        "permission_denials", "modelUsage", "model_usage_since_last_result", "api_error_status", "num_turns",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(), inner, max_size=6),
    max_leaves=20,
)


@given(line=st.binary() | VALUES.map(json.dumps).map(str.encode))
@example(line=b"")
@example(line=b"  \r")
@example(line=b"[" * 100_000)
@example(line=b'{"type":"result"}')
@example(line=b'{"type":"item.completed"}')
@example(line=b'{"type":"system","subtype":"init","session_id":7}')
@example(line=b'{"event":"turn_failed"}')
@example(line=b'{"type":"assistant","message":{"content":[{"type":"text","text":"\\ud800"}]}}')
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_every_line_gives_events_or_is_malformed(agent: Any, line: bytes) -> None:
    events = agent.interpret(line)
    assert events == agent.interpret(line)
    decoded: Any = None
    try:
        decoded = json.loads(line)
    except (ValueError, RecursionError):
        pass
    if line.strip() and not isinstance(decoded, dict):
        assert [type(event) for event in events] == [Malformed]


@pytest.mark.parametrize(
    ("agent", "line"),
    [
        (AGENTS[0], {"type": "turn.failed"}),
        (AGENTS[0], {"type": "turn.failed", "error": "text"}),
        (AGENTS[0], {"type": "turn.failed", "error": {"message": 7}}),
        (AGENTS[1], {"type": "result"}),
        (AGENTS[1], {"type": "result", "subtype": "success", "is_error": True}),
        (AGENTS[1], {"type": "result", "subtype": "success", "is_error": None, "result": "fine"}),
        (AGENTS[1], {"type": "result", "subtype": "error_from_the_future", "is_error": False, "result": "fine"}),
        (AGENTS[1], {"type": "result", "subtype": "success", "is_error": False, "terminal_reason": "aborted_tools"}),
        (AGENTS[2], {"event": "turn_failed"}),
        (AGENTS[2], {"event": "turn_failed", "failure": {"class": "future", "message": "x"}}),
        (AGENTS[2], {"event": "turn_failed", "failure": "text", "message": 3}),
    ],
    ids=lambda value: value.name if value in AGENTS else str(value),
)
def test_a_failure_that_is_badly_described_is_still_a_failure(agent: Any, line: dict[str, Any]) -> None:
    events = agent.interpret(json.dumps(line).encode())
    failures = [event.failure for event in events if isinstance(event, TurnFailed)]
    assert len(failures) == 1
    assert failures[0].message


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_an_event_of_an_unknown_kind_is_named(agent: Any) -> None:
    key = "event" if agent.name == "rehearsal" else "type"
    assert agent.interpret(json.dumps({key: "applause", "x": 1}).encode()) == [Unrecognized(name="applause")]


EVERY_EVENT: list[Event] = [
    ThreadStarted(thread_id="t", model="m"),
    TurnStarted(),
    Message(text="ä\n\u2028"),
    ToolStarted(item_id="1", tool=ToolType.COMMAND, title="ls"),
    ToolEnded(item_id="1", failed=True),
    ToolEnded(item_id="2", failed=False, tool=ToolType.WEB, title="x"),
    FilesClaimed(paths=["a", "b"]),
    UsageReported(usage=Usage(input_tokens=1, cost_usd=0.5), of_thread=True, source="x"),
    Notice(text="n"),
    TurnCompleted(message="done"),
    TurnFailed(
        failure=Failure(
            failure_class=FailureClass.AUTH,
            message="m",
            upstream_code="c",
            http_status=401,
            retry_after_s=1.5,
            remedy=[Remedy(text="t", argv=["a"])],
        ),
        message="partial",
    ),
    Unrecognized(name="u"),
    Malformed(excerpt="e"),
]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_the_neutral_dialect_can_say_every_event(event: Event) -> None:
    assert neutral.interpret(msgspec.json.encode(event)) == [event]


@pytest.mark.parametrize("name", ["message", "thread_started", "tool_started", "usage_reported"])
def test_a_known_event_without_its_fields_is_malformed(name: str) -> None:
    assert [type(event) for event in neutral.interpret(json.dumps({"event": name}).encode())] == [Malformed]


def test_a_subagent_of_claude_does_not_answer_for_it() -> None:
    line = {
        "type": "assistant",
        "parent_tool_use_id": "toolu_1",
        "message": {"content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "t", "name": "Read"}]},
    }
    events = ClaudeAgent().interpret(json.dumps(line).encode())
    assert [type(event) for event in events] == [ToolStarted]


def test_a_warning_of_codex_decides_nothing() -> None:
    for line in ({"type": "error", "message": "Reconnecting... 1/5"}, {"type": "item.completed", "item": {
        "type": "error", "message": "Model metadata not found."}}):  # fmt: skip
        assert [type(event) for event in CodexAgent().interpret(json.dumps(line).encode())] == [Notice]
