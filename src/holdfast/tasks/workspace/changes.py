"""What a task changed in its working directory, as seen from outside: never as claimed by the agent.

Before the agent starts, :func:`take_baseline` notes how things are; afterwards :func:`observe_changes` compares.  In a
git repository that covers the whole repository, whatever was uncommitted before, and what was committed meanwhile;
files that git ignores are not seen.  Elsewhere the directory is scanned.  When neither can be done in time the method
is ``none``, with the reason: observing never fails a task.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from holdfast.clock import monotonic
from holdfast.tasks.workspace.comparison import Difference, Repository
from holdfast.tasks.workspace.fingerprint import (
    ChangeKind,
    DeadlineExceeded,
    Fingerprinter,
    Scan,
    compare_scans,
    scan,
)
from holdfast.tasks.workspace.git import Git, GitFailed, GitTooSlow, marks_repository
from holdfast.tasks.workspace.repositories import (
    DIRTY_LIMIT,
    Observation,
    TooManyFiles,
    compare_repositories,
    note_repositories,
)

#: Seconds that either call may take before it gives up.
DEADLINE_SECONDS: Final = 10.0
#: Changed files that are listed.
LISTED_CHANGES: Final = 10_000
#: How much more coarsely than :func:`time.time_ns` the kernel stamps files: one tick, 10 ms at most.
_TICK_NS: Final = 10_000_000


class Method(StrEnum):
    """How the changes were observed."""

    GIT = "git"
    SCAN = "scan"
    NONE = "none"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """How a directory was before the task.  Paths are bytes (base64 in JSON): they need not be text."""

    directory: bytes
    #: UTC nanoseconds since the epoch.
    taken_ns: int
    method: Method
    #: Why the method is not the better one.
    reason: str | None = None
    #: ``git``: the root of the working tree, and the repositories found in it, the task's own first.
    root: bytes = b""
    repositories: list[Repository] = []
    #: ``scan``: what was there.
    scan: Scan | None = None

    @property
    def head(self) -> str | None:
        """The commit that was checked out."""
        return self.repositories[0].head if self.repositories else None

    @property
    def dirty(self) -> bool | None:
        """Whether anything was uncommitted; ``None`` if that is not known."""
        return any(repository.dirty for repository in self.repositories) if self.repositories else None


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One file that is not as it was.  Bytes of its name that are not UTF-8 appear as ``\\xNN``."""

    #: Relative to the task's directory; ``../`` leads to the rest of its repository.
    path: str
    change: ChangeKind
    #: It already differed from the commit that was checked out when the task began.
    was_dirty_before: bool = False
    renamed_from: str | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What happened since the baseline."""

    method: Method
    #: Why the method is not the better one.
    reason: str | None = None
    #: UTC nanoseconds since the epoch at which the baseline was taken.
    since_ns: int
    dirty_before: bool | None = None
    head_before: str | None = None
    head_after: str | None = None
    changed: list[FileChange] = []
    #: Changes that are not listed because there are too many.
    omitted: int = 0
    #: What else was left out, in sentences.
    notes: list[str] = []


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent said that it changed, held against what was observed."""

    #: Paths as in :class:`FileChange` that the agent mentioned.
    claimed: frozenset[str]
    #: Claimed paths inside the directory that show no change.
    not_observed: list[str]
    #: Claimed paths outside of the directory, absolute.
    outside_workdir: list[str]


class _CannotObserve(Exception):
    """There is no way to say what changed; the message is for people."""


async def take_baseline(directory: Path, *, timeout_s: float = DEADLINE_SECONDS) -> Baseline:
    """Note how *directory* is now.  Does not fail: what cannot be noted is said in ``reason``."""
    path, taken_ns, deadline = _real(directory), time.time_ns(), monotonic() + timeout_s
    reason: str | None = None
    try:
        _require_directory(path)
        if _is_in_repository(path):
            try:
                git = Git(path, deadline)
                root = await git.root()
                if root == path or not await git.is_ignored():
                    repositories = await note_repositories(root, deadline)
                    return Baseline(
                        directory=path, taken_ns=taken_ns, method=Method.GIT, root=root, repositories=repositories
                    )
                reason = "The directory is ignored by the git repository that it lies in."
            except GitTooSlow as error:
                raise _CannotObserve(f"The git repository is not observed: {error}.") from None
            except GitFailed as error:
                reason = f"The git repository cannot be used: {error}."
        found = await asyncio.to_thread(scan, Fingerprinter(path, deadline))
        return Baseline(directory=path, taken_ns=taken_ns, method=Method.SCAN, reason=reason, scan=found)
    except TooManyFiles:
        reason = f"More than {DIRTY_LIMIT} files of the git repository are not committed."
    except DeadlineExceeded:
        reason = f"Looking at the directory takes longer than {timeout_s:g} s."
    except _CannotObserve as error:
        reason = str(error)
    return Baseline(directory=path, taken_ns=taken_ns, method=Method.NONE, reason=reason)


async def observe_changes(
    baseline: Baseline, *, leave_out: Iterable[Path] = (), timeout_s: float = DEADLINE_SECONDS
) -> Changes:
    """Compare the directory with its *baseline*.  Does not fail: what cannot be told is said in ``reason``.

    :param leave_out: absolute paths of files, and directories with all that is in them, that are Holdfast's own
    """
    deadline = monotonic() + timeout_s
    try:
        if baseline.method is Method.NONE:
            raise _CannotObserve(baseline.reason or "There is no baseline.")
        _require_directory(baseline.directory)
        if baseline.method is Method.GIT:
            observation = await _observe_git(baseline, deadline)
        else:
            observation = await asyncio.to_thread(_observe_scan, baseline, deadline)
        return _report(baseline, observation, {_real_file(path) for path in leave_out})
    except DeadlineExceeded:
        reason = f"Looking at the directory takes longer than {timeout_s:g} s."
    except GitFailed as error:
        reason = f"The git repository cannot be used any more: {error}."
    except _CannotObserve as error:
        reason = str(error)
    return Changes(
        method=Method.NONE,
        reason=reason,
        since_ns=baseline.taken_ns,
        dirty_before=baseline.dirty,
        head_before=baseline.head,
    )


def reconcile_claims(changes: Changes, claimed_paths: Iterable[str], directory: Path) -> Claims:
    """Compare what the agent says it changed (paths as it spelled them) with what was observed.

    A claimed file that git ignores cannot be among the observed changes; it is believed if it was written to, or
    replaced, since the baseline.
    """
    top = _real(directory)
    observed = {change.path: change.path for change in changes.changed}
    observed |= {change.renamed_from: change.path for change in changes.changed if change.renamed_from is not None}
    claimed: set[str] = set()
    not_observed: list[str] = []
    outside: list[str] = []
    for spelled in dict.fromkeys(claimed_paths):
        joined = os.path.normpath(os.path.join(top, spelled.replace("\0", "").encode("utf-8", "surrogateescape")))
        # The directory is known by its real path, an agent may use another; the file itself may be a symlink.
        full = os.path.join(os.path.realpath(os.path.dirname(joined)), os.path.basename(joined))
        relative = _display(os.path.relpath(full, top))
        if relative in observed:
            claimed.add(observed[relative])
        if relative == ".." or relative.startswith("../"):
            outside.append(_display(full))
        elif relative not in observed and not _touched_since(full, changes.since_ns):
            not_observed.append(relative)
    return Claims(
        claimed=frozenset(claimed),
        not_observed=list(dict.fromkeys(not_observed)),
        outside_workdir=list(dict.fromkeys(outside)),
    )


async def _observe_git(baseline: Baseline, deadline: float) -> Observation:
    # Nearly always it is the same repository still, so it is not waited for git to say so.
    comparing = asyncio.ensure_future(compare_repositories(baseline.root, baseline.repositories, deadline))
    try:
        root = await Git(baseline.directory, deadline).root()
        if root != baseline.root:
            raise _CannotObserve(f"The directory now belongs to another git repository ({_display(root)}).")
        return await comparing
    finally:
        comparing.cancel()
        await asyncio.wait({comparing})
        if not comparing.cancelled():
            comparing.exception()


def _observe_scan(baseline: Baseline, deadline: float) -> Observation:
    before = baseline.scan
    assert before is not None
    after = scan(Fingerprinter(baseline.directory, deadline), skip=before.skipped)
    skipped = {*before.skipped, *after.skipped}
    return Observation(
        head=None,
        differences=[Difference(path=path, kind=kind) for path, kind in compare_scans(before, after).items()],
        notes=[f"{len(skipped)} directories were not looked into (too many files, or unreadable)."] if skipped else [],
    )


def _report(baseline: Baseline, observation: Observation, ours: set[bytes]) -> Changes:
    root = baseline.root or baseline.directory

    def relative(path: bytes) -> str:
        # A slash at the end tells a directory.
        slash = "/" if path.endswith(b"/") else ""
        return _display(os.path.relpath(os.path.join(root, path), baseline.directory)) + slash

    changed = [
        FileChange(
            path=relative(difference.path),
            change=difference.kind,
            was_dirty_before=difference.was_dirty,
            renamed_from=None if difference.renamed_from is None else relative(difference.renamed_from),
        )
        for difference in observation.differences
        if not _is_at_or_below(os.path.join(root, difference.path), ours)
    ]
    return Changes(
        method=baseline.method,
        reason=baseline.reason,
        since_ns=baseline.taken_ns,
        dirty_before=baseline.dirty,
        head_before=baseline.head,
        head_after=observation.head,
        changed=changed[:LISTED_CHANGES],
        omitted=max(0, len(changed) - LISTED_CHANGES),
        notes=observation.notes,
    )


def _is_at_or_below(path: bytes, places: set[bytes]) -> bool:
    return any(path == place or path.startswith(place + b"/") for place in places)


def _real(directory: Path) -> bytes:
    return os.path.realpath(os.fsencode(directory))


def _real_file(path: Path) -> bytes:
    return os.path.join(_real(path.parent), os.fsencode(path.name))


def _require_directory(path: bytes) -> None:
    if not os.path.isdir(path):
        raise _CannotObserve(f"The directory {_display(path)} does not exist.")


def _is_in_repository(path: bytes) -> bool:
    while not marks_repository(os.path.join(path, b".git")):
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True


def _touched_since(full: bytes, since_ns: int) -> bool:
    try:
        # Only the kernel sets this time.
        return os.lstat(full).st_ctime_ns >= since_ns - _TICK_NS
    except OSError:
        return False


def _display(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
