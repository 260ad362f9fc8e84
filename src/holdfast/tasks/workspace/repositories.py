"""The git repository of a task and those inside it: noted before, compared afterwards."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

import msgspec

from holdfast.tasks.workspace.comparison import Comparison, Difference, Repository
from holdfast.tasks.workspace.fingerprint import ChangeKind, Fingerprinter, scan
from holdfast.tasks.workspace.git import Git, GitFailed, GitTooSlow, Status, TreeChange, is_gitlink

#: Uncommitted files beyond which a repository is not observed.
DIRTY_LIMIT: Final = 50_000
#: Repositories inside the repository (submodules and others) that are observed too.
NESTED_LIMIT: Final = 32


class TooManyFiles(Exception):
    """More is uncommitted than can be kept track of."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What changed in a repository and in those inside; paths are relative to its root."""

    head: str | None
    differences: list[Difference]
    #: What was left out, in sentences.
    notes: list[str]


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """One repository of a survey."""

    git: Git
    status: Status
    submodule: bool


async def note_repositories(root: bytes, deadline: float) -> list[Repository]:
    """How the repository at *root*, and those inside it, are now; the one at *root* comes first.

    :raises GitFailed: git cannot tell
    :raises TooManyFiles: more than :data:`DIRTY_LIMIT` files are not committed
    :raises DeadlineExceeded: it takes too long
    """
    repositories: list[Repository] = []
    for prefix, found in (await _survey(root, deadline, [], known=())).items():
        entries = found.status.entries
        if len(entries) > DIRTY_LIMIT:
            raise TooManyFiles
        paths = [path for path, entry in entries.items() if not is_gitlink(entry.index or entry.head)]
        fingerprinter = Fingerprinter(os.path.join(root, prefix), deadline)
        dirty = await asyncio.to_thread(fingerprinter.take_all, paths)
        repositories.append(Repository(prefix=prefix, submodule=found.submodule, head=found.status.head, dirty=dirty))
    return repositories


async def compare_repositories(root: bytes, noted: list[Repository], deadline: float) -> Observation:
    """Compare the repository at *root*, and those inside it, with how they were *noted*.

    :raises GitFailed: git cannot tell
    :raises DeadlineExceeded: it takes too long
    """
    notes: list[str] = []
    before = {repository.prefix: repository for repository in noted}
    after = await _survey(root, deadline, notes, known=before)
    inner = {prefix for prefix in (*before, *after) if prefix}
    differences: list[Difference] = []
    for prefix, repository in before.items():
        found = after.get(prefix)
        if found is None:
            differences += _vanished(root, repository, notes)
            continue
        comparison = Comparison(
            Fingerprinter(found.git.directory, deadline), repository, found.status, await _committed(found, repository)
        )
        for difference in await asyncio.to_thread(comparison.differences):
            full = _with_prefix(prefix, difference)
            if full.path not in inner:
                differences.append(full)
        if (repository.submodule or found.submodule) and repository.head != found.status.head:
            differences.append(Difference(path=prefix, kind=ChangeKind.MODIFIED))
    for prefix in after.keys() - before.keys():
        differences += await _appeared(root, prefix, before, after, deadline)
    differences.sort(key=lambda difference: difference.path)
    return Observation(head=after[b""].status.head, differences=differences, notes=notes)


def _vanished(root: bytes, repository: Repository, notes: list[str]) -> list[Difference]:
    name = repository.prefix.decode("utf-8", "backslashreplace")
    if os.path.lexists(os.path.join(root, repository.prefix)):
        notes.append(f"{name} is no longer a repository of its own; all of its files appear as added.")
        return []
    return [Difference(path=repository.prefix + b"/", kind=ChangeKind.DELETED, was_dirty=bool(repository.dirty))]


async def _appeared(
    root: bytes, prefix: bytes, before: dict[bytes, Repository], after: dict[bytes, _Found], deadline: float
) -> list[Difference]:
    """The files of a repository that was not there: all new, but for those that the one around it knew."""
    around = max((other for other in before if _is_below(prefix, other)), key=len)
    if any(_is_below(prefix, other) for other in after.keys() - before.keys() - {prefix}):
        return []  # already part of what appeared around it
    known = {os.path.join(around, file.path) for file in before[around].dirty if file.mode}
    if around in after:
        tracked = await after[around].git.tracked(prefix[len(around) :].lstrip(b"/"))
        known |= {os.path.join(around, path) for path in tracked}
    found = await asyncio.to_thread(scan, Fingerprinter(root, deadline), prefix)
    return [Difference(path=file.path, kind=ChangeKind.ADDED) for file in found.files if file.path not in known]


async def _committed(found: _Found, repository: Repository) -> dict[bytes, TreeChange]:
    """How the commit checked out now differs from the one then."""
    before, after = repository.head, found.status.head
    if before == after:
        return {}
    if before is not None and after is not None:
        return await found.git.changes_between(before, after)
    if after is not None:
        return {path: TreeChange(before=None, after=side) for path, side in (await found.git.files(after)).items()}
    assert before is not None
    return {path: TreeChange(before=side, after=None) for path, side in (await found.git.files(before)).items()}


async def _survey(root: bytes, deadline: float, notes: list[str], *, known: Iterable[bytes]) -> dict[bytes, _Found]:
    """The state of the repository at *root*, of those inside it, and of the *known* ones, by prefix."""
    surveyed: dict[bytes, _Found] = {}
    pending = [(b"", False), *((prefix, False) for prefix in known if prefix)]
    for prefix, submodule in pending:
        if prefix in surveyed or not _is_repository(root, prefix):
            continue
        if len(surveyed) > NESTED_LIMIT:
            notes.append(f"There are more than {NESTED_LIMIT} repositories inside; the others were not looked into.")
            break
        git = Git(os.path.join(root, prefix) if prefix else root, deadline, is_root=True)
        try:
            status = await git.status()
            submodules = [path for path in await git.submodules() if _is_inner(path)]
        except GitFailed as error:
            if not prefix or isinstance(error, GitTooSlow):
                raise
            notes.append(f"The repository {prefix.decode('utf-8', 'backslashreplace')} cannot be read: {error}.")
            continue
        surveyed[prefix] = _Found(git=git, status=status, submodule=submodule)
        pending += [(os.path.join(prefix, path), True) for path in submodules]
        pending += [(os.path.join(prefix, path), False) for path in status.nested]
    return surveyed


def _is_repository(root: bytes, prefix: bytes) -> bool:
    if not prefix:
        return True
    where = os.path.join(root, prefix)
    # Not through a symlink: it could lead anywhere.
    return os.path.realpath(where) == where and os.path.lexists(os.path.join(where, b".git"))


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def _with_prefix(prefix: bytes, difference: Difference) -> Difference:
    if not prefix:
        return difference
    source = difference.renamed_from
    return msgspec.structs.replace(
        difference,
        path=os.path.join(prefix, difference.path),
        renamed_from=None if source is None else os.path.join(prefix, source),
    )


def _is_inner(path: bytes) -> bool:
    return os.path.normpath(path) == path and path not in (b".", b"..") and not path.startswith((b"../", b"/"))
