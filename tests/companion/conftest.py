"""A Claude Code user with the Codex plugin: a repository, a session, and a ``codex`` that does as it is told."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.companion.main import run as run_companion
from holdfast.companion.workspace import Workspace
from tests.companion import fake_codex
from tests.system.conftest import PATIENCE, Installation

#: Variables that say where a test runs; none of them may come from whoever runs the tests.
FOREIGN = ("CODEX_COMPANION_", "CLAUDE", "CODEX_HOME", "HOLDFAST_")


class Outcome:
    """What a command left."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """Standard output, which is JSON."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"Outcome({self.status}, {self.out!r}, {self.err!r})"


class User:
    """Somebody in a repository of their own, who shares an installation with others."""

    def __init__(self, installation: Installation, directory: Path, codex: Path) -> None:
        self.installation = installation
        self.codex = codex
        self.repository = directory / "repository"
        self.repository.mkdir()
        self.plugin_data = directory / "plugin-data"
        self.environment = {
            **{name: value for name, value in installation.environment.items() if not name.startswith(FOREIGN)},
            **{name: value for name, value in installation.environment.items() if name.startswith("HOLDFAST_")},
            "CLAUDE_PLUGIN_DATA": str(self.plugin_data),
            "HOME": str(directory),
            "CODEX_HOME": str(directory / ".codex"),
            "PATH": os.pathsep.join([str(codex), installation.environment["PATH"]]),
        }
        self.git("init", "-q", "-b", "main")
        self.write("README.md", "hello\n")
        self.git("add", ".")
        self.git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "init")

    def git(self, *words: str) -> None:
        """Run git in the repository."""
        subprocess.run(["git", *words], cwd=self.repository, check=True, capture_output=True)

    def write(self, name: str, text: str) -> None:
        """Write a file of the repository."""
        path = self.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, *arguments: str, session: str | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start ``holdfast companion ARGUMENTS``."""
        environment = {**self.environment, **options.pop("environment", {})}
        if session is not None:
            environment["CODEX_COMPANION_SESSION_ID"] = session
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            self.installation.command("companion", *arguments),
            env=environment,
            cwd=self.repository,
            text=True,
            **{**pipes, **options},
        )

    def run(self, *arguments: str, stdin: str | None = None, **options: Any) -> Outcome:
        """Run ``holdfast companion ARGUMENTS`` to its end."""
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(stdin, timeout=PATIENCE * 2)
        finally:
            process.kill()
            process.wait()
        return Outcome(process.returncode, out, err)

    def behave(self, **behaviour: Any) -> None:
        """Decide how Codex behaves from now on."""
        fake_codex.behave(self.codex, **behaviour)

    @property
    def seen(self) -> dict[str, Any]:
        """What Codex was asked last, by method."""
        return fake_codex.seen(self.codex)

    @property
    def directory(self) -> Path:
        """The directory with ``state.json`` and ``jobs/``."""
        [directory] = (self.plugin_data / "state").iterdir()
        return directory

    @property
    def state(self) -> Any:
        """``state.json``."""
        return json.loads((self.directory / "state.json").read_text())

    def until(self, condition: Callable[[], Any], what: str = "it") -> Any:
        """Wait until *condition* holds, and return what it says."""
        return until(condition, what)


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait until *condition* holds, and return what it says."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all tests of a module, because its users do not share anything else."""
    shared = Installation(tmp_path_factory.mktemp("installation"))
    yield shared
    shared.down()


@pytest.fixture
def user(installation: Installation, tmp_path: Path) -> User:
    """A user with a ``codex`` of their own."""
    codex = tmp_path / "bin"
    fake_codex.install(codex)
    for name in ("node", "npm"):
        # The real ones take seconds to say their version, and nothing else is asked of them.
        (codex / name).write_text("#!/bin/sh\necho v20\n")
        (codex / name).chmod(0o755)
    return User(installation, tmp_path, codex)


class Stranger:
    """A workspace whose view other programs wrote, looked at in this process; Holdfast has never done anything here."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.root = directory / "workspace"
        self.root.mkdir()
        self._capture = capture
        self._patch = patch
        patch.chdir(self.root)

    @property
    def directory(self) -> Path:
        """The directory with ``state.json`` and ``jobs/``."""
        return Workspace(str(self.root)).directory

    @property
    def state(self) -> Any:
        """``state.json``."""
        return json.loads((self.directory / "state.json").read_text())

    def seed(
        self, *jobs: dict[str, Any], files: dict[str, Any] | None = None, logs: dict[str, str] | None = None
    ) -> None:
        """Write an index of *jobs*, files of jobs, and logs."""
        place = self.directory / "jobs"
        place.mkdir(parents=True)
        for name, text in (logs or {}).items():
            (place / f"{name}.log").write_text(text)
        for name, document in (files or {}).items():
            (place / f"{name}.json").write_text(json.dumps(document))
        index = {"version": 1, "config": {"stopReviewGate": False}, "jobs": list(jobs)}
        (self.directory / "state.json").write_text(json.dumps(index))

    def log(self, name: str) -> str:
        """Where the log of a job lies."""
        return str(self.directory / "jobs" / f"{name}.log")

    def run(self, *arguments: str, session: str | None = None) -> Outcome:
        """Run ``holdfast companion ARGUMENTS`` in this process."""
        self._patch.delenv("CODEX_COMPANION_SESSION_ID", raising=False)
        if session is not None:
            self._patch.setenv("CODEX_COMPANION_SESSION_ID", session)
        self._capture.readouterr()
        status = run_companion(list(arguments))
        out, err = self._capture.readouterr()
        return Outcome(status, out, err)


@pytest.fixture
def stranger(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    """A workspace of other programs."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as state:
        monkeypatch.setenv("HOLDFAST_STATE_DIR", state)
        monkeypatch.setenv("CLAUDE_PLUGIN_DATA", str(tmp_path / "plugin-data"))
        yield Stranger(tmp_path, capfd, monkeypatch)
        assert os.listdir(state) == [], "nothing of Holdfast was to be started"
