"""Whoever needs the daemon gets one that answers, or the reason why there is none."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.directories import socket_path
from tests.host.harness import everything_below
from tests.system.conftest import PATIENCE, Installation, command_line, installation

__all__ = ["installation"]


def test_the_first_command_starts_a_daemon_that_answers(installation: Installation) -> None:
    completed = installation.run("run", "rehearsal", "rehearse: say hello")
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, b"hello", b"")
    assert installation.daemon_pid() is not None


def test_many_first_commands_start_one_daemon(installation: Installation) -> None:
    started = [installation.start("start", "rehearsal", "rehearse: say hello") for _ in range(6)]
    for process in started:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    log = (installation.state / "daemon.log").read_text()
    assert log.count(": serving ") == 1


def test_what_the_daemon_leaves_lying_is_for_nobody_else(installation: Installation) -> None:
    installation.run("run", "rehearsal", "rehearse: say hello")
    looked_at = 0
    for path, status in everything_below(installation.state):
        looked_at += 1
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0, f"{path} has mode {status.st_mode:o}"
    assert looked_at > 10


def test_a_stale_socket_is_no_daemon(installation: Installation) -> None:
    installation.state.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(installation.state / "daemon.sock"))
    assert installation.run("run", "rehearsal", "rehearse: say hello").stdout == b"hello"


def test_a_daemon_that_dies_at_once_is_explained_with_its_own_words(installation: Installation) -> None:
    installation.state.mkdir(mode=0o700)
    with sqlite3.connect(installation.state / "holdfast.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    (installation.state / "holdfast.db").chmod(0o600)
    completed = installation.run("run", "rehearsal", "hello")
    assert completed.returncode != 0
    said = completed.stderr.decode()
    assert "newer" in said
    assert "hint:" in said
    assert "Traceback" not in said


def test_a_disk_that_takes_nothing_is_explained_in_a_sentence(installation: Installation) -> None:
    # A file may have no byte: as on a disk that is full before there is anything.
    completed = subprocess.run(
        ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", *installation.command("list")],
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert completed.returncode == 127
    assert f"Nothing can be written in {installation.state}: " in completed.stderr
    assert "hint: Make room there" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_where_no_daemon_can_start_the_command_does_the_work_and_says_so(installation: Installation) -> None:
    installation.state.mkdir(mode=0o700)
    (installation.state / "daemon.log").mkdir()
    completed = installation.run("run", "rehearsal", "rehearse: say by myself")
    assert (completed.returncode, completed.stdout) == (0, b"by myself"), completed.stderr.decode()
    assert b"No daemon could be started" in completed.stderr
    # What it did is as durable as anything: a later daemon knows it.
    (installation.state / "daemon.log").rmdir()
    tasks = installation.json("list", "--all")["tasks"]
    assert [task["status"] for task in tasks] == ["completed"]


def test_a_directory_that_others_can_read_is_refused(installation: Installation) -> None:
    installation.state.mkdir(mode=0o755)
    installation.state.chmod(0o755)
    completed = installation.run("run", "rehearsal", "hello")
    assert completed.returncode == 2
    assert "chmod 700" in completed.stderr.decode()
    installation.state.chmod(0o700)


def test_one_directory_has_one_daemon(installation: Installation) -> None:
    installation.run("up")
    second = installation.run("up", "--foreground")
    assert second.returncode == 2
    assert "already" in second.stderr.decode()


def test_a_daemon_that_is_about_to_end_is_waited_for(installation: Installation) -> None:
    installation.state.mkdir(mode=0o700)
    with (installation.state / "daemon.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = installation.start("run", "rehearsal", "rehearse: say hello")
        deadline = time.monotonic() + PATIENCE
        # The successor is there, and has found the directory taken or will find it free.
        while not any("--ready-fd" in command_line(process) for process in installation.processes()):
            assert time.monotonic() < deadline and command.poll() is None
            time.sleep(0.02)
    out, errors = command.communicate(timeout=PATIENCE)
    assert (out, errors) == (b"hello", b"")


def test_a_daemon_outlives_whoever_started_it(installation: Installation) -> None:
    command = installation.start("run", "rehearsal", "rehearse: say hello")
    deadline = time.monotonic() + PATIENCE
    while not any("--ready-fd" in command_line(process) for process in installation.processes()):
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.02)
    command.kill()
    command.communicate()
    started = [installation.start("run", "rehearsal", "rehearse: say hello") for _ in range(3)]
    for process in started:
        assert process.communicate(timeout=PATIENCE) == (b"hello", b"")
    assert (installation.state / "daemon.log").read_text().count(": serving ") == 1


def test_an_idle_daemon_ends_and_takes_its_host_along(installation: Installation) -> None:
    installation.run("up", "--idle-exit", "0.2")
    deadline = time.monotonic() + PATIENCE
    while installation.processes():
        assert time.monotonic() < deadline, "the daemon or its host stays for ever"
        time.sleep(0.1)


def test_a_daemon_with_work_is_not_idle(installation: Installation) -> None:
    gate = installation.workspace / "gate"
    prompt = f"rehearse: wait-for {gate}\nrehearse: say patience"
    task = installation.run("start", "rehearsal", prompt).stdout.decode().strip()
    installation.run("down")
    installation.run("up", "--idle-exit", "0.2")
    daemon = installation.daemon_pid()
    # Five times as long as it would stay without work; nobody asks it for anything.
    time.sleep(1.0)
    assert daemon is not None
    assert installation.daemon_pid() == daemon
    gate.touch()
    assert installation.run("wait", task).returncode == 0
    assert installation.run("result", task).stdout == b"patience"


def test_down_leaves_the_work_and_up_takes_it_up(installation: Installation) -> None:
    installation.run("up")
    gate = installation.workspace / "gate"
    task = installation.run("start", "rehearsal", f"rehearse: wait-for {gate}\nrehearse: say later").stdout.decode()
    stopped = installation.run("down")
    assert stopped.returncode == 0
    assert installation.daemon_pid() is None
    gate.touch()
    assert installation.run("wait", task.strip()).returncode == 0
    assert installation.run("result", task.strip()).stdout == b"later"


@pytest.mark.slow
def test_down_says_of_a_host_that_hangs_that_nobody_knows_what_runs_there(installation: Installation) -> None:
    installation.run("up")
    gate, begun = installation.workspace / "gate", installation.workspace / "begun"
    prompt = f"rehearse: touch {begun}\nrehearse: wait-for {gate}\nrehearse: say later"
    task = installation.run("start", "rehearsal", prompt).stdout.decode().strip()
    deadline = time.monotonic() + PATIENCE
    while not begun.exists():
        assert time.monotonic() < deadline, installation.run("status", task).stdout
        time.sleep(0.02)
    hosts = [process for process in installation.processes() if "holdfast.host" in command_line(process)]
    assert len(hosts) == 2
    for process in hosts:
        process.suspend()
    stopped = installation.run("down")
    said = stopped.stderr.decode()
    assert (stopped.returncode, stopped.stdout) == (127, b""), said
    assert "The daemon is stopped, but what still runs in its host is not known: The host does not answer" in said
    assert installation.daemon_pid() is None
    for process in hosts:
        process.resume()
    gate.touch()
    assert installation.run("wait", task).returncode == 0
    assert installation.run("result", task).stdout == b"later"


def test_sigterm_is_a_clean_end(installation: Installation) -> None:
    process = installation.start("up", "--foreground")
    deadline = time.monotonic() + PATIENCE
    while not (installation.state / "daemon.sock").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    process.communicate()
    assert not (installation.state / "daemon.sock").exists()


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    installation = Installation(deep)
    try:
        # Nor is a temporary directory that is as deep, and another for each command.
        for name in ("one", "two"):
            temporary = deep / name
            temporary.mkdir()
            installation.environment["TMPDIR"] = str(temporary)
            assert installation.run("run", "rehearsal", "rehearse: say deep").stdout == b"deep"
        assert (installation.state / "daemon.log").read_text().count(": serving ") == 1
    finally:
        installation.down()
        for directory in (installation.state, installation.state / "host"):
            shutil.rmtree(socket_path(directory, "any").parent)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One daemon for those who ask it for nothing that it does."""
    installation = Installation(tmp_path_factory.mktemp("serving"))
    installation.run("up")
    yield installation
    installation.down()


@pytest.mark.parametrize("path", ["/v1/tasks/nosuchtask", "/v1/nothing"])
def test_what_is_not_there_is_404(serving: Installation, path: str) -> None:
    status, body = ask(serving, "GET", path)
    assert status == 404
    if path != "/v1/nothing":
        assert json.loads(body)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"request": {}}', b"\xff\xfe", b'{"request": null, "prompt_base64": "!", "environment": {}}'],
)
def test_a_body_that_is_no_request_is_refused_with_a_reason(serving: Installation, body: bytes) -> None:
    status, answer = ask(serving, "POST", "/v1/tasks", body)
    assert status == 400
    error = json.loads(answer)["error"]
    assert error["code"] == "rejected"
    assert error["message"] and error["hint"]
    assert serving.json("list", "--all")["tasks"] == []


def test_the_change_feed_tells_of_a_task_from_its_beginning_to_its_end(installation: Installation) -> None:
    installation.run("run", "rehearsal", "rehearse: say hello", "--task-id", "followed-task")
    _, body = ask(installation, "GET", "/v1/changes?after=0")
    changes = [json.loads(line) for line in body.splitlines()]
    assert [change["seq"] for change in changes] == list(range(1, len(changes) + 1))
    ours = [change for change in changes if change["table"] == "tasks"]
    assert {tuple(change["key"]) for change in ours} == {("followed-task",)}
    assert [change["operation"] for change in ours][:1] == ["insert"]
    status, body = ask(installation, "GET", "/v1/changes?after=999999")
    assert (status, json.loads(body)["error"]["code"]) == (409, "cursor_expired")


def ask(installation: Installation, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request over the socket, written by hand."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(installation.state / "daemon.sock"))
        head = f"{method} {path} HTTP/1.1\r\nHost: holdfast\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" in head_bytes:
        rest = _unchunk(rest)
    return int(head_bytes.split()[1]), rest


def _unchunk(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        whole += data[:length]
        data = data[length + 2 :]
    return whole


def test_a_daemon_without_room_for_another_process_says_so(installation: Installation) -> None:
    """The agent's program is gone between the request and the start: a result, not a crash."""
    program = installation.workspace / "agent"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    Path(installation.environment["HOLDFAST_CONFIG"]).write_text(
        f'[agents.mine]\ncommand = ["{program}"]\ndialect = "text"\nsandbox = {{ read-only = [] }}\n'
    )
    assert installation.run("run", "mine", "hello").stdout == b"hello\n"
    subprocess.run(["rm", program], check=True)
    completed = installation.run("run", "mine", "hello")
    assert completed.returncode == 127
    assert os.fspath(program) in completed.stderr.decode()
