"""Why a program cannot be started at a terminal, in the words of the reference implementation (Codex CLI 0.169).

It looks for a program at a terminal by itself, before it starts it, and tells where it looked; with pipes the operating
system says what is wrong, and so it does here for programs with an absolute path.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping

from holdfast.host.spawn import search_path


def why_not(program: str, cwd: str, env: Mapping[str, str]) -> str | None:
    """What is wrong with a program that could not be started in *cwd*; None if it can be executed, or is absolute."""
    if program.startswith("/"):
        return None
    if "/" in program or program in (".", ".."):
        place = posixpath.join(cwd, program)
        return None if _is_executable(place) else f"Unable to spawn {place} because it {_fault(place)}"
    reasons: list[str] = []
    for candidate in (posixpath.join(cwd, directory, program) for directory in search_path(env)):
        if _is_executable(candidate):
            return None
        if os.path.exists(candidate):
            reasons.append(f"{candidate} exists but {_fault(candidate)}")
    reasons.append(f"No viable candidates found in PATH {json.dumps(':'.join(search_path(env)), ensure_ascii=False)}")
    return f"Unable to spawn {program} because:\n" + ".\n".join(reasons)


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)


def _fault(path: str) -> str:
    if os.path.isdir(path):
        return "is a directory"
    return "is not executable" if os.path.exists(path) else "does not exist"
