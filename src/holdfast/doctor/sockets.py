"""Sockets that nobody listens on any more."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from holdfast.doctor.check import BlockingCheck, Finding, Level

#: A socket refuses connections between bind() and listen(): a younger one may belong to a server that is just starting.
STARTING_SECONDS: Final = 10.0
#: Directories looked into; tasks have sockets of their own, and there can be many tasks.
_DIRECTORIES: Final = 10_000


class StaleSocketsCheck(BlockingCheck):
    """Every socket below the given directories has somebody who answers."""

    id = "sockets.stale"
    title = "Sockets have a listener"
    timeout_s = 10.0

    def __init__(self, directories: Iterable[Path]) -> None:
        self.directories = list(directories)

    def look(self) -> Finding:
        found = list(self._sockets())
        stale = [path for path in found if _is_stale(path)]
        if not stale:
            return Finding(level=Level.OK, summary=f"{len(found)} sockets, every one with a listener.")
        return Finding(
            level=Level.WARNING,
            summary=f"{len(stale)} of {len(found)} sockets have no listener.",
            detail="\n".join(map(str, stale[:20])),
            hint=f"Remove them: {stale[0]}{' and others' if len(stale) > 1 else ''}.",
            fixable=True,
        )

    def mend(self) -> None:
        for path in self._sockets():
            # Asked again right before: a server may have started meanwhile.
            if _is_stale(path):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def _sockets(self) -> Iterable[Path]:
        looked_into = 0
        for top in self.directories:
            if top.is_symlink():
                continue
            for directory, _, names in os.walk(top):
                looked_into += 1
                if looked_into > _DIRECTORIES:
                    return
                for name in names:
                    path = Path(directory, name)
                    with contextlib.suppress(OSError):
                        if stat.S_ISSOCK(path.lstat().st_mode):
                            yield path


def _is_stale(path: Path) -> bool:
    """Whether a socket of ours refuses connections, and is too old to be just starting."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if status.st_uid != os.geteuid() or time.time() - status.st_mtime < STARTING_SECONDS:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(_address(path))
        except OSError as error:
            # Anything else (a full backlog, a datagram socket, no permission) proves no absence.
            return error.errno == errno.ECONNREFUSED
    return False


def _address(path: Path) -> bytes:
    encoded = os.fsencode(path)
    if len(encoded) < 100:
        return encoded
    # A path that is too long for an address was bound through a shorter one; go the same way.
    return os.fsencode(os.path.relpath(path)) if len(os.fsencode(os.path.relpath(path))) < 100 else encoded
