"""Which project a directory belongs to, and whether the user trusts it.

As Codex CLI 0.169 has it: a project reaches from the nearest directory with a marker (``.git`` unless configured
otherwise) down to the working directory, and it is trusted if the user's ``[projects]`` say so of the directory, of the
project or of the repository.  A linked worktree belongs to the repository of its main checkout, if both say so.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from holdfast.host.configuration.reading import Files, cannot_load
from holdfast.host.configuration.toml import Table, is_list, is_table
from holdfast.host.files.scope import is_below
from holdfast.jsonrpc.messages import RpcError

MARKERS: Final = (".git",)
#: Bytes of the largest file by which git links a worktree to its repository.
_LINK_LIMIT: Final = 64 * 1024
_TRUST_LEVELS: Final = ("trusted", "untrusted")


@dataclass(frozen=True, slots=True)
class Project:
    """A project, and what is trusted of it."""

    #: From its root to the working directory.
    directories: tuple[str, ...]
    #: The checkout that the working directory is in, and the main checkout of its repository.
    checkout: str | None
    repository: str | None
    trust: dict[str, str]

    def is_trusted(self, directory: str) -> bool:
        """Whether configuration in *directory* counts: the most specific statement decides, without one it does not."""
        for path in (directory, self.directories[0], self.repository):
            if path is None:
                continue
            for key in dict.fromkeys((real(path), path)):
                if key in self.trust:
                    return self.trust[key] == "trusted"
        return False

    def main_directory(self, directory: str) -> str | None:
        """The same directory in the main checkout; None if this is the main checkout."""
        if self.checkout is None or self.repository is None or self.checkout == self.repository:
            return None
        below = posixpath.relpath(directory, self.checkout)
        return None if below.startswith("..") else posixpath.normpath(posixpath.join(self.repository, below))


def find_project(files: Files, directory: str, configuration: Table) -> Project:
    """The project of *directory* according to the user's own configuration.

    :raises RpcError: the configuration is not what it has to be
    """
    markers = _markers(configuration)
    trust = _trust(configuration)
    root = next((path for path in _upwards(directory) if any(_marked(files, path, m) for m in markers)), directory)
    directories = [path for path in _upwards(directory) if is_below(path, root)]
    start = directory if files.is_directory(directory) else posixpath.dirname(directory)
    checkout = next((path for path in _upwards(start) if _marked(files, path, ".git")), None)
    repository = None if checkout is None else _repository(files, checkout)
    return Project(tuple(reversed(directories)), checkout, repository, trust)


def real(path: str) -> str:
    """Where a path leads; the path itself if it leads nowhere."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return path


def _upwards(directory: str) -> Iterator[str]:
    while True:
        yield directory
        if directory == "/":
            return
        directory = posixpath.dirname(directory)


def _markers(configuration: Table) -> list[str]:
    markers: Any = configuration.get("project_root_markers", list(MARKERS))
    if not is_list(markers) or not all(isinstance(marker, str) for marker in markers):
        raise cannot_load("project_root_markers must be an array of strings")
    return markers


def _trust(configuration: Table) -> dict[str, str]:
    projects: Any = configuration.get("projects", {})
    if not is_table(projects):
        raise cannot_load("projects must be a table")
    found: dict[str, str] = {}
    for path, project in projects.items():
        if not is_table(project):
            raise cannot_load(f"projects.{path} must be a table")
        level = project.get("trust_level")
        if level is None:
            continue
        if level not in _TRUST_LEVELS:
            raise cannot_load(f"projects.{path}.trust_level must be `trusted` or `untrusted`")
        found[path] = level
    return found


def _marked(files: Files, directory: str, marker: str) -> bool:
    path = posixpath.normpath(posixpath.join(directory, marker))
    status = None if path == directory else files.status(path)
    if status is None:
        return False
    # A directory called .git is a repository only with a HEAD.
    return marker != ".git" or not stat.S_ISDIR(status.st_mode) or files.status(path + "/HEAD") is not None


def _repository(files: Files, checkout: str) -> str | None:
    """The main checkout of a checkout's repository; None if their links do not agree.

    Anybody can write a ``.git`` file that points to a repository that the user trusts, so the repository has to know
    of the worktree.
    """
    if files.is_directory(checkout + "/.git"):
        return checkout
    linked = _linked(files, checkout + "/.git", "gitdir:")
    if linked is None or os.path.islink(linked) or not files.is_directory(linked):
        return None
    directory = real(linked)
    if posixpath.basename(posixpath.dirname(directory)) != "worktrees":
        return None
    common = posixpath.dirname(posixpath.dirname(directory))
    registered = _linked(files, directory + "/gitdir")
    shared = _linked(files, directory + "/commondir")
    if registered is None or shared is None or posixpath.basename(registered) != ".git":
        return None
    if real(posixpath.dirname(registered)) != real(checkout) or real(shared) != common:
        return None
    main = posixpath.dirname(posixpath.dirname(posixpath.dirname(linked)))
    main_git: str | None = main + "/.git"
    if not files.is_directory(main + "/.git"):
        main_git = _linked(files, main + "/.git", "gitdir:")
    return main if main_git is not None and real(main_git) == common else None


def _linked(files: Files, path: str, prefix: str = "") -> str | None:
    """The path in a small file of git's, relative to where the file is."""
    if os.path.islink(path):
        return None
    try:
        content = files.read(path, _LINK_LIMIT)
    except (OSError, RpcError):
        return None
    text = os.fsdecode((content or b"").strip())
    target = text.removeprefix(prefix).strip()
    if not target or not text.startswith(prefix) or "\0" in target:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
