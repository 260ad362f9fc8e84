"""A task with a worktree works beside the user's files, and what it leaves there is never lost."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from holdfast.errors import InvalidRequest
from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.collected import CollectionRequest
from holdfast.tasks.request import WorktreeRequest
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.worktree import WorktreeRefused, create, discard, left_behind
from tests.tasks.conftest import PATIENCE, Bench, succeed


@pytest.fixture(autouse=True)
def git_of_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / ".gitconfig").write_text("[user]\nname = Test\nemail = test@example.invalid\n")


def git(directory: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True, timeout=60)
    return answer.stdout.strip()


@pytest.fixture
def repository(bench: Bench) -> Path:
    root = bench.workspace
    git(root, "init", "--quiet", "-b", "main")
    (root / "part").mkdir()
    (root / "part" / "file").write_text("one\n")
    (root / ".gitignore").write_text("ignored\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


@pytest.fixture
async def service(bench: Bench) -> AsyncIterator[TaskService]:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        yield service
        await service.aclose()


async def run(
    service: TaskService, bench: Bench, act: Callable[[Path], None], wanted: WorktreeRequest, **changes: object
) -> Result:
    def work(process: DummyProcess) -> None:
        act(process.spec.cwd)
        succeed(process)

    bench.script(work)
    request = bench.request(worktree=wanted, **changes)
    await service.accept(request, b"do it", {"PATH": "/bin"})
    assert (await service.wait(request.task_id, PATIENCE)).status is Status.COMPLETED
    return await service.result(request.task_id)


async def test_what_is_changed_there_is_seen_and_kept(bench: Bench, repository: Path, service: TaskService) -> None:
    def change(cwd: Path) -> None:
        (cwd / "file").write_text("two\n")

    result = await run(service, bench, change, WorktreeRequest(), cwd=str(repository / "part"))
    worktree = bench.directory / "worktrees" / result.task_id
    assert result.backend.worktree == str(worktree)
    assert result.backend.branch == f"holdfast/{result.task_id}"
    assert result.backend.worktree_kept is True
    assert result.backend.workdir == str(worktree / "part")
    assert [file.path for file in result.files.changed] == ["file"]
    assert (worktree / "part" / "file").read_text() == "two\n"
    assert (repository / "part" / "file").read_text() == "one\n"
    assert git(repository, "status", "--porcelain") == ""


async def test_a_commit_there_is_kept(bench: Bench, repository: Path, service: TaskService) -> None:
    def commit(cwd: Path) -> None:
        (cwd / "new").touch()
        git(cwd, "add", "new")
        git(cwd, "commit", "--quiet", "-m", "theirs")

    result = await run(service, bench, commit, WorktreeRequest(name="mine"))
    assert result.backend.worktree_kept is True
    assert git(repository, "log", "--format=%s", "holdfast/mine").splitlines() == ["theirs", "first"]
    assert (bench.directory / "worktrees" / "mine" / "new").exists()


async def test_one_that_is_as_it_was_goes(bench: Bench, repository: Path, service: TaskService) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    result = await run(service, bench, lambda cwd: (cwd / "ignored").touch(), WorktreeRequest())
    assert result.backend.worktree_kept is False
    assert list((bench.directory / "worktrees").iterdir()) == []
    assert git(repository, "branch", "--format=%(refname:short)", "--list", "holdfast/*") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


async def test_what_is_not_committed_is_told(bench: Bench, repository: Path, service: TaskService) -> None:
    (repository / "part" / "file").write_text("mine\n")
    (repository / ".gitmodules").touch()
    seen: list[str] = []
    result = await run(service, bench, lambda cwd: seen.append((cwd / "part" / "file").read_text()), WorktreeRequest())
    assert seen == ["one\n"]
    assert f"what is not committed in {repository} is not in the worktree" in result.warnings
    assert "the submodules are not checked out in the worktree" in result.warnings


@pytest.mark.parametrize("state", ["no repository", "no commit", "not in the commit", "name taken", "branch taken"])
async def test_what_cannot_be_is_refused_and_leaves_nothing(bench: Bench, service: TaskService, state: str) -> None:
    root, cwd, wanted = bench.workspace, bench.workspace, WorktreeRequest(name="mine")
    if state != "no repository":
        git(root, "init", "--quiet", "-b", "main")
    if state not in ("no repository", "no commit"):
        (root / "file").touch()
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "first")
    if state == "not in the commit":
        cwd = root / "new"
        cwd.mkdir()
    if state == "name taken":
        (bench.directory / "worktrees").mkdir(mode=0o700)
        (bench.directory / "worktrees" / "mine").touch()
    if state == "branch taken":
        git(root, "branch", "holdfast/mine")
    before = git(root, "branch") if state not in ("no repository", "no commit") else ""
    with pytest.raises(WorktreeRefused):
        await service.accept(bench.request(cwd=str(cwd), worktree=wanted), b"do it", {"PATH": "/bin"})
    assert bench.host.processes == {}
    if before:
        assert git(root, "branch") == before
        assert len(git(root, "worktree", "list").splitlines()) == 1
    assert await service.counts() == (0, 0)


@pytest.mark.parametrize("name", ["../up", "a/b", "-x", "a..b", "x.lock", "", "two words"])
async def test_a_name_cannot_lead_elsewhere(bench: Bench, repository: Path, service: TaskService, name: str) -> None:
    request = bench.request(worktree=WorktreeRequest(name=name))
    with pytest.raises(InvalidRequest, match="name of a worktree"):
        await service.accept(request, b"do it", {"PATH": "/bin"})


def test_doing_it_again_finds_the_one_that_is_there(tmp_path: Path, repository: Path) -> None:
    base = tmp_path / "worktrees"
    first, _ = create(str(repository), "task-one", WorktreeRequest(), base)
    (Path(first.path) / "part" / "file").write_text("begun\n")
    again, _ = create(str(repository), "task-one", WorktreeRequest(), base)
    assert again == first
    assert left_behind(first) == "changes"
    assert not discard(first)
    git(Path(first.path), "checkout", "--quiet", ".")
    assert discard(first)
    assert discard(first), "gone is gone"
    # A crash may have left the branch and no worktree.
    git(repository, "branch", "holdfast/task-one")
    once_more, _ = create(str(repository), "task-one", WorktreeRequest(), base)
    assert once_more == first


def test_hooks_of_the_repository_are_not_run(tmp_path: Path, repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    create(str(repository), "task-one", WorktreeRequest(), tmp_path / "worktrees")
    assert not (tmp_path / "ran").exists()


async def test_collecting_a_task_never_costs_its_work(
    bench: Bench, repository: Path, service: TaskService, tmp_path: Path
) -> None:
    def commit(cwd: Path) -> None:
        (cwd / cwd.name).touch()
        git(cwd, "add", ".")
        git(cwd, "commit", "--quiet", "-m", cwd.name)

    merged = await run(service, bench, commit, WorktreeRequest(name="merged"))
    alone = await run(service, bench, commit, WorktreeRequest(name="alone"))
    dirty = await run(service, bench, lambda cwd: (cwd / "new").touch(), WorktreeRequest(name="dirty"))
    git(repository, "merge", "--quiet", "holdfast/merged")
    for dry_run in (True, False):
        collected = await service.collect(CollectionRequest(older_than_s=0.0, dry_run=dry_run))
        assert set(collected.worktrees_kept) == {alone.backend.worktree, dirty.backend.worktree}
    assert set(collected.tasks) == {merged.task_id, alone.task_id, dirty.task_id}
    assert {path.name for path in (bench.directory / "worktrees").iterdir()} == {"alone", "dirty"}
    branches = git(repository, "branch", "--format=%(refname:short)").splitlines()
    assert branches == ["holdfast/alone", "holdfast/dirty", "main"]
