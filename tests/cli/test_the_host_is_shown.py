"""``holdfast host status``: what a running host keeps, from the host itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Outcome
from .fake_daemon import PATIENCE


@pytest.fixture
def host(state: Path) -> Iterator[str]:
    """A real host of the state directory; its URL."""
    command = [sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state / "host")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.terminate()
        process.wait(PATIENCE)


def test_people_read_it(host: str, state: Path, cli: Callable[..., Outcome]) -> None:
    for arguments in ([], ["--url", host]):
        outcome = cli("host", "status", *arguments)
        assert (outcome.status, outcome.err) == (0, "")
        lines = dict(line.split(":", 1) for line in outcome.out.decode().splitlines())
        assert set(lines) == {
            "host",
            "up",
            "directory",
            "processes",
            "clients",
            "memory",
            "disk",
            "endings",
            "retained",
        }
        assert "running, keeper" in lines["host"]
        assert lines["processes"].strip() == "none"
        assert lines["retained"].strip() == "0 B of 20.0 GiB"
        assert lines["directory"].strip() == str(state / "host")


def test_programs_read_it(host: str, cli: Callable[..., Outcome]) -> None:
    found = json.loads(cli("host", "status", "--json").out)
    assert found["running"] is True
    assert found["connections"] == 1
    assert found["processes"] == {"running": 0, "exited": 0, "closed": 0, "lost": 0}
    assert found["memory"]["server"] > 0
    assert found["disk"]["free"] > 0
    assert found["retention"] == {"kept": 0, "budget": 20 * 1024**3}


def test_none_is_started_for_it(state: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("host", "status")
    assert (outcome.status, outcome.out) == (0, b"No host is running; a task that needs one starts it.\n")
    assert json.loads(cli("host", "status", "--json").out) == {"running": False}
    assert not (state / "host").exists()


def test_one_that_was_named_has_to_answer(state: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("host", "status", "--url", f"unix://{state}/nobody.sock")
    assert outcome.status == 127
    assert "No host answers" in outcome.err


def test_what_each_command_does_is_said_in_a_whole_sentence(cli: Callable[..., Outcome]) -> None:
    for group in ("host", "model", "plugin"):
        told = cli(group, "--help").out.decode()
        assert "...\n" not in told.partition("\n")[2]
    assert (
        "  list    List the processes that the host keeps, ended ones included.\n" in cli("host", "--help").out.decode()
    )
