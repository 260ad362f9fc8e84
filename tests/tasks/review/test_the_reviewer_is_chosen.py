"""An agent's own reviewer is used where it can do what is asked, and refused where somebody insists and it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from holdfast.agents.adapter import ReviewKind, ReviewTarget, UnsupportedOption
from holdfast.agents.rehearsal import RehearsalAgent
from holdfast.errors import InvalidRequest
from holdfast.tasks.review.findings import SCHEMA
from holdfast.tasks.review.plan import TAG, ReviewTag, make
from holdfast.tasks.review.targets import Choice

from .conftest import Project


class Reviewer(RehearsalAgent):
    """An agent that has a reviewer of its own."""

    can_review = True


@pytest.fixture
def work(project: Project) -> Project:
    """A branch with one commit, and an uncommitted change."""
    project.git("checkout", "-q", "-b", "work")
    project.commit("second", b_txt="two\n")
    project.write("c.txt", "three\n")
    return project


def test_the_targets_of_its_own_reviewer(work: Project) -> None:
    head = work.git("rev-parse", "HEAD")
    for choice, target in (
        (Choice(), ReviewTarget(kind=ReviewKind.UNCOMMITTED)),
        (Choice(base="main"), ReviewTarget(kind=ReviewKind.BASE, value="main")),
        (Choice(commit="HEAD"), ReviewTarget(kind=ReviewKind.COMMIT, value=head)),
    ):
        plan = make(Reviewer(), work.root, choice, "")
        assert (plan.review, plan.output_schema, plan.cwd) == (target, None, work.root)
        assert msgspec.json.decode(plan.tags[TAG], type=ReviewTag).native
    plan = make(Reviewer(), work.root, Choice(custom=True), "Look at the names.")
    assert (plan.review, plan.prompt) == (ReviewTarget(kind=ReviewKind.CUSTOM), "Look at the names.")


@pytest.mark.parametrize("asked", [{"adversarial": True}, {"needs_verdict": True}, {"native": False}, {"focus": "x"}])
def test_what_it_cannot_do_is_prompted(work: Project, asked: dict[str, object]) -> None:
    plan = make(Reviewer(), work.root, Choice(), **{"focus": "", **asked})  # type: ignore[arg-type]
    assert (plan.review, plan.output_schema) == (None, SCHEMA)


@pytest.mark.parametrize("asked", [{"adversarial": True}, {"focus": "x"}])
def test_who_insists_is_told(work: Project, asked: dict[str, object]) -> None:
    with pytest.raises(UnsupportedOption):
        make(Reviewer(), work.root, Choice(), **{"focus": "", "native": True, **asked})  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOption, match="no reviewer of its own"):
        make(RehearsalAgent(), work.root, Choice(), "", native=True)


def test_a_custom_review_needs_no_repository(tmp_path: Path) -> None:
    plan = make(RehearsalAgent(), tmp_path, Choice(custom=True), "Look at the plan.")
    assert plan.cwd == tmp_path
    assert "Look at the plan." in plan.prompt
    with pytest.raises(InvalidRequest):
        make(RehearsalAgent(), tmp_path, Choice(custom=True), " ")
    with pytest.raises(InvalidRequest):
        make(RehearsalAgent(), tmp_path / "nowhere", Choice(custom=True), "x")


def test_what_is_not_utf8_is_no_obstacle(work: Project) -> None:
    work.git(
        "-c", "i18n.commitEncoding=latin1", "commit", "-q", "--allow-empty", "-F", str(work.write("m", b"gr\xfcn"))
    )
    (work.root / os.fsdecode(b"sub\xff")).mkdir()
    work.write("sub\udcff/n\udcfc", "text\n")
    for choice in (Choice(commit="HEAD^"), Choice(), Choice(base="main")):
        plan = make(RehearsalAgent(), work.root / os.fsdecode(b"sub\xff"), choice, "")
        assert plan.prompt.encode()
        assert plan.cwd == work.root


def test_through_a_link(work: Project, tmp_path: Path) -> None:
    (work.root / "below").mkdir()
    (tmp_path / "link").symlink_to(work.root / "below")
    assert make(RehearsalAgent(), tmp_path / "link", Choice(), "").cwd == work.root
