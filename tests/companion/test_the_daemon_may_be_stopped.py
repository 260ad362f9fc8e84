"""A stopped daemon stays stopped until somebody asks for something, and its jobs go on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.companion import fake_codex
from tests.companion.fake_codex import ANSWER

from .conftest import PATIENCE, Installation, User


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user with an installation of their own."""
    place = tmp_path / "installation"
    place.mkdir()
    installation = Installation(place)
    fake_codex.install(tmp_path / "bin")
    yield User(installation, tmp_path, tmp_path / "bin")
    (tmp_path / "gate").touch()
    installation.down()


def test_a_background_job_outlives_the_daemon_and_starts_none(user: User, tmp_path: Path) -> None:
    user.behave(gate=str(tmp_path / "gate"))
    name = user.run("task", "--background", "--json", "take your time").json["jobId"]
    worker = user.until(lambda: user.state["jobs"][0]["turnId"] and user.state["jobs"][0]["pid"])
    process = psutil.Process(worker)
    assert user.installation.run("down").returncode == 0
    process.wait(PATIENCE)
    assert user.installation.daemon_pid() is None
    assert user.run("status", name, "--json").json["job"]["status"] == "running"
    (tmp_path / "gate").touch()
    assert user.run("status", name, "--wait", "--json").json["job"]["status"] == "completed"
    assert user.run("result", name).out.startswith(ANSWER)


def test_a_foreground_job_survives_a_killed_daemon(user: User, tmp_path: Path) -> None:
    user.behave(gate=str(tmp_path / "gate"))
    process = user.start("task", "take your time")
    user.until(lambda: any(user.plugin_data.glob("state/*/state.json")) and user.state["jobs"][0]["turnId"])
    assert user.installation.kill_daemon()
    (tmp_path / "gate").touch()
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, f"{ANSWER}\n")
