"""A shell completes commands, options, agents and the ids of tasks, and starts no daemon for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .fake_daemon import PATIENCE, FakeDaemon


def offered(shell: str, *words: str) -> list[str]:
    """The lines that *shell* gets for the last of *words*."""
    environment = {
        **os.environ,
        "_HOLDFAST_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["holdfast", *words]),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    command = [sys.executable, "-m", "holdfast"]
    finished = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=True)
    return finished.stdout.decode().splitlines()


def complete(*words: str) -> set[str]:
    """What bash would be offered for the last of *words*."""
    return {line.partition(",")[2] for line in offered("bash", *words) if line}


def test_commands_and_options(state: Path) -> None:
    assert complete("res") == {"result", "resume"}
    assert complete("run", "codex", "--idle") == {"--idle-timeout"}


def test_options_of_the_host(state: Path) -> None:
    assert complete("exec-server", "--st") == {"--state-dir"}
    assert complete("exec-server", "--listen", "unix://", "--log-") == {"--log-format", "--log-level"}


def test_agents(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    assert complete("run", "c") >= {"codex", "claude"}


def test_ids_of_tasks(daemon: FakeDaemon) -> None:
    done, running = daemon.add(), daemon.add()
    done.finish(b"")
    assert complete("result", "task") == {done.id, running.id}
    assert complete("cancel", "task") == {running.id}


def test_no_daemon_is_started_for_it(state: Path) -> None:
    assert complete("result", "x") == set()
    assert not list(state.iterdir())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(cli: Callable[..., Any], shell: str) -> None:
    outcome = cli("completion", shell)
    assert outcome.status == 0
    assert b"_HOLDFAST_COMPLETE" in outcome.out
