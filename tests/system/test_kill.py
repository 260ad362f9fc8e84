"""kill -9 of the command, of the daemon, of both, at any point of a task: the result is right, and nothing is left."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time

import psutil
import pytest

from tests.system.conftest import PATIENCE, Installation, command_line

#: About a second of work with an end that can be checked: files, tool uses, a long answer.
DIRECTIONS = [
    "rehearse: edit one.txt first\\n",
    "rehearse: sleep 0.2",
    "rehearse: tools 10",
    "rehearse: sleep 0.2",
    "rehearse: edit two.txt second\\n",
    "rehearse: sleep 0.2",
    "rehearse: usage 1000 50",
    "rehearse: say-bytes 200000",
]
PROMPT = "\n".join(DIRECTIONS).encode()
LINE = b"The quick brown fox rehearses. "
ANSWER = (LINE * (200_000 // len(LINE) + 1))[:200_000]
VICTIMS = ["command", "daemon", "both"]


def start(installation: Installation, task_id: str) -> subprocess.Popen[bytes]:
    process = installation.start(
        *("run", "rehearsal", "--write", "--task-id", task_id, "--prompt-file", "-", "--json"), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(PROMPT)
    process.stdin.close()
    process.stdin = None
    return process


def check(installation: Installation, task_id: str) -> None:
    """The task ended right and complete, and ran once."""
    assert installation.run("wait", task_id).returncode == 0
    result = json.loads(installation.run("result", "--json", task_id).stdout)
    assert result["status"] == "completed"
    assert result["message"]["sha256"] == hashlib.sha256(ANSWER).hexdigest()
    assert installation.run("result", task_id).stdout == ANSWER
    assert result["tool_uses"]["by_type"] == {"file_change": 2, "search": 10}
    assert result["tool_uses"]["total"] == 12
    assert result["usage"]["input_tokens"] == 1000
    assert {file["path"]: file["change"] for file in result["files"]["changed"]} == {
        "one.txt": "added",
        "two.txt": "added",
    }
    assert [attempt["n"] for attempt in result["attempts"]] == [1]
    for name in ("one.txt", "two.txt"):
        (installation.workspace / name).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_point_costs_nothing(installation: Installation, seed: int) -> None:
    """Six random points for each seed, each with each victim in turn."""
    chance = random.Random(seed)
    installation.run("up")
    for round_number in range(6):
        victim = VICTIMS[(seed + round_number) % 3]
        task_id = f"victim-{seed}-{round_number}"
        process = start(installation, task_id)
        time.sleep(chance.uniform(0.0, 1.4))
        if victim != "daemon":
            process.kill()
        if victim != "command":
            installation.kill_daemon()
        output, errors = process.communicate(timeout=PATIENCE)
        if victim == "daemon":
            # The command that still lives finds, or starts, another daemon and brings its task home.
            assert process.returncode == 0, errors.decode()
            assert json.loads(output)["status"] == "completed"
        known = [task["id"] for task in installation.json("list", "--all")["tasks"]]
        if task_id not in known:
            # Killed before the task was accepted: then nothing of it was started.
            assert victim != "daemon"
            assert not (installation.workspace / "one.txt").exists()
            continue
        check(installation, task_id)
    unfinished = [task["id"] for task in installation.json("list", "--active")["tasks"]]
    assert unfinished == []


def test_a_daemon_killed_again_and_again_still_brings_the_task_home(installation: Installation) -> None:
    process = start(installation, "hard-times")
    for _ in range(5):
        time.sleep(0.3)
        # A command that could start no daemon does its work itself, and is not to be killed here.
        if installation.daemon_pid() != process.pid:
            installation.kill_daemon()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    check(installation, "hard-times")


def test_a_host_whose_server_is_killed_again_and_again_loses_nothing(installation: Installation) -> None:
    """The keeper holds what the server held: not a byte, not an exit status, not a second run."""
    process = start(installation, "hard-host")
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(killed) < 4 and process.poll() is None:
        assert time.monotonic() < deadline
        for server in servers(installation):
            if server.pid not in killed and time.sleep(0.15) is None:
                killed.add(server.pid)
                server.kill()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    assert killed
    check(installation, "hard-host")


def test_a_whole_host_that_is_killed_ends_the_task_in_the_truth(installation: Installation) -> None:
    """Without its host the agent's output has no reader: the task is aborted, said to be, and nothing is left."""
    process = installation.start("run", "rehearsal", "--task-id", "homeless-task", "rehearse: touch up\nrehearse: hang")
    deadline = time.monotonic() + PATIENCE
    while not (installation.workspace / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Stopped first, so that neither the keeper nor the server can take the other's place.
    parts = hosts(installation)
    assert len(parts) > 1
    for part in parts:
        part.suspend()
    for part in parts:
        part.kill()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 125
    result = json.loads(installation.run("result", "--json", "homeless-task").stdout)
    assert (result["status"], result["error"]["class"]) == ("aborted", "host_lost")
    assert result["exit"]["leftover_pids"] == []
    assert [each for each in installation.processes() if "rehearsal_program" in " ".join(command_line(each))] == []


def hosts(installation: Installation) -> list[psutil.Process]:
    """The processes of the host: keeper and server."""
    return [each for each in installation.processes() if "holdfast.host" in " ".join(command_line(each))]


def servers(installation: Installation) -> list[psutil.Process]:
    """The server of the host: the child of its keeper."""
    parts = {each.pid: each for each in hosts(installation)}
    found: list[psutil.Process] = []
    for each in parts.values():
        try:
            if each.ppid() in parts:
                found.append(each)
        except psutil.Error:
            # It has ended meanwhile.
            continue
    return found
