"""Finding an agent's program, and asking it short questions that need no model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

#: How long a question such as ``--version`` may take, in seconds.  A cold start of a 370 MB binary takes about one.
QUESTION_TIMEOUT = 10.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a program said; ``exit_code`` is ``None`` when it did not run or did not finish in time."""

    exit_code: int | None
    stdout: str
    stderr: str


def locate(command: str, environment: Mapping[str, str]) -> Path | None:
    """The executable that *command* means to somebody with this *environment*, as an absolute path.

    A command with a slash is a path (``~`` is understood); any other is looked up in ``PATH``.
    """
    if "/" in command:
        # Unlike that of pathlib, this one takes a home that there is not for a name.
        path = Path(os.path.expanduser(command)).absolute()
        return path if path.is_file() and os.access(path, os.X_OK) else None
    found = shutil.which(command, path=environment.get("PATH", os.defpath))
    return Path(found).absolute() if found else None


def ask(argv: Sequence[str], environment: Mapping[str, str]) -> Answer:
    """Run a short command to its end with nothing on standard input; never raises, ends it at the time limit.

    What it says goes to files: a descendant that holds a pipe open could keep us waiting after the time limit.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                list(argv),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(exit_code=None, stdout="", stderr=str(error))
        try:
            exit_code = process.wait(QUESTION_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            # It is not reaped yet, so its process group is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Answer(exit_code=None, stdout="", stderr=str(error))
        return Answer(exit_code=exit_code, stdout=_text(stdout), stderr=_text(stderr))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")
