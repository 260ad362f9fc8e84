"""What is mounted where, as this process sees it: the table ``mountinfo`` of proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

#: The table of this process.
TABLE: Final = Path("/proc/self/mountinfo")
#: How the table writes blanks, tabs, newlines and backslashes in a path.
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the table."""

    number: str
    #: Major and minor number, with a colon.
    device: str
    #: The directory of the file system that is the top of what is mounted.
    root: str
    point: str
    #: Options of the mount, not those of the file system; ``rw`` or ``ro`` comes first.
    options: str
    #: The type of the file system.
    kind: str


def read_mounts(table: Path = TABLE) -> list[Mount]:
    """Every mount, those that others hide included.

    :raises OSError: the table cannot be read
    """
    found: list[Mount] = []
    with open(table, "rb") as lines:
        for line in lines:
            before, _, after = os.fsdecode(line).partition(" - ")
            number, _, device, root, point, options, *_ = before.split(" ")
            found.append(Mount(number, device, _plain(root), _plain(point), options, after.partition(" ")[0]))
    return found


def _plain(path: str) -> str:
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), path) if "\\" in path else path
