"""Where the prompt comes from, byte for byte: one argument, a file, or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from holdfast.cli import terminal
from holdfast.cli.error_report import UsageError


def read(words: Sequence[str], prompt_file: str | None) -> bytes:
    """The prompt of a command line whose positional arguments behind the agent are *words*.

    ``-`` (as the argument or as the file) is standard input, which is also read when neither is given and it is not
    a terminal.

    :raises UsageError: there is none, there are several, it is empty, or it cannot be read
    """
    if len(words) > 1:
        raise UsageError(
            f"The prompt must be one argument, but there are {len(words)}.",
            hint="Put the whole prompt in quotes, or use --prompt-file FILE, or pipe it in.",
        )
    if words and prompt_file is not None:
        raise UsageError("The prompt is given twice, as an argument and as a file.", hint="Leave one of them out.")
    if prompt_file is None and words and words[0] != "-":
        prompt = os.fsencode(words[0])
    elif prompt_file is not None and prompt_file != "-":
        prompt = _read_file(prompt_file)
    elif not words and prompt_file is None and terminal.is_terminal(sys.stdin):
        raise UsageError("There is no prompt.", hint='Give it as one argument, such as: holdfast run AGENT "..."')
    else:
        prompt = b"" if sys.stdin is None else sys.stdin.buffer.read()
    if not prompt.strip():
        raise UsageError("The prompt is empty.", hint="Give the agent something to do.")
    return prompt


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(
            f"The prompt file {path!r} cannot be read: {error.strerror}.", hint="Check the path given to --prompt-file."
        ) from error
