"""A repository to review."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


class Project:
    """A git repository that a test works in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        command = ["git", *identity, "-c", "protocol.file.allow=always", *words]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        ended = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=True)
        return ended.stdout.strip()

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def commit(self, message: str, **files: str) -> str:
        """Commit *files* (``a_txt`` is ``a.txt``), and return the name of the commit."""
        for name, text in files.items():
            self.write(name.replace("_", "."), text)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


def new_project(root: Path) -> Project:
    root.mkdir()
    project = Project(root)
    project.git("init", "-q")
    return project


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git as it is without a configuration of the user's."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One commit on ``main``, and nothing else."""
    project = new_project(tmp_path / "project")
    project.commit("first", a_txt="one\n")
    return project
