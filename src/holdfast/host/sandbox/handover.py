"""What the programs of a sandbox get from this process, by descriptors that they inherit.

Nobody else sees it, as everybody would in a command line, and it is theirs from the start, whatever becomes of this
process then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from holdfast.host.whole import write_all_at

#: The environment of what runs outside of a sandbox: nothing that a client says.
HELPERS_ENVIRONMENT: Final[Mapping[str, str]] = {}
#: The shells redirect those below.
_LOWEST: Final = 10


class Given(Enum):
    """A word of a command line that stands for the number of a descriptor."""

    #: The filter of system calls.
    FILTER = auto()
    #: More words for ``bwrap``.
    OPTIONS = auto()
    #: What ``bwrap`` says when its mounts are done.
    READY = auto()
    #: A pipe of which it has both ends: whoever waits for a byte waits for that only, not for the death of others.
    GATE = auto()


@dataclass(frozen=True, slots=True)
class SandboxedCommand:
    """What to run with :data:`HELPERS_ENVIRONMENT`, before anything is open for it."""

    words: list[str | Given]
    contents: dict[Given, bytes]

    @contextlib.contextmanager
    def handed_over(self) -> Generator[tuple[list[str], list[int]]]:
        """The command line, and the descriptors that it names; they are open as long as this lasts.

        :raises OSError: no memory or descriptors
        """
        with contextlib.ExitStack() as opened:
            numbers: dict[Given, int] = {}
            for given, number in (
                *((given, _readable(given, content)) for given, content in self.contents.items()),
                (Given.GATE, _pipe()),
            ):
                opened.callback(os.close, number)
                numbers[given] = number
            argv = [str(numbers[word]) if isinstance(word, Given) else word for word in self.words]
            yield argv, list(numbers.values())


def _readable(given: Given, content: bytes) -> int:
    """A descriptor from which *content* can be read."""
    opened = os.memfd_create(f"sandbox-{given.name.lower()}", os.MFD_CLOEXEC)
    try:
        write_all_at(opened, content, 0)
        return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    finally:
        os.close(opened)


def _pipe() -> int:
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        both = os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return fcntl.fcntl(both, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
        finally:
            os.close(both)
    finally:
        for end in ends:
            os.close(end)
