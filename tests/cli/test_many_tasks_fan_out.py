"""Many tasks from one specification: some at once, none twice, none beside one that it could collide with."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from holdfast.tasks.result import ChangedFile, Status

from .fake_daemon import PATIENCE, FakeDaemon, FakeTask


def specification(tmp_path: Path, *lanes: dict[str, Any], **common: Any) -> str:
    path = tmp_path / "fan.json"
    defaults = {"agent": "codex", "prompt": "do it", "cwd": str(tmp_path)}
    path.write_text(json.dumps({"defaults": {**defaults, **common}, "lanes": list(lanes)}))
    return str(path)


def finish_at_once(task: FakeTask) -> None:
    task.finish(b"done")


def test_each_lane_has_a_receipt_and_the_worst_decides(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    def act(task: FakeTask) -> None:
        task.fail() if task.request.tags["lane"] == "two" else task.finish(b"done")

    daemon.on_create = act
    path = specification(tmp_path, {"name": "one", "label": "mine"}, {"name": "two", "model": "m"})
    outcome = cli("fanout", path, "--json")
    *receipts, summary = map(json.loads, outcome.out.splitlines())
    assert outcome.status == 1
    assert {receipt["lane"]: receipt["status"] for receipt in receipts} == {"one": "completed", "two": "failed"}
    assert summary == {"summary": {"lanes": 2, "ok": 1, "exit_code": 1}}
    by_lane = {task.request.tags["lane"]: task for task in daemon.tasks.values()}
    assert (by_lane["one"].request.label, by_lane["two"].request.label) == ("mine", "two")
    assert by_lane["two"].request.model == "m"
    assert by_lane["one"].prompt == b"do it"


def test_the_same_again_does_no_lane_twice(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = finish_at_once
    output = tmp_path / "answer"
    path = specification(tmp_path, {"name": "one", "output_file": str(output)}, {"name": "two"})
    assert cli("fanout", path).status == 0
    first = set(daemon.tasks)
    output.write_text("published")
    outcome = cli("fanout", path, "--parallel", "1")
    assert outcome.status == 0
    assert outcome.err.count("(was done before)") == 2
    assert set(daemon.tasks) == first
    output.unlink()
    assert cli("fanout", path, "--fresh").status == 0
    assert len(daemon.tasks) == 4
    specification(tmp_path, {"name": "one", "output_file": str(output)}, {"name": "two", "prompt": "another"})
    assert cli("fanout", path).status == 0
    assert len(daemon.tasks) == 5, "only what is new is done"


def test_the_table_has_the_order_of_the_specification(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = finish_at_once
    outcome = cli("fanout", specification(tmp_path, {"name": "zebra"}, {"name": "ant"}), "--quiet")
    header, *rows = outcome.out.decode().splitlines()
    assert header.split() == ["LANE", "STATUS", "TIME", "FILES", "TASK", "WHERE"]
    assert [row.split()[:3] for row in rows] == [["zebra", "completed", "1.5s"], ["ant", "completed", "1.5s"]]
    assert outcome.err == ""


def test_no_more_at_once_than_wanted_and_colliding_lanes_one_after_the_other(
    cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    together: list[set[str]] = []

    def act(task: FakeTask) -> None:
        # Whoever is there already and not finished works beside this one.
        beside = {other.request.tags["lane"] for other in daemon.tasks.values() if other.result is None}
        together.append(beside | {task.request.tags["lane"]})
        for other in daemon.tasks.values():
            if other.result is None and len(together) > 2:
                other.finish(b"done")
        if len(together) > 2:
            task.finish(b"done")

    daemon.on_create = act
    lanes = [{"name": "one", "write": True}, {"name": "two", "write": True}, {"name": "three"}, {"name": "four"}]
    outcome = cli("fanout", specification(tmp_path, *lanes), "--parallel", "3")
    assert outcome.status == 0
    assert "notice: one and two work one after the other" in outcome.err
    assert together[:3] == [{"one"}, {"one", "three"}, {"one", "three", "four"}]
    assert not any({"one", "two"} <= beside for beside in together)


def test_lanes_that_own_the_same_are_refused(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = finish_at_once
    lanes = [{"name": name, "write": True, "owned_files": ["src/**"]} for name in ("one", "two")]
    path = specification(tmp_path, *lanes)
    outcome = cli("fanout", path)
    assert outcome.status == 2
    assert "'one' and 'two' both own" in outcome.err
    assert daemon.tasks == {}
    assert cli("fanout", path, "--allow-overlap").status == 0


def test_nothing_is_started_while_anything_is_wrong(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    path = specification(
        tmp_path, {"name": "one"}, {"name": "two", "cwd": "/nonexistent"}, {"name": "three", "sandbox": "sand"}
    )
    outcome = cli("fanout", path)
    assert outcome.status == 2
    assert outcome.err.splitlines()[:2] == [
        "error: lane 'two': The directory /nonexistent does not exist.",
        "error: lane 'three': There is no sandbox 'sand'.",
    ]
    error = json.loads(cli("fanout", path, "--json").out)["error"]
    assert error["code"] == "invalid_specification"
    assert "/nonexistent" in error["message"] and "'sand'" in error["message"]
    assert daemon.tasks == {}
    assert cli("fanout", str(tmp_path / "none")).status == 2


def test_what_the_daemon_refuses_is_one_lanes_misfortune(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.refuse = (400, {"code": "unknown_agent", "message": "There is no agent 'x'.", "hint": None})
    outcome = cli("fanout", specification(tmp_path, {"name": "one"}), "--json")
    receipt = json.loads(outcome.out.splitlines()[0])
    assert (outcome.status, receipt["status"], receipt["task_id"]) == (2, "rejected", None)


def test_a_lane_that_changes_what_is_not_its_own_is_no_success(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    def act(task: FakeTask) -> None:
        task.finish(b"done")
        assert task.result is not None
        task.result.files.changed = [ChangedFile(path="docs/x", change="modified")]

    daemon.on_create = act
    outcome = cli("fanout", specification(tmp_path, {"name": "one", "write": True, "owned_files": ["src/**"]}))
    assert outcome.status == 1
    assert "changed what is not its own: docs/x" in outcome.err


def test_what_others_may_have_done_is_not_held_against_a_lane(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    def act(task: FakeTask) -> None:
        task.finish(b"done")
        assert task.result is not None
        task.result.files.concurrent_tasks_in_workdir = 1
        task.result.files.changed = [ChangedFile(path="docs/x", change="modified", claimed=task.request.label == "two")]

    daemon.on_create = act
    lanes = [{"name": name, "write": True, "owned_files": [f"{name}/**"]} for name in ("one", "two")]
    receipts = cli("fanout", specification(tmp_path, *lanes), "--json").out.splitlines()[:-1]
    found = {receipt["lane"]: receipt["trespasses"] for receipt in map(json.loads, receipts)}
    assert found == {"one": [], "two": ["docs/x"]}


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_ends_the_lanes(daemon: FakeDaemon, spawn, tmp_path: Path, interrupts: int) -> None:
    def act(task: FakeTask) -> None:
        task.finish_on_cancel = interrupts == 1

    daemon.on_create = act
    path = specification(tmp_path, {"name": "one"}, {"name": "two"}, {"name": "three"})
    process = spawn("fanout", path, "--parallel", "2", "--json")
    with daemon.changed:
        assert daemon.changed.wait_for(lambda: len(daemon.tasks) == 2, PATIENCE)
    daemon.wait_for_request("GET", "/wait", 2)
    process.send_signal(signal.SIGINT)
    daemon.wait_for_request("POST", "/cancel", 2)
    if interrupts == 2:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"Cancelling every lane" in err
    if interrupts == 1:
        receipts = [json.loads(line) for line in out.splitlines()][:-1]
        assert {receipt["lane"]: receipt["status"] for receipt in receipts} == dict.fromkeys(
            ("one", "two", "three"), "cancelled"
        )
        assert len(daemon.tasks) == 2
    else:
        assert b"Left." in err
        for task in daemon.tasks.values():
            task.finish(status=Status.CANCELLED)
