"""What signals, closed pipes and impatience do to a command, and what they do not do to its task."""

from __future__ import annotations

import _thread
import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

import pytest

from holdfast.daemon.client import DaemonClient
from holdfast.tasks.result import Status

from .fake_daemon import PATIENCE, FakeDaemon

Spawn = Callable[..., "subprocess.Popen[bytes]"]


def read_until(stream: IO[bytes] | None, text: bytes) -> bytes:
    """Read until *text* was seen; the test's own time limit bounds it."""
    assert stream is not None
    seen = b""
    while text not in seen:
        chunk = os.read(stream.fileno(), 4096)
        assert chunk, f"ended without {text!r}: {seen!r}"
        seen += chunk
    return seen


def test_ctrl_c_cancels_and_waits_for_the_result(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    task = daemon.next_task()
    assert task.cancels == 1
    assert process.returncode == 130
    assert f"Cancelling task {task.id}".encode() in err
    assert b"The task was cancelled. (cancelled)" in err


def test_a_task_that_finishes_in_spite_of_ctrl_c_is_shown_as_what_it_is(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    task = daemon.next_task()
    task.finish_on_cancel = False
    process.send_signal(signal.SIGINT)
    daemon.wait_for_request("POST", "/cancel")
    task.finish(b"just in time", Status.COMPLETED)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"just in time")


def test_a_second_ctrl_c_leaves_at_once(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    task = daemon.next_task()
    task.finish_on_cancel = False
    process.send_signal(signal.SIGINT)
    # The second stream is opened behind the cancel: from here on it is waiting again.
    daemon.wait_for_request("GET", "/progress", count=2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert task.cancels == 1
    assert f"Task {task.id} is being ended".encode() in err


def test_a_ctrl_c_just_before_the_waiting_begins_is_heard(daemon: FakeDaemon) -> None:
    task = daemon.add()
    heard = threading.Event()
    in_time: list[bool] = []

    def interrupt() -> None:
        daemon.wait_for_request("GET", "/progress")
        # As a signal does then: it interrupts no system call.
        _thread.interrupt_main()
        in_time.append(heard.wait(PATIENCE / 4))
        task.finish()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        list(DaemonClient(daemon.directory / "daemon.sock").progress(task.id))
    heard.set()
    interrupting.join()
    assert in_time == [True]


def test_whoever_is_very_impatient_gets_the_cancel_through_all_the_same(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    task = daemon.next_task()
    task.finish_on_cancel = False
    task.answer_first_cancel.clear()
    process.send_signal(signal.SIGINT)
    daemon.wait_for_request("POST", "/cancel")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    task.answer_first_cancel.set()
    assert process.returncode == 130
    assert task.cancels == 2
    assert f"Task {task.id} is being ended".encode() in err


def test_sigterm_leaves_the_task_running_and_says_so(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    task = daemon.next_task()
    assert process.returncode == -signal.SIGTERM
    assert f"Task {task.id} goes on; pick it up with: holdfast wait {task.id}".encode() in err
    assert task.cancels == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_command_that_dies_changes_nothing_about_its_task(spawn: Spawn, daemon: FakeDaemon, cli, number: int) -> None:
    process = spawn("run", "codex", "go")
    daemon.wait_for_request("GET", "/progress")
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    task = daemon.next_task()
    assert task.cancels == 0
    task.finish(b"the answer")
    assert cli("wait", task.id).out == b"the answer"


def test_ctrl_c_on_wait_only_stops_the_waiting(spawn: Spawn, daemon: FakeDaemon) -> None:
    task = daemon.add()
    process = spawn("wait", task.id)
    daemon.wait_for_request("GET", "/progress")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert task.cancels == 0


def without_reader(spawn: Spawn, arguments: list[str]) -> tuple[int, bytes]:
    """Exit status and standard error of a command whose standard output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn(*arguments, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


@pytest.mark.parametrize("arguments", [["run", "codex", "go"], ["run", "codex", "go", "--json"]])
def test_a_closed_pipe_is_no_matter_for_noise(spawn: Spawn, daemon: FakeDaemon, arguments: list[str]) -> None:
    daemon.on_create = lambda task: task.finish(b"x" * 1_000_000)
    assert without_reader(spawn, arguments) == (141, b"")


def test_an_output_that_cannot_be_written_is_not_success(spawn: Spawn, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"the answer")
    with open("/dev/full", "wb") as full:
        process = spawn("run", "codex", "go", stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 74
    assert b"No space left on device" in err
    assert b"hint: The result is stored: holdfast list shows it" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["host", "--help"],
        ["host", "list", "--help"],
        ["version"],
        ["completion", "bash"],
        ["list", "--json", "--nonsense"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whatever_is_printed_it_is_said_that_it_cannot_be(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, arguments: list[str], unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as full:
        process = spawn(*arguments, stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 74
    assert err.endswith(
        b"error: Standard output cannot be written: No space left on device.\nhint: Send it to another place.\n"
    )
    assert b"Traceback" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["gc", "--help"]])
def test_a_reader_that_has_gone_needs_no_help(spawn: Spawn, arguments: list[str]) -> None:
    assert without_reader(spawn, arguments) == (141, b"")


def test_a_live_view_ends_with_its_reader(spawn: Spawn, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.say("tool", "Bash: ls")
    process = spawn("logs", "-f", task.id)
    read_until(process.stdout, b"Bash: ls")
    assert process.stdout is not None
    process.stdout.close()
    task.say("tool", "Bash: pwd")
    task.say("tool", "Bash: id")
    process.wait(timeout=PATIENCE)
    assert process.returncode == 141


def test_what_a_process_wrote_to_standard_error_goes_there_or_is_no_success(spawn: Spawn, daemon: FakeDaemon) -> None:
    task = daemon.add()
    said = base64.b64encode(b"some words\n").decode()
    task.log = [{"attempt": 1, "seq": 1, "kind": "stderr", "time": 1.5, "data_base64": said}]
    task.finish()
    with open("/dev/full", "wb") as full:
        process = spawn("logs", "--raw", task.id, stderr=full)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 74
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("logs", "--raw", task.id, stderr=writer)
    os.close(writer)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 141


#: Ctrl-C just when the module is imported that the first argument names.
INTERRUPTED_IMPORT = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            raise KeyboardInterrupt
interrupted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
from holdfast.cli.entry import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [("click", "list"), ("holdfast.cli.list", "list"), ("holdfast.companion.inspection", "companion status")],
)
@pytest.mark.usefixtures("state")
def test_ctrl_c_before_anything_is_done_is_no_fault_of_ours(module: str, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, *command.split()],
        check=False,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, b"", b"")
