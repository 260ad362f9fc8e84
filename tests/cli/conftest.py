"""The command line under test, in this process or in one of its own, with a daemon that the test controls."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.main import execute

from .fake_daemon import PATIENCE, FakeDaemon


class Outcome:
    """What a command left: exit status and the bytes of both streams."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out
        self.err = err.decode()

    def __repr__(self) -> str:
        return f"Outcome({self.status}, {self.out!r}, {self.err!r})"


class _Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes | None) -> None:
        super().__init__(io.BytesIO(data or b""))
        self._terminal = data is None

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of the test's own, with a path that is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    """A scripted daemon that answers on the socket of the state directory."""
    fake = FakeDaemon(state)
    yield fake
    fake.close()


@pytest.fixture
def cli(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in this process; standard input is a terminal unless ``stdin`` is given."""

    def run(*arguments: str, stdin: bytes | None = None) -> Outcome:
        monkeypatch.setattr(sys, "stdin", _Stdin(stdin))
        capsysbinary.readouterr()
        status = execute(list(arguments))
        out, err = capsysbinary.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def spawn(state: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command line as a process of its own; one that is still there at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "holdfast", *arguments]
        process = subprocess.Popen[bytes](command, env=os.environ, **{**pipes, **options})
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)
