"""Standard output and standard error of a command: exact bytes out, and text for people that cannot harm a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final, TextIO

from holdfast.errors import HoldfastError

#: Exit status of a command whose standard output was closed by its reader, as if SIGPIPE had ended it.
PIPE_CLOSED_EXIT: Final = 141
#: Exit status of a command that Ctrl-C ended.
INTERRUPTED_EXIT: Final = 130

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}

#: What to do when output cannot be written: of most commands, and of one that prints what a task left.
ELSEWHERE: Final = "Send it to another place."
STORED: Final = "The result is stored: holdfast list shows it, holdfast result ID prints it."


class PipeClosed(Exception):
    """Whoever read our output went away; nobody is left to be told."""


class OutputFailed(HoldfastError):
    """Standard output, or standard error with what it is the only place for, cannot be written (disk full, closed)."""

    code = "output_failed"
    exit_code = 74


def write(chunks: Iterable[bytes], *, hint: str = ELSEWHERE) -> int:
    """Write bytes to standard output as they are and flush them; return the last byte written, or -1.

    :param hint: what to do when that fails
    :raises PipeClosed: the reader is gone
    :raises OutputFailed: the bytes cannot be written
    """
    last = -1
    if sys.stdout is None:
        raise OutputFailed("Standard output is closed.", hint=hint)
    for chunk in chunks:
        if chunk:
            _guarded(sys.stdout, chunk, hint)
            last = chunk[-1]
    return last


def write_line(text: str, *, hint: str = ELSEWHERE) -> None:
    """Write one line (or several) of text to standard output, in UTF-8, and flush it."""
    write([text.encode("utf-8", "backslashreplace") + b"\n"], hint=hint)


def tell(text: str) -> None:
    """Write one line (or several) to standard error; a terminal that is gone is no reason to fail."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass


def write_record(kind: str, data: bytes) -> None:
    """Write what a process wrote, byte for byte, to the stream of that name.

    *kind* is one of :class:`holdfast.host.port.Kind`; records of other kinds hold nothing that the process wrote there.
    Who has closed standard error does not want to know.

    :raises PipeClosed: the reader is gone
    :raises OutputFailed: the bytes cannot be written
    """
    from holdfast.host.port import Kind

    if kind in (Kind.STDOUT, Kind.PTY):
        write([data])
    elif kind == Kind.STDERR and sys.stderr is not None:
        _guarded(sys.stderr, data, ELSEWHERE)


def printable(text: str) -> str:
    """*text* on one line without control characters, escape sequences and invisible marks.

    Agents, files and models wrote much of what is shown; none of it may move the cursor or rename the window.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads *stream*."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def columns(stream: TextIO) -> int:
    """Width of the terminal behind *stream*, in cells."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Style:
    """Colours for one stream: none unless a person reads it, and none with ``NO_COLOR`` or ``TERM=dumb``."""

    def __init__(self, stream: TextIO | None) -> None:
        #: Whether a line can be written over.
        self.can_rewrite = is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"
        self.enabled = self.can_rewrite and not os.environ.get("NO_COLOR")

    def __call__(self, name: str, text: str) -> str:
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.enabled else text


def _guarded(stream: TextIO, chunk: bytes, hint: str) -> None:
    descriptor, name = (2, "error") if stream is sys.stderr else (1, "output")
    try:
        stream.buffer.write(chunk)
        stream.buffer.flush()
    except BrokenPipeError as error:
        _discard(descriptor)
        raise PipeClosed from error
    except OSError as error:
        _discard(descriptor)
        raise OutputFailed(f"Standard {name} cannot be written: {error.strerror or error}.", hint=hint) from error


def _discard(descriptor: int) -> None:
    """Point *descriptor* at nothing, so that leaving cannot fail on what is still buffered for it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
