"""The real Codex, with its own reviewer and without, and the real Claude Code: what they say becomes the same form."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.model_server import ModelServer, Say
from tests.system.conftest import Installation, installation

__all__ = ["installation"]

pytestmark = pytest.mark.real_agent

ANSWER = {
    "verdict": "needs-attention",
    "summary": "It runs twice.",
    "findings": [
        {
            "severity": "high",
            "title": "Twice",
            "body": "The loop repeats.",
            "file": "a.txt",
            "line_start": 2,
            "line_end": 3,
            "confidence": 0.5,
            "recommendation": "Once.",
        }
    ],
    "next_steps": [],
}


@pytest.fixture
def user(installation: Installation) -> Installation:
    """A user in a repository with one new file."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], cwd=installation.workspace, check=True)
    (installation.workspace / "a.txt").write_text("one\ntwo\nthree\n")
    return installation


def use(user: Installation, request: pytest.FixtureRequest, agent: str) -> None:
    user.environment.update(request.getfixturevalue(f"{agent}_environment"))


@pytest.mark.parametrize("agent", ["codex", "claude"])
def test_a_prompted_review(
    agent: str, user: Installation, model_server: ModelServer, request: pytest.FixtureRequest
) -> None:
    use(user, request, agent)
    model_server.script(*[Say(json.dumps(ANSWER))] * 3)
    document = user.json("review", agent, "--prompted", "--adversarial", "Look at the loop.")
    assert (document["ok"], document["native"], document["verdict"]) == (True, False, "needs-attention")
    assert document["findings"] == ANSWER["findings"]
    asked = " ".join(model_server.main_requests[0].user_texts)
    assert "adversarial software review" in asked
    assert "Look at the loop." in asked
    assert "Untracked file a.txt\none\ntwo" in asked


def test_codex_reviews_by_itself(user: Installation, model_server: ModelServer, request: pytest.FixtureRequest) -> None:
    use(user, request, "codex")
    finding: dict[str, Any] = {
        "title": "[P1] Twice",
        "body": "The loop repeats.\n\nAlways.",
        "confidence_score": 0.9,
        "priority": 1,
        "code_location": {
            "absolute_file_path": str(user.workspace / "a.txt"),
            "line_range": {"start": 2, "end": 3},
        },
    }
    said = {"overall_correctness": "patch is incorrect", "overall_explanation": "No.", "overall_confidence_score": 0.8}
    model_server.script(Say(json.dumps({"findings": [finding], **said})))
    document = user.json("review")
    assert (document["ok"], document["native"], document["agent"]) == (True, True, "codex"), document
    assert (document["verdict"], document["summary"]) == ("needs-attention", "No.")
    assert (document["confidence"], document["findings"][0]["confidence"]) == (0.8, 0.9)
    (found,) = document["findings"]
    assert (found["severity"], found["title"], found["file"]) == ("high", "Twice", "a.txt")
    assert (found["line_start"], found["line_end"], found["body"]) == (2, 3, "The loop repeats.\n\nAlways.")
    assert "staged, unstaged, and untracked" in " ".join(model_server.main_requests[0].user_texts)


@pytest.mark.parametrize("prose", [False, True], ids=["judged", "prose"])
def test_codex_approves_only_in_so_many_words(
    prose: bool, user: Installation, model_server: ModelServer, request: pytest.FixtureRequest
) -> None:
    use(user, request, "codex")
    said = {"overall_correctness": "patch is correct", "overall_explanation": "Fine.", "overall_confidence_score": 0.7}
    model_server.script(Say("patch is correct" if prose else json.dumps({"findings": [], **said})))
    document = user.json("review")
    assert (document["ok"], document["native"], document["findings"]) == (True, True, [])
    expected = (None, None, "patch is correct") if prose else ("approve", 0.7, "Fine.")
    assert (document["verdict"], document["confidence"], document["summary"]) == expected
