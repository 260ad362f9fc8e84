"""A server tells everybody of every sub-agent: those of others are neither told of nor kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from holdfast.drivers.app_server.conversation import Conversation
from holdfast.drivers.app_server.subagents import SubAgents

OURS = {"turn-1"}


class Asked:
    """Stands in for a conversation: keeps what is asked."""

    def __init__(self) -> None:
        self.takers: list[Callable[[dict[str, Any]], None]] = []

    def ask(self, method: str, params: dict[str, Any], taker: Callable[[dict[str, Any]], None]) -> None:
        assert method == "thread/read"
        self.takers.append(taker)

    def wait(self, seconds: float) -> None:
        """The server says that it cannot tell."""
        self.takers[-1]({"error": {"message": "unknown method"}})


class Place:
    """The sub-agents of one turn, and what is heard of them."""

    def __init__(self) -> None:
        self.asked = Asked()
        self.questions: list[str] = []
        self.agents = SubAgents(lambda message, label: self.questions.append(label), lambda thread, usage: None)

    def end(self) -> None:
        asked = cast(Conversation, self.asked)
        assert self.agents.end(asked, "root", time.monotonic() + 5.0, look=False) == []

    def hear(self, thread: str, method: str, **params: Any) -> None:
        message: dict[str, Any] = {"method": method, "params": {"threadId": thread, **params}}
        if method.endswith("requestApproval"):
            message["id"] = 7
        self.agents.hear(cast(Conversation, self.asked), message, json.dumps(message).encode(), OURS)

    def note(self, method: str, **item: Any) -> None:
        self.agents.note(cast(Conversation, self.asked), method, {"type": "collabAgentToolCall", "id": "c", **item})


def told(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_nothing_is_told_kept_or_answered(capfd: pytest.CaptureFixture[str]) -> None:
    place = Place()
    said = {"type": "agentMessage", "id": "1", "text": "x" * 100_000}
    for number in range(100):
        thread = f"theirs-{number}"
        place.hear(thread, "turn/started", turn={"id": "t", "rootTurnId": "another"})
        place.hear(thread, "item/completed", item=said)
        place.hear(thread, "item/commandExecution/requestApproval")
    assert told(capfd) == [] and place.questions == [] and place.asked.takers == []
    assert place.agents.kept_bytes == 0


def test_what_may_be_ours_is_kept_within_bounds_until_that_is_known(capfd: pytest.CaptureFixture[str]) -> None:
    place = Place()
    place.note("item/started", tool="spawnAgent", status="inProgress")
    place.hear("ours", "item/commandExecution/requestApproval")
    for number in range(200):
        for each in range(100):
            said = {"type": "agentMessage", "id": f"{each}", "text": "x" * 10_000}
            place.hear(f"theirs-{number}", "item/completed", item=said)
    assert 0 < place.agents.kept_bytes < 2_000_000
    place.note("item/completed", tool="spawnAgent", status="completed", receiverThreadIds=["ours"])
    assert place.agents.kept_bytes < 1000
    (taker,) = place.asked.takers
    taker({"error": {"message": "not written yet"}})
    place.hear("ours", "item/completed", item={"type": "agentMessage", "id": "1", "text": "Made."})
    place.asked.takers[-1]({"result": {"thread": {"agentNickname": "Boyle"}}})
    assert place.questions == ["Boyle"]
    started, message = told(capfd)
    assert (started["label"], started["tool"]) == ("Boyle", "spawnAgent")
    assert (message["holdfast"], message["label"], message["params"]["item"]["text"]) == ("subagent", "Boyle", "Made.")
    assert place.agents.kept_bytes == 0


def test_what_was_introduced_has_its_name_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    place = Place()
    for number in range(1000):
        place.agents.introduce({"id": f"theirs-{number}", "name": "x" * 10})
    place.agents.introduce({"id": "ours", "agentNickname": "Boyle"})
    place.note("item/started", tool="wait", receiverThreadIds=["ours"])
    place.hear("ours", "item/completed", item={"type": "agentMessage", "id": "1", "text": "Made."})
    started, message = told(capfd)
    assert (started["label"], started["tool"], message["label"]) == ("Boyle", "wait", "Boyle")
    assert place.asked.takers == []


def test_what_it_said_is_told_although_nobody_knows_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    place = Place()
    place.note("item/started", tool="wait", receiverThreadIds=["ours"])
    place.hear("ours", "item/completed", item={"type": "agentMessage", "id": "1", "text": "Made."})
    place.hear("ours", "turn/completed", turn={"id": "t", "status": "completed"})
    assert told(capfd) == []
    place.end()
    started, message, ended = told(capfd)
    assert {started["label"], message["label"], ended["label"]} == {"ours"}
    assert message["params"]["item"]["text"] == "Made."
