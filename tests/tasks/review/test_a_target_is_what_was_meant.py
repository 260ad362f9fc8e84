"""Every target is resolved to commits before anything is started, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import InvalidRequest
from holdfast.tasks.review.collection import changed_files, collect
from holdfast.tasks.review.repository import NotARepository, Repository
from holdfast.tasks.review.targets import Choice, NothingToReview, Target, TargetKind, TargetRefused, resolve

from .conftest import Project, new_project


def target(project: Project, choice: Choice | None = None) -> Target:
    return resolve(Repository(project.root), choice or Choice())


def test_what_is_not_committed_comes_first(project: Project) -> None:
    project.git("checkout", "-q", "-b", "work")
    project.commit("second", b_txt="two\n")
    project.write("new.txt", "untracked\n")
    assert target(project).kind is TargetKind.UNCOMMITTED
    (project.root / "new.txt").unlink()
    found = target(project)
    assert (found.kind, found.reference) == (TargetKind.BASE, "main")
    assert changed_files(Repository(project.root), found) == [("A", b"b.txt")]


def test_the_default_branch_is_what_the_remote_says(project: Project, tmp_path: Path) -> None:
    project.git("branch", "-m", "develop")
    clone = new_project(tmp_path / "clone")
    clone.git("remote", "add", "origin", str(project.root))
    clone.git("fetch", "-q", "origin")
    clone.git("remote", "set-head", "origin", "develop")
    clone.git("checkout", "-q", "-b", "main", "origin/develop")
    clone.commit("second", b_txt="two\n")
    assert target(clone).reference == "origin/develop"


def test_a_base_is_compared_from_where_the_branch_left_it(project: Project) -> None:
    left = project.git("rev-parse", "HEAD")
    project.git("checkout", "-q", "-b", "work")
    ours = project.commit("ours", b_txt="two\n")
    project.git("checkout", "-q", "main")
    project.commit("theirs", c_txt="three\n")
    project.git("checkout", "-q", "work")
    found = target(project, Choice(base="main"))
    assert (found.base, found.head) == (left, ours)


def test_a_commit_is_compared_with_its_first_parent(project: Project) -> None:
    first = project.git("rev-parse", "HEAD")
    second = project.commit("Second thing", b_txt="two\n")
    found = target(project, Choice(commit="HEAD"))
    assert (found.base, found.head) == (first, second)
    assert "Second thing" in found.label
    assert changed_files(Repository(project.root), target(project, Choice(commit=first))) == [("A", b"a.txt")]


def test_a_repository_before_its_first_commit(tmp_path: Path) -> None:
    project = new_project(tmp_path / "new")
    with pytest.raises(NothingToReview):
        target(project)
    project.write("a.txt", "one\n")
    project.git("add", "a.txt")
    project.write("b.txt", "two\n")
    material = collect(Repository(project.root), target(project))
    assert (material.files, material.inline) == (2, True)


def test_from_a_directory_below_the_root(project: Project) -> None:
    project.write("below/new.txt", "x\n")
    project.write("beside.txt", "y\n")
    repository = Repository(project.root / "below")
    assert repository.root == project.root
    assert collect(repository, resolve(repository, Choice())).files == 2


@pytest.mark.parametrize("choice", [Choice(base="nowhere"), Choice(commit="--output=x"), Choice(base="-x")])
def test_what_does_not_exist_is_refused(project: Project, choice: Choice) -> None:
    with pytest.raises(TargetRefused):
        target(project, choice)
    assert not (project.root / "x").exists()


def test_a_base_without_common_history_is_refused(project: Project) -> None:
    project.git("checkout", "-q", "--orphan", "other")
    project.commit("other", b_txt="two\n")
    with pytest.raises(TargetRefused, match="no common history"):
        target(project, Choice(base="main"))


def test_a_history_that_is_cut_off_is_named(project: Project, tmp_path: Path) -> None:
    project.commit("second", b_txt="two\n")
    project.git("branch", "old", "HEAD~1")
    clone = tmp_path / "clone"
    project.git("clone", "-q", "--depth=1", "--no-single-branch", f"file://{project.root}", str(clone))
    shallow = Project(clone)
    for choice in (Choice(commit="HEAD"), Choice(base="origin/old")):
        with pytest.raises(TargetRefused, match="cut off") as refused:
            target(shallow, choice)
        assert "--unshallow" in str(refused.value.hint)


def test_nothing_to_review_is_said(project: Project) -> None:
    with pytest.raises(NothingToReview):
        target(project)
    for choice in (Choice(uncommitted=True), Choice(base="HEAD"), Choice(commit=project.commit("empty"))):
        with pytest.raises(NothingToReview):
            collect(Repository(project.root), target(project, choice))


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotARepository):
        Repository(tmp_path)


def test_one_target_at_a_time() -> None:
    for wrong in ({"uncommitted": True, "base": "x"}, {"commit": "x", "custom": True}, {"remote": "origin"}):
        with pytest.raises(InvalidRequest):
            Choice(**wrong)  # type: ignore[arg-type]
    Choice(pull_request="1", base="main", remote="origin")


@pytest.mark.parametrize(
    "setting",
    ["core.fsmonitor", "diff.external", "core.pager", "diff.evil.textconv", "diff.evil.command", "filter.evil.clean"],
)
def test_nothing_that_the_repository_configures_is_started(project: Project, tmp_path: Path, setting: str) -> None:
    project.write(".gitattributes", "*.txt diff=evil filter=evil\n")
    project.commit("attributes")
    project.write("a.txt", "changed\n")
    project.git("config", setting, f"touch {tmp_path}/started; cat")
    repository = Repository(project.root)
    material = collect(repository, resolve(repository, Choice()))
    assert "+changed" in material.sections[-1].text
    assert not (tmp_path / "started").exists()
