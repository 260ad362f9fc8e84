"""The real Codex in two versions, and the fake one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.drivers.app_server import agent
from holdfast.drivers.app_server.agent import CodexAppServer
from tests.conftest import AGENTS_DIRECTORY, locate_agent
from tests.drivers.app_server.rig import Rig

OLD = "0.142.2"


def locate_old_codex() -> Path:
    """The older Codex; a missing one fails the test."""
    override = os.environ.get("HOLDFAST_TEST_OLD_CODEX")
    directory = AGENTS_DIRECTORY.parent / f"agents-{OLD}"
    command = Path(override) if override else directory / "node_modules" / ".bin" / "codex"
    if shutil.which(str(command)) is None:
        install = f"npm install --prefix {directory} @openai/codex@{OLD}"
        pytest.fail(f"There is no {command}. Install it with: {install}", pytrace=False)
    return command


@pytest.fixture(params=["codex", f"codex-{OLD}"])
def rig(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    codex_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Rig:
    """The real Codex, each version in turn, against the scripted model."""
    command = locate_agent("codex") if request.param == "codex" else locate_old_codex()
    rig = Rig(tmp_path, CodexAppServer(command=[str(command)]), codex_environment)
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(rig.state))
    (rig.workspace / "notes.txt").write_text("first\n")
    for git in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *git], cwd=rig.workspace, check=True, capture_output=True)
    (rig.workspace / "notes.txt").write_text("first\nsecond\n")
    return rig


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Rig]:
    """Makes a rig with the fake Codex that has the named fault, and little patience."""

    class Impatient(CodexAppServer):
        patience = 20.0
        answer_within = 2.0

    # What was learnt of the fake with one fault is not true with another.
    monkeypatch.setattr(agent, "_can_listen", {})

    def make(fault: str) -> Rig:
        home = tmp_path / "fake-home"
        home.mkdir()
        program = Path(__file__).with_name("fake_codex.py")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "FAKE_CODEX_HOME": str(home),
            "FAKE_CODEX_FAULT": fault,
        }
        rig = Rig(tmp_path, Impatient(command=[sys.executable, str(program)]), environment)
        monkeypatch.setenv("HOLDFAST_STATE_DIR", str(rig.state))
        return rig

    return make


def begun(rig: Rig) -> list[str]:
    """The turns that the fake server began."""
    journal = Path(rig.environment["FAKE_CODEX_HOME"]) / "begun"
    return journal.read_text().splitlines() if journal.exists() else []
