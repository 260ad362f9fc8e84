"""What belongs to an account: what was used, what the agent says of its limits, a conversation that moves to Codex."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model_server import ModelServer, Say
from tests.system.conftest import Installation

pytestmark = pytest.mark.real_agent


@pytest.fixture
def user(installation: Installation, codex_environment: dict[str, str]) -> Installation:
    installation.environment.update(codex_environment)
    return installation


def transcript(user: Installation, home: Path) -> Path:
    """A short conversation with Claude Code about the workspace, as it keeps it."""
    folder = home / "projects" / str(user.workspace).replace("/", "-").replace("_", "-").replace(".", "-")
    folder.mkdir(parents=True)
    path = folder / "6f1c1f0e-0000-4000-8000-000000000001.jsonl"
    common = {"cwd": str(user.workspace), "sessionId": path.stem, "version": "2.1.329", "isSidechain": False}
    question = {"role": "user", "content": "What is a quokka?"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A small marsupial."}]}
    lines = [
        {**common, "type": "user", "uuid": "a", "parentUuid": None, "timestamp": "2026-01-01T00:00:00Z"}
        | {"message": question},
        {**common, "type": "assistant", "uuid": "b", "parentUuid": "a", "timestamp": "2026-01-01T00:00:01Z"}
        | {"message": answer},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_conversation_of_claude_goes_on_in_codex(
    user: Installation, model_server: ModelServer, tmp_path: Path
) -> None:
    # Codex looks for conversations below the home directory alone, wherever Claude Code was told to keep them.
    user.environment["HOME"] = str(tmp_path)
    user.environment.pop("CLAUDE_CONFIG_DIR", None)
    path = transcript(user, tmp_path / ".claude")
    moved = user.json("transfer")
    assert moved["source"] == str(path)
    model_server.script(Say("As I said."))
    result = user.json("run", "codex", "And where does it live?", "--resume", moved["thread_id"])
    assert result["thread"]["id"] == moved["thread_id"]
    assert any("What is a quokka?" in text for text in model_server.main_requests[-1].user_texts)


def test_only_transcripts_are_taken(user: Installation, tmp_path: Path) -> None:
    user.environment["CLAUDE_CONFIG_DIR"] = str(tmp_path / "claude")
    (tmp_path / "claude" / "projects").mkdir(parents=True)
    secret = tmp_path / "secret.jsonl"
    secret.write_text("{}\n")
    refused = user.run("transfer", str(secret))
    assert refused.returncode == 2
    assert b"not one of Claude Code's own transcripts" in refused.stderr
    assert user.run("transfer").returncode == 2


def test_what_was_used_is_added_up(user: Installation, model_server: ModelServer) -> None:
    model_server.script(Say("One.", input_tokens=100, output_tokens=5), Say("Two.", input_tokens=200, output_tokens=7))
    user.json("run", "codex", "First.")
    user.json("run", "codex", "Second.")
    report = user.json("usage", "codex")
    (used,) = report["consumption"]
    assert (used["agent"], used["tasks"], used["unknown"]) == ("codex", 2, 0)
    assert (used["input_tokens"], used["output_tokens"]) == (300, 12)
    # Nobody is logged in with OpenAI here, and that is said rather than a limit made up.
    assert report["allowances"]["codex"]["limits"] is None
    assert report["allowances"]["codex"]["reason"]


def test_setup_says_what_remains_to_be_done(user: Installation) -> None:
    report = user.json("setup", exit_code=None)
    assert {agent["name"] for agent in report["agents"]} >= {"codex", "claude", "rehearsal"}
    codex = next(agent for agent in report["agents"] if agent["name"] == "codex")
    assert codex["installed"]
    assert codex["version"]
    assert report["next_steps"]
