from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from holdfast.tasks.workspace import fingerprint, repositories
from holdfast.tasks.workspace.changes import Baseline, Method, observe_changes, take_baseline

from .test_workspace_in_git import commit, git, listed, new_repository, stored


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository", {"a": "a", "b": "b"})


def trap(tmp_path: Path) -> tuple[Path, Path]:
    """A program that leaves a trace when it is run."""
    trace = tmp_path / "trace"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho run >> {trace}\ncat\n")
    program.chmod(0o755)
    return program, trace


async def test_nothing_that_the_repository_configures_is_started(repository: Path, tmp_path: Path) -> None:
    program, trace = trap(tmp_path)
    library = new_repository(tmp_path / "library", {"l": "l"})
    git(repository, "submodule", "add", "-q", str(library), "mod")
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    commit(repository)
    (repository / "mod/.gitattributes").write_text("* filter=inner\n")
    git(repository / "mod", "config", "filter.inner.clean", str(program))
    git(repository, "config", "extensions.worktreeConfig", "true")
    git(repository, "config", "--worktree", "filter.other.process", str(program))
    for where in (repository, repository / "mod"):
        for key in ("filter.evil.clean", "filter.evil.smudge", "diff.external", "diff.evil.textconv", "core.pager"):
            git(where, "config", key, str(program))
        git(where, "config", "filter.evil.required", "true")
        git(where, "config", "core.fsmonitor", str(program))
        git(where, "config", "diff.evil.command", str(program))
        for hook in ("post-index-change", "fsmonitor-watchman"):
            path = Path(git(where, "rev-parse", "--git-path", f"hooks/{hook}"))
            path = where / path
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\nexec {program}\n")
            path.chmod(0o755)
    git(repository, "config", "submodule.mod.ignore", "none")
    trace.unlink(missing_ok=True)

    baseline = stored(await take_baseline(repository))
    assert baseline.method is Method.GIT
    (repository / "a").write_text("x")
    (repository / "b").write_text("c")  # the same size: git has to read it
    (repository / "mod/l").write_text("x")
    changes = await observe_changes(baseline)
    assert listed(changes) == ["modified a", "modified b", "modified mod/l"]
    assert not trace.exists()


async def test_a_configuration_that_appears_during_the_task_is_not_obeyed_either(
    repository: Path, tmp_path: Path
) -> None:
    program, trace = trap(tmp_path)
    baseline = await take_baseline(repository)
    (repository / ".git/info/attributes").write_text("* filter=late\n")
    (repository / ".git/included").write_text(f'[filter "late"]\n clean = {program}\n process = {program}\n')
    git(repository, "config", "include.path", "included")
    (repository / "a").write_text("x")
    assert listed(await observe_changes(baseline)) == ["modified a"]
    assert not trace.exists()


async def test_a_filter_that_cannot_be_turned_off_keeps_git_out(repository: Path, tmp_path: Path) -> None:
    program, trace = trap(tmp_path)
    (repository / ".gitattributes").write_text("* filter=x=y\n")
    with (repository / ".git/config").open("a") as config:
        config.write(f'[filter "x=y"]\n clean = {program}\n')
    baseline = await take_baseline(repository)
    assert baseline.method is Method.SCAN
    assert "filter" in (baseline.reason or "")
    assert not trace.exists()


async def test_the_callers_environment_does_not_redirect_git(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_repository(tmp_path / "other", {"z": "z"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    baseline = await take_baseline(repository)
    (repository / "a").write_text("x")
    assert listed(await observe_changes(baseline)) == ["modified a"]


async def test_git_that_does_not_answer_gives_none_with_the_reason_and_is_gone(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = await take_baseline(repository)
    pids = hanging_git(tmp_path, monkeypatch)
    late = await take_baseline(repository, timeout_s=0.3)
    assert (late.method, late.repositories) == (Method.NONE, [])
    assert "did not answer in time" in (late.reason or "")
    changes = await observe_changes(baseline, timeout_s=0.3)
    assert (changes.method, changes.changed, changes.head_before) == (Method.NONE, [], baseline.head)
    assert "did not answer in time" in (changes.reason or "")
    pids.write_text(known := pids.read_text() if pids.exists() else "")
    looking = asyncio.create_task(take_baseline(repository))
    async with asyncio.timeout(60):
        while pids.read_text() == known:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    none_is_left(pids)


async def test_who_is_cancelled_while_git_starts_leaves_nothing_and_waits_for_nobody(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = hanging_git(tmp_path, monkeypatch)
    for number in range(60):
        looking = asyncio.create_task(take_baseline(repository))
        await asyncio.sleep(number / 3000)
        looking.cancel()
        assert (await asyncio.wait({looking}, timeout=60))[0]
    none_is_left(pids)


def hanging_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a git on PATH that waits for a program of its own; returns the file with its process ids."""
    fake, pids = tmp_path / "bin/git", tmp_path / "pids"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho $$ >> {pids}\nsleep 600 &\nwait\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    return pids


def none_is_left(pids: Path) -> None:
    groups = {int(pid) for pid in pids.read_text().split()}
    for process in psutil.process_iter():
        try:
            assert process.status() == psutil.STATUS_ZOMBIE or os.getpgid(process.pid) not in groups
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass


async def test_without_git_a_repository_is_scanned_and_the_reason_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_git = await take_baseline(repository)
    monkeypatch.setenv("PATH", "/nonexistent")
    baseline = await take_baseline(repository)
    assert (baseline.method, "git is not installed" in (baseline.reason or "")) == (Method.SCAN, True)
    (repository / "a").write_text("x")
    assert listed(await observe_changes(stored(baseline))) == ["modified a"]
    assert (await observe_changes(in_git)).method is Method.NONE


async def test_a_repository_that_git_refuses_is_scanned_and_the_reason_is_told(repository: Path) -> None:
    (repository / ".git/HEAD").write_text("nonsense")
    baseline = await take_baseline(repository)
    assert (baseline.method, "not a git repository" in (baseline.reason or "")) == (Method.SCAN, True)


async def test_a_repository_that_vanishes_gives_none_with_the_reason(repository: Path) -> None:
    baseline = await take_baseline(repository)
    (repository / ".git").rename(repository / "was-git")
    changes = await observe_changes(baseline)
    assert (changes.method, changes.changed) == (Method.NONE, [])
    assert "not a git repository" in (changes.reason or "")


async def test_a_working_tree_that_is_redirected_gives_none_with_the_reason(repository: Path, tmp_path: Path) -> None:
    baseline = await take_baseline(repository)
    git(repository, "config", "core.worktree", str(tmp_path))
    changes = await observe_changes(baseline)
    assert changes.method is Method.NONE
    assert "another git repository" in (changes.reason or "")


async def test_a_repository_inside_that_is_broken_or_a_symlink_is_not_followed(
    repository: Path, tmp_path: Path
) -> None:
    outside = new_repository(tmp_path / "outside", {"o": "o"})
    broken = new_repository(repository / "broken", {"n": "n"})
    (repository / ".gitmodules").write_text(
        '[submodule "x"]\n\tpath = link\n[submodule "y"]\n\tpath = ../outside\n[submodule "z"]\n\tpath = broken\n'
    )
    (repository / "link").symlink_to(outside)
    baseline = await take_baseline(repository)
    assert [repository.prefix for repository in baseline.repositories] == [b"", b"broken"]
    (broken / ".git/HEAD").write_text("nonsense")
    (outside / "o").write_text("x")
    (repository / "a").write_text("x")
    changes = await observe_changes(baseline)
    assert [entry for entry in listed(changes) if "o" in entry.split()[1]] == [] or "broken" in str(changes.notes)
    assert "modified a" in listed(changes)


async def test_too_many_uncommitted_files_give_none_with_the_reason(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "DIRTY_LIMIT", 3)
    for number in range(4):
        (repository / f"n{number}").touch()
    baseline = await take_baseline(repository)
    assert baseline.method is Method.NONE
    assert "not committed" in (baseline.reason or "")
    assert (await observe_changes(baseline)).reason == baseline.reason


async def test_many_repositories_inside_are_left_out_with_a_note(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "NESTED_LIMIT", 2)
    for number in range(4):
        new_repository(repository / f"n{number}", {"f": "f"})
    baseline = await take_baseline(repository)
    (repository / "a").write_text("x")
    changes = await observe_changes(baseline)
    assert listed(changes) == ["modified a"]
    assert "more than 2 repositories" in " ".join(changes.notes)


async def test_a_directory_without_git_is_scanned(tmp_path: Path) -> None:
    top = tmp_path / "plain"
    (top / "deep/er").mkdir(parents=True)
    # As a sandbox leaves it behind that guards what might come to be there.
    (tmp_path / ".git").mkdir()
    for name in ("kept", "edited", "deleted", "deep/er/edited", "chmod"):
        (top / name).write_text(name)
    (top / "link").symlink_to("/etc")
    os.mkfifo(top / "fifo")
    baseline = stored(await take_baseline(top))
    assert (baseline.method, baseline.reason) == (Method.SCAN, None)
    (top / "edited").write_text("EDITED")
    (top / "deep/er/edited").write_text("x")
    (top / "deleted").unlink()
    (top / "kept").write_text("kept")
    (top / "chmod").chmod(0o700)
    (top / "link").unlink()
    (top / "link").symlink_to("/usr")
    (top / "new/deep").mkdir(parents=True)
    os.mknod(os.path.join(os.fsencode(top), b"new/deep/\xff"))
    changes = await observe_changes(baseline)
    assert sorted(listed(changes)) == [
        "added new/deep/\\xff",
        "deleted deleted",
        "mode chmod",
        "modified deep/er/edited",
        "modified edited",
        "modified link",
    ]
    assert (changes.dirty_before, changes.head_before, changes.head_after) == (None, None, None)


async def test_a_scan_that_is_cut_short_claims_nothing_about_what_it_did_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SCAN_ENTRIES", 10)
    top = tmp_path / "plain"
    for directory, count in (("few", 3), ("many", 30)):
        (top / directory).mkdir(parents=True)
        for number in range(count):
            (top / directory / str(number)).touch()
    baseline = stored(await take_baseline(top))
    for directory in ("few", "many"):
        (top / directory / "1").write_text("x")
        (top / directory / "2").unlink()
        (top / directory / "new").touch()
    changes = await observe_changes(baseline)
    assert sorted(listed(changes)) == ["added few/new", "deleted few/2", "modified few/1"]
    assert "1 directories were not looked into" in changes.notes[0]
    for number in range(30):
        (top / "few" / f"flood{number}").touch()
    assert listed(await observe_changes(baseline)) == []


async def test_a_missing_directory_and_a_late_one_give_none_with_the_reason(tmp_path: Path) -> None:
    missing = await take_baseline(tmp_path / "missing")
    assert (missing.method, "does not exist" in (missing.reason or "")) == (Method.NONE, True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/x").touch()
    late = await take_baseline(tmp_path / "plain", timeout_s=-1)
    assert (late.method, "longer than" in (late.reason or "")) == (Method.NONE, True)
    baseline = await take_baseline(tmp_path / "plain")
    (tmp_path / "plain").rename(tmp_path / "moved")
    changes = await observe_changes(baseline)
    assert (changes.method, "does not exist" in (changes.reason or "")) == (Method.NONE, True)
    assert isinstance(missing, Baseline)
