"""What lies directly below a writable directory and is read-only all the same: the metadata of tools.

A file in one of these directories may say what is run the next time when the tool is used outside of the sandbox.
"""

from __future__ import annotations

import os
import stat
from typing import Final

#: Names as the reference implementation (Codex CLI 0.169) has them.
METADATA: Final = (".git", ".codex", ".agents", ".aws")

#: Bytes of a ``.git`` that are read when it is a file.
_POINTER: Final = 64 * 1024
_PREFIX: Final = b"gitdir:"


def git_directory(path: str) -> str | None:
    """Where a ``.git`` that is a file (that of a worktree or of a submodule) says the repository is; None if nowhere.

    :raises OSError: it cannot be read
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(_POINTER)
    if not content.startswith(_PREFIX):
        return None
    named = os.fsdecode(content.removeprefix(_PREFIX).split(b"\n")[0].strip())
    return os.path.realpath(os.path.join(os.path.dirname(path), named)) if named and "\0" not in named else None
