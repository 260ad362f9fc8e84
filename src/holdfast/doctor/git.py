"""Git, by which Holdfast sees what a task changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from holdfast.doctor.check import BlockingCheck, Finding, Level
from holdfast.tasks.workspace.git import marks_repository

#: The first version whose ``git config`` tells where a setting comes from, without which we do not let git run filters.
MINIMUM: Final = (2, 26)
_TIMEOUT: Final = 4.0


class GitCheck(BlockingCheck):
    """Git is installed and new enough."""

    id = "git.installed"
    title = "Git"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def look(self) -> Finding:
        program = shutil.which("git", path=self.environment.get("PATH", os.defpath))
        consequence = "Without it the files that a task changed are found by scanning its directory."
        if program is None:
            return Finding(
                level=Level.WARNING,
                summary="Git is not installed.",
                detail=consequence,
                hint="Install git with the package manager of your system.",
            )
        code, output = _ask([program, "--version"], self.environment, Path("/"))
        words = output.split()
        if code != 0 or words[:2] != ["git", "version"] or len(words) < 3:
            return Finding(
                level=Level.WARNING,
                summary=f"{program} does not tell its version.",
                detail=output or consequence,
                hint="Install git again.",
            )
        version = words[2]
        if _numbers(version) < MINIMUM:
            return Finding(
                level=Level.WARNING,
                summary=f"Git {version} is older than {'.'.join(map(str, MINIMUM))}.",
                detail=consequence,
                hint="Install a newer git.",
            )
        return Finding(level=Level.OK, summary=f"Git {version}", detail=program)


class RepositoryCheck(BlockingCheck):
    """Git works in the directory where tasks are to be given."""

    id = "git.repository"
    title = "Repository of the current directory"

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = environment

    def look(self) -> Finding:
        if _owner_of_repository(self.directory) is None:
            return Finding(level=Level.OK, summary=f"{self.directory} is not in a git repository.")
        program = shutil.which("git", path=self.environment.get("PATH", os.defpath))
        if program is None:
            return Finding(level=Level.INFO, summary="Git is not installed.")
        code, output = _ask([program, "rev-parse", "--show-toplevel"], self.environment, self.directory)
        if code == 0:
            return Finding(level=Level.OK, summary=f"Git works in {output}.")
        # Not taken from git's words: whose directory it is can be seen.
        owner = _owner_of_repository(self.directory)
        if owner is not None and owner.stat().st_uid != os.geteuid():
            return Finding(
                level=Level.WARNING,
                summary=f"Git does not trust {owner}, because it belongs to somebody else.",
                detail=output,
                hint=f"If you trust it, run: git config --global --add safe.directory {owner}",
            )
        return Finding(
            level=Level.WARNING,
            summary=f"Git does not work in {self.directory}.",
            detail=output,
            hint="Run 'git status' there and mend what it reports.",
        )


def _owner_of_repository(directory: Path) -> Path | None:
    above = (directory, *directory.parents)
    return next((path for path in above if marks_repository(os.fsencode(path / ".git"))), None)


def _ask(argv: list[str], environment: Mapping[str, str], directory: Path) -> tuple[int | None, str]:
    """Exit status and what was said; no status when the program did not run or did not end in time."""
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            env={**environment, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_TIMEOUT:g} s"
    except OSError as error:
        return None, str(error)
    said = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    return done.returncode, said.decode("utf-8", "replace").strip()


def _numbers(version: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
