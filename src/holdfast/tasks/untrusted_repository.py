"""How git is started in a repository that we do not trust: nothing that the repository configures is started with it.

A repository's own configuration can name programs (``core.fsmonitor``, hooks, filters).  An agent may have written that
configuration, so everything in it that ``git status`` or ``git diff`` would start is off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

SETTINGS: Final = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "core.pager=cat",
    "diff.external=",
    "submodule.recurse=false",
    "status.renames=true",
    "maintenance.auto=false",
    "gc.auto=0",
)
#: A partial clone would otherwise fetch what it lacks.
NO_TRANSPORT: Final = "protocol.allow=never"
#: The caller's environment could redirect git (``GIT_DIR``, ``GIT_CONFIG``, ...): only this much of it is handed on.
_KEPT_VARIABLES: Final = ("PATH", "HOME", "USER", "XDG_CONFIG_HOME", "TMPDIR")
#: Options of every ``git diff`` that shows contents: no program of the repository's, and one form, whatever is set.
PLAIN_DIFF: Final = (
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--submodule=short",
    "--ignore-submodules=dirty",
)

#: Arguments of the git command whose output :func:`filters_off` reads; it ends with status 1 when there is none.
FILTER_QUERY: Final = (
    "config",
    "-z",
    "--show-scope",
    "--name-only",
    "--get-regexp",
    r"^filter\..+\.(clean|smudge|process)$",
)


def command(settings: Sequence[str] = ()) -> list[str]:
    """``git`` with everything off that a repository could have started."""
    words = ["git", "--no-pager"]
    for setting in (*SETTINGS, *settings):
        words += ["-c", setting]
    return words


def environment(*, ceiling: str | None = None, further: Sequence[str] = ()) -> dict[str, str]:
    """The environment of such a git.

    :param ceiling: a directory that git must not climb to in search of a repository
    :param further: names of more variables of the caller that are handed on
    """
    chosen = {name: os.environ[name] for name in (*_KEPT_VARIABLES, *further) if name in os.environ} | {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    if ceiling is not None:
        chosen["GIT_CEILING_DIRECTORIES"] = ceiling
    return chosen


def filters_off(found: bytes) -> list[str]:
    """Settings that turn off every filter program which the repository itself (not the user) configures.

    :param found: what :data:`FILTER_QUERY` printed
    :raises ValueError: naming a filter that cannot be turned off
    """
    settings: list[str] = []
    fields = found.split(b"\0")
    for scope, key in zip(fields[::2], fields[1::2], strict=False):
        if scope in (b"local", b"worktree"):
            name = os.fsdecode(key.rpartition(b".")[0])
            if "=" in name:
                raise ValueError(f"the repository configures a filter that cannot be turned off ({name!r})")
            settings += [f"{name}.clean=", f"{name}.smudge=", f"{name}.process=", f"{name}.required=false"]
    return settings
