"""Waiting for tasks, and seeing where they are, from any terminal at any time."""

from __future__ import annotations

import base64
import json
import os
import threading

import pytest

from holdfast.cli.main import execute
from holdfast.tasks.result import Status
from holdfast.tasks.state import State

from .fake_daemon import FakeDaemon


def test_still_running_is_never_taken_for_a_time_limit_of_the_task(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.say("tool", "Bash: npm test")
    outcome = cli("wait", task.id, "--timeout", "0.05")
    assert outcome.status == 75
    assert outcome.err == (
        f"error: Task {task.id} is still running (Bash: npm test).\nhint: Go on waiting with: holdfast wait {task.id}\n"
    )
    task.finish(b"", Status.TIMEOUT)
    assert cli("wait", task.id, "--timeout", "60").status == 124


def test_all_of_several(cli, daemon: FakeDaemon) -> None:
    first, second, third = daemon.add(), daemon.add(label="two"), daemon.add()
    second.fail()
    third.finish(b"", Status.TIMEOUT)
    threading.Timer(0.05, first.finish, [b"done"]).start()
    outcome = cli("wait", first.id, second.id, third.id)
    assert outcome.status == 1
    lines = dict(line.split("  ", 1) for line in outcome.out.decode().splitlines())
    assert lines == {first.id: "completed  1.5s", second.id: "failed  1.5s  two", third.id: "timeout  1.5s"}


def test_any_of_several(cli, daemon: FakeDaemon) -> None:
    running, done = daemon.add(), daemon.add()
    done.finish(b"done")
    outcome = cli("wait", "--any", "--json", running.id, done.id)
    assert outcome.status == 0
    assert json.loads(outcome.out)["task_id"] == done.id
    running.finish(b"")


def test_several_of_which_one_goes_on(cli, daemon: FakeDaemon) -> None:
    running, done = daemon.add(), daemon.add()
    done.finish(b"done")
    outcome = cli("wait", "--timeout", "0.05", running.id, done.id)
    assert outcome.status == 75
    assert done.id in outcome.out.decode()
    assert f"Still running: {running.id}." in outcome.err


def test_the_worst_of_several_decides(cli, daemon: FakeDaemon) -> None:
    late, unknown, done = daemon.add(), daemon.add(), daemon.add()
    late.finish(b"", Status.TIMEOUT)
    unknown.finish(b"", Status.OUTCOME_UNKNOWN)
    done.finish(b"done")
    assert cli("wait", done.id, late.id, unknown.id).status == 125
    assert cli("wait", done.id, late.id).status == 124


def test_status_can_wait_for_the_end(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.say("tool", "Bash: npm test")
    outcome = cli("status", task.id, "--wait", "--timeout", "0.05")
    assert outcome.status == 75
    assert "evidence:  Bash: npm test" in outcome.out.decode()
    threading.Timer(0.05, task.finish, [b"", Status.TIMEOUT]).start()
    outcome = cli("status", task.id, "--wait", "--json")
    assert (outcome.status, json.loads(outcome.out)["status"]) == (0, "timeout")
    assert cli("status", "--wait").status == 2
    assert cli("status", task.id, "--timeout", "1s").status == 2


def test_list_shows_the_newest_first(cli, daemon: FakeDaemon) -> None:
    old, new = daemon.add(b"an old one"), daemon.add(b"a new one", label="mine")
    old.finish(b"done")
    new.say("tool", "Bash: ls")
    header, first, second = cli("list").out.decode().splitlines()
    assert header.split() == ["ID", "AGENT", "STATE", "TIME", "TOOLS", "WHAT"]
    assert first.split() == [new.id, "codex", "running", "1.5s", "0", "[mine]", "Bash:", "ls", "-", "a", "new", "one"]
    assert second.split() == [old.id, "codex", "completed", "1.5s", "0", "an", "old", "one"]
    assert old.id not in cli("list", "--active").out.decode()


def test_list_says_how_many_it_left_out(cli, daemon: FakeDaemon) -> None:
    for _ in range(22):
        daemon.add()
    outcome = cli("list")
    assert len(outcome.out.decode().splitlines()) == 1 + 20
    assert outcome.err == "2 more: holdfast list --all\n"
    assert cli("list", "--all").err == ""
    assert cli("list", "--active", "--limit", "21").err == "1 more: holdfast list --active\n"
    assert cli("list", "--json").err == ""


def test_list_as_json(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    assert [view["id"] for view in json.loads(cli("list", "--json").out)["tasks"]] == [task.id]


def test_an_empty_list_says_so_beside_standard_output(cli, daemon: FakeDaemon) -> None:
    outcome = cli("list")
    assert (outcome.status, outcome.out, outcome.err) == (0, b"", "There are no tasks yet.\n")


def test_status_gives_the_evidence_and_its_age(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.say("tool", "Bash: npm test")
    text = cli("status", task.id).out.decode()
    assert "state:     running\n" in text
    assert "evidence:  Bash: npm test, 0.5s ago\n" in text
    assert json.loads(cli("status", "task0", "--json").out)["evidence"] == "Bash: npm test"


def test_status_of_the_daemon(cli, daemon: FakeDaemon) -> None:
    daemon.add()
    assert "1 active, 1 in all" in cli("status").out.decode()
    assert json.loads(cli("status", "--json").out)["running"] is True


def test_status_starts_no_daemon(cli, state) -> None:
    assert cli("status").out.startswith(b"No daemon is running")
    assert json.loads(cli("status", "--json").out) == {"running": False}
    assert not list(state.iterdir())


def test_down_without_a_daemon(cli, state) -> None:
    outcome = cli("down")
    assert (outcome.status, outcome.out) == (0, b"No daemon is running.\n")
    assert not list(state.iterdir())


def test_cancel_says_what_became_of_each(cli, daemon: FakeDaemon) -> None:
    running, done = daemon.add(), daemon.add()
    done.finish(b"done")
    outcome = cli("cancel", running.id, done.id)
    assert outcome.status == 0
    assert outcome.out.decode().splitlines() == [
        f"{running.id}  cancelled",
        f"{done.id}  was finished already: completed",
    ]


def test_cancel_can_wait_for_the_end(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.finish_on_cancel = False
    assert cli("cancel", "--wait", "--timeout", "0.05", task.id).status == 75
    threading.Timer(0.05, task.finish, [b"", Status.CANCELLED]).start()
    assert cli("cancel", "--wait", task.id).out.decode() == f"{task.id}  cancelled\n"


def test_logs_tell_the_story(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.say("state", "starting", state=State.STARTING)
    task.say("tool", "Bash: ls\x1b[2J")
    assert cli("logs", task.id).out.decode().splitlines() == [
        "   0:01  state        starting",
        "   0:01  tool         Bash: ls [2J",
    ]


def entry(seq: int, kind: str, data: bytes = b"") -> dict[str, object]:
    return {
        "attempt": 1,
        "seq": seq,
        "kind": kind,
        "time": 1.0,
        "data_base64": base64.b64encode(data).decode(),
        "exit_code": 0 if kind == "exited" else None,
        "signal": None,
    }


def test_raw_logs_are_the_bytes_of_both_streams(daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    task = daemon.add()
    task.log = [
        entry(1, "stdout", b"\x00out "),
        entry(2, "stderr", b"err\n"),
        {"attempt": 1, "gap": [3, 4]},
        entry(5, "stdout", b"more"),
        entry(6, "signal", b'{"hook_event_name":"Stop"}'),
        entry(7, "pty", b" and more"),
        entry(8, "exited"),
        entry(9, "closed"),
    ]
    assert execute(["logs", "--raw", task.id]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"\x00out more and more"
    assert err == b"err\nnotice: records 3 to 4 are no longer there\n"


def test_logs_as_json(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.log = [entry(1, "stdout", b"out"), {"attempt": 1, "gap": [2, 3]}, entry(4, "exited")]
    first, gap, exited = map(json.loads, cli("logs", "--json", task.id).out.splitlines())
    assert base64.b64decode(first["data_base64"]) == b"out"
    assert gap["gap"] == [2, 3]
    assert exited["exit_code"] == 0


def test_a_log_that_fails_on_the_way_is_not_taken_for_whole(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    error = {"code": "host_unavailable", "message": "The host is away.", "hint": None, "exit_code": 127}
    task.log = [entry(1, "stdout", b"out"), {"error": error}]
    outcome = cli("logs", "--json", task.id)
    assert outcome.status == 127
    assert "The host is away." in outcome.err


def test_version(cli) -> None:
    assert cli("version").out.startswith(b"holdfast 0.")
    assert set(json.loads(cli("version", "--json").out)) == {"holdfast", "python"}


@pytest.mark.parametrize("task_id", ["", "/", "a/b", "..", "a?b", "A", os.fsdecode(b"\xff")])
@pytest.mark.parametrize("command", ["status", "result", "wait", "logs", "cancel", "approve", "resume"])
def test_what_cannot_be_an_id_is_that_of_no_task(cli, daemon: FakeDaemon, command: str, task_id: str) -> None:
    daemon.add()
    outcome = cli(command, task_id, *(["go on"] if command == "resume" else []))
    assert (outcome.status, outcome.err) == (
        2,
        f"error: There is no task {task_id!r}.\nhint: See 'holdfast list --all'.\n",
    )
