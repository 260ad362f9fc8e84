# ruff: noqa: ASYNC240 - what these checks look at are a few local files
from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import holdfast.doctor.machine_clock as machine_clock
import holdfast.doctor.state as state_checks
from holdfast.agents import program
from holdfast.agents.catalogue import find_agent
from holdfast.doctor.agents import AgentCheck, AnyAgentCheck
from holdfast.doctor.check import Check, Finding, Level
from holdfast.doctor.database import DatabaseCheck
from holdfast.doctor.git import GitCheck, RepositoryCheck
from holdfast.doctor.installation import LibrariesCheck, PythonCheck, SqliteCheck
from holdfast.doctor.machine_clock import ClockCheck
from holdfast.doctor.reachable import ReachableCheck
from holdfast.doctor.report import CheckResult, apply_fixes, diagnose
from holdfast.doctor.sandbox import SandboxCheck
from holdfast.doctor.sockets import StaleSocketsCheck
from holdfast.doctor.state import SocketPathCheck, SpaceCheck, StateDirectoryCheck, StateFilesCheck, WritableCheck
from holdfast.errors import Unavailable
from holdfast.host.sandbox.bubblewrap import unusable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    (directory / "host").mkdir(mode=0o700)
    return directory


async def found(check: Check, level: Level, *words: str) -> Finding:
    finding = await check.run()
    assert finding.level is level, finding
    text = f"{finding.summary}\n{finding.detail}\n{finding.hint}"
    for word in words:
        assert word in text
    if level in (Level.WARNING, Level.ERROR):
        assert finding.hint
    return finding


async def mended(check: Check) -> CheckResult:
    """Mend, and see that it is mended, that mending again changes nothing, and nothing is fixable any more."""
    report = await diagnose([check])
    assert report.results[0].finding.fixable
    once = await apply_fixes([check], report)
    assert (once.results[0].finding.level, once.results[0].fix_error) == (Level.OK, None)
    assert once.results[0].fix_tried
    twice = await apply_fixes([check], once)
    assert twice.results == once.results
    await check.fix()
    await check.fix()
    assert (await check.run()) == once.results[0].finding
    return once.results[0]


# --- the state directory


async def test_a_healthy_state_directory_is_ok(state: Path) -> None:
    (state / "holdfast.db").touch(0o600)
    for check in (StateDirectoryCheck(state), StateFilesCheck(state), WritableCheck(state), SpaceCheck(state)):
        await found(check, Level.OK)
    assert sorted(os.listdir(state)) == ["holdfast.db", "host"]


async def test_a_missing_state_directory_is_no_fault_and_is_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "yet"
    checks = [check(missing) for check in (StateDirectoryCheck, StateFilesCheck, WritableCheck, SpaceCheck)]
    for check in (*checks, DatabaseCheck(missing), StaleSocketsCheck([missing])):
        await found(check, Level.OK)
    assert not missing.parent.exists()


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o710, 0o500])
async def test_a_state_directory_of_the_wrong_mode(state: Path, mode: int) -> None:
    state.chmod(mode)
    level = Level.ERROR if mode & 0o077 else Level.WARNING
    await found(StateDirectoryCheck(state), level, f"{mode:04o}", f"chmod 700 {state}")
    await mended(StateDirectoryCheck(state))
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


async def test_a_state_directory_that_is_a_symlink_is_never_mended_through_it(state: Path, tmp_path: Path) -> None:
    state.chmod(0o755)
    (state / "open").touch(0o644)
    (tmp_path / "link").symlink_to(state)
    finding = await found(StateDirectoryCheck(tmp_path / "link"), Level.ERROR, "symlink", str(state), "Move")
    assert not finding.fixable
    await StateDirectoryCheck(tmp_path / "link").fix()
    await StateFilesCheck(tmp_path / "link").fix()
    assert stat.S_IMODE(state.stat().st_mode) == 0o755
    assert stat.S_IMODE((state / "open").stat().st_mode) == 0o644


async def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await found(StateDirectoryCheck(tmp_path / "file"), Level.ERROR, "not a directory")


async def test_a_state_directory_that_something_is_in_the_way_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "program").touch(mode=0o755)
    (tmp_path / "dangling").symlink_to("nowhere")
    for way in (tmp_path / "file", tmp_path / "program", tmp_path / "dangling"):
        await found(WritableCheck(way / "state"), Level.ERROR, f"state cannot be created in {way}.", f"Move {way} away")
        await found(SpaceCheck(way / "state"), Level.OK)
    await found(WritableCheck(tmp_path / "new" / ("a" * 255)), Level.OK, "can be created")
    await found(WritableCheck(tmp_path / "new" / ("a" * 256)), Level.ERROR, "cannot be created", "a shorter name")
    for missing in (tmp_path / "file" / "state", tmp_path / ("a" * 300)):
        report = await diagnose([StateDirectoryCheck(missing), DatabaseCheck(missing)])
        for result in report.results:
            assert result.finding.level is Level.ERROR
            assert f"{missing}" in result.finding.summary
            assert "cannot be looked at: " in result.finding.summary


@needs_root
async def test_a_state_directory_or_file_of_somebody_else(state: Path) -> None:
    (state / "theirs").touch(0o600)
    os.chown(state / "theirs", 12345, 12345)
    finding = await found(StateFilesCheck(state), Level.ERROR, "somebody else", str(state / "theirs"), "chown")
    assert not finding.fixable
    os.chown(state, 12345, 12345)
    await found(StateDirectoryCheck(state), Level.ERROR, "belongs to user 12345", "HOLDFAST_STATE_DIR")
    os.chown(state, 0, 0)


async def test_state_files_that_are_open_to_others(state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(0o644)
    outside.chmod(0o644)
    for name in ("holdfast.db", "host/log"):
        (state / name).touch()
        (state / name).chmod(0o664)
    (state / "link").symlink_to(outside)
    (state / "tasks").mkdir()
    (state / "tasks").chmod(0o755)
    await found(StateFilesCheck(state), Level.WARNING, "3 files", "holdfast.db (0664)", "chmod -R go-rwx")
    await mended(StateFilesCheck(state))
    assert stat.S_IMODE((state / "holdfast.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "tasks").stat().st_mode) == 0o700
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


async def test_a_state_directory_that_cannot_be_written(state: Path) -> None:
    if os.geteuid() == 0:
        await found(WritableCheck(Path("/proc")), Level.ERROR, "No file can be written", "HOLDFAST_STATE_DIR")
    else:
        state.chmod(0o500)
        await found(WritableCheck(state), Level.ERROR, "No file can be written", "HOLDFAST_STATE_DIR")
        await found(WritableCheck(state / "below"), Level.ERROR, "cannot be created", "HOLDFAST_STATE_DIR")
        state.chmod(0o700)


async def test_a_state_directory_on_a_shared_file_system(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_checks, "_file_system", lambda path: "nfs4")  # pyright: ignore[reportUnknownLambdaType]
    await found(WritableCheck(state), Level.WARNING, "nfs4", "local disk")


async def test_little_and_no_disk_space(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(state).free
    monkeypatch.setattr(state_checks, "LITTLE_SPACE", free * 2)
    await found(SpaceCheck(state), Level.WARNING, "MiB are free", "Make room")
    monkeypatch.setattr(state_checks, "NO_SPACE", free * 2)
    await found(SpaceCheck(state), Level.ERROR, "MiB are free", "Make room")


@needs_root
async def test_a_full_file_system_is_found(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    options = "size=64k,mode=700,nr_inodes=10"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)]).returncode != 0:  # noqa: ASYNC221
        pytest.skip("may not mount here")
    try:
        await found(SpaceCheck(small), Level.ERROR, "Only 0 MiB are free")
    finally:
        subprocess.run(["umount", str(small)], check=True)  # noqa: ASYNC221


async def test_a_path_too_long_for_a_socket_is_explained(tmp_path: Path) -> None:
    await found(SocketPathCheck(Path("/short")), Level.OK)
    long = tmp_path / ("x" * 100)
    finding = await found(SocketPathCheck(long), Level.INFO, "too long", "/tmp/holdfast-")
    replacement = Path(finding.detail or "").parent
    assert not replacement.exists()
    replacement.mkdir()
    replacement.chmod(0o777)
    report = await diagnose([SocketPathCheck(long)])
    replacement.rmdir()
    assert report.results[0].finding.level is Level.ERROR
    assert "open to other users" in report.results[0].finding.summary
    assert "chmod 700" in (report.results[0].finding.hint or "")


# --- the database


async def test_a_whole_database_is_ok_and_left_alone(state: Path) -> None:
    from holdfast.store.database import prepare

    prepare(state / "holdfast.db")
    before = (state / "holdfast.db").read_bytes()
    await found(DatabaseCheck(state), Level.OK, "Whole")
    assert (state / "holdfast.db").read_bytes() == before


async def test_a_damaged_foreign_or_newer_database(state: Path) -> None:
    from holdfast.store.database import prepare

    path = state / "holdfast.db"
    path.write_bytes(b"this is no database" * 100)
    await found(DatabaseCheck(state), Level.ERROR, "cannot be read", "backup")
    path.unlink()
    sqlite3.connect(path).close()
    await found(DatabaseCheck(state), Level.OK, "empty")
    path.unlink()
    prepare(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    await found(DatabaseCheck(state), Level.ERROR, "newer Holdfast", "9999", "Upgrade")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    await found(DatabaseCheck(state), Level.ERROR, "backup")
    path.unlink()
    prepare(path)
    beside = Path(f"{path}-wal")
    beside.mkdir()
    await found(DatabaseCheck(state), Level.ERROR, "cannot be read", "Make room")
    beside.rmdir()
    path.unlink()
    path.mkdir()
    await found(DatabaseCheck(state), Level.ERROR, "not a regular file")


# --- sockets


def bind(path: Path, *, age: float = 3600.0) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    stamp = path.stat().st_mtime - age
    os.utime(path, (stamp, stamp))
    return listener


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a short name."""
    directory = Path(f"/tmp/hf-doctor-{os.getpid()}")
    directory.mkdir(mode=0o700)
    (directory / "host").mkdir()
    yield directory
    shutil.rmtree(directory)


async def test_sockets_without_a_listener_are_removed_and_no_others(sockets: Path) -> None:
    bind(sockets / "dead.sock").close()
    bind(sockets / "host" / "dead.sock").close()
    bind(sockets / "starting.sock", age=0).close()
    (sockets / "file.sock").touch()
    alive = bind(sockets / "alive.sock")
    alive.listen()
    full = bind(sockets / "full.sock")
    full.listen(0)
    waiting: list[socket.socket] = []
    try:
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(sockets / "full.sock"))
            waiting.append(client)
        check = StaleSocketsCheck([sockets])
        await found(check, Level.WARNING, "2 of 5", str(sockets / "dead.sock"))
        await mended(check)
    finally:
        for each in (alive, full, *waiting):
            each.close()
    assert sorted(os.listdir(sockets)) == ["alive.sock", "file.sock", "full.sock", "host", "starting.sock"]
    assert os.listdir(sockets / "host") == []


async def test_a_server_that_starts_before_the_fix_keeps_its_socket(sockets: Path) -> None:
    path = sockets / "daemon.sock"
    bind(path).close()
    check = StaleSocketsCheck([sockets])
    report = await diagnose([check])
    path.unlink()
    with bind(path) as server:
        server.listen()
        after = await apply_fixes([check], report)
        assert path.exists()
        assert after.results[0].finding.level is Level.OK


# --- git


def fake_program(directory: Path, name: str, script: str) -> dict[str, str]:
    """An environment in which *name* is this script."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin", "HOME": str(directory)}


async def test_git_present_missing_old_and_broken(tmp_path: Path) -> None:
    await found(GitCheck(os.environ), Level.OK, "Git")
    await found(GitCheck({"PATH": str(tmp_path)}), Level.WARNING, "not installed", "package manager", "scanning")
    old = fake_program(tmp_path / "old", "git", "echo git version 2.20.1")
    await found(GitCheck(old), Level.WARNING, "2.20.1 is older than 2.26")
    new = fake_program(tmp_path / "new", "git", "echo 'git version 2.100.0.windows.1'")
    await found(GitCheck(new), Level.OK, "2.100.0")
    broken = fake_program(tmp_path / "broken", "git", "echo 'no libz' >&2; exit 127")
    await found(GitCheck(broken), Level.WARNING, "no libz", "Install git again")


async def test_a_git_that_hangs_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.doctor.git._TIMEOUT", 0.3)
    hanging = fake_program(tmp_path / "bin", "git", "exec sleep 600")
    await found(GitCheck(hanging), Level.WARNING, "no answer within 0.3 s")


async def test_a_repository_that_git_does_not_work_in(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    await found(RepositoryCheck(tmp_path, os.environ), Level.OK, "not in a git repository")
    subprocess.run(["git", "init", "-q", str(tmp_path / "r")], check=True)  # noqa: ASYNC221
    (tmp_path / "r/below").mkdir()
    await found(RepositoryCheck(tmp_path / "r/below", os.environ), Level.OK, "Git works")
    (tmp_path / "r/.git/HEAD").write_text("nonsense")
    await found(RepositoryCheck(tmp_path / "r/below", os.environ), Level.WARNING, "git status")
    await found(RepositoryCheck(tmp_path / "r", {"PATH": ""}), Level.INFO, "not installed")


@needs_root
async def test_a_repository_of_somebody_else_is_explained(tmp_path: Path) -> None:
    repository = tmp_path / "r"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)  # noqa: ASYNC221
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    await found(
        RepositoryCheck(repository, environment),
        Level.WARNING,
        f"git config --global --add safe.directory {repository}",
    )


# --- agents


async def test_an_agent_that_is_missing_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    finding = await found(AgentCheck(find_agent("codex"), environment), Level.INFO, "not installed")
    assert finding.hint
    agents = [find_agent("codex"), find_agent("claude"), find_agent("rehearsal")]
    await found(AnyAgentCheck(agents, environment), Level.ERROR, "No agent", str(tmp_path))
    environment = fake_program(tmp_path / "bin", "claude", "true")
    await found(AnyAgentCheck(agents, environment), Level.OK, "claude")
    await found(AgentCheck(find_agent("rehearsal"), environment), Level.OK)


async def test_an_agent_that_is_broken_logged_out_or_fine(tmp_path: Path) -> None:
    def codex(script: str) -> Mapping[str, str]:
        return fake_program(tmp_path / "bin", "codex", script)

    agent = find_agent("codex")
    await found(AgentCheck(agent, codex("echo 'bad interpreter' >&2; exit 126")), Level.ERROR, "bad interpreter")
    logged_out = "case $1 in --version) echo codex-cli 0.1.2;; *) echo Not logged in; exit 1;; esac"
    await found(AgentCheck(agent, codex(logged_out)), Level.WARNING, "0.1.2", "not logged in", "codex login")
    logged_in = "case $1 in --version) echo codex-cli 0.1.2;; *) echo Logged in using ChatGPT;; esac"
    await found(AgentCheck(agent, codex(logged_in)), Level.OK, "0.1.2", "Logged in using ChatGPT")


async def test_an_agent_that_hangs_on_its_version_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "QUESTION_TIMEOUT", 0.3)
    environment = fake_program(tmp_path / "bin", "codex", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    finding = await found(AgentCheck(find_agent("codex"), environment), Level.ERROR, "timed out")
    assert finding.hint
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- the installation and the machine


async def test_this_installation_is_fine() -> None:
    for check in (PythonCheck(), LibrariesCheck(), SqliteCheck(), ClockCheck()):
        await found(check, Level.OK)


async def test_missing_and_old_libraries_are_named() -> None:
    check = LibrariesCheck(["click>=999", "no-such-library>=1", "msgspec>=0.1", "nor-this>=1; extra == 'x'"])
    finding = await found(check, Level.ERROR, "2 libraries", "no-such-library is missing", "older than 999", "Install")
    assert "msgspec" not in (finding.detail or "")


async def test_a_clock_that_is_behind_and_a_boot_that_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_clock, "wall", lambda: 1_000_000_000.0)
    await found(ClockCheck(), Level.WARNING, "2001-09-09", "Set the clock")
    monkeypatch.undo()
    monkeypatch.setattr(machine_clock, "boot_id", lambda: "")
    await found(ClockCheck(), Level.ERROR, "boot_id readable")


async def test_a_sandbox_is_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await found(SandboxCheck(), Level.OK)
    unusable.cache_clear()
    fake_program(tmp_path / "bin", "bwrap", "echo No permissions to create new namespace; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    await found(SandboxCheck(), Level.INFO, "No permissions to create new namespace", "allow user namespaces")
    unusable.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    await found(SandboxCheck(), Level.INFO, "bubblewrap (bwrap) is not installed", "Install bubblewrap")
    unusable.cache_clear()


# --- what runs by itself


async def test_a_daemon_that_answers_is_absent_or_fails() -> None:
    async def answers() -> str | None:
        return "Process 7, version 1."

    async def absent() -> str | None:
        return None

    async def fails() -> str | None:
        raise Unavailable("It said nonsense.", hint="Look at its log.")

    await found(ReachableCheck("daemon", "The daemon", answers), Level.OK, "Process 7")
    await found(ReachableCheck("daemon", "The daemon", absent), Level.INFO, "not running")
    await found(ReachableCheck("daemon", "The daemon", fails), Level.ERROR, "nonsense", "Look at its log.")
