"""What another program left in the view is read, shown and ended as far as it goes, and never believed for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import PATIENCE, Stranger

DONE: dict[str, Any] = {
    "id": "review-done",
    "status": "completed",
    "title": "Codex Review",
    "jobClass": "review",
    "threadId": "thr_done",
    "summary": "Review main...HEAD",
    "createdAt": "2026-03-18T15:10:00.000Z",
    "startedAt": "2026-03-18T15:10:05.000Z",
    "completedAt": "2026-03-18T15:11:10.000Z",
    "updatedAt": "2026-03-18T15:11:10.000Z",
}
LIVE: dict[str, Any] = {
    "id": "review-live",
    "kind": "review",
    "status": "running",
    "title": "Codex Review",
    "jobClass": "review",
    "phase": "reviewing",
    "threadId": "thr_1",
    "summary": "Review working tree diff",
    "createdAt": "2026-03-18T15:30:00.000Z",
    "updatedAt": "2026-03-18T15:30:03.000Z",
}


def task(name: str, status: str, **fields: Any) -> dict[str, Any]:
    """A record that lacks most fields."""
    return {"id": name, "status": status, "title": "Codex Task", "jobClass": "task", **fields}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, as a worker of the original does."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_status_shows_phases_tables_and_hints(stranger: Stranger) -> None:
    lines = [
        "[2026-03-18T15:30:00.000Z] Starting Codex Review.",
        "[2026-03-18T15:30:01.000Z] Thread ready (thr_1).",
        "[2026-03-18T15:30:02.000Z] Turn started (turn_1).",
        "[2026-03-18T15:30:03.000Z] Reviewer started: current changes",
    ]
    live = {**LIVE, "logFile": stranger.log("review-live")}
    stranger.seed(live, DONE, logs={"review-live": "\n".join(lines)})
    shown = stranger.run("status")
    assert shown.status == 0
    elapsed = shown.out.split("| reviewing | ")[1].split(" |")[0]
    assert (
        shown.out
        == f"""\
# Codex Status

Session runtime: direct startup
Review gate: disabled

Active jobs:
| Job | Kind | Status | Phase | Elapsed | Codex Session ID | Summary | Actions |
| --- | --- | --- | --- | --- | --- | --- | --- |
| review-live | review | running | reviewing | {elapsed} | thr_1 | Review working tree diff | \
`/codex:status review-live`<br>`/codex:cancel review-live` |

Live details:
- review-live | running | review | Codex Review
  Summary: Review working tree diff
  Phase: reviewing
  Elapsed: {elapsed}
  Codex session ID: thr_1
  Resume in Codex: codex resume thr_1
  Log: {stranger.log("review-live")}
  Progress:
    Starting Codex Review.
    Thread ready (thr_1).
    Turn started (turn_1).
    Reviewer started: current changes

Latest finished:
- review-done | completed | review | Codex Review
  Summary: Review main...HEAD
  Phase: done
  Duration: 1m 5s
  Codex session ID: thr_done
  Resume in Codex: codex resume thr_done
"""
    )


def test_only_jobs_of_the_session_are_listed(stranger: Stranger) -> None:
    stranger.seed({**LIVE, "sessionId": "sess-other"}, {**DONE, "sessionId": "sess-current"})
    report = stranger.run("status", "--json", session="sess-current").json
    assert report["running"] == []
    assert report["latestFinished"]["id"] == "review-done"
    assert report["recent"] == []
    assert stranger.run("status", "review-live", "--json", session="sess-current").json["job"]["status"] == "running"


def test_kinds_keep_their_labels(stranger: Stranger) -> None:
    fields = {"kind": "adversarial-review", "title": "Codex Adversarial Review"}
    stranger.seed({**LIVE, "id": "review-adv-live", **fields}, {**DONE, "id": "review-adv", **fields})
    shown = stranger.run("status").out
    assert "| review-adv-live | adversarial-review | running | reviewing |" in shown
    assert "- review-adv | completed | adversarial-review | Codex Adversarial Review" in shown


def test_waiting_for_a_job_that_nothing_is_known_of_times_out_cleanly(stranger: Stranger) -> None:
    stranger.seed(task("task-live", "running"), files={"task-live": task("task-live", "running")})
    waited = stranger.run("status", "task-live", "--wait", "--timeout-ms", "25", "--json")
    assert waited.status == 0
    assert waited.json["job"]["status"] == "running"
    assert (waited.json["waitTimedOut"], waited.json["timeoutMs"]) == (True, 25)
    assert stranger.run("status", "--wait").status == 1


def test_a_job_whose_process_is_gone_has_failed(stranger: Stranger, sleeper: subprocess.Popen[bytes]) -> None:
    stranger.seed(task("task-live", "running", pid=sleeper.pid))
    assert stranger.run("status", "task-live", "--json").json["job"]["status"] == "running"
    sleeper.kill()
    sleeper.wait()
    shown = stranger.run("status", "task-live", "--json").json["job"]
    assert (shown["status"], shown["phase"]) == ("failed", "failed")
    assert str(sleeper.pid) in shown["errorMessage"]
    result = stranger.run("result")
    assert result.status == 0
    assert "no result was recorded" in result.out


def test_a_dead_process_that_nobody_buried_is_dead(stranger: Stranger) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        stranger.seed(task("task-live", "running", pid=process.pid))
        while (job := stranger.run("status", "task-live", "--json").json["job"])["status"] == "running":
            pass
        assert job["status"] == "failed"


def test_result_is_the_stored_output(stranger: Stranger) -> None:
    text = "Reviewed uncommitted changes.\nNo material issues found."
    stored = {"id": "review-done", "rendered": f"# Codex Review\n\n{text}\n", "result": {"codex": {"stdout": text}}}
    stranger.seed(DONE, files={"review-done": stored})
    expected = f"{text}\n\nCodex session ID: thr_done\nResume in Codex: codex resume thr_done\n"
    assert stranger.run("result").out == expected
    assert stranger.run("result", "review-d").out == expected
    assert stranger.run("result", "--json").json == {"job": DONE, "storedJob": stored}


def test_result_prefers_the_session(stranger: Stranger) -> None:
    stranger.seed(
        {**DONE, "id": "review-a", "sessionId": "sess-a"},
        {**DONE, "id": "review-b", "sessionId": "sess-b", "updatedAt": "2026-03-18T16:00:00.000Z"},
        files={"review-a": {"result": {"rawOutput": "A."}}, "review-b": {"result": {"rawOutput": "B."}}},
    )
    assert stranger.run("result", session="sess-a").out.startswith("A.\n")
    assert stranger.run("result").out.startswith("B.\n")


def test_result_of_a_running_job_says_that_it_runs(stranger: Stranger) -> None:
    stranger.seed(task("task-live", "running"))
    for arguments in (["result", "task-live"], ["result"]):
        asked = stranger.run(*arguments)
        assert asked.status == 3
        assert asked.out == ""
        assert "task-live is still running" in asked.err
        assert "/codex:status task-live --wait" in asked.err
    assert stranger.run("result", "task-live", "--json").json["error"]["code"] == "still_running"


def test_a_reference_fits_one_job(stranger: Stranger) -> None:
    stranger.seed(task("task-aa", "completed"), task("task-ab", "completed"))
    ambiguous = stranger.run("result", "task-a")
    assert ambiguous.status == 1
    assert 'Job reference "task-a" is ambiguous' in ambiguous.err
    missing = stranger.run("status", "task-x")
    assert missing.status == 1
    assert 'No job found for "task-x"' in missing.err


def test_the_newest_task_of_the_session_can_be_resumed(stranger: Stranger) -> None:
    stranger.seed(
        task("task-current", "completed", sessionId="s", threadId="thr_current", updatedAt="2026-03-24T20:00:00.000Z"),
        task("task-other", "completed", sessionId="o", threadId="thr_other", updatedAt="2026-03-24T20:05:00.000Z"),
        {**DONE, "sessionId": "s", "updatedAt": "2026-03-24T20:10:00.000Z"},
    )
    found = stranger.run("task-resume-candidate", "--json", session="s").json
    assert (found["available"], found["sessionId"]) == (True, "s")
    assert (found["candidate"]["id"], found["candidate"]["threadId"]) == ("task-current", "thr_current")
    assert stranger.run("task-resume-candidate", session="s").out == "Resumable task found: task-current (completed).\n"
    none = stranger.run("task-resume-candidate", session="x")
    assert none.out == "No resumable task found for this session.\n"


def test_resume_last_ignores_other_sessions_and_waits_for_none(stranger: Stranger) -> None:
    stranger.seed(task("task-other", "running", sessionId="o", threadId="thr_other"))
    resumed = stranger.run("task", "--resume-last", "follow up", session="s")
    assert resumed.status == 1
    assert "No previous Codex task thread was found for this repository." in resumed.err
    busy = stranger.run("task", "--resume-last", "follow up", session="o")
    assert busy.status == 1
    assert "Task task-other is still running" in busy.err


def test_cancel_ends_the_process_of_the_job(stranger: Stranger, sleeper: subprocess.Popen[bytes]) -> None:
    log = stranger.log("task-live")
    stranger.seed(
        task("task-live", "running", pid=sleeper.pid, logFile=log, updatedAt="2026-03-18T15:30:02.000Z"),
        files={"task-live": task("task-live", "running", logFile=log)},
        logs={"task-live": "[2026-03-18T15:30:00.000Z] Starting Codex Task.\n"},
    )
    cancelled = stranger.run("cancel", "task-live", "--json")
    assert cancelled.status == 0
    assert cancelled.json == {
        "jobId": "task-live",
        "status": "cancelled",
        "title": "Codex Task",
        "turnInterruptAttempted": False,
        "turnInterrupted": False,
    }
    assert sleeper.wait(PATIENCE) != 0
    [job] = stranger.state["jobs"]
    assert (job["status"], job["pid"]) == ("cancelled", None)
    assert json.loads((stranger.directory / "jobs" / "task-live.json").read_text())["status"] == "cancelled"
    with open(log) as file:
        assert "Cancelled by user" in file.read()
    assert stranger.run("cancel").status == 1


def test_cancel_without_an_id_leaves_other_sessions_alone(stranger: Stranger) -> None:
    stranger.seed(task("task-other", "running", sessionId="sess-other", updatedAt="2026-03-24T20:05:00.000Z"))
    none = stranger.run("cancel", "--json", session="sess-current")
    assert none.status == 1
    assert "No active Codex jobs to cancel for this session." in none.err
    assert none.json["error"]["message"] == "No active Codex jobs to cancel for this session."
    assert stranger.state["jobs"][0]["status"] == "running"
    named = stranger.run("cancel", "task-other", "--json", session="sess-current")
    assert named.json["jobId"] == "task-other"
    assert stranger.state["jobs"][0]["status"] == "cancelled"


def test_cancel_without_an_id_wants_exactly_one(stranger: Stranger) -> None:
    stranger.seed(task("task-a", "running"), task("task-b", "running"))
    assert "Multiple Codex jobs are active. Pass a job id to /codex:cancel." in stranger.run("cancel").err


@pytest.mark.parametrize("pid", [0, 1, -1, True, "12", None, 2**40])
def test_no_process_is_ended_that_is_none(stranger: Stranger, pid: object) -> None:
    stranger.seed(task("task-live", "running", pid=pid))
    shown = stranger.run("status", "--json")
    assert shown.status == 0
    assert stranger.run("cancel", "task-live").status in (0, 1)


def test_a_torn_index_is_kept_aside(stranger: Stranger) -> None:
    stranger.seed()
    (stranger.directory / "state.json").write_text('{"version": 1, "jobs": [{"id": "task-')
    assert stranger.run("status").out.endswith("No jobs recorded yet.\n")
    assert stranger.run("setup", "--enable-review-gate", "--json").json["reviewGateEnabled"] is True
    assert [path.name for path in stranger.directory.glob("state.json.unreadable-*")]


def test_what_is_not_understood_is_kept(stranger: Stranger) -> None:
    stranger.seed(task("task-done", "completed", novelty={"a": 1}))
    index = {**stranger.state, "extra": [1], "config": {"stopReviewGate": False, "mine": "yes"}}
    index["jobs"] += [{"no": "id"}, "nonsense"]
    (stranger.directory / "state.json").write_text(json.dumps(index))
    assert stranger.run("setup", "--enable-review-gate").status == 0
    assert stranger.state["extra"] == [1]
    assert stranger.state["config"] == {"stopReviewGate": True, "mine": "yes"}
    assert stranger.state["jobs"][0]["novelty"] == {"a": 1}


@pytest.mark.parametrize("content", ["[]", "null", '{"jobs": 7, "config": []}', "", "\x00"])
def test_any_index_can_be_read(stranger: Stranger, content: str) -> None:
    stranger.seed()
    (stranger.directory / "state.json").write_text(content)
    assert stranger.run("status", "--json").json["running"] == []


def test_a_broker_of_the_original_is_reported(stranger: Stranger) -> None:
    stranger.seed()
    (stranger.directory / "broker.json").write_text('{"endpoint": "unix:/tmp/fake-broker.sock", "pid": 1}')
    assert "Session runtime: shared session" in stranger.run("status", "--cwd", str(stranger.root)).out
    runtime = stranger.run("setup", "--json").json["sessionRuntime"]
    assert (runtime["mode"], runtime["endpoint"]) == ("shared", "unix:/tmp/fake-broker.sock")


def test_usage_and_unknown_commands(stranger: Stranger) -> None:
    for arguments in ([], ["help"], ["--help"], ["task", "--help"]):
        shown = stranger.run(*arguments)
        assert (shown.status, shown.err) == (0, "")
        assert shown.out.startswith("Usage:\n")
    unknown = stranger.run("frobnicate")
    assert (unknown.status, unknown.out) == (1, "")
    assert "Unknown subcommand: frobnicate" in unknown.err
