"""Commands to the turn program (:mod:`holdfast.agents.commands`), one JSON object per line on standard input.

Read without the library that defines them, which would take as long to load as all of this program.
"""

from __future__ import annotations

import json
import os
import select

from holdfast.drivers.app_server.payload import is_object
from holdfast.drivers.app_server.report import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json

#: The longest line that is taken for a command, in bytes.
_LONGEST = 8 * 1024 * 1024


class Command:
    """One command, and how far it has come."""

    def __init__(self, fields: Json) -> None:
        self.id = str(fields["id"])
        self.action = str(fields["do"])
        self.text = str(fields.get("text", ""))
        self.request_id = str(fields.get("request_id", ""))
        self.decision = str(fields.get("decision", ""))
        #: It is being carried out and will be answered later.
        self.under_way = False


class Commands:
    """What was said to this program so far."""

    def __init__(self, descriptor: int = 0) -> None:
        #: What to wait on for more; ``None`` when no more can come, which is not a reason to end.
        self.descriptor: int | None = descriptor
        self._buffer = b""
        self._pending: list[Command] = []
        self._answers: dict[str, str | None] = {}

    def read(self) -> None:
        """Take in what is there; does not wait."""
        while self.descriptor is not None and _readable(self.descriptor):
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.descriptor = None
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            if len(self._buffer) > _LONGEST:
                self._buffer = b""
            for line in lines:
                self._take(line)

    def waiting(self) -> list[Command]:
        """Those that nothing was done about yet, in their order."""
        return [command for command in self._pending if not command.under_way]

    def pending(self) -> list[Command]:
        """Those that have no answer yet."""
        return list(self._pending)

    def answer(self, command: Command, refusal: str | None) -> None:
        """Say that *command* was carried out, or why not; saying so again later needs no second deed."""
        self._pending = [other for other in self._pending if other is not command]
        self._answers[command.id] = refusal
        say("answered", commandId=command.id, refusal=refusal)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            fields: object = json.loads(line)
            command = Command(fields if is_object(fields) else {})
        except (ValueError, KeyError):
            say("notice", text="A line on standard input is no command.")
            return
        if command.id in self._answers:
            say("answered", commandId=command.id, refusal=self._answers[command.id])
        elif command.action not in ("steer", "interrupt", "decide"):
            self.answer(command, f"there is no command {command.action!r}")
        elif all(other.id != command.id for other in self._pending):
            self._pending.append(command)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
