"""``holdfast service``: units that the service managers accept, with exactly the words that were meant."""

from __future__ import annotations

import plistlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Outcome
from .fake_daemon import PATIENCE

KINDS = pytest.mark.parametrize("what", ["daemon", "exec-server"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory whose name has everything that a careless unit would trip over."""
    directory = tmp_path / 'a "home" of 100% $HOME'
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(directory / "state"))
    return directory


@KINDS
def test_systemd_accepts_the_unit(home: Path, cli: Callable[..., Outcome], what: str, tmp_path: Path) -> None:
    outcome = cli("service", "systemd", what)
    assert (outcome.status, outcome.err) == (0, "")
    text = outcome.out.decode()
    assert "[Service]" in text
    assert "KillMode=process" in text if what == "daemon" else "ExitType=cgroup" in text
    assert "Delegate=yes" in text
    # Nothing is expanded by systemd: neither its specifiers nor variables.
    assert "100%%" in text
    if what == "exec-server":
        assert "$$HOME" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    unit = tmp_path / f"{what}.service"
    unit.write_text(text)
    done = subprocess.run([analyze, "--user", "verify", str(unit)], capture_output=True, text=True, timeout=PATIENCE)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


@KINDS
def test_launchd_gets_the_words_as_they_are(home: Path, cli: Callable[..., Outcome], what: str) -> None:
    outcome = cli("service", "launchd", what, "--log-format", "json")
    found = plistlib.loads(outcome.out)
    assert found["ProgramArguments"][0] == sys.executable
    assert found["ProgramArguments"][-2:] == ["--log-format", "json"]
    assert found["EnvironmentVariables"]["HOLDFAST_STATE_DIR"] == str(home / "state")
    assert found["RunAtLoad"] is True


def test_a_host_elsewhere(home: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("service", "launchd", "exec-server", "--", "--listen", "ws://127.0.0.1:4000")
    words = plistlib.loads(outcome.out)["ProgramArguments"]
    assert words[1:] == ["-m", "holdfast.host", "--listen", "ws://127.0.0.1:4000"]
    assert cli("service", "systemd", "daemon", "--", "--listen", "x").status == 2


@pytest.mark.parametrize(
    ("manager", "path"),
    [("systemd", ".config/systemd/user/holdfast.service"), ("launchd", "Library/LaunchAgents/holdfast.plist")],
)
def test_installing_writes_one_private_file_and_replaces_only_its_own(
    home: Path, cli: Callable[..., Outcome], manager: str, path: str
) -> None:
    for _ in range(2):
        outcome = cli("service", manager, "--install")
        assert outcome.status == 0
        assert str(home / path) in outcome.out.decode()
        assert (home / path).read_bytes() == cli("service", manager).out
        assert stat.S_IMODE((home / path).stat().st_mode) == 0o600
        assert [child.name for child in (home / path).parent.iterdir()] == [Path(path).name]
    (home / path).write_text("somebody else's")
    refused = cli("service", manager, "--install")
    assert refused.status == 2
    assert "not written by Holdfast" in refused.err
    assert (home / path).read_text() == "somebody else's"
