"""The file ``process`` of a hosted process: a line of JSON before the start, and a second one once it runs.

A start is made only with its whole description on the disk, so half of one describes nothing that ever ran.
"""

from __future__ import annotations

import os

import msgspec

from holdfast.clock import boot_id
from holdfast.host.os_process import first_started
from holdfast.host.whole import append_whole


class Description(msgspec.Struct, kw_only=True, rename="camel"):
    """What is written beside the log before the start, so that a restarted host knows what it finds."""

    process_id: str
    #: The client session that owns the process; None for one that lives in the namespace of the host.
    session_id: str | None
    argv: list[str]
    cwd: str
    tty: bool
    marker: str | None
    #: Whether it has a signal drop.
    signal_drop: bool = False
    #: Whether it runs in a sandbox that the client asked for.
    sandboxed: bool = False
    #: For people, and for an order: the wall clock may have been set since.
    created_ns: int
    #: The same moment on the clock that starts of processes are measured by; it means something in this boot only.
    created_boottime_ns: int = 0
    boot_id: str
    #: Of the pid namespace in which it was started, see :func:`first_started`; None also by a version that did not note
    #: it.
    first_started: int | None = None

    @property
    def pids_hold(self) -> bool:
        """Whether pids mean what they meant then: not after a boot, and not in a container that was started anew.

        Where the first process may not be seen, or could not be, the boot alone decides.
        """
        then, now = self.first_started, first_started()
        return self.boot_id == boot_id() and (then is None or now is None or then == now)


class Started(msgspec.Struct, kw_only=True):
    """What is appended once the process runs."""

    pid: int
    #: Clock ticks since boot; tells the process from a later one with the same pid.
    started: int


def write_description(file: int, description: Description) -> None:
    """Write what is to be started into the empty *file*.

    :raises OSError: it does not fit
    """
    try:
        line = msgspec.json.encode(description)
    except UnicodeEncodeError:
        # Names of files that are no text; what is written down of them is for people only.
        argv = [_text(word) for word in description.argv]
        line = msgspec.json.encode(msgspec.structs.replace(description, argv=argv, cwd=_text(description.cwd)))
    append_whole(file, line + b"\n")


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def write_started(file: int, started: Started) -> None:
    """Write behind the description that it runs.

    :raises OSError: it does not fit
    """
    append_whole(file, msgspec.json.encode(started) + b"\n")


def read_description(directory: str) -> tuple[Description, Started | None] | None:
    """What is described in *directory*, and whether it was started; None if nothing ever was.

    :raises OSError: that cannot be told
    """
    try:
        with open(f"{directory}/process", "rb") as file:
            lines = file.read().split(b"\n")
        if not os.path.exists(f"{directory}/index"):
            return None
        description = msgspec.json.decode(lines[0], type=Description)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    try:
        return description, msgspec.json.decode(lines[1], type=Started)
    except (IndexError, msgspec.DecodeError):
        return description, None
