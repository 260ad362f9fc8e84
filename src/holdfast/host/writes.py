"""Which writes a process has got, so that a repeated one is recognised even by the next server.

Each write is noted before its first byte goes out and again when its last one has.  A write that was begun and not
finished when the server died is *uncertain*: nobody can say how much of it arrived, and repeating it could double it.
"""

from __future__ import annotations

import os
from enum import Enum
from hashlib import blake2b
from typing import Final

from holdfast.host.log_index import LogFull, log_full
from holdfast.host.whole import append_whole

#: How many write ids are remembered (the reference implementation's number).
REMEMBERED: Final = 4096
_DIGEST: Final = 16
_RECORD: Final = _DIGEST + 1
_BEGUN: Final = b"B"
_DONE: Final = b"D"


class WriteState(Enum):
    """What is known of a write id."""

    NEW = "new"
    #: Begun by this server: its bytes are in the queue or written.
    TAKEN = "taken"
    #: Begun by an earlier server that did not finish it.
    UNCERTAIN = "uncertain"


class WriteLedger:
    """The write ids of one process, in memory and in a file beside its log."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/writes"
        self._file = -1
        self._states: dict[bytes, WriteState] = {}

    def recover(self) -> None:
        """Read what earlier servers noted."""
        try:
            with open(self._path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                # Twice as many records as ids, as each write has two.
                file.seek(max(0, size // _RECORD - 2 * REMEMBERED) * _RECORD)
                content = file.read()
        except FileNotFoundError:
            return
        for start in range(0, len(content) - _RECORD + 1, _RECORD):
            digest, mark = content[start : start + _DIGEST], content[start + _DIGEST : start + _RECORD]
            self._remember(digest, WriteState.TAKEN if mark == _DONE else WriteState.UNCERTAIN)
        if size % _RECORD:
            os.truncate(self._path, size - size % _RECORD)

    def state(self, write_id: str) -> WriteState:
        """What is known of *write_id*."""
        return self._states.get(_digest(write_id), WriteState.NEW)

    def begin(self, write_id: str) -> None:
        """Note that this write is about to begin.

        :raises LogFull: no room; the write must not begin
        """
        digest = _digest(write_id)
        self._note(digest + _BEGUN)
        self._remember(digest, WriteState.TAKEN)

    def done(self, write_id: str) -> None:
        """Note that the operating system has taken the last byte."""
        try:
            self._note(_digest(write_id) + _DONE)
        except LogFull:
            # The write happened; at worst it will be called uncertain after a crash.
            pass

    def _remember(self, digest: bytes, state: WriteState) -> None:
        self._states[digest] = state
        if len(self._states) > REMEMBERED:
            del self._states[next(iter(self._states))]

    def _note(self, record: bytes) -> None:
        try:
            if self._file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(self._path, flags, 0o600)
            # Half of a note would shift all that follow.
            append_whole(self._file, record)
        except OSError as error:
            raise log_full(f"a note of a write in {self._path}", error) from error

    def close(self) -> None:
        """Close the file; no write follows."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _digest(write_id: str) -> bytes:
    return blake2b(write_id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
