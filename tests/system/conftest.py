"""One installation of Holdfast per test: its own state directory, and the proof that nothing of it is left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema.validators import Draft202012Validator

from holdfast.tasks.result import SCHEMA

#: Every result of every test is held against the published schema.
_RESULTS = Draft202012Validator(
    json.loads(resources.files("holdfast").joinpath("schemas", "result-1.json").read_bytes())
)

#: Bounds every wait of these tests; generous, because machines that run tests are slow and nothing depends on it.
PATIENCE = 100.0


class Installation:
    """A state directory, and the command that works on it.

    :param beside: whose state directory it is too, and whose daemon; else it has its own
    """

    def __init__(self, directory: Path, *, beside: Installation | None = None) -> None:
        self.state = directory / "state" if beside is None else beside.state
        self.workspace = directory / "workspace"
        self.workspace.mkdir()
        #: What the words of its processes and of their environments contain.
        self._marks = [str(self.state), str(self.workspace)] if beside is None else [f"{directory}/"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
            "HOLDFAST_STATE_DIR": str(self.state),
            "HOLDFAST_CONFIG": str(directory / "config.toml"),
            "HOLDFAST_REHEARSAL_HOME": str(directory / "rehearsal"),
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``holdfast ARGUMENTS``."""
        return [sys.executable, "-m", "holdfast", *arguments]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start ``holdfast ARGUMENTS`` with its output in pipes."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = self.command(*arguments)
        process: Any = subprocess.Popen(command, env=self.environment, cwd=self.workspace, **options)
        return process

    def run(self, *arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run ``holdfast ARGUMENTS`` to its end."""
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.workspace,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    def json(self, *arguments: str, exit_code: int | None = 0, input: bytes | None = None) -> Any:
        """What ``holdfast ARGUMENTS --json`` prints."""
        completed = self.run(arguments[0], "--json", *arguments[1:], input=input)
        if exit_code is not None:
            assert completed.returncode == exit_code, completed.stderr.decode()
        document = json.loads(completed.stdout)
        if isinstance(document, dict) and document.get("schema") == SCHEMA:
            assert not [error.message for error in _RESULTS.iter_errors(document)]
        return document

    def daemon_pid(self) -> int | None:
        """The process id of the daemon, if one is alive."""
        try:
            pid = int((self.state / "daemon.lock").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid in {process.pid for process in self.processes()} else None

    def kill_daemon(self) -> bool:
        """SIGKILL the daemon; ``False`` when there is none."""
        pid = self.daemon_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def processes(self) -> list[psutil.Process]:
        """Every living process that works for this installation, our own commands included; beside another, here."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if any(mark in word for mark in self._marks for word in words):
                found.append(process)
        return found

    def down(self) -> None:
        """End everything, and prove that nothing is left."""
        self.run("down", "--cancel")
        deadline = time.monotonic() + PATIENCE
        while (left := self.processes()) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=1.0)
        for process in left:
            process.kill()
        assert not left, f"left over: {[' '.join(process.cmdline()) for process in left]}"


def command_line(process: psutil.Process) -> list[str]:
    """The words that *process* was started with; none if it has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def programs(installation: Installation, name: str) -> list[psutil.Process]:
    """Processes of *installation* that run the program *name*."""
    return [
        process
        for process in installation.processes()
        if [Path(word).name for word in command_line(process)[:1]] == [name]
    ]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A fresh installation; afterwards nothing of it may be running."""
    holdfast = Installation(tmp_path)
    yield holdfast
    holdfast.down()
