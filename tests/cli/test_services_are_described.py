"""``holdfast service``: units that the service managers accept, with exactly the words that were meant."""

from __future__ import annotations

import os
import plistlib
import pwd
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import service

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
    assert "RestartPreventExitStatus=2" in text
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


@pytest.mark.parametrize(
    ("name", "given", "filled_in"),
    [
        ("b", ["--idle-exit", "5"], ["--listen", "unix://", "--state-dir", "STATE/host-b"]),
        ("b", ["--listen", "unix://"], ["--state-dir", "STATE/host-b"]),
        ("b", ["--listen=ws://127.0.0.1:4000"], ["--state-dir", "STATE/host-b"]),
        ("b", ["--state-dir", "/a"], ["--listen", "unix://"]),
        ("b", ["--listen", "ws://127.0.0.1:4000", "--state-dir=/a"], []),
        (None, ["--idle-exit", "5"], ["--listen", "unix://", "--state-dir", "STATE/host"]),
        (None, ["--listen", "unix://"], ["--state-dir", "STATE/host"]),
        (None, ["--listen", "ws://127.0.0.1:4000", "--state-dir", "/a"], []),
    ],
)
def test_only_what_is_not_given_is_filled_in(
    home: Path, cli: Callable[..., Outcome], name: str | None, given: list[str], filled_in: list[str]
) -> None:
    naming = [] if name is None else ["--name", name]
    words = plistlib.loads(cli("service", "launchd", "exec-server", *naming, "--", *given).out)["ProgramArguments"]
    expected = [word.replace("STATE", str(home / "state")) for word in filled_in]
    assert words[1:] == ["-P", "-m", "holdfast.host", *expected, *given]


def test_a_host_elsewhere_does_not_take_the_directory_of_the_first_one(home: Path, cli: Callable[..., Outcome]) -> None:
    refused = cli("service", "systemd", "exec-server", "--", "--listen", "ws://127.0.0.1:4000")
    assert (refused.status, refused.out) == (2, b"")
    assert "--name NAME" in refused.err


def test_where_options_of_a_host_belong_is_said(home: Path, cli: Callable[..., Outcome]) -> None:
    refused = cli("service", "systemd", "exec-server", "--listen", "unix://")
    assert refused.status == 2
    assert "exec-server -- --listen" in refused.err
    assert "There is no option '--listne'" in cli("service", "systemd", "exec-server", "--listne", "unix://").err


def test_a_daemon_takes_no_options_of_a_host(home: Path, cli: Callable[..., Outcome]) -> None:
    assert cli("service", "systemd", "daemon", "--", "--listen", "x").status == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--listne", "unix://"], "unrecognized arguments: --listne unix://"),
        (["--idle-exit", "soon"], "is not a number of seconds"),
        (["--help"], "only ask for help"),
        (["--listen", "ws://0.0.0.0:1"], "without authentication"),
        (["--listen", "tcp://127.0.0.1:1"], "Cannot listen on tcp://127.0.0.1:1"),
        (["--listen", "unix:///" + "a" * 107], "has 107 bytes at most, this one 108"),
        (["--listen", "stdio"], "standard input of a service"),
        (["--listen", "unix://sock"], "sock would be looked for where the service runs"),
        (["--state-dir", "hosts/a"], "hosts/a would be looked for where the service runs"),
        (["--root", "/nowhere"], "--root /nowhere cannot be used: No such file or directory."),
        (["--ws-auth", "capability-token"], "--ws-auth is for WebSocket"),
        (["--listen", "ws://127.0.0.1:4000", "--ws-auth", "capability-token"], "--ws-token-file"),
        (["--ws-token-sha256", "0" * 64], "Add --ws-auth"),
        (["--remote", "https://x"], "--remote is not possible here"),
    ],
)
@pytest.mark.parametrize("install", [[], ["--install"]])
def test_options_that_a_host_would_refuse_are_refused_at_once(
    home: Path, cli: Callable[..., Outcome], options: list[str], reason: str, install: list[str]
) -> None:
    outcome = cli("service", "systemd", "exec-server", *install, "--", *options)
    assert (outcome.status, outcome.out) == (2, b"")
    assert reason in outcome.err
    assert list(home.iterdir()) == []


def test_the_longest_path_of_a_socket_is_not_too_long(home: Path, cli: Callable[..., Outcome]) -> None:
    address = "unix:///" + "a" * 106
    assert address in cli("service", "systemd", "exec-server", "--name", "b", "--", "--listen", address).out.decode()


def test_another_one_is_replaced_only_by_force_and_may_have_a_name(home: Path, cli: Callable[..., Outcome]) -> None:
    units = home / ".config/systemd/user"
    install = ["service", "systemd", "exec-server", "--install"]
    other = ["--", "--listen", "ws://127.0.0.1:4000", "--state-dir", "/a"]
    assert cli(*install).status == 0
    first = (units / "holdfast-host.service").read_text()
    refused = cli(*install, *other)
    assert refused.status == 2
    assert "--force" in refused.err
    assert (units / "holdfast-host.service").read_text() == first
    named = cli(*install, "--name", "b", *other)
    assert "enable --now holdfast-host-b.service" in named.out.decode()
    assert "restart" not in named.out.decode()
    assert (units / "holdfast-host.service").read_text() == first
    forced = cli(*install, "--force", *other)
    assert "restart holdfast-host.service" in forced.out.decode()
    assert (units / "holdfast-host.service").read_text() == (units / "holdfast-host-b.service").read_text() != first
    assert cli(*install, "--name", "../b").status == 2
    assert "--force does nothing without --install" in cli("service", "systemd", "--force").err
    plist = cli("service", "launchd", "exec-server", "--name", "b")
    assert plistlib.loads(plist.out)["Label"] == "holdfast-host-b"


def test_who_installs_is_told_when_it_would_end_with_the_session(
    home: Path, cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_LINGER", tmp_path / "linger")
    assert "loginctl enable-linger" in cli("service", "systemd", "--install").out.decode()
    assert "linger" not in cli("service", "launchd", "--install").out.decode()
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / pwd.getpwuid(os.getuid()).pw_name).touch()
    assert "linger" not in cli("service", "systemd", "--install").out.decode()


def test_only_what_was_set_and_is_needed_of_the_environment_is_taken_over(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOLDFAST_OTHER", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "/x")
    found = plistlib.loads(cli("service", "launchd", "exec-server").out)["EnvironmentVariables"]
    assert set(found) == {"PATH", "HOLDFAST_STATE_DIR", "XDG_STATE_HOME"}


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
    (home / path).unlink()
    (home / path).symlink_to(home / "elsewhere")
    assert cli("service", manager, "--install", "--force").status == 2
    (home / path).unlink()
    (home / path).write_text("somebody else's")
    refused = cli("service", manager, "--install", "--force")
    assert refused.status == 2
    assert "not written by Holdfast" in refused.err
    assert (home / path).read_text() == "somebody else's"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced_and_not_read(
    home: Path, cli: Callable[..., Outcome], make: Callable[[Path], None]
) -> None:
    unit = home / ".config/systemd/user/holdfast.service"
    unit.parent.mkdir(parents=True)
    make(unit)
    refused = cli("service", "systemd", "--install", "--force")
    assert refused.status == 2
    assert "not written by Holdfast" in refused.err


def test_a_relative_directory_of_configuration_counts_for_nobody(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert cli("service", "systemd", "--install").status == 0
    assert [child.name for child in home.iterdir()] == [".config"]


def test_a_unit_can_be_installed_under_a_number_without_a_name(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    assert cli("service", "systemd", "--install").status == 0
    monkeypatch.delenv("HOME")
    outcome = cli("service", "systemd", "--install")
    assert (outcome.status, outcome.err) == (
        2,
        "error: There is no home directory that the unit could be in.\nhint: Set HOME, or print the unit instead.\n",
    )


def test_a_place_that_cannot_be_written_is_named(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    outcome = cli("service", "systemd", "--install")
    assert outcome.status == 2
    assert "holdfast.service cannot be written: Not a directory." in outcome.err
    assert "Traceback" not in outcome.err


def test_a_unit_that_finds_no_room_leaves_nothing(home: Path, cli: Callable[..., Outcome]) -> None:
    # As on a full disk; the signal for it Python ignores.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        outcome = cli("service", "systemd", "--install")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.status == 2
    assert "holdfast.service cannot be written: File too large." in outcome.err
    assert list((home / ".config/systemd/user").iterdir()) == []


def test_a_relative_state_directory_is_written_whole(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOLDFAST_STATE_DIR", "relative")
    monkeypatch.setenv("XDG_STATE_HOME", "means/nothing")
    for what in ("daemon", "exec-server"):
        found = plistlib.loads(cli("service", "launchd", what).out)["EnvironmentVariables"]
        assert found["HOLDFAST_STATE_DIR"] == str(home / "relative")
        assert "XDG_STATE_HOME" not in found


@pytest.mark.parametrize("manager", ["systemd", "launchd"])
@pytest.mark.parametrize("name", ["\udcff", "\x01"])
def test_what_a_manager_cannot_read_is_refused(
    home: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, manager: str, name: str
) -> None:
    monkeypatch.setenv("HOLDFAST_STATE_DIR", f"{home}/{name}")
    outcome = cli("service", manager)
    assert (outcome.status, outcome.out) == (2, b"")
    assert "cannot be written into a " in outcome.err


def test_a_second_host_has_a_directory_of_its_own(home: Path, cli: Callable[..., Outcome]) -> None:
    first = cli("service", "systemd", "exec-server").out.decode()
    second = cli("service", "systemd", "exec-server", "--name", "b").out.decode()
    assert "/host-b" in second
    assert "/host-b" not in first
    refused = cli("service", "systemd", "--name", "host")
    assert refused.status == 2
    assert "choose another --name" in refused.err
