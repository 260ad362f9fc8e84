"""``--listen stdio`` with pipes, files, devices, sockets and terminals, and with nothing at all."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import time
import tty
from pathlib import Path
from typing import IO, Any

import pytest

from .harness import BOTH, BOUND, needed_codex

REQUESTS = (
    b'{"id":1,"method":"initialize","params":{"clientName":"x"}}\n'
    b'{"method":"initialized"}\n'
    b'{"id":2,"method":"environment/status"}\n'
)
LAST = b'{"id":2,"result":{"status":"ready"}}\n'
OURS = [sys.executable, "-m", "holdfast.host", "--listen", "stdio"]


@pytest.fixture(params=BOTH)
def command(request: pytest.FixtureRequest, codex_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that serves standard input and output, of ours and of the reference."""
    monkeypatch.setenv("CODEX_HOME", str(codex_home))
    return OURS if request.param == "holdfast" else [needed_codex(), "exec-server", "--listen", "stdio"]


def run(command: list[str], stdin: int | IO[Any], stdout: int | IO[Any] = subprocess.PIPE) -> Any:
    return subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=BOUND)


def conversation(server: subprocess.Popen[bytes], write: int, read: int) -> None:
    """Ask and hear; what comes is read until it is all there."""
    os.write(write, REQUESTS)
    heard = b""
    while not heard.endswith(LAST):
        part = os.read(read, 65536)
        assert part, (heard, server.poll())
        heard += part.replace(b"\r\n", b"\n")
    assert heard.count(b'"sessionId"') == 1


def test_an_input_without_anything_in_it_is_the_end(command: list[str]) -> None:
    ended = run(command, subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_input_may_be_a_file(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "requests").write_bytes(REQUESTS)
    with open(tmp_path / "requests", "rb") as requests:
        ended = run(command, requests)
    assert ended.returncode == 0
    if command == OURS:
        # The reference sees the end before it has answered anything.
        assert ended.stdout.endswith(LAST)


def test_output_may_be_a_file(command: list[str], tmp_path: Path) -> None:
    with (
        open(tmp_path / "answers", "w+b") as answers,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answers, stderr=subprocess.DEVNULL) as server,
    ):
        assert server.stdin
        server.stdin.write(REQUESTS + b"garbage\n")
        server.stdin.flush()
        deadline = time.monotonic() + BOUND
        while b"failed to parse" not in (tmp_path / "answers").read_bytes():
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.01)
        server.stdin.close()
        assert server.wait(BOUND) == 0
    assert LAST in (tmp_path / "answers").read_bytes()


def test_input_and_output_may_be_one_socket(command: list[str]) -> None:
    ours, theirs = socket.socketpair()
    end = theirs.fileno()
    with ours, subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.DEVNULL) as server:
        theirs.close()
        conversation(server, ours.fileno(), ours.fileno())
        ours.shutdown(socket.SHUT_WR)
        assert server.wait(BOUND) == 0


@pytest.mark.parametrize("one_socket", [False, True], ids=["pipes", "one socket"])
def test_the_last_line_needs_no_line_feed(one_socket: bool) -> None:
    if not one_socket:
        ended = subprocess.run(OURS, input=REQUESTS.rstrip(), stdout=subprocess.PIPE, check=True, timeout=BOUND)
        assert ended.stdout.endswith(LAST)
        return
    ours, theirs = socket.socketpair()
    end = theirs.fileno()
    with ours, subprocess.Popen(OURS, stdin=end, stdout=end, stderr=subprocess.DEVNULL) as server:
        theirs.close()
        ours.sendall(REQUESTS.rstrip())
        ours.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as answers:
            assert answers.read().endswith(LAST)
        assert server.wait(BOUND) == 0


def test_input_and_output_may_be_a_terminal(command: list[str]) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as server:
        os.close(theirs)
        conversation(server, ours, ours)
        os.close(ours)
        server.wait(BOUND)


def test_what_is_closed_is_empty(command: list[str]) -> None:
    ended = run(["sh", "-c", 'exec "$@" <&- >&-', "sh", *command], subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (0, b"")


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_answers_that_cannot_be_written_are_an_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "requests").write_bytes(REQUESTS)
    reading = ["cat", str(tmp_path / "requests")]
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(reading, stdout=subprocess.PIPE) as pipe,
        open(tmp_path / "requests", "rb") as file,
    ):
        assert pipe.stdout
        ended = run(OURS, file if source == "file" else pipe.stdout, full)
    assert ended.returncode == 74
    assert ended.stderr.startswith(b"Error: Standard input or output failed: No space left on device.\n")


def test_a_url_that_cannot_be_told_ends_the_host(state: Path) -> None:
    command = [sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)]
    with open("/dev/full", "wb") as full:
        ended = run(command, subprocess.DEVNULL, full)
    assert ended.returncode == 74
    assert ended.stderr.startswith(b"Error: Standard input or output failed: No space left on device.\n")


def test_a_url_is_told_as_it_is_whatever_the_encoding(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As most locales have it.
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    url = b"unix://" + os.fsencode(tmp_path) + b"/\xff"
    command = [*OURS[:3], "--listen", os.fsdecode(url), "--state-dir", str(state), "--idle-exit", "0"]
    ended = run(command, subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, url + b"\n", b"")


@pytest.mark.parametrize("listen", [[], ["--listen", "stdio"]], ids=["keeper", "stdio"])
def test_help_that_cannot_be_told_is_an_error(listen: list[str]) -> None:
    # Else the parser of the options finds that out, and says nothing.
    command = [sys.executable, "-m", "holdfast.host", *listen, "--help"]
    with open("/dev/full", "wb") as full:
        ended = run(command, subprocess.DEVNULL, full)
    assert ended.returncode == 74
    assert ended.stderr.startswith(b"Error: Standard input or output failed: No space left on device.\n")
    ended = run(["sh", "-c", 'exec "$@" >&-', "sh", *command], subprocess.DEVNULL)
    assert ended.returncode == 74
    assert ended.stderr.startswith(b"Error: Standard input or output failed: Bad file descriptor.\n")
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(command, subprocess.DEVNULL, writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("listen", [[], ["--listen", "stdio"]], ids=["keeper", "stdio"])
def test_a_refusal_that_nobody_can_be_told_is_one_still(listen: list[str]) -> None:
    command = [sys.executable, "-m", "holdfast.host", *listen, "--unheard-of"]
    for nowhere in ("2>&-", "2>/dev/full"):
        ended = run(["sh", "-c", f'exec "$@" {nowhere}', "sh", *command], subprocess.DEVNULL)
        assert (ended.returncode, ended.stdout) == (2, b"")
