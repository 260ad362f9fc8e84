"""Making a Codex thread of a Claude Code transcript, in a conversation with any server.

Measured on 0.142.2 and 0.169.0: the server answers at once and says later that it is done.  0.169 names the thread
then; 0.142.2 leaves it out, and has it in a list of its own imports in its home, by path and digest of the file.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.drivers.app_server.connection import left
from holdfast.drivers.app_server.conversation import Conversation, Unanswered
from holdfast.drivers.app_server.payload import is_object, member, members, text

if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json

_COMPLETED = "externalAgentConfig/import/completed"


class NotImported(Exception):
    """The server is done and has no thread of it; the message is its reason, or empty."""


class Import:
    """One import.  :meth:`hear` must get what the server says by itself, from before it is begun."""

    def __init__(self, transcript: Path, *, cwd: str, title: str | None = None) -> None:
        """*cwd* is where the thread shall work.

        :raises OSError: the transcript cannot be read
        """
        self._path = str(transcript.resolve(strict=True))
        # Of what it is now: whoever writes it may go on.
        self._digest = hashlib.sha256(Path(self._path).read_bytes()).hexdigest()
        self._session: Json = {"path": self._path, "cwd": cwd, "title": title}
        self._done: list[Json] = []

    def hear(self, message: Json, raw: bytes = b"") -> None:
        """A notification of the server."""
        if message.get("method") == _COMPLETED:
            self._done.append(member(message, "params"))

    def run(self, conversation: Conversation, *, within: float, home: str | None = None) -> str:
        """Have it done in *within* seconds; the thread's id.

        :param home: the server's home directory, if it does not name it
        :raises RpcError: the server refused
        :raises Unanswered: it was not done in time
        :raises Dropped: the connection was lost
        :raises NotImported: it is done, and there is no thread
        """
        deadline = time.monotonic() + within
        nothing: Json = {name: [] for name in ("plugins", "mcpServers", "hooks", "subagents", "commands")}
        details = {**nothing, "sessions": [self._session]}
        item = {"itemType": "SESSIONS", "description": "A Claude session", "cwd": None, "details": details}
        answer = conversation.request("externalAgentConfig/import", {"migrationItems": [item]}, within=within)
        import_id = text(answer, "importId")
        while not (told := [done for done in self._done if import_id in (None, text(done, "importId"))]):
            if left(deadline) == 0.0:
                raise Unanswered("the server did not say in time that the import is done")
            conversation.wait(left(deadline))
        results = [result for done in told for result in members(done, "itemTypeResults")]
        targets = [text(success, "target") for result in results for success in members(result, "successes")]
        thread_id = next(filter(None, targets), None) or self._recorded(conversation.home or home)
        if thread_id is None:
            reasons = [text(failure, "message") for result in results for failure in members(result, "failures")]
            raise NotImported("; ".join(filter(None, reasons)))
        return thread_id

    def _recorded(self, home: str | None) -> str | None:
        """The thread that the server has noted for this very content."""
        if home is None:
            return None
        try:
            listed: object = json.loads((Path(home) / "external_agent_session_imports.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        known = [
            text(record, "imported_thread_id")
            for record in (members(listed, "records") if is_object(listed) else [])
            if (text(record, "source_path"), text(record, "content_sha256")) == (self._path, self._digest)
        ]
        return next(filter(None, reversed(known)), None)
