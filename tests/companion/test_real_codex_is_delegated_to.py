"""The companion with the real Codex and a scripted model: what the original loses, hangs on or gets wrong, works."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.companion.fake_codex import REVIEW
from tests.conftest import locate_agent
from tests.model_server import Drop, Fail, Gate, Hang, ModelServer, Say, Shell, WriteFile
from tests.system.conftest import command_line

from .conftest import PATIENCE, Installation, User

pytestmark = pytest.mark.real_agent


@pytest.fixture
def user(installation: Installation, tmp_path: Path, codex_environment: dict[str, str]) -> User:
    """A user with the real Codex."""
    user = User(installation, tmp_path, locate_agent("codex").parent)
    user.environment["CODEX_HOME"] = codex_environment["CODEX_HOME"]
    return user


def background(user: User, prompt: str, **options: Any) -> str:
    """Begin a background job."""
    return user.run("task", "--background", "--json", prompt, **options).json["jobId"]


def test_six_in_a_row_and_then_their_thread(user: User, model_server: ModelServer) -> None:
    model_server.script(*[Say(f"Answer {number}.") for number in range(8)])
    for number in range(6):
        done = user.run("task", f"question {number}")
        assert (done.status, done.out) == (0, f"Answer {number}.\n"), done
    threads = {job["threadId"] for job in user.state["jobs"]}
    assert len(threads) == 6
    # Without a session and within one; the thread is free for others as soon as the job has ended.
    resumed = user.run("task", "--resume-last", "--json", "go on").json
    assert (resumed["rawOutput"], resumed["threadId"]) == ("Answer 6.", user.state["jobs"][1]["threadId"])
    assert user.run("task-resume-candidate", "--json", session="s").json["available"] is False
    by_itself = subprocess.run(
        ["codex", "exec", "resume", "--skip-git-repo-check", resumed["threadId"], "again"],
        env=user.environment,
        cwd=user.repository,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert by_itself.returncode == 0, by_itself.stderr
    assert b"Answer 7." in by_itself.stdout


def test_eight_at_once_are_all_there(user: User, model_server: ModelServer) -> None:
    model_server.script(*[Say("Done.", delay=0.5)] * 16)
    foreground = [user.start("task", f"question {number}") for number in range(4)]
    started = [user.start("task", "--background", "--json", f"job {number}") for number in range(8)]
    jobs = [json.loads(process.communicate(timeout=PATIENCE)[0])["jobId"] for process in started]
    for process in foreground:
        assert process.communicate(timeout=PATIENCE)[0] == "Done.\n"
    for name in jobs:
        assert user.run("status", name, "--wait", "--json").json["job"]["status"] == "completed"
        assert user.run("result", name).out.startswith("Done.\n")
    assert {job["status"] for job in user.state["jobs"]} == {"completed"}
    assert len(user.state["jobs"]) == 12


def test_a_running_job_is_watched_and_cancelled(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Shell("sleep 0"), Hang(gate=gate), Say("Here again."))
    name = background(user, "hang", session="s")
    user.until(lambda: user.state["jobs"][0]["turnId"])
    assert gate.reached.wait(PATIENCE)
    assert user.run("result", name).status == 3
    assert f"| {name} | rescue | running |" in user.run("status").out
    assert "Task " + name in user.run("task", "--resume-last", "x", session="s").err
    assert user.run("cancel", "--json").json["turnInterrupted"] is True
    gate.open()
    assert user.run("status", name, "--json").json["job"]["status"] == "cancelled"
    assert user.run("task", "--resume-last", "go on", session="s").out == "Here again.\n"


def test_a_command_that_is_killed_leaves_its_job_alone(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Say("I went on.", gate=gate))
    process = user.start("task", "take your time")
    assert gate.reached.wait(PATIENCE)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=PATIENCE)
    [job] = user.state["jobs"]
    assert f"{job['id']} goes on" in told
    gate.open()
    assert user.run("status", job["id"], "--wait", "--json").json["job"]["status"] == "completed"
    assert user.run("result").out.startswith("I went on.\n")


def test_a_worker_that_is_killed_costs_nothing(user: User, model_server: ModelServer) -> None:
    gates = [Gate(), Gate()]
    model_server.script(Say("Done.", gate=gates[0]), Say("Never.", gate=gates[1]))
    name = background(user, "first")
    worker = user.until(lambda: user.state["jobs"][0]["pid"])
    psutil.Process(worker).kill()
    assert gates[0].reached.wait(PATIENCE)
    gates[0].open()
    assert user.run("status", name, "--wait", "--json").json["job"]["status"] == "completed"
    # Whoever ends it politely means the job: that is how the original cancels.
    name = background(user, "second")
    worker = user.until(lambda: user.state["jobs"][0]["pid"])
    assert gates[1].reached.wait(PATIENCE)
    psutil.Process(worker).terminate()
    assert user.run("status", name, "--wait", "--json").json["job"]["status"] == "cancelled"
    gates[1].open()


def test_a_server_that_is_killed_is_replaced(user: User, model_server: ModelServer) -> None:
    model_server.script(Say("One."), Say("Two."))
    assert user.run("task", "one").out == "One.\n"
    for process in user.installation.processes():
        if "app-server" in command_line(process) and "--listen" in command_line(process):
            process.kill()
    assert user.run("task", "two").out == "Two.\n"


@pytest.mark.parametrize("step", [Fail(401, times=99), Fail(500, times=99), Drop(times=99)])
def test_a_failure_is_a_failure(user: User, model_server: ModelServer, step: Any) -> None:
    model_server.script(step)
    failed = user.run("task", "--json", "fail")
    assert failed.status == 1
    assert failed.json["status"] == 1
    assert failed.json["error"]["message"]
    assert failed.json["error"]["message"] in user.run("result").out


def test_work_is_done_only_where_it_was_allowed(user: User, model_server: ModelServer) -> None:
    file = user.repository / "new.txt"
    model_server.script(
        WriteFile(str(file), "hello\n"), Say("Written."), Shell("echo no > no.txt"), Say("Not written.")
    )
    written = user.run("task", "--write", "--json", "write").json
    assert written["touchedFiles"] == [str(file)]
    assert user.run("task", "explain what --write does").status == 0
    assert not (user.repository / "no.txt").exists()


def test_both_reviews(user: User, model_server: ModelServer) -> None:
    user.write("README.md", "hello again\n")
    found = {"findings": [], "overall_correctness": "patch is correct", "overall_explanation": "All is well.",
             "overall_confidence_score": 0.9}  # fmt: skip
    model_server.script(Say(json.dumps(found)), Say(json.dumps(REVIEW)))
    native = user.run("review", "--json")
    assert native.status == 0, native
    assert "All is well." in native.json["codex"]["stdout"]
    adversarial = user.run("adversarial-review", "look", "closely")
    assert adversarial.status == 0, adversarial
    assert "- [high] Missing empty-state guard (src/app.js:4-6)" in adversarial.out
    assert "look closely" in model_server.main_requests[-1].user_texts[-1]


def test_a_claude_session_becomes_a_thread(user: User, model_server: ModelServer) -> None:
    transcript = (
        user.repository.parent / ".claude" / "projects" / "-repo" / "6a1d2e6e-0000-4000-8000-000000000001.jsonl"
    )
    transcript.parent.mkdir(parents=True)
    entries: list[dict[str, Any]] = [
        {"type": "user", "message": {"role": "user", "content": "The word is mulberry."}},
        {"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": "Noted."}]}},
    ]
    common = {"cwd": str(user.repository), "sessionId": transcript.stem, "timestamp": "2026-03-18T15:30:00.000Z"}
    lines = [{**common, **entry, "uuid": f"u{number}"} for number, entry in enumerate(entries)]
    transcript.write_text("".join(json.dumps(line) + "\n" for line in lines))
    moved = user.run("transfer", "--source", str(transcript), "--json")
    assert moved.status == 0, moved
    assert moved.json["sessionId"] == transcript.stem
    assert moved.json["resumeCommand"] == f"codex resume {moved.json['threadId']}"


def test_setup_asks_the_real_codex(user: User) -> None:
    report = user.run("setup", "--json").json
    assert report["codex"]["available"] is True
    assert (report["auth"]["loggedIn"], report["auth"]["source"]) == (True, "app-server")
    assert report["auth"]["provider"] == "scripted"
