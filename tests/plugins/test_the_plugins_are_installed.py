"""``holdfast plugin`` with the real Claude Code and the real Codex."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.cli.plugin import directory
from tests.system.conftest import PATIENCE


class User:
    """Somebody who has some of the programs."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self.environment = {**environment, "HOLDFAST_STATE_DIR": str(home / "state")}
        self.home = home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "holdfast", "plugin", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def status(self, name: str) -> tuple[bool, bool, bool]:
        found = json.loads(self.run("status", "--json").stdout)["plugins"][name]
        return found["program"], found["installed"], found["current"]


@pytest.mark.real_agent
@pytest.mark.parametrize(("name", "agent"), [("claude-code", "claude"), ("codex", "codex")])
def test_installed_again_and_removed(name: str, agent: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    user = User(request.getfixturevalue(f"{agent}_environment"), tmp_path)
    assert user.status(name) == (True, False, False)
    for _ in range(2):
        installed = user.run("install", name)
        assert (installed.returncode, holdfast.__version__ in installed.stdout) == (0, True), installed.stderr
        assert user.status(name) == (True, True, True)
    for _ in range(2):
        removed = user.run("uninstall", name)
        assert removed.returncode == 0, removed.stderr
        assert user.status(name) == (True, False, False)


def test_without_the_programs(tmp_path: Path) -> None:
    user = User({"PATH": str(tmp_path), "HOME": str(tmp_path)}, tmp_path)
    for words in (["install"], ["install", "codex"], ["uninstall"]):
        refused = user.run(*words)
        assert (refused.returncode, "hint:" in refused.stderr) == (127, True)
    assert user.status("codex") == (False, False, False)
    assert user.run("path").stdout.strip() == str(directory())
    assert Path(user.run("path", "codex").stdout.strip(), ".codex-plugin", "plugin.json").is_file()


def test_a_prompt_file_is_private_and_goes_away(tmp_path: Path) -> None:
    user = User({"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, tmp_path)
    first = Path(user.run("prompt-file").stdout.strip())
    assert not first.exists()
    assert first.parent.stat().st_mode & 0o777 == 0o700
    first.write_text("old")
    os.utime(first, (0, 0))
    kept = first.with_name("kept.md")
    kept.write_text("new")
    assert Path(user.run("prompt-file").stdout.strip()) != first
    assert (first.exists(), kept.exists()) == (False, True)
