from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from holdfast.tasks.workspace.changes import Baseline, Changes, Method, observe_changes, reconcile_claims, take_baseline
from holdfast.tasks.workspace.fingerprint import HASH_FILE_BYTES

GIT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "n",
    "GIT_AUTHOR_EMAIL": "e@example.org",
    "GIT_COMMITTER_NAME": "n",
    "GIT_COMMITTER_EMAIL": "e@example.org",
}


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=directory, env=GIT_ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new_repository(directory: Path, files: dict[str, str] | None = None, *options: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q", *options)
    if files:
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content)
        commit(directory)
    return directory


def commit(directory: Path) -> None:
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "--no-verify", "-m", "m")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {"a": "a\n" * 20, "b": "b\n" * 20, "c": "c\n" * 20, "sub/d": "d\n" * 20, "run.sh": "#!/bin/sh\n"}
    return new_repository(tmp_path / "repository", files)


def stored(baseline: Baseline) -> Baseline:
    """A baseline lies in the database between the two calls."""
    return msgspec.json.decode(msgspec.json.encode(baseline), type=Baseline)


async def observe(directory: Path, work: Callable[[], object]) -> Changes:
    baseline = stored(await take_baseline(directory))
    assert baseline.method is Method.GIT, baseline.reason
    work()
    changes = await observe_changes(baseline)
    assert changes.method is Method.GIT, changes.reason
    msgspec.json.encode(changes)
    return changes


def listed(changes: Changes) -> list[str]:
    """Compact: ``kind path``, ``kind old -> new``, with ``!`` in front for what was dirty before."""
    return [
        ("!" if change.was_dirty_before else "")
        + f"{change.change.value} "
        + (f"{change.renamed_from} -> " if change.renamed_from else "")
        + change.path
        for change in changes.changed
    ]


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 5_000_000_000))


#: name -> (what happened before the task, what the task did, what must be seen); both get the repository's directory.
CASES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], list[str]]] = {}


def case(expected: list[str], before: Callable[[Path], object] = lambda r: None):
    def register(work: Callable[[Path], object]) -> Callable[[Path], object]:
        assert work.__name__ not in CASES
        CASES[work.__name__] = (before, work, expected)
        return work

    return register


@case([])
def nothing(r: Path) -> None: ...


@case(["modified a", "deleted b", "added n/new", "mode run.sh"])
def edits_that_are_not_committed(r: Path) -> None:
    (r / "a").write_text("changed")
    (r / "b").unlink()
    (r / "n").mkdir()
    (r / "n/new").write_text("new")
    (r / "run.sh").chmod(0o755)


@case(["modified a", "deleted b", "added n", "mode run.sh"])
def edits_that_are_committed(r: Path) -> None:
    (r / "a").write_text("changed")
    (r / "b").unlink()
    (r / "n").write_text("new")
    (r / "run.sh").chmod(0o755)
    commit(r)


@case(["modified a", "modified b", "modified c"])
def some_committed_some_staged_some_not(r: Path) -> None:
    (r / "a").write_text("1")
    commit(r)
    (r / "b").write_text("2")
    git(r, "add", "b")
    (r / "c").write_text("3")


@case([])
def touched_but_not_changed(r: Path) -> None:
    touch(r / "a")
    (r / "b").write_text((r / "b").read_text())


@case([])
def changed_and_changed_back(r: Path) -> None:
    (r / "a").write_text("x")
    git(r, "add", "a")
    (r / "a").write_text("a\n" * 20)


@case([])
def committed_and_reverted(r: Path) -> None:
    (r / "a").write_text("x")
    commit(r)
    git(r, "revert", "--no-edit", "HEAD")


@case([])
def committed_and_then_undone_in_the_working_tree_only(r: Path) -> None:
    (r / "a").write_text("x")
    (r / "b").unlink()
    commit(r)
    (r / "a").write_text("a\n" * 20)
    (r / "b").write_text("b\n" * 20)


@case([])
def only_taken_out_of_the_index(r: Path) -> None:
    git(r, "rm", "-q", "--cached", "a")


@case(["modified a"])
def taken_out_of_the_index_and_changed(r: Path) -> None:
    git(r, "rm", "-q", "--cached", "a")
    (r / "a").write_text("x")


@case(["deleted a"])
def added_to_the_index_then_deleted(r: Path) -> None:
    (r / "a").write_text("x")
    (r / "new").write_text("x")
    git(r, "add", "-A")
    (r / "new").unlink()
    (r / "a").unlink()


@case(["renamed a -> moved"])
def moved_and_left_like_that(r: Path) -> None:
    (r / "a").rename(r / "moved")


@case(["renamed a -> deep/moved"])
def moved_with_git_and_edited(r: Path) -> None:
    (r / "deep").mkdir()
    git(r, "mv", "a", "deep/moved")
    (r / "deep/moved").write_text("a\n" * 19 + "edited\n")
    git(r, "add", "-A")


@case(["renamed a -> moved"])
def moved_edited_and_committed(r: Path) -> None:
    (r / "a").rename(r / "moved")
    (r / "moved").write_text("a\n" * 19 + "edited\n")
    commit(r)


@case(["modified a"])
def replaced_by_a_symlink(r: Path) -> None:
    (r / "a").unlink()
    (r / "a").symlink_to("b")


@case(["deleted a", "added a/inside"])
def replaced_by_a_directory(r: Path) -> None:
    (r / "a").unlink()
    (r / "a").mkdir()
    (r / "a/inside").write_text("x")


@case(["modified a"])
def another_branch_checked_out(r: Path) -> None:
    git(r, "checkout", "-q", "-b", "other")
    (r / "a").write_text("x")
    commit(r)


@case(["modified a"])
def head_detached(r: Path) -> None:
    git(r, "checkout", "-q", "--detach")
    (r / "a").write_text("x")
    commit(r)


@case(["deleted b", "deleted c", "deleted run.sh", "deleted sub/d"])
def history_begun_anew(r: Path) -> None:
    git(r, "checkout", "-q", "--orphan", "new")
    git(r, "rm", "-q", "-f", "b", "c", "run.sh", "sub/d")
    commit(r)


@case(["added ignored-no-more"], before=lambda r: (r / ".git/info/exclude").write_text("ignored\n"))
def ignored_files_are_not_seen(r: Path) -> None:
    (r / "ignored").write_text("x")
    (r / "ignored-no-more").write_text("x")


def make_dirty(r: Path) -> None:
    (r / "a").write_text("dirty")
    (r / "b").write_text("staged")
    git(r, "add", "b")
    (r / "u").write_text("untracked")
    (r / "c").unlink()


@case([], before=make_dirty)
def dirty_and_left_alone(r: Path) -> None:
    touch(r / "a")


@case(["!modified a", "!modified b", "!added c", "!modified u"], before=make_dirty)
def dirty_and_changed_again(r: Path) -> None:
    (r / "a").write_text("DIRTY")
    (r / "b").write_text("STAGED")
    (r / "c").write_text("something")
    (r / "u").write_text("UNTRACKED")


@case([], before=make_dirty)
def dirty_and_only_committed(r: Path) -> None:
    commit(r)


@case(["!modified a", "!modified b", "!added c", "!deleted u"], before=make_dirty)
def dirty_and_thrown_away(r: Path) -> None:
    git(r, "reset", "-q", "--hard")
    git(r, "clean", "-q", "-f")


@case(["!modified a", "modified sub/d"], before=make_dirty)
def dirty_and_changed_and_committed(r: Path) -> None:
    (r / "a").write_text("again")
    (r / "sub/d").write_text("x")
    commit(r)


@case(["!mode u", "!renamed a -> a2"], before=make_dirty)
def dirty_and_moved(r: Path) -> None:
    (r / "a").rename(r / "a2")
    (r / "u").chmod(0o755)


def big(r: Path) -> None:
    (r / "big").write_bytes(b"x" * (HASH_FILE_BYTES + 1))
    (r / "same").write_bytes(b"x" * (HASH_FILE_BYTES + 1))


@case(["!modified big"], before=big)
def dirty_big_file_changed_without_changing_size_or_time(r: Path) -> None:
    status = (r / "big").stat()
    with (r / "big").open("r+b") as file:
        file.write(b"y")
    os.utime(r / "big", ns=(status.st_atime_ns, status.st_mtime_ns))


@case(["modified modified-link"], before=lambda r: ((r / "modified-link").symlink_to("a"), commit(r)))
def symlink_led_elsewhere(r: Path) -> None:
    (r / "modified-link").unlink()
    (r / "modified-link").symlink_to("b")


@case(["!added sub/d"], before=lambda r: (r / "sub/d").unlink())
def conflict_is_not_a_mystery(r: Path) -> None:
    git(r, "checkout", "-q", "--", "sub/d")


def odd_names(r: Path) -> None:
    for name in (b" lead", b"new\nline", b"tab\t", b'quo"te', b"-option", b"\xff\xfe", "ü→".encode()):
        with open(os.path.join(os.fsencode(r), name), "wb") as file:
            file.write(name)


@case(
    sorted(
        [
            "added  lead",
            "added new\nline",
            "added tab\t",
            'added quo"te',
            "added -option",
            "added \\xff\\xfe",
            "added ü→",
        ]
    )
)
def files_with_odd_names(r: Path) -> None:
    odd_names(r)


@case(["deleted \\xff\\xfe", "modified -option"], before=lambda r: (odd_names(r), commit(r)))
def committed_files_with_odd_names(r: Path) -> None:
    os.unlink(os.path.join(os.fsencode(r), b"\xff\xfe"))
    (r / "-option").write_text("x")
    commit(r)


@pytest.mark.parametrize("name", CASES)
async def test_what_changed_is_seen(repository: Path, name: str) -> None:
    before, work, expected = CASES[name]
    before(repository)
    index = (repository / ".git/index").stat().st_mtime_ns
    baseline = await take_baseline(repository)
    assert (repository / ".git/index").stat().st_mtime_ns == index, "observing must not write"
    assert baseline.dirty == any(entry.startswith("!") for entry in expected) or before in (make_dirty, big)
    assert sorted(listed(await observe(repository, lambda: work(repository)))) == sorted(expected)


async def test_the_commits_before_and_after_are_named(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "a").write_text("dirty")
    changes = await observe(repository, lambda: commit(repository))
    assert (changes.head_before, changes.head_after) == (head, git(repository, "rev-parse", "HEAD"))
    assert changes.dirty_before is True
    assert changes.head_after != head
    assert listed(changes) == []


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("commits", [True, False])
async def test_a_repository_without_commits(tmp_path: Path, object_format: str, commits: bool) -> None:
    new_repository(tmp_path / "r", None, f"--object-format={object_format}")
    (tmp_path / "r/old").write_text("old")
    (tmp_path / "r/kept").write_text("kept")

    def work() -> None:
        (tmp_path / "r/old").write_text("new")
        (tmp_path / "r/new").write_text("new")
        if commits:
            commit(tmp_path / "r")

    changes = await observe(tmp_path / "r", work)
    assert listed(changes) == ["added new", "!modified old"]
    assert changes.head_before is None
    assert (changes.head_after is not None) == commits


async def test_a_sha256_repository(tmp_path: Path) -> None:
    r = new_repository(tmp_path / "r", {"a": "a" * 50, "b": "b"}, "--object-format=sha256")

    def work() -> None:
        (r / "a").rename(r / "moved")
        (r / "b").write_text("x")
        git(r, "add", "b")
        (r / "b").write_text("b")

    assert listed(await observe(r, work)) == ["renamed a -> moved"]


async def test_a_task_below_the_root_sees_the_rest_of_the_repository_as_such(repository: Path) -> None:
    def work() -> None:
        (repository / "a").rename(repository / "sub/a")
        (repository / "sub/d").write_text("x")
        (repository / "b").write_text("x")

    changes = await observe(repository / "sub", work)
    assert sorted(listed(changes)) == ["modified ../b", "modified d", "renamed ../a -> a"]


async def test_a_directory_reached_through_a_symlink(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repository)
    changes = await observe(tmp_path / "link", lambda: (repository / "a").write_text("x"))
    assert listed(changes) == ["modified a"]
    claims = reconcile_claims(changes, [str(tmp_path / "link/a"), str(repository / "a")], tmp_path / "link")
    assert (claims.claimed, claims.not_observed, claims.outside_workdir) == ({"a"}, [], [])


async def test_a_linked_worktree(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))

    def work() -> None:
        (tmp_path / "tree/a").write_text("x")
        commit(tmp_path / "tree")

    assert listed(await observe(tmp_path / "tree", work)) == ["modified a"]


async def test_a_directory_that_its_repository_ignores_is_scanned(repository: Path) -> None:
    (repository / ".gitignore").write_text("build/\n")
    (repository / "build").mkdir()
    baseline = await take_baseline(repository / "build")
    assert baseline.method is Method.SCAN
    assert "ignored" in (baseline.reason or "")
    (repository / "build/x").write_text("x")
    changes = await observe_changes(stored(baseline))
    assert (changes.method, listed(changes)) == (Method.SCAN, ["added x"])


async def test_submodules_and_repositories_inside(tmp_path: Path) -> None:
    library = new_repository(tmp_path / "library", {"l1": "1", "l2": "2", "l3": "3"})
    r = new_repository(tmp_path / "r", {"a": "a"})
    git(r, "submodule", "add", "-q", str(library), "mod")
    commit(r)
    nested = new_repository(r / "nested", {"n1": "1", "n2": "2"})
    (r / "mod/l1").write_text("dirty before")
    (nested / "n1").write_text("dirty before")

    def work() -> None:
        (r / "mod/l1").write_text("changed again")
        (r / "mod/l2").write_text("changed and committed")
        git(r / "mod", "add", "l2")
        git(r / "mod", "commit", "-q", "-m", "m")
        (r / "mod/l3").write_text("changed")
        (nested / "n2").write_text("changed")
        new_repository(r / "new", {"f": "f"})

    changes = await observe(r, work)
    assert sorted(listed(changes)) == sorted(
        ["modified mod", "!modified mod/l1", "modified mod/l2", "modified mod/l3", "modified nested/n2", "added new/f"]
    )
    assert changes.dirty_before is True


async def test_a_repository_inside_that_was_only_committed_to(tmp_path: Path) -> None:
    r = new_repository(tmp_path / "r", {"a": "a"})
    nested = new_repository(r / "nested", {"n": "n"})
    (nested / "n").write_text("dirty")
    assert listed(await observe(r, lambda: commit(nested))) == []


async def test_a_repository_made_out_of_what_was_there_shows_only_what_is_new(repository: Path) -> None:
    (repository / "sub/untracked").write_text("x")

    def work() -> None:
        new_repository(repository / "sub")
        (repository / "sub/new").write_text("x")

    assert listed(await observe(repository, work)) == ["added sub/new"]


async def test_a_repository_inside_that_was_removed(tmp_path: Path) -> None:
    r = new_repository(tmp_path / "r", {"a": "a"})
    nested = new_repository(r / "nested", {"n": "n"})
    changes = await observe(r, lambda: git(r, "clean", "-q", "-ffd"))
    assert not nested.exists()
    assert listed(changes) == ["deleted nested/"]


async def test_a_merge_conflict_left_behind(repository: Path) -> None:
    git(repository, "checkout", "-q", "-b", "other")
    (repository / "a").write_text("theirs")
    commit(repository)
    git(repository, "checkout", "-q", "-")
    (repository / "a").write_text("ours")
    commit(repository)

    def work() -> None:
        subprocess.run(["git", "merge", "-q", "other"], cwd=repository, env=GIT_ENVIRONMENT, capture_output=True)

    assert listed(await observe(repository, work)) == ["modified a"]


async def test_claims_are_held_against_what_was_observed(repository: Path, tmp_path: Path) -> None:
    (repository / ".git/info/exclude").write_text("*.log\n")
    (repository / "old.log").write_text("x")
    os.utime(repository / "old.log", ns=(0, 0))
    # What is as new as the baseline, by the clock of a file system, may have been written to since.
    while time.time_ns() - os.lstat(repository / "run.sh").st_ctime_ns < 100_000_000:  # noqa: ASYNC110 - time does
        await asyncio.sleep(0.01)

    def work() -> None:
        (repository / "a").write_text("x")
        (repository / "b").rename(repository / "moved")
        (repository / "c").write_text("x")
        (repository / "fresh.log").write_text("x")

    changes = await observe(repository, work)
    claims = reconcile_claims(
        changes,
        ["a", str(repository / "b"), "./sub/../run.sh", "fresh.log", "gone", "/etc/passwd", "../else", "a", "nul\0"],
        repository,
    )
    assert claims.claimed == {"a", "moved"}
    assert claims.not_observed == ["run.sh", "gone", "nul"]
    assert claims.outside_workdir == ["/etc/passwd", str(tmp_path / "else")]


async def test_our_own_output_file_is_left_out(repository: Path) -> None:
    baseline = await take_baseline(repository)
    (repository / "answer.md").write_text("x")
    (repository / "new").write_text("x")
    changes = await observe_changes(baseline, leave_out=[repository / "answer.md"])
    assert listed(changes) == ["added new"]
