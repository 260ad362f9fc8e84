"""The hooks of a Claude session: what its shells are told, and what becomes of its jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.companion import hook_input

from .conftest import PATIENCE, Stranger


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what Claude Code tells the next hook."""

    def tell(**input: Any) -> None:
        monkeypatch.setattr(hook_input, "read", lambda: input)

    return tell


def test_shells_are_told_of_the_session(
    stranger: Stranger, told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "claude-env.sh"
    file.write_text("export OTHER='1'\n")
    monkeypatch.setenv("CLAUDE_ENV_FILE", str(file))
    monkeypatch.setenv("CLAUDE_PLUGIN_DATA", "/data/it's")
    told(hook_event_name="SessionStart", session_id="sess-1", transcript_path="/t/a b.jsonl")
    assert stranger.run("session-hook", "SessionStart").status == 0
    # The hook runs again whenever the session is resumed.
    assert stranger.run("session-hook").status == 0
    assert file.read_text() == (
        "export OTHER='1'\n"
        "export CODEX_COMPANION_SESSION_ID='sess-1'\n"
        "export CODEX_COMPANION_TRANSCRIPT_PATH='/t/a b.jsonl'\n"
        "export CLAUDE_PLUGIN_DATA='/data/it'\"'\"'s'\n"
    )
    out = subprocess.run(["sh", "-c", f'. {file}; printf %s "$CLAUDE_PLUGIN_DATA"'], capture_output=True, check=True)
    assert out.stdout == b"/data/it's"
    told(hook_event_name="SessionStart", session_id="sess-2", transcript_path="/t/a b.jsonl")
    assert stranger.run("session-hook").status == 0
    assert file.read_text().endswith("\nexport CODEX_COMPANION_SESSION_ID='sess-2'\n")


def test_without_a_file_nothing_is_told(stranger: Stranger, told: Any) -> None:
    told(hook_event_name="SessionStart", session_id="sess-1")
    assert stranger.run("session-hook").status == 0


def test_the_jobs_of_the_session_leave_the_view(stranger: Stranger, told: Any) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    names = ("review-completed", "review-running", "review-other")
    stranger.seed(
        {"id": names[0], "status": "completed", "sessionId": "sess-current", "logFile": stranger.log(names[0])},
        {
            "id": names[1],
            "status": "running",
            "sessionId": "sess-current",
            "pid": sleeper.pid,
            "logFile": stranger.log(names[1]),
        },
        {"id": names[2], "status": "completed", "sessionId": "sess-other", "logFile": stranger.log(names[2])},
        files={name: {"id": name, "result": {"rawOutput": f"{name} said"}} for name in names},
        logs=dict.fromkeys(names, "said\n"),
    )
    told(hook_event_name="SessionEnd", session_id="sess-current", cwd=str(stranger.root))
    assert stranger.run("session-hook", "SessionEnd").status == 0
    assert sleeper.wait(PATIENCE) != 0
    assert [job["id"] for job in stranger.state["jobs"]] == ["review-other"]
    left = sorted(path.name for path in (stranger.directory / "jobs").iterdir())
    assert left == ["review-other.json", "review-other.log"]
    # Nothing that was ever answered is lost with the session.
    assert stranger.run("result", "review-completed").out.startswith("review-completed said\n")


def test_a_session_without_jobs_ends_quietly(stranger: Stranger, told: Any) -> None:
    told(hook_event_name="SessionEnd", session_id="nobody", cwd=str(stranger.root))
    ended = stranger.run("session-hook")
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert not stranger.directory.exists()


def test_a_log_elsewhere_is_nobodys_to_delete(stranger: Stranger, told: Any, tmp_path: Path) -> None:
    precious = tmp_path / "precious.log"
    precious.write_text("mine")
    stranger.seed({"id": "task-a", "status": "completed", "sessionId": "s", "logFile": str(precious)})
    told(session_id="s", cwd=str(stranger.root))
    assert stranger.run("session-hook", "SessionEnd").status == 0
    assert precious.read_text() == "mine"


def test_the_gate_is_off_unless_it_was_switched_on(stranger: Stranger, told: Any) -> None:
    running = {"id": "task-live", "status": "running", "title": "Codex Task", "sessionId": "sess-current"}
    stranger.seed(running)
    told(cwd=str(stranger.root))
    stopped = stranger.run("stop-hook", session="sess-current")
    assert (stopped.status, stopped.out) == (0, "")
    assert "Codex task task-live is still running" in stopped.err
    assert "/codex:status" in stopped.err
    assert "/codex:cancel task-live" in stopped.err


def test_what_a_hook_is_told_is_read_whole(tmp_path: Path) -> None:
    told = {"session_id": "s", "last_assistant_message": "x" * 300_000}
    script = "import json; from holdfast.companion import hook_input; print(json.dumps(hook_input.read()))"
    for data, expected in ((json.dumps(told), told), ("", {}), (" \n", {})):
        done = subprocess.run(
            [sys.executable, "-c", script], input=data, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        assert json.loads(done.stdout) == expected
