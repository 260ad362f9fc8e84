"""What is reviewed: the choice of a caller, and the commits that it comes to."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.errors import InvalidRequest
from holdfast.tasks.review.repository import Repository

#: Where a repository keeps its main line when its remote does not say.
_MAIN_LINES: Final = ("main", "master", "trunk")


class TargetRefused(InvalidRequest):
    """What shall be reviewed does not exist, or cannot be told."""

    code = "review_target"


class NothingToReview(InvalidRequest):
    """There is no change."""

    code = "nothing_to_review"


class TargetKind(StrEnum):
    """The sorts of things that are reviewed."""

    #: Everything that is not committed: staged, unstaged and untracked.
    UNCOMMITTED = "uncommitted"
    #: What the checked-out commit has that another branch does not.
    BASE = "base"
    #: One commit.
    COMMIT = "commit"
    #: A pull (or merge) request of a remote; it need not be checked out.
    PULL_REQUEST = "pull_request"
    #: Whatever the prompt says.
    CUSTOM = "custom"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks to have reviewed.  Nothing: what is not committed, else the branch."""

    uncommitted: bool = False
    #: A branch or other commit; with ``pull_request`` the branch that it is meant for.
    base: str | None = None
    commit: str | None = None
    #: A number, the address of its page, or a ref of the remote.
    pull_request: str | None = None
    custom: bool = False
    #: Which remote has the pull request.
    remote: str | None = None

    def __post_init__(self) -> None:
        chosen = [
            name
            for name, given in (
                ("uncommitted", self.uncommitted),
                ("base", self.base is not None and self.pull_request is None),
                ("commit", self.commit is not None),
                ("pr", self.pull_request is not None),
                ("custom", self.custom),
            )
            if given
        ]
        if len(chosen) > 1:
            names = " and ".join(chosen)
            raise InvalidRequest(f"A review has one target, not {names}.", hint="Choose one of them.")
        if self.remote is not None and self.pull_request is None:
            raise InvalidRequest("Only a pull request comes from a remote.", hint="Leave the remote out.")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is reviewed, resolved."""

    kind: TargetKind
    #: For people.
    label: str
    #: The commit (or empty tree) that is compared with; ``None`` for what is not committed.
    base: str | None = None
    #: The commit whose state is reviewed; ``None`` for the working tree.
    head: str | None = None
    #: What the caller called it: a branch, a commit, a pull request.
    reference: str | None = None


def resolve(repository: Repository, choice: Choice) -> Target:
    """Find out what *choice* means here.  A pull request is resolved by :mod:`.pull_request`.

    :raises TargetRefused: it means nothing
    """
    if choice.commit is not None:
        return _commit(repository, choice.commit)
    if choice.base is not None:
        return branch(repository, choice.base)
    uncommitted = Target(kind=TargetKind.UNCOMMITTED, label="uncommitted changes")
    if choice.uncommitted or is_dirty(repository):
        return uncommitted
    if repository.commit("HEAD") is None:
        raise NothingToReview("This repository has no commit and no files yet.", hint="Write something first.")
    return branch(repository, default_branch(repository))


def is_dirty(repository: Repository) -> bool:
    """Whether anything is staged, changed or untracked."""
    answer = repository.ask(
        "status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty", limit=1, filters=True
    )
    return bool(answer.output)


def branch(repository: Repository, base: str, *, head: str = "HEAD", kind: TargetKind = TargetKind.BASE) -> Target:
    """What *head* has beyond the point where it left *base*.

    :raises TargetRefused: one of them is no commit, or they have no common history (any more)
    """
    ours, theirs = repository.commit(head), repository.commit(base)
    if theirs is None:
        raise TargetRefused(
            f"{base!r} is no branch, tag or commit here.", hint="See 'git branch --all' for what there is, or fetch it."
        )
    if ours is None:
        raise TargetRefused("There is no commit to review.", hint="Commit first, or review with --uncommitted.")
    answer = repository.ask("merge-base", theirs, ours, accept=range(2))
    if answer.status != 0:
        if repository.is_shallow():
            raise TargetRefused(
                f"Where this branch left {base!r} is not known, because the history is cut off (a shallow clone).",
                hint="Get the rest with: git fetch --unshallow",
            )
        raise TargetRefused(
            f"{base!r} and the reviewed commit have no common history.", hint="Name another base, or review a commit."
        )
    # Several of them (after criss-cross merges) are equally good.
    merge_base = os.fsdecode(answer.output).split("\n")[0]
    return Target(kind=kind, label=f"changes against {base}", base=merge_base, head=ours, reference=base)


def default_branch(repository: Repository, remote: str = "origin") -> str:
    """The branch that work is meant for: what the remote says, else the usual names.

    :raises TargetRefused: there is none
    """
    answer = repository.ask("symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD", accept=range(2))
    if answer.status == 0:
        name = os.fsdecode(answer.output).strip().removeprefix("refs/remotes/")
        if repository.commit(f"refs/remotes/{name}") is not None:
            return name
    current = os.fsdecode(repository.ask("symbolic-ref", "--quiet", "--short", "HEAD", accept=range(2)).output).strip()
    local = [name for name in _MAIN_LINES if name != current]
    for name, ref in [
        *((name, f"refs/heads/{name}") for name in local),
        *((f"{remote}/{name}", f"refs/remotes/{remote}/{name}") for name in _MAIN_LINES),
    ]:
        if repository.commit(ref) is not None:
            return name
    if current in _MAIN_LINES:
        raise NothingToReview(
            f"Nothing is uncommitted, and {current} is the only main branch there is.",
            hint="Review a commit with --commit SHA, or against another one with --base REF.",
        )
    raise TargetRefused(
        "Which branch this work is meant for cannot be told.", hint="Name it with --base REF, or use --uncommitted."
    )


def _commit(repository: Repository, name: str) -> Target:
    commit = repository.commit(name)
    if commit is None:
        raise TargetRefused(f"{name!r} is no commit here.", hint="See 'git log' for what there is, or fetch it.")
    subject = repository.ask("log", "-1", "--no-show-signature", "--format=%s", commit).output
    parent = repository.commit(f"{commit}^1")
    if parent is None:
        written = repository.ask("cat-file", "commit", commit).output.partition(b"\n\n")[0]
        if any(line.startswith(b"parent ") for line in written.split(b"\n")):
            raise TargetRefused(
                f"What commit {name!r} changed is not known, because the history is cut off before it.",
                hint="Get the rest with: git fetch --unshallow",
            )
        parent = repository.text("hash-object", "-t", "tree", "--stdin")
    label = f"commit {commit[:12]}: {subject.decode('utf-8', 'replace').strip()[:72]}"
    return Target(kind=TargetKind.COMMIT, label=label, base=parent, head=commit, reference=name)
