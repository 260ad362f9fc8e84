"""What the turn program writes, and what it has to remember of it to say nothing twice and nothing wrong."""

from __future__ import annotations

import json
import os

from holdfast.drivers.app_server.payload import member, members, text, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast.drivers.app_server.payload import Json

#: The longest line that is written, in bytes; a reader takes 64 MiB.
LONGEST = 48 * 1024 * 1024
#: Threads whose use is counted.
_MOST_THREADS = 1024
#: The token counts that are added up, by their names in the protocol.
_COUNTS = ("inputTokens", "cachedInputTokens", "outputTokens", "reasoningOutputTokens")


def write(line: bytes, descriptor: int = 1) -> None:
    """Write all of *line* and a line feed; a reader that left ends the program, as SIGPIPE would."""
    if b"\n" in line:
        line = json.dumps(json.loads(line)).encode("utf-8")
    view = memoryview(line + b"\n")
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        os._exit(141)


def say(kind: str, **fields: Any) -> None:
    """Write a line of our own."""
    given = {name: value for name, value in fields.items() if value is not None}
    write(json.dumps({"holdfast": kind, **given}).encode("ascii"))


class Report:
    """The lines about one turn."""

    def __init__(self) -> None:
        #: How many lines about items were written: the measure of progress.
        self.lines = 0
        #: The client ids of the user messages of the turn.
        self.client_ids: set[str] = set()
        #: The paths that a file change is about, by item id.
        self.changes: dict[str, list[str]] = {}
        self._open: dict[str, Json] = {}
        self._done: set[str] = set()
        self._messages: list[str] = []
        self._last: str | None = None
        self._final: str | None = None
        #: What threads had used before the turn, and have now: ours, and those of its sub-agents.
        self._baselines: dict[str, dict[str, int]] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._attached = False

    def take(self, message: Json, raw: bytes) -> None:
        """A notification about the turn."""
        method, params = message.get("method"), member(message, "params")
        if method in ("item/started", "item/completed"):
            if not self._item(str(method), member(params, "item")):
                return
        elif method == "thread/tokenUsage/updated":
            self.used(str(params.get("threadId")), member(params, "tokenUsage"))
        if len(raw) <= LONGEST:
            write(raw)

    def recorded(self, items: list[Json], thread_id: str, turn_id: str, *, over: bool) -> None:
        """The items of the turn as the server has them on record; what was written already is left out.

        0.142.2 names items otherwise on record than live, and leaves tools out; messages are told by their order.
        """
        self._attached = True
        known = list(self._messages)
        for item in items:
            kind = item.get("type")
            if kind in ("agentMessage", "exitedReviewMode") and known and known[0] == _said(item):
                del known[0]
                self._done.add(f"{kind}:{item.get('id')}")
                continue
            ended = over or item.get("status") != "inProgress"
            method = "item/completed" if ended else "item/started"
            if self._item(method, item):
                params = {"item": item, "threadId": thread_id, "turnId": turn_id}
                write(json.dumps({"method": method, "params": params, "holdfast": "collected"}).encode("utf-8"))
        still = {str(item.get("id")) for item in items if item.get("status") == "inProgress" and not over}
        for item_id in [item_id for item_id in self._open if item_id not in still]:
            # It ended while nobody listened, and how is not on record.
            del self._open[item_id]
            say("forgotten", itemId=item_id)

    def used(self, thread: str, usage: Json) -> None:
        """Remember a thread's totals, and what they were before the turn: those first heard less their own part."""
        total, last = ({name: whole(member(usage, of), name) for name in _COUNTS} for of in ("total", "last"))
        if thread not in self._totals and len(self._totals) >= _MOST_THREADS:
            return
        self._baselines.setdefault(thread, {name: max(0, total[name] - last[name]) for name in _COUNTS})
        self._totals[thread] = total

    def close(self, *, answered: bool = False) -> None:
        """The turn is over: what has to be said before its end; *answered* if it came to an answer."""
        for item_id in self._open:
            say("forgotten", itemId=item_id)
        self._open.clear()
        if answered and self._final is not None and self._final != self._last:
            # Something was said after the answer: the last message is what counts as the answer.
            say("answer", text=self._final)
        if self._totals and not self._attached:
            used = [(total, self._baselines[thread]) for thread, total in self._totals.items()]
            say("usage", usage={name: sum(total[name] - before[name] for total, before in used) for name in _COUNTS})

    def _item(self, method: str, item: Json) -> bool:
        """Whether this is news."""
        item_id, kind = str(item.get("id")), item.get("type")
        if kind == "userMessage" and (client_id := text(item, "clientId")):
            self.client_ids.add(client_id)
        if kind == "fileChange":
            self.changes[item_id] = [str(change.get("path")) for change in members(item, "changes")]
        key = f"{kind}:{item_id}"
        if key in self._done or (method == "item/started" and item_id in self._open):
            return False
        self.lines += 1
        if method == "item/started":
            if kind not in ("userMessage", "agentMessage", "reasoning", "enteredReviewMode", "exitedReviewMode"):
                self._open[item_id] = item
            return True
        self._open.pop(item_id, None)
        self._done.add(key)
        if kind in ("agentMessage", "exitedReviewMode"):
            self._messages.append(_said(item))
            self._last = _said(item)
            if kind == "exitedReviewMode" or item.get("phase") == "final_answer":
                self._final = self._last
        return True


def _said(item: Json) -> str:
    return str(item.get("text") if item.get("type") == "agentMessage" else item.get("review"))
