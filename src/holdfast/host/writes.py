"""Which writes a process has got, so that a repeated one is recognised even by the next server.

Each write is noted before its first byte goes out and again when its last one has.  A write that was begun and not
finished when the server died is *uncertain*: nobody can say how much of it arrived, and repeating it could double it.
Some of those were already answered, because they were short enough to wait in the server's memory: whoever writes next
has to be told that there may be a gap before it.

Signals that have an id are noted in the same way; they leave no gap.
"""

from __future__ import annotations

import os
from enum import Enum
from hashlib import blake2b
from typing import Final

from holdfast.host.log_index import LogFull, log_full
from holdfast.host.whole import append_whole, close_file

#: How many write ids are remembered (the reference implementation's number).
REMEMBERED: Final = 4096
_DIGEST: Final = 16
_RECORD: Final = _DIGEST + 1
_BEGUN: Final = b"B"
_DONE: Final = b"D"
_SIGNAL: Final = b"S"


class WriteState(Enum):
    """What is known of a write id."""

    NEW = "new"
    #: Begun by this server, and not yet at its end.
    BEGUN = "begun"
    #: The operating system has all of it.
    DONE = "done"
    #: The process closed its stdin or ended before it had all of it.
    FAILED = "failed"
    #: Begun by an earlier server that did not finish it.
    UNCERTAIN = "uncertain"


class WriteLedger:
    """The write ids of one process, in memory and in a file beside its log."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/writes"
        self._file = -1
        self._states: dict[bytes, WriteState] = {}
        #: Uncertain writes of which no client has been told yet.
        self._untold: set[bytes] = set()
        #: Whether what earlier servers noted has still to be read.
        self._unread = False

    def recover_when_asked(self) -> None:
        """Read what earlier servers noted when somebody asks: of most processes that are closed nobody does."""
        self._unread = True

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
            self._remember(digest, WriteState.DONE if mark == _DONE else WriteState.UNCERTAIN)
            if mark == _BEGUN:
                self._untold.add(digest)
            else:
                self._untold.discard(digest)
        self._untold &= self._states.keys()
        if size % _RECORD:
            os.truncate(self._path, size - size % _RECORD)

    def state(self, write_id: str) -> WriteState:
        """What is known of *write_id*.

        :raises OSError: what earlier servers noted cannot be read at the moment
        """
        return self._state(_digest(write_id))

    def _state(self, digest: bytes) -> WriteState:
        if self._unread:
            self.recover()
            self._unread = False
        return self._states.get(digest, WriteState.NEW)

    def tell(self, write_id: str) -> None:
        """A client is being told that this write is uncertain."""
        self._untold.discard(_digest(write_id))

    def tell_all(self) -> int:
        """How many writes are uncertain of which no client had been told; it is being told now."""
        untold = len(self._untold)
        self._untold.clear()
        return untold

    def begin(self, write_id: str) -> None:
        """Note that this write is about to begin.

        :raises LogFull: no room; the write must not begin
        """
        self._begin(_digest(write_id), _BEGUN)

    def _begin(self, digest: bytes, mark: bytes) -> None:
        self._note(digest + mark)
        self._remember(digest, WriteState.BEGUN)

    def done(self, write_id: str) -> None:
        """Note that the operating system has taken the last byte."""
        self._done(_digest(write_id))

    def _done(self, digest: bytes) -> None:
        self._remember(digest, WriteState.DONE)
        try:
            self._note(digest + _DONE)
        except LogFull:
            # It happened; at worst it will be called uncertain after a crash.
            pass

    def failed(self, write_id: str) -> None:
        """Nothing more of this write reaches the process."""
        self._remember(_digest(write_id), WriteState.FAILED)

    def signal_state(self, signal_id: str) -> WriteState:
        """What is known of this signal."""
        return self._state(_signal_digest(signal_id))

    def begin_signal(self, signal_id: str) -> None:
        """Note that this signal is about to be sent.

        :raises LogFull: no room; it must not be sent
        """
        self._begin(_signal_digest(signal_id), _SIGNAL)

    def signal_done(self, signal_id: str) -> None:
        """Note that this signal was sent."""
        self._done(_signal_digest(signal_id))

    def signal_refused(self, signal_id: str) -> None:
        """The noted signal could not be sent; the same again is no repetition."""
        self._states.pop(_signal_digest(signal_id), None)

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
            close_file(self._file)
            self._file = -1


def _signal_digest(signal_id: str) -> bytes:
    return _digest(f"signal {signal_id}")


def _digest(write_id: str) -> bytes:
    return blake2b(write_id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
