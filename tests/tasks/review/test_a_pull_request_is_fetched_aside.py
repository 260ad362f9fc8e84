"""A pull request is reviewed without checking it out, and nothing but a ref of ours is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.tasks.review.collection import changed_files
from holdfast.tasks.review.pull_request import resolve
from holdfast.tasks.review.repository import Repository
from holdfast.tasks.review.targets import TargetKind, TargetRefused

from .conftest import Project


@pytest.fixture
def remote(project: Project) -> Project:
    """A repository with pull request 7 for ``main``, and a merge request 8."""
    project.git("checkout", "-q", "-b", "work")
    for ref in ("refs/pull/7/head", "refs/merge-requests/8/head"):
        project.git("update-ref", ref, project.commit("proposed", b_txt=ref))
    project.git("checkout", "-q", "main")
    project.git("branch", "-q", "-D", "work")
    return project


@pytest.fixture
def clone(remote: Project, tmp_path: Path) -> Project:
    project = Project(tmp_path / "clone")
    remote.git("clone", "-q", f"file://{remote.root}", str(project.root))
    project.write("a.txt", "being edited\n")
    return project


@pytest.mark.parametrize("name", ["7", "#7", "8", "!8", "refs/pull/7/head"])
def test_by_number_or_ref(clone: Project, name: str) -> None:
    before = clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain"), clone.git("branch", "--all")
    repository = Repository(clone.root)
    target = resolve(repository, name, remote=None, base=None)
    assert target.kind is TargetKind.PULL_REQUEST
    assert changed_files(repository, target) == [("A", b"b.txt")]
    assert target.base == clone.git("rev-parse", "origin/main")
    after = clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain"), clone.git("branch", "--all")
    assert after == before
    assert not (clone.root / ".git" / "FETCH_HEAD").exists()


@pytest.mark.parametrize("page", ["pull/7", "-/merge_requests/8/diffs"])
def test_by_the_address_of_its_page(clone: Project, remote: Project, page: str) -> None:
    repository = Repository(clone.root)
    target = resolve(repository, f"https://example.com{remote.root}/{page}", remote=None, base="origin/main")
    assert changed_files(repository, target) == [("A", b"b.txt")]
    with pytest.raises(TargetRefused, match="not a page"):
        resolve(repository, f"https://example.com/them/other/{page}", remote=None, base=None)


@pytest.mark.parametrize("name", ["9", "refs/pull/9/head"])
def test_one_that_the_remote_does_not_have(clone: Project, name: str) -> None:
    with pytest.raises(TargetRefused, match=r"has no pull request|cannot be asked"):
        resolve(Repository(clone.root), name, remote=None, base=None)


@pytest.mark.parametrize("name", ["x", "", "--upload-pack=x", "refs/*", "refs/a..b", "https://example.com/"])
def test_what_cannot_be_one(clone: Project, name: str) -> None:
    with pytest.raises(TargetRefused, match="not a pull request"):
        resolve(Repository(clone.root), name, remote=None, base=None)


def test_without_a_remote(project: Project, clone: Project) -> None:
    with pytest.raises(TargetRefused, match="no remote"):
        resolve(Repository(project.root), "7", remote=None, base=None)
    with pytest.raises(TargetRefused, match="no remote 'elsewhere'"):
        resolve(Repository(clone.root), "7", remote="elsewhere", base=None)


@pytest.mark.parametrize("setting", ["core.sshCommand", "credential.helper", "remote.origin.uploadpack"])
def test_a_program_of_the_repository_is_not_started(clone: Project, tmp_path: Path, setting: str) -> None:
    clone.git("config", setting, f"touch {tmp_path}/started;")
    with pytest.raises(TargetRefused, match="names a program"):
        resolve(Repository(clone.root), "7", remote=None, base=None)
    assert not (tmp_path / "started").exists()
