"""A shell completes commands, options, agents and the ids of tasks, and starts no daemon for it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.daemon.client import daemon_socket

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


def completed_by_bash(*words: str) -> set[str]:
    """What bash itself makes of the offers for the last of *words*, with the script that it is given."""
    finished = subprocess.run(
        ["bash", "--norc", "-c", _BASH, "bash", *words], capture_output=True, timeout=PATIENCE, check=True
    )
    return set(finished.stdout.decode().splitlines())


#: The words of a command line are there as they were typed.
_BASH = f"""
holdfast() {{ {shlex.quote(sys.executable)} -m holdfast "$@"; }}
env() {{ while [[ $1 == *=* ]]; do local -x "$1"; shift; done; "$@"; }}
eval "$(holdfast completion bash)"
COMP_WORDS=(holdfast "$@") COMP_CWORD=$#
_holdfast_completion holdfast
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_commands_and_options(state: Path) -> None:
    assert complete("res") == {"result", "resume"}
    assert complete("run", "codex", "--idle") == {"--idle-timeout"}


def test_options_of_the_host(state: Path) -> None:
    assert complete("exec-server", "--st") == {"--state-dir"}
    assert complete("exec-server", "--listen", "unix://", "--log-") == {"--log-format", "--log-level"}
    assert complete("exec-server", "--listen", "unix://", "") >= {"--listen", "--ws-auth"}


@pytest.mark.parametrize("command", [["exec-server"], ["service", "systemd", "exec-server", "--name", "b", "--"]])
def test_values_of_options_of_the_host(state: Path, command: list[str]) -> None:
    assert complete(*command, "--root", "/", "--st") == {"--state-dir"}
    assert complete(*command, "--ws-auth", "") == {"capability-token", "signed-bearer-token"}
    assert complete(*command, "--log-format", "j") == {"json"}
    # Bash makes three words of it.
    assert complete(*command, "--log-level", "=", "w") == {"warning"}
    assert complete(*command, "--listen", "") == set()
    assert offered("bash", *command, "--state-dir", "/")[0].startswith("dir,")
    assert offered("bash", *command, "--ws-token-file", "")[0].startswith("file,")


def test_options_of_the_host_come_behind_the_dashes_of_a_service(state: Path) -> None:
    assert complete("service", "systemd", "exec-server", "--", "") >= {"--listen", "--ws-auth"}
    assert complete("service", "systemd", "exec-server", "") == set()
    assert complete("service", "systemd", "exec-server", "--st") == set()
    assert complete("service", "systemd", "daemon", "--", "--st") == set()


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


def test_a_daemon_that_hangs_is_asked_for_the_tasks_alone(state: Path) -> None:
    """Nobody waits that long for whether it is there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon_socket(state)))
        listener.listen()
        assert complete("result", "x") == set()
        asked, _ = listener.accept()
        with asked:
            assert asked.recv(1000).startswith(b"GET /v1/tasks?")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(cli: Callable[..., Any], shell: str) -> None:
    outcome = cli("completion", shell)
    assert outcome.status == 0
    assert b"_HOLDFAST_COMPLETE" in outcome.out


def ask(output: int, **variables: str) -> tuple[int, str]:
    """Ask as a shell's script does; exit status and what is said about it."""
    finished = subprocess.run(
        [sys.executable, "-m", "holdfast"],
        env={**os.environ, "COMP_WORDS": "holdfast res", "COMP_CWORD": "1", **variables},
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    return finished.returncode, finished.stderr.decode()


def test_offers_that_nobody_can_have_end_as_any_output_does(state: Path) -> None:
    with open("/dev/full", "wb") as full:
        status, told = ask(full.fileno(), _HOLDFAST_COMPLETE="bash_complete")
    assert status == 74
    assert told.startswith("error: Standard output cannot be written: No space left on device.\nhint: ")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ask(writer, _HOLDFAST_COMPLETE="zsh_complete") == (141, "")
    finally:
        os.close(writer)


def test_who_is_no_script_is_told_what_the_variable_is_for(state: Path) -> None:
    for instruction in ("tcsh_complete", "bash", ""):
        status, told = ask(subprocess.DEVNULL, _HOLDFAST_COMPLETE=instruction)
        assert status == 2
        assert told.startswith("error: _HOLDFAST_COMPLETE is for the completion script of a shell.\nhint: ")


def test_a_broken_configuration_offers_nothing(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("[agents.x]\ncommand = 7\n")
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    assert complete("run", "c") == set()
