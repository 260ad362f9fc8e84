"""A git worktree of a task's own: the agent works on a branch beside the user's files, and never among them.

The worktree begins at the commit that is checked out.  It is kept when the task left anything in it, and removed when
it did not; nothing of the user's repository but its list of worktrees and one branch is ever touched.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from holdfast.directories import private_directory
from holdfast.errors import InvalidRequest
from holdfast.tasks.request import WorktreeRequest

logger: Final = logging.getLogger(__name__)

#: Branches of tasks lie below this name.
_BRANCHES: Final = "holdfast"
#: For one git command, seconds; checking out a large repository takes long.
_PATIENCE: Final = 300.0
#: Nothing of the repository's is started but the filters that a checkout needs.
_SETTINGS: Final = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "maintenance.auto=false", "gc.auto=0")
#: The caller's environment could redirect git (``GIT_DIR``, ...): only this much of it is handed on.
_KEPT_VARIABLES: Final = ("PATH", "HOME", "USER", "XDG_CONFIG_HOME", "TMPDIR")


class WorktreeRefused(InvalidRequest):
    """There cannot be a worktree for this task; nothing was left behind."""

    code = "worktree_refused"


class Worktree(msgspec.Struct, frozen=True, kw_only=True):
    """The worktree of one task."""

    #: Root of the working tree that it was made from.
    repository: str
    path: str
    branch: str
    #: What it began with.
    commit: str
    #: Where in it the task works: the same place as the caller's directory in the repository.
    cwd: str


class _GitFailed(Exception):
    """Git refused; the message is its last line."""


def create(cwd: str, task_id: str, wanted: WorktreeRequest, default_base: Path) -> tuple[Worktree, list[str]]:
    """Make the worktree for a task that was to work in *cwd*; returns it with what the caller should know.

    Doing it again after a crash, for the same task, finds the one that is there.  Blocking.

    :param default_base: the directory (made 0700 where missing) for worktrees whose place the caller leaves to us
    :raises WorktreeRefused: no repository, no commit, or the name is taken
    """
    name = wanted.name or task_id
    try:
        inside = _git(cwd, "rev-parse", "--is-inside-work-tree")
        root, prefix = _git(cwd, "rev-parse", "--show-toplevel"), _git(cwd, "rev-parse", "--show-prefix")
    except _GitFailed as error:
        raise WorktreeRefused(
            f"{cwd} is not in a git repository ({error}), so it cannot have a worktree.",
            hint="Leave the worktree out, or run: git init",
        ) from None
    if inside != "true":
        raise WorktreeRefused(f"{cwd} is not in a working tree.", hint="Give a directory of checked out files.")
    try:
        commit = _git(cwd, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except _GitFailed:
        raise WorktreeRefused(
            f"The repository {root} has no commit yet, so a worktree would be empty.", hint="Commit something first."
        ) from None
    base = Path(wanted.directory) if wanted.directory is not None else private_directory(default_base)
    path = base / name
    worktree = Worktree(
        repository=root,
        path=str(path),
        branch=f"{_BRANCHES}/{name}",
        commit=commit,
        cwd=os.path.normpath(os.path.join(path, prefix)),
    )
    if wanted.name is None and _is_there(worktree):
        return worktree, []
    if os.path.lexists(path):
        raise WorktreeRefused(f"{path} exists already.", hint="Choose another name for the worktree.")
    if wanted.name is None:
        # What a crash in the middle of this may have left: nobody else uses this name.
        _remove(worktree)
    if _branch_commit(worktree, root) is not None:
        raise WorktreeRefused(
            f"The repository {root} has a branch {worktree.branch} already.", hint="Choose another name."
        )
    try:
        base.mkdir(parents=True, exist_ok=True)
        _git(root, "worktree", "add", "--quiet", "-b", worktree.branch, str(path), commit)
    except (_GitFailed, OSError) as error:
        _remove(worktree)
        raise WorktreeRefused(
            f"Git could not make the worktree {path}: {error}.", hint="Choose another name or place for it."
        ) from None
    if not os.path.isdir(worktree.cwd):
        _remove(worktree)
        raise WorktreeRefused(
            f"{cwd} is not part of the last commit, so a worktree does not have it.",
            hint="Commit it, or give a directory that is in the commit.",
        )
    return worktree, _warnings(root)


def _warnings(root: str) -> list[str]:
    warnings: list[str] = []
    try:
        if _git(root, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=dirty"):
            warnings.append(f"what is not committed in {root} is not in the worktree")
    except _GitFailed as error:
        warnings.append(f"whether everything in {root} is committed could not be told: {error}")
    if os.path.lexists(os.path.join(root, ".gitmodules")):
        warnings.append("the submodules are not checked out in the worktree")
    return warnings


def left_behind(worktree: Worktree) -> str | None:
    """What is in *worktree* that would be lost with it; ``None`` if there is nothing.  Blocking.

    Files that the repository ignores do not count.
    """
    if not os.path.isdir(worktree.path):
        return None
    try:
        if _git(worktree.path, "rev-parse", "HEAD") != worktree.commit:
            return "commits"
        branch = _branch_commit(worktree, worktree.path)
        if branch is not None and branch != worktree.commit:
            return "commits"
        if _git(worktree.path, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none"):
            return "changes"
    except _GitFailed as error:
        # In doubt nothing is deleted.
        return f"something that git cannot tell ({error})"
    return None


def discard(worktree: Worktree, *, dry_run: bool = False) -> bool:
    """Remove *worktree* and its branch unless something would be lost; returns whether they are gone.  Blocking.

    Commits that another branch, a tag or a remote has are not lost.  With *dry_run* it only tells.
    """
    if left_behind(worktree) is None:
        tip = worktree.commit
    else:
        found = _merged(worktree)
        if found is None:
            return False
        tip = found
    if not dry_run:
        _remove(worktree, tip)
    return dry_run or not os.path.lexists(worktree.path)


def _merged(worktree: Worktree) -> str | None:
    """The commit of the branch, if nothing that was done in *worktree* is there alone."""
    try:
        if _git(worktree.path, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none"):
            return None
        tip = _branch_commit(worktree, worktree.path) or worktree.commit
        ends = ["HEAD", tip]
        others = [f"--exclude={worktree.branch}", "--branches", "--remotes", "--tags"]
        alone = _git(worktree.path, "rev-list", "--max-count=1", *ends, "--not", worktree.commit, *others)
    except _GitFailed:
        return None
    return None if alone else tip


def _remove(worktree: Worktree, tip: str | None = None) -> None:
    commands = [
        # Forced, because git refuses wherever there are submodules, however clean; what is lost was looked at before.
        ("worktree", "remove", "--force", worktree.path),
        # Only while it points to where it was seen.
        ("update-ref", "-d", f"refs/heads/{worktree.branch}", tip or worktree.commit),
    ]
    for command in commands:
        try:
            _git(worktree.repository, *command)
        except _GitFailed as error:
            logger.info("worktree %s: git %s: %s", worktree.path, command[0], error)


def _is_there(worktree: Worktree) -> bool:
    if not os.path.isfile(os.path.join(worktree.path, ".git")):
        return False
    try:
        return _git(worktree.path, "symbolic-ref", "HEAD") == f"refs/heads/{worktree.branch}"
    except _GitFailed:
        return False


def _branch_commit(worktree: Worktree, directory: str) -> str | None:
    try:
        return _git(directory, "rev-parse", "--verify", "--quiet", f"refs/heads/{worktree.branch}^{{commit}}")
    except _GitFailed:
        return None


def _git(directory: str, *arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise _GitFailed("git is not installed")
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    # Into files: a descendant that holds a pipe open could keep us waiting after the end.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                [git, *settings, *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise _GitFailed(str(error)) from error
        try:
            exit_code = process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            # It is not reaped yet, so its process group is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise _GitFailed(f"it took longer than {_PATIENCE:g} seconds") from None
        stdout.seek(0)
        stderr.seek(0)
        said, complaint = os.fsdecode(stdout.read()), stderr.read().decode(errors="replace").strip()
    if exit_code != 0:
        raise _GitFailed(complaint.rpartition("\n")[2][:300].rstrip(".") or f"exit status {exit_code}")
    return said.removesuffix("\n")
