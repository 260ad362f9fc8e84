"""The whole of it once: a person at a terminal, a daemon that was not running, an agent, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .fake_daemon import PATIENCE


@pytest.fixture(scope="module", autouse=True)
def installation() -> Iterator[Path]:
    """A state directory with no daemon yet; at the end nothing of it may be left running."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOLDFAST_STATE_DIR", str(directory))
        environment.setenv("HOLDFAST_CONFIG", str(directory / "config.toml"))
        environment.setenv("TERM", "xterm")
        yield directory
        holdfast("down", "--cancel")
    left = [process for process in psutil.process_iter() if str(directory) in _command(process)]
    _, alive = psutil.wait_procs(left, timeout=PATIENCE)
    assert not alive
    shutil.rmtree(directory)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.environ().get("HOLDFAST_STATE_DIR", "")])
    except psutil.Error:
        return ""


def holdfast(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "holdfast", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)


class Typist:
    """A command with a controlling terminal of its own, and somebody who types into it."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "holdfast", *arguments])
        self.seen = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.terminal, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def finish(self) -> int:
        try:
            while chunk := os.read(self.terminal, 4096):
                self.seen += chunk
        except OSError:
            pass
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_ctrl_c_ends_the_task_and_leaves_the_daemon_alone() -> None:
    person = Typist("run", "rehearsal", "rehearse: notice at work\nrehearse: hang")
    person.read_until(b"at work")
    before = json.loads(holdfast("status", "--json").stdout)
    person.type(b"\x03")
    assert person.finish() == 130
    assert b"press Ctrl-C again to leave at once" in person.seen
    assert b"(cancelled)" in person.seen
    after = json.loads(holdfast("status", "--json").stdout)
    assert after["pid"] == before["pid"]
    assert after["tasks"]["active"] == 0


def test_two_ctrl_c_leave_at_once_and_the_task_ends_all_the_same() -> None:
    # It ignores SIGTERM, so its end takes a while: time enough to be impatient.
    person = Typist("run", "rehearsal", "rehearse: ignore-term\nrehearse: notice at work\nrehearse: hang")
    person.read_until(b"at work")
    person.type(b"\x03")
    person.read_until(b"press Ctrl-C again")
    person.type(b"\x03")
    assert person.finish() == 130
    assert b"is being ended" in person.seen
    task = json.loads(holdfast("list", "--json").stdout)["tasks"][0]
    assert holdfast("wait", task["id"]).returncode == 130


def test_a_killed_daemon_costs_a_waiting_caller_nothing(tmp_path: Path) -> None:
    go = tmp_path / "go"
    prompt = f"rehearse: notice at work\nrehearse: wait-for {go}\nrehearse: say the whole answer"
    command = ["run", "rehearsal", "--progress", "plain", "--cwd", str(tmp_path), prompt]
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    while line := process.stderr.readline():
        if b"at work" in line:
            break
    daemon = json.loads(holdfast("status", "--json").stdout)["pid"]
    os.kill(daemon, signal.SIGKILL)
    go.touch()
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"the whole answer")
    assert json.loads(holdfast("status", "--json").stdout)["pid"] != daemon


def test_up_says_what_runs_and_down_waits_until_it_is_gone() -> None:
    holdfast("down")
    assert holdfast("up").stdout.startswith(b"The daemon runs: process ")
    assert holdfast("up").stdout.startswith(b"The daemon runs already: process ")
    pid = json.loads(holdfast("status", "--json").stdout)["pid"]
    assert holdfast("down").stdout == b"The daemon is stopped.\n"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert holdfast("down").stdout == b"No daemon is running.\n"


def test_a_task_goes_on_without_its_daemon(tmp_path: Path) -> None:
    go = tmp_path / "go"
    started = holdfast("start", "rehearsal", "--cwd", str(tmp_path), f"rehearse: wait-for {go}\nrehearse: say done")
    task_id = started.stdout.decode().strip()
    assert holdfast("down").stdout == b"The daemon is stopped.  1 task goes on.\n"
    go.touch()
    assert holdfast("wait", task_id).stdout == b"done"
