"""What one start of the turn program leaves for the next: which thread it made, and that its turn may have begun.

Two small files beside the prompt.  Each is on disk before the step that it speaks of is taken, so what is not there was
not done.
"""

from __future__ import annotations

import json
import os

from holdfast.drivers.app_server.payload import is_object, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json


class Marks:
    """The marks of the piece of work *work_id*; those of another one at the same place do not count."""

    def __init__(self, prompt_file: str, work_id: str) -> None:
        self._thread = f"{prompt_file}.thread"
        self._turn = f"{prompt_file}.turn"
        self._work_id = work_id

    def thread_id(self) -> str | None:
        """The thread that an earlier start made, or took up, for this work."""
        known = text(self.begun() or {}, "thread_id")
        if known is not None:
            return known
        try:
            return text(self._read(self._thread), "thread_id")
        except ValueError:
            # Cut short by the end of the machine, and with that the thread has gone too.
            return None

    def begun(self) -> Json | None:
        """What :meth:`save_begun` noted; ``None``: the server was never asked to begin the turn."""
        return self._read(self._turn) or None

    def save_thread(self, thread_id: str) -> None:
        """Remember the thread; not beyond the end of the machine, because until its turn begins it is in memory only.

        :raises OSError: it could not be written
        """
        self._write(self._thread, {"thread_id": thread_id}, sync=False)

    def save_begun(self, notes: Json, *, sync: bool = True) -> None:
        """Remember that the turn may have begun, and in which thread, before the server is asked to begin it.

        :raises OSError: it could not be written
        """
        self._write(self._turn, notes, sync=sync)

    def note_stop(self) -> None:
        """Remember that the turn is interrupted on purpose; without that, one that is found interrupted was cut off."""
        begun = self.begun()
        if begun is not None:
            self.save_begun({**begun, "stopped": True}, sync=False)

    def clear_begun(self) -> None:
        """The server refused to begin the turn."""
        try:
            os.unlink(self._turn)
        except FileNotFoundError:
            pass

    def _read(self, path: str) -> Json:
        try:
            with open(path, encoding="utf-8") as file:
                notes: object = json.load(file)
        except FileNotFoundError:
            return {}
        return notes if is_object(notes) and notes.get("work_id") == self._work_id else {}

    def _write(self, path: str, notes: Json, *, sync: bool) -> None:
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, json.dumps({**notes, "work_id": self._work_id}).encode("utf-8"))
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(f"{path}.new", path)
        if sync:
            directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
