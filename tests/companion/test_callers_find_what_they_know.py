"""The contract with callers of the original: same commands, same words, same files, with a Codex that has no socket."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.companion.view import GATE, View
from holdfast.companion.workspace import Workspace
from tests.companion.fake_codex import ALLOW, ANSWER, RESUMED, SUBAGENT_ANSWER, SUBAGENT_THOUGHT, THOUGHT

from .conftest import User

TASK_ID = re.compile(r"task-[0-9a-z]{8,9}-[0-9a-z]{6}")


def log_of(user: User) -> str:
    """The log of the job that changed last."""
    return Path(user.state["jobs"][0]["logFile"]).read_text()


def claude_session(user: User, name: str = "sess-native") -> Path:
    """A transcript where Claude Code keeps them."""
    path = user.repository.parent / ".claude" / "projects" / "-repo" / f"{name}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"type": "user", "message": {"role": "user", "content": "Initial request"}}) + "\n")
    return path


def test_a_task_prints_the_final_message_and_nothing_else(user: User) -> None:
    done = user.run("task", "--write", "fix the failing test")
    assert (done.status, done.out) == (0, f"{ANSWER}\n")
    assert all(line.startswith("[codex] ") for line in done.err.splitlines())
    asked = user.seen
    assert asked["thread/start"]["sandbox"] == "workspace-write"
    assert asked["thread/start"]["cwd"] == str(user.repository)
    assert asked["thread/name/set"]["name"] == "Codex Companion Task: fix the failing test"
    [job] = user.state["jobs"]
    assert TASK_ID.fullmatch(job["id"])
    assert {name: job[name] for name in ("status", "phase", "kindLabel", "jobClass", "threadId", "turnId", "pid")} == {
        "status": "completed",
        "phase": "done",
        "kindLabel": "rescue",
        "jobClass": "task",
        "threadId": "thr_1",
        "turnId": "turn_1",
        "pid": None,
    }
    assert log_of(user).startswith("[")
    shown = user.run("status", job["id"]).out
    assert "Review changes: /codex:review --wait" in shown
    result = user.run("result").out
    assert result == f"{ANSWER}\n\nCodex session ID: thr_1\nResume in Codex: codex resume thr_1\n"


def test_a_task_as_json(user: User) -> None:
    user.behave(thinks=True)
    done = user.run("task", "--json", "--model", "spark", "--effort", "LOW", "diagnose the failing test")
    assert (done.status, done.err) == (0, "")
    assert done.json == {
        "status": 0,
        "threadId": "thr_1",
        "rawOutput": ANSWER,
        "touchedFiles": [],
        "reasoningSummary": [THOUGHT],
    }
    assert user.seen["thread/start"]["sandbox"] == "read-only"
    assert user.seen["turn/start"]["model"] == "gpt-5.3-codex-spark"
    assert user.seen["turn/start"]["effort"] == "low"
    log = log_of(user)
    for words in ("Reasoning summary", THOUGHT, "Assistant message", "Handled the requested task"):
        assert words in log


def test_each_part_of_a_thought_is_one(user: User) -> None:
    user.behave(thinks=["**Looking**\n\nat the callers", {"type": "summary_text", "text": "Found it."}, "Found it."])
    done = user.run("task", "--json", "look")
    assert done.json["reasoningSummary"] == ["**Looking** at the callers", "Found it."]
    for words in ("- **Looking** at the callers", "- Found it."):
        assert words in log_of(user)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_others_are_set_to_work_on_is_told_and_is_not_the_answer(user: User, when: str) -> None:
    user.behave(delegates=when)
    done = user.run("task", "challenge it")
    assert (done.status, done.out) == (0, f"{ANSWER}\n")
    log = log_of(user)
    for words in (
        "Starting subagent Boyle via collaboration tool: wait.",
        f"Subagent Boyle reasoning: {SUBAGENT_THOUGHT}",
        f"Subagent Boyle message\n{SUBAGENT_ANSWER}\n",
        f"Subagent Boyle: {SUBAGENT_ANSWER}",
        "Subagent Boyle completed.",
    ):
        assert words in log


def test_prose_is_sent_as_it_is_and_raises_nothing(user: User) -> None:
    prose = 'explain what the --write flag does,\n"as in"  C:\\dir --model x'
    assert user.run("task", prose).status == 0
    assert user.seen["turn/start"]["input"][0]["text"] == prose
    assert user.seen["thread/start"]["sandbox"] == "read-only"
    assert user.seen["turn/start"].get("model") != "x"
    assert user.run("task", "--json", stdin=prose + "\n").status == 0
    assert user.seen["turn/start"]["input"][0]["text"] == prose + "\n"
    user.write("prompt.txt", prose)
    assert user.run("task", "--prompt-file", "prompt.txt").status == 0
    assert user.seen["turn/start"]["input"][0]["text"] == prose


def test_a_thread_is_resumed(user: User) -> None:
    assert user.run("task", "initial task").status == 0
    for option in ("--resume-last", "--resume"):
        done = user.run("task", option, "follow up")
        assert (done.status, done.out) == (0, f"{RESUMED}\n"), done
        assert user.seen["turn/start"]["threadId"] == "thr_1"
        assert user.seen["turn/start"]["input"][0]["text"] == "follow up"
    assert user.run("task", "--resume-last").status == 0
    assert user.seen["turn/start"]["input"][0]["text"].startswith("Continue from the current thread state")
    assert user.run("task", "--fresh", "diagnose").status == 0
    assert user.seen["turn/start"]["threadId"] == "thr_2"
    both = user.run("task", "--resume", "--fresh", "x")
    assert (both.status, both.out) == (1, "")
    assert "Choose either --resume/--resume-last or --fresh." in both.err


def test_a_thread_of_another_session_is_not_resumed(user: User) -> None:
    assert user.run("task", "initial task", session="sess-other").status == 0
    assert user.run("task-resume-candidate", "--json", session="sess-current").json["available"] is False
    resumed = user.run("task", "--resume-last", "follow up", session="sess-current")
    assert resumed.status == 1
    assert "No previous Codex task thread was found for this repository." in resumed.err
    assert user.seen["turn/start"]["input"][0]["text"] == "initial task"


def test_a_background_job_is_queued_waited_for_and_read(user: User, tmp_path: Path) -> None:
    user.behave(gate=str(tmp_path / "gate"))
    launched = user.run("task", "--background", "--json", "investigate the failing test").json
    name = launched["jobId"]
    assert TASK_ID.fullmatch(name)
    assert (launched["status"], launched["title"]) == ("queued", "Codex Task")
    assert launched["summary"] == "investigate the failing test"
    # Nobody asks; whoever only reads the files is told all the same.
    [job] = user.until(lambda: [job for job in user.state["jobs"] if job["turnId"] and job["status"] == "running"])
    assert job["threadId"] == "thr_1"
    assert job["pid"]
    early = user.run("result", name)
    assert (early.status, early.out) == (3, "")
    assert f"Job {name} is still running" in early.err
    (tmp_path / "gate").touch()
    user.until(lambda: user.state["jobs"][0]["status"] == "completed")
    waited = user.run("status", name, "--wait", "--timeout-ms", "60000", "--json").json
    assert (waited["job"]["status"], waited["waitTimedOut"]) == ("completed", False)
    stored = user.run("result", name, "--json").json["storedJob"]
    assert stored["rendered"] == f"{ANSWER}\n"
    text = user.run("task", "--background", "x")
    assert re.fullmatch(
        r"Codex Task started in the background as (task-\S+)\. Check /codex:status \1 for progress\.\n", text.out
    )
    assert user.run("status", text.out.split()[7].rstrip("."), "--wait").status == 0


def test_cancel_interrupts_the_turn(user: User, tmp_path: Path) -> None:
    user.behave(gate=str(tmp_path / "never"))
    name = user.run("task", "--background", "--json", "investigate").json["jobId"]
    user.until(lambda: user.state["jobs"][0]["turnId"])
    cancelled = user.run("cancel", name, "--json")
    assert cancelled.json == {
        "jobId": name,
        "status": "cancelled",
        "title": "Codex Task",
        "turnInterruptAttempted": True,
        "turnInterrupted": True,
    }
    assert user.seen["turn/interrupt"] == {"threadId": "thr_1", "turnId": "turn_1"}
    [job] = user.state["jobs"]
    assert (job["status"], job["pid"]) == ("cancelled", None)
    assert "Cancelled by user" in Path(job["logFile"]).read_text()
    # It is still known by what was asked for.
    assert job["summary"] == "investigate"
    result = user.run("result", name)
    assert result.status == 0
    assert (
        result.out
        == f"""\
# Codex Task

Job: {name}
Status: cancelled
Codex session ID: thr_1
Resume in Codex: codex resume thr_1
Summary: investigate

Cancelled by user.
"""
    )


def test_a_review(user: User) -> None:
    user.behave(thinks=True)
    user.write("README.md", "hello again\n")
    done = user.run("review", "--background")
    assert done.status == 0, done
    assert (
        done.out
        == f"""\
# Codex Review

Target: working tree diff

Reviewed uncommitted changes.
No material issues found.

Reasoning:
- {THOUGHT}
"""
    )
    assert user.seen["thread/start"]["sandbox"] == "read-only"
    assert user.seen["thread/delete"] == {"threadId": "thr_1"}
    log = log_of(user)
    for words in ("Reasoning summary", THOUGHT, "Review output", "Reviewed uncommitted changes."):
        assert words in log
    branch = user.run("review", "--base main --json").json
    assert branch["review"] == "Review"
    assert branch["target"] == {
        "mode": "branch",
        "label": "branch diff against main",
        "baseRef": "main",
        "explicit": True,
    }
    assert branch["codex"]["status"] == 0
    assert branch["codex"]["stdout"] == "Reviewed changes against main.\nNo material issues found."
    shown = user.run("status").out
    assert "Codex Review" in shown
    assert "completed" in shown
    # The thread of a review is not kept, so nothing is offered that could not work.
    assert "codex resume" not in shown
    # The reviewer's own words, for whoever looks later.
    assert user.run("result").out == f"{branch['codex']['stdout']}\n\nCodex session ID: thr_2\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["review", "--scope working-tree focus on auth"], "/codex:adversarial-review focus on auth"),
        (["review", "--scope", "working-tree", "focus", "on", "auth"], "does not support custom focus text"),
        (["review", "--scope", "staged"], 'Unsupported review scope "staged". Use one of: auto, working-tree, branch,'),
        (["adversarial-review", "--scope", "unstaged"], "or pass --base <ref>."),
        (["review", "--base", "nowhere"], "'nowhere' is no branch"),
        (["review"], "Nothing is uncommitted, and main is the only main branch there is."),
        (["adversarial-review", "--scope", "branch"], "This is the main branch itself"),
        (["task"], "Provide a prompt, a prompt file, piped stdin, or use --resume-last."),
        (["task", "--effort", "huge", "x"], 'Unsupported reasoning effort "huge". Use one of: none, minimal, low,'),
        (["task", "--prompt-file", "nowhere", "x"], "nowhere cannot be read"),
        (["task", "--cwd", "/nowhere", "x"], "There is no directory /nowhere."),
        (["setup", "--enable-review-gate", "--disable-review-gate"], "Choose either --enable-review-gate or"),
        (["transfer"], "Could not identify the current Claude transcript."),
        (["task-worker"], "Missing required --job-id"),
    ],
)
def test_what_cannot_be_done_is_an_error(user: User, arguments: list[str], words: str) -> None:
    refused = user.run(*arguments)
    assert (refused.status, refused.out) == (1, "")
    assert words in refused.err
    assert not user.plugin_data.exists()


def test_a_review_needs_a_repository(user: User, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    refused = user.run("review", "--cwd", str(tmp_path / "plain"))
    assert refused.status == 1
    assert "This command must run inside a Git repository." in refused.err


def test_an_adversarial_review(user: User) -> None:
    user.write("src/app.js", "export const value = items[0];\n")
    user.git("add", ".")
    user.write("src/app.js", "export const value = items[0].id;\n")
    done = user.run("adversarial-review", '--base main look at  "races"')
    assert done.status == 0, done
    assert (
        done.out
        == """\
# Codex Adversarial Review

Target: branch diff against main
Verdict: needs-attention

One adversarial concern surfaced.

Findings:
- [high] Missing empty-state guard (src/app.js:4-6)
  The change assumes data is always present.
  Recommendation: Handle empty collections before indexing.
- [low] A small thing (src/app.js:1)
  It is small.

Next steps:
- Add an empty-state test.
"""
    )
    prompt = user.seen["turn/start"]["input"][0]["text"]
    assert "adversarial software review" in prompt
    assert 'look at  "races"' in prompt
    payload = user.run("adversarial-review", "--json").json
    assert payload["review"] == "Adversarial Review"
    assert payload["target"] == {"mode": "working-tree", "label": "working tree diff", "explicit": False}
    assert payload["context"]["repoRoot"] == str(user.repository)
    assert payload["context"]["branch"] == "main"
    assert payload["result"]["verdict"] == "needs-attention"
    assert payload["parseError"] is None
    assert json.loads(payload["rawOutput"]) == payload["result"]
    assert "items[0].id" in user.seen["turn/start"]["input"][0]["text"]
    assert user.run("result").out.startswith("# Codex Adversarial Review\n")
    # What it says is an answer like any other.
    assert "Assistant message\n" in log_of(user)


def test_many_changes_are_for_codex_to_collect(user: User) -> None:
    for name in ("a", "b", "c"):
        user.write(f"{name}.js", f"const it = 'COLLECT_{name}';\n")
    user.git("add", ".")
    assert user.run("adversarial-review").status == 0
    prompt = user.seen["turn/start"]["input"][0]["text"]
    assert "lightweight summary" in prompt
    assert "read-only git commands" in prompt
    assert "COLLECT_" not in prompt


@pytest.mark.parametrize(
    "answer", ["not valid json", "[]", '{"verdict": "approve"}', '{"verdict": "x", "summary": ""}']
)
def test_a_review_in_another_form_is_no_review(user: User, answer: str) -> None:
    user.write("README.md", "hello again\n")
    user.behave(answer=answer)
    done = user.run("adversarial-review", "--json")
    assert done.status == 1
    assert done.json["rawOutput"] == answer
    assert done.json["error"]["message"]
    text = user.run("result").out
    assert "Codex did not return valid structured JSON." in text or "unexpected review shape" in text
    assert answer in text


@pytest.mark.parametrize("command", ["task", "review"])
def test_the_reason_of_a_failure_is_told_everywhere(user: User, command: str) -> None:
    user.write("README.md", "hello again\n")
    user.behave(refuse="authentication expired; run codex login")
    arguments = [command, *(["check failed auth"] if command == "task" else [])]
    failed = user.run(*arguments)
    assert failed.status == 1
    assert "authentication expired; run codex login" in failed.err
    assert "authentication expired; run codex login" in failed.out
    as_json = user.run(command, "--json", *arguments[1:])
    assert as_json.status == 1
    assert "authentication expired" in as_json.json["error"]["message"]
    assert "authentication expired" in user.run("result").out


@pytest.mark.parametrize("behaviour", [{"answer": ""}, {"fails": "it broke"}])
def test_there_is_no_success_without_an_answer(user: User, behaviour: dict[str, Any]) -> None:
    user.behave(**behaviour)
    done = user.run("task", "--json", "go")
    assert done.status == 1
    assert done.json["status"] == 1
    assert done.json["error"]["message"]
    assert user.state["jobs"][0]["status"] == "failed"


def test_without_codex_nothing_is_begun(user: User) -> None:
    (user.codex / "codex").unlink()
    failed = user.run("task", "go", environment={"PATH": f"{user.codex}:/usr/bin:/bin"})
    assert (failed.status, failed.out) == (1, "")
    assert "Install it with `npm install -g @openai/codex`, then rerun `/codex:setup`." in failed.err
    assert not user.plugin_data.exists()


@pytest.mark.parametrize(
    ("behaviour", "ready", "method", "detail"),
    [
        ({}, True, "chatgpt", "ChatGPT login active for test@example.com"),
        ({"account": "api-key"}, True, "apiKey", "API key configured (unverified)"),
        ({"account": "provider"}, True, None, "Ollama is configured and does not require OpenAI authentication"),
        ({"account": "logged-out"}, False, None, "OpenAI requires OpenAI authentication"),
        ({"config": "fails"}, False, None, "config/read failed for cwd"),
    ],
)
def test_setup_says_who_is_logged_in(
    user: User, behaviour: dict[str, str], ready: bool, method: str | None, detail: str
) -> None:
    user.behave(**behaviour)
    user.plugin_data.mkdir()
    report = user.run("setup", "--json").json
    auth = report["auth"]
    assert (report["ready"], auth["loggedIn"]) == (ready, ready)
    assert (auth["authMethod"], auth["detail"], auth["source"]) == (method, detail, "app-server")
    assert report["codex"] == {"available": True, "detail": "codex-cli test; advanced runtime available"}
    assert report["sessionRuntime"]["mode"] == "direct"
    assert any("codex login" in step for step in report["nextSteps"]) == (behaviour.get("account") == "logged-out")


def test_a_dead_broker_misleads_nobody(user: User) -> None:
    assert user.run("setup", "--enable-review-gate").status == 0
    broker = {"endpoint": "unix:/nowhere/broker.sock", "pid": 999_999_999}
    (user.directory / "broker.json").write_text(json.dumps(broker))
    assert user.run("setup", "--json").json["ready"] is True
    assert user.run("task", "go").out == f"{ANSWER}\n"


def test_a_claude_session_becomes_a_thread(user: User) -> None:
    transcript = claude_session(user)
    moved = user.run("transfer", "--json", environment={"CODEX_COMPANION_TRANSCRIPT_PATH": str(transcript)})
    assert moved.json == {
        "threadId": "thr_1",
        "resumeCommand": "codex resume thr_1",
        "sourcePath": str(transcript),
        "sessionId": "sess-native",
    }
    text = user.run("transfer", "--source", str(transcript)).out
    assert text.endswith("Codex session ID: thr_1\nResume in Codex: codex resume thr_1\n")


@pytest.mark.parametrize(
    ("how", "words"),
    [("unsupported", ["does not support Claude session transfer", "@openai/codex@latest"]),
     ("unrecorded", ["did not record an imported thread"])],
)  # fmt: skip
def test_a_transfer_that_fails_says_why(user: User, how: str, words: list[str]) -> None:
    transcript = claude_session(user)
    user.behave(**{"import": how})
    failed = user.run("transfer", "--source", str(transcript), "--json")
    assert failed.status == 1
    assert all(word in failed.err and word in failed.out for word in words)


def test_only_transcripts_of_claude_are_transferred(user: User, tmp_path: Path) -> None:
    claude_session(user)
    (tmp_path / "session.jsonl").write_text("{}\n")
    refused = user.run("transfer", "--source", str(tmp_path / "session.jsonl"))
    assert refused.status == 1
    assert re.search(r"only from .*\.claude.*projects", refused.err)
    link = tmp_path / ".claude" / "projects" / "link.jsonl"
    link.symlink_to(tmp_path / "session.jsonl")
    assert "only from" in user.run("transfer", "--source", str(link)).err
    assert "must be a JSONL file" in user.run("transfer", "--source", "notes.txt").err
    assert "not found" in user.run("transfer", "--source", "~/.claude/projects/no.jsonl").err


class TestTheStopGate:
    """Claude is kept at work by an objection of Codex, and by nothing else."""

    @staticmethod
    def stop(user: User, **told: Any) -> Any:
        told = {"cwd": str(user.repository), "session_id": "sess-stop", **told}
        return user.run("stop-hook", stdin=json.dumps(told))

    @pytest.fixture
    def gated(self, user: User, monkeypatch: pytest.MonkeyPatch) -> User:
        # What setup --enable-review-gate does, without asking node and npm for their versions.
        monkeypatch.setenv("CLAUDE_PLUGIN_DATA", str(user.plugin_data))
        View(Workspace(str(user.repository)).directory).configure(GATE, True)
        return user

    def test_an_objection_blocks_once(self, gated: User) -> None:
        said = "I completed the refactor and updated the retry logic."
        blocked = self.stop(gated, last_assistant_message=said)
        assert blocked.status == 0, blocked
        assert blocked.json["decision"] == "block"
        assert "Codex stop-time review found issues that still need fixes" in blocked.json["reason"]
        assert "Missing empty-state guard" in blocked.json["reason"]
        prompt = gated.seen["turn/start"]["input"][0]["text"]
        for words in (
            "<task>",
            "<compact_output_contract>",
            "Only review the work from the previous Claude turn",
            said,
        ):
            assert words in prompt
        assert gated.seen["thread/start"]["sandbox"] == "read-only"
        assert "Codex Stop Gate Review" in gated.run("status", session="sess-stop").out
        again = self.stop(gated, last_assistant_message=said, stop_hook_active=True)
        assert (again.status, again.out) == (0, "")

    def test_more_rounds_can_be_had(self, gated: User) -> None:
        gated.environment["HOLDFAST_STOP_GATE_ROUNDS"] = "2"
        assert self.stop(gated).json["decision"] == "block"
        assert self.stop(gated, stop_hook_active=True).json["decision"] == "block"
        assert self.stop(gated, stop_hook_active=True).out == ""
        assert self.stop(gated).json["decision"] == "block"

    @pytest.mark.parametrize(
        "behaviour",
        [{"answer": "Looks fine to me."}, {"answer": ""}, {"refuse": "usage limit reached"}, {"fails": "it broke"}],
    )
    def test_a_review_that_is_none_does_not_block(self, gated: User, behaviour: dict[str, Any]) -> None:
        gated.behave(**behaviour)
        stopped = self.stop(gated)
        assert (stopped.status, stopped.out) == (0, "")
        assert re.search(r"not blocked: .*\S\. Run /codex:review --wait by hand", stopped.err)
        assert "--disable-review-gate" in stopped.err

    def test_approval_is_silent(self, gated: User) -> None:
        gated.behave(clean=True)
        stopped = self.stop(gated)
        assert (stopped.status, stopped.out, stopped.err) == (0, "", "")
        assert gated.run("result", session="sess-stop").out.startswith(ALLOW)

    def test_without_codex_there_is_no_gate(self, gated: User) -> None:
        (gated.codex / "codex").unlink()
        gated.environment["PATH"] = "/usr/bin:/bin"
        stopped = self.stop(gated)
        assert (stopped.status, stopped.out) == (0, "")
        assert "Codex is not set up for the review gate" in stopped.err
        assert "Run /codex:setup" in stopped.err


def test_the_end_of_a_session_ends_its_own_jobs(user: User, tmp_path: Path) -> None:
    user.behave(gate=str(tmp_path / "gate"))
    mine = user.run("task", "--background", "--json", "mine", session="sess-a").json["jobId"]
    other = user.run("task", "--background", "--json", "other", session="sess-b").json["jobId"]
    user.until(lambda: all(job["turnId"] for job in user.state["jobs"]))
    told = json.dumps({"hook_event_name": "SessionEnd", "session_id": "sess-a", "cwd": str(user.repository)})
    assert user.run("session-hook", stdin=told).status == 0
    assert [job["id"] for job in user.state["jobs"]] == [other]
    assert {path.stem for path in (user.directory / "jobs").iterdir()} == {other}
    ended = user.run("status", mine, "--wait", "--json").json
    assert ended["job"]["status"] == "cancelled"
    assert "Cancelled by user." in user.run("result", mine).out
    (tmp_path / "gate").touch()
    assert user.run("status", other, "--wait", "--json").json["job"]["status"] == "completed"
    assert [job["id"] for job in user.state["jobs"]] == [other]


def test_what_cannot_be_written_is_said_and_is_no_success(user: User) -> None:
    with open("/dev/full", "w") as full:
        outcome = user.run("status", stdout=full)
    assert (outcome.status, outcome.err) == (74, "Standard output cannot be written: No space left on device.\n")
    outcome = user.run("status", stdout=None, preexec_fn=lambda: os.close(1))
    assert (outcome.status, outcome.err) == (74, "Standard output is closed.\n")
