"""What is known of the one turn that a turn program runs, and how it takes what the server says about it."""

from __future__ import annotations

import os
import select
import time

from holdfast.drivers.app_server.commands import Commands
from holdfast.drivers.app_server.connection import Dropped, milliseconds
from holdfast.drivers.app_server.marks import Marks
from holdfast.drivers.app_server.payload import member, text
from holdfast.drivers.app_server.questions import Questions
from holdfast.drivers.app_server.report import Report, say, write
from holdfast.drivers.app_server.subagents import SubAgents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.conversation import Conversation
    from holdfast.drivers.app_server.order import Order
    from holdfast.drivers.app_server.payload import Json

#: For the confirmation that a turn was interrupted when we are told to go, seconds.
STOP_WITHIN = 3.0
#: How often the record is looked at again before what it says of an interruption, or of nothing, is believed.
LOOKS_AGAIN = 8


class Turn:
    """One turn: what was asked, how far it has come, and the connection on which it is spoken of."""

    def __init__(self, order: Order, prompt: str, wakeup: int | None = None) -> None:
        self.order = order
        self.prompt = prompt
        self.wakeup = wakeup
        self.marks = Marks(order["prompt_file"], order["work_id"])
        self.thread_id: str | None = None
        self.turn_id: str | None = None
        #: Turns that the server runs within ours: that of a reviewer.
        self.inner: set[str] = set()
        self.report = Report()
        self.questions = Questions(order["approvals"], say, self.report.changes)
        self.subagents = SubAgents(self._asked_by, self.report.used)
        self.commands = Commands()
        #: Messages that came before it was known which turn is ours; ``None`` when they are not kept.
        self.held: list[tuple[Json, bytes]] | None = None
        self.ended: Json | None = None
        self.ended_raw = b""
        self.conversation: Conversation | None = None
        #: Until when the end of the turn is waited for, once it was asked to end.
        self.stop_by: float | None = None
        self.interrupted = False
        self.told_to_go = False

    def stop(self) -> None:
        """Bring the turn to an end, soon; safe to be called by a signal handler."""
        self.told_to_go = True
        self.stop_by = time.monotonic() + STOP_WITHIN
        if self.conversation is not None:
            self.conversation.hurry = self.stop_by

    @property
    def begun(self) -> bool:
        """Whether the server may have been asked to begin it."""
        return self.marks.begun() is not None

    def talk(self) -> Conversation:
        """The conversation with the server, where there must be one."""
        assert self.conversation is not None
        return self.conversation

    def disconnect(self) -> None:
        """Let go of the server, if it is still there, and of what is true on one connection only."""
        conversation, self.conversation = self.conversation, None
        self.held = None
        self.interrupted = False
        if conversation is not None:
            conversation.close()

    def sleep(self, seconds: float) -> None:
        """Wait; a signal ends it early."""
        poll = select.poll()
        if self.wakeup is not None:
            poll.register(self.wakeup, select.POLLIN)
        if poll.poll(milliseconds(seconds)) and self.wakeup is not None:
            os.read(self.wakeup, 64)

    def hear(self, message: Json, raw: bytes) -> None:
        """Take a message of the server, or hold it back while :attr:`held` is a list.

        :raises Dropped: it says that the thread is closed
        """
        if self.held is not None:
            self.held.append((message, raw))
        else:
            self._take(message, raw)

    def release(self) -> None:
        """Take what was held back while it was not known which turn is ours."""
        held, self.held = self.held or [], None
        for message, raw in held:
            self._take(message, raw)

    def _take(self, message: Json, raw: bytes) -> None:
        method, params = message.get("method"), member(message, "params")
        if method == "thread/started" and text(member(params, "thread"), "id") != self.thread_id:
            self.subagents.introduce(member(params, "thread"))
            return
        if text(params, "threadId") not in (None, self.thread_id):
            self.subagents.hear(self.talk(), message, raw, {str(self.turn_id), *self.inner})
            return
        if "id" in message:
            if self._ours(params):
                write(raw)
            self.questions.asked(self.talk(), message)
            return
        if method == "turn/started" and params.get("threadId") == self.thread_id:
            self.inner.update({str(member(params, "turn").get("id"))} - {str(self.turn_id)})
        if not self._ours(params) or self.ended is not None:
            return
        if method == "turn/completed":
            # Written by ending.finish(), after what has to come before it.
            self.ended = message
            self.ended_raw = raw
        elif method == "thread/closed" and self.turn_id is not None:
            raise Dropped("the server closed the thread")
        else:
            if method == "serverRequest/resolved":
                self.questions.resolved(params.get("requestId"))
            self.report.take(message, raw)
            if method in ("item/started", "item/completed"):
                self.subagents.note(self.talk(), method, member(params, "item"))

    def _asked_by(self, message: Json, label: str) -> None:
        self.questions.asked(self.talk(), message, label)

    def _ours(self, params: Json) -> bool:
        """Whether a message speaks of our turn, or of our thread as a whole."""
        thread_id = text(params, "threadId") or text(member(params, "thread"), "id")
        turn_id = text(member(params, "turn"), "id") or text(params, "turnId")
        return thread_id is not None and thread_id == self.thread_id and turn_id in (None, self.turn_id)
