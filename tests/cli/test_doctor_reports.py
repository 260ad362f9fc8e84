"""``holdfast doctor`` says what is wrong and what mends it, and its exit status is one that a script can use."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.directories import socket_path

from .fake_daemon import FakeDaemon


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one agent that works: one that the configuration declares."""
    program = tmp_path / "helper"
    program.write_text("#!/bin/sh\necho 1.2.3\n")
    program.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text(f'[agents.helper]\ncommand = ["{program}"]\nversion_args = ["--version"]\n')
    monkeypatch.setenv("HOLDFAST_CONFIG", str(config))


@pytest.fixture
def loose(state: Path) -> Path:
    """A file of the state directory that others may read."""
    path = state / "notes"
    path.write_text("")
    path.chmod(0o644)
    return path


@pytest.mark.usefixtures("agent")
def test_a_machine_in_order(cli: Callable[..., Any], daemon: FakeDaemon) -> None:
    outcome = cli("doctor")
    assert outcome.status == 0, outcome
    text = outcome.out.decode()
    assert "The daemon answers: process" in text
    assert "The host is not running; it is started when it is needed." in text


@pytest.mark.usefixtures("agent")
def test_a_host_that_says_nothing_is_what_is_wrong(
    cli: Callable[..., Any], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.cli.doctor._PATIENCE", 0.1)
    (state / "host").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(socket_path(state / "host", "host.sock")))
        mute.listen()
        outcome = cli("doctor", "--json")
    assert outcome.status == 1
    (wrong,) = [each["finding"] for each in json.loads(outcome.out)["results"] if each["finding"]["level"] == "error"]
    assert wrong["summary"] == "The host does not answer."
    assert "takes connections, but does not answer" in wrong["detail"]
    assert str(state / "host" / "lock") in wrong["hint"]


@pytest.mark.usefixtures("agent")
def test_a_warning_counts_when_it_is_meant_to(cli: Callable[..., Any], loose: Path) -> None:
    outcome = cli("doctor")
    assert outcome.status == 0
    assert str(loose) in outcome.out.decode()
    assert "This can be mended: holdfast doctor --fix" in outcome.out.decode()
    assert cli("doctor", "--strict").status == 1
    assert loose.stat().st_mode & 0o077 != 0, "looking changed something"


@pytest.mark.usefixtures("agent")
def test_looking_makes_no_directory_of_sockets(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / ("d" * 100)
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(state))
    assert cli("doctor").status == 0
    assert not state.exists()
    for owner in (state, state / "host"):
        assert not socket_path(owner, "any", make=False).parent.exists()


@pytest.mark.usefixtures("agent")
def test_what_can_be_mended_is_mended(cli: Callable[..., Any], loose: Path) -> None:
    outcome = cli("doctor", "--fix", "--strict")
    assert outcome.status == 0, outcome
    assert "This was mended." in outcome.out.decode()
    assert loose.stat().st_mode & 0o077 == 0


def test_an_error_is_an_exit_status_and_a_hint(
    cli: Callable[..., Any], state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[agents.codex]\ncommand = 7\n")
    monkeypatch.setenv("HOLDFAST_CONFIG", str(config))
    outcome = cli("doctor", "--json")
    assert outcome.status == 1
    report = json.loads(outcome.out)
    assert report["level"] == "error"
    (wrong,) = [result["finding"] for result in report["results"] if result["finding"]["level"] == "error"]
    assert str(config) in wrong["summary"]
    assert wrong["hint"]


@pytest.mark.parametrize("name", ["file", "file/state", "dangling/state", "a" * 300])
def test_a_state_directory_that_cannot_be_one_is_found_and_is_no_fault_of_ours(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / name))
    outcome = cli("doctor", "--json")
    assert outcome.status == 1
    findings = {result["id"]: result["finding"] for result in json.loads(outcome.out)["results"]}
    assert "error" in (findings["state.directory"]["level"], findings["state.writable"]["level"])
    assert not [found for found in findings.values() if found["summary"] == "The check itself failed."]
    for runs in ("daemon.reachable", "host.reachable"):
        assert findings[runs]["level"] == "info"


def test_looking_starts_nothing(cli: Callable[..., Any], state: Path) -> None:
    cli("doctor")
    assert not list(state.iterdir())
