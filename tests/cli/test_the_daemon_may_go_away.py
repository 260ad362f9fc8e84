"""A daemon that dies, or an answer that gets lost, costs a caller nothing: no task, no line, no second task."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from holdfast.api.daemon_access import PAUSES, Daemon
from holdfast.daemon import lifecycle
from holdfast.daemon.client import DaemonClient
from holdfast.daemon.transport import DaemonGone

from .fake_daemon import FakeDaemon


def test_a_stream_that_breaks_is_read_on_behind_the_last_line(cli, daemon: FakeDaemon) -> None:
    def work(task) -> None:
        for number in range(6):
            task.say("tool", f"step {number}")
        task.finish(b"done")
        task.cuts = [0, 2, 5]

    daemon.on_create = work
    *progress, result = map(json.loads, cli("run", "codex", "go", "--format", "jsonl").out.splitlines())
    assert [line["text"] for line in progress] == [*(f"step {number}" for number in range(6)), "completed"]
    assert result["status"] == "completed"
    assert len(daemon.tasks) == 1


@pytest.mark.parametrize("options", [(), ("--field", "message")])
def test_an_answer_that_breaks_off_is_read_on_behind_its_last_byte(cli, daemon: FakeDaemon, options) -> None:
    task = daemon.add()
    task.finish(b"0123456789")
    task.message_cuts = [0, 4, 4, 9]
    outcome = cli("result", task.id, *options)
    assert (outcome.status, outcome.out, outcome.err) == (0, b"0123456789", "")
    asked = [path for _, path in daemon.requests if path.endswith("/message")]
    assert len(asked) == 5


def test_a_part_of_an_answer_that_breaks_off_is_read_on(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.finish(b"0123456789")
    task.message_cuts = [5, 7]
    outcome = cli("result", task.id, "--offset", "3", "--limit", "5")
    assert (outcome.status, outcome.out, outcome.err) == (0, b"34567", "")


def test_progress_so_far_that_breaks_off_is_read_on(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    for number in range(3):
        task.say("tool", f"step {number}")
    task.cuts = [0, 2]
    outcome = cli("logs", task.id)
    assert outcome.status == 0
    assert [line.split()[-1] for line in outcome.out.decode().splitlines()] == ["0", "1", "2"]


def test_a_lost_answer_does_not_make_a_second_task(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"done")
    daemon.lose_answers = 2
    outcome = cli("run", "codex", "go")
    assert (outcome.status, outcome.out) == (0, b"done")
    assert len(daemon.tasks) == 1
    assert daemon.requests.count(("POST", "/v1/tasks")) == 3


def test_another_daemon_takes_over(cli, daemon: FakeDaemon, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first daemon dies while its caller waits; connecting again finds (or starts) the next one."""
    task = daemon.add()
    task.say("tool", "step 0")
    task.cuts = [1]
    connections: list[DaemonClient] = []

    def connect(directory: Path) -> DaemonClient:
        if connections:
            task.finish(b"from the second")
        connections.append(DaemonClient(directory / "daemon.sock"))
        return connections[-1]

    monkeypatch.setattr(lifecycle, "connect", connect)
    outcome = cli("wait", task.id)
    assert (outcome.status, outcome.out) == (0, b"from the second")
    assert len(connections) == 2


def test_a_daemon_that_stays_away_is_given_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(lifecycle, "connect", lambda directory: DaemonClient(directory / "daemon.sock"))
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(DaemonGone, match="does not answer"), Daemon() as daemon:
        daemon.call(lambda client: client.status())
    assert pauses == list(PAUSES)


def test_a_command_that_does_the_work_itself_says_so(cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.on_create = lambda task: task.finish(b"done")
    closed: list[bool] = []

    def connect(directory: Path) -> DaemonClient:
        return DaemonClient(
            directory / "daemon.sock", in_process=True, notice="Doing it here.", on_close=lambda: closed.append(True)
        )

    monkeypatch.setattr(lifecycle, "connect", connect)
    outcome = cli("run", "codex", "go")
    assert (outcome.status, outcome.out, outcome.err) == (0, b"done", "notice: Doing it here.\n")
    assert closed == [True]


@pytest.mark.parametrize("arguments", [["down"], ["run", "rehearsal", "x"]])
def test_a_daemon_that_hangs_is_not_called_missing_and_no_other_is_started(
    cli, state: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(lifecycle, "ANSWER_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(state / "daemon.sock"))
        mute.listen(64)
        outcome = cli(*arguments)
    assert outcome.status == 127
    assert outcome.err.startswith("error: The daemon takes connections, but does not answer within 0.1 s.\nhint: ")
    assert str(state / "daemon.lock") in outcome.err
    assert not (state / "daemon.log").exists()
