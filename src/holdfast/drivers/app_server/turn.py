"""The turn program: runs exactly one turn, or review, of an app-server, and may be started again at any time.

It first looks at what an earlier start has left (:mod:`.marks`) and what the server has on record (:mod:`.history`):
a turn that ended is reported, one that goes on is attached to, and only one that provably never began is begun.  Losing
the connection is treated in the same way.  What it writes to standard output is what the server says about the thread,
one JSON message per line, and lines of its own (``{"holdfast": ...}``) for what the protocol does not say;
:mod:`.dialect` understands both.

Exit status: 0 with the end of the turn written, 75 (as ``EX_TEMPFAIL``) when it is not known how the turn ended, 2 for
an order that makes no sense.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from holdfast import __version__
from holdfast.drivers.app_server import history, opening
from holdfast.drivers.app_server.commands import Commands
from holdfast.drivers.app_server.connection import (
    Connection,
    Dropped,
    StdioConnection,
    WebSocketConnection,
    left,
    milliseconds,
)
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.interruption import end_commands
from holdfast.drivers.app_server.marks import Marks
from holdfast.drivers.app_server.payload import member, text, texts
from holdfast.drivers.app_server.questions import Questions
from holdfast.drivers.app_server.report import Report, say, write
from holdfast.drivers.app_server.subagents import SubAgents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.order import Order
    from holdfast.drivers.app_server.payload import Json

EX_OK, EX_USAGE, EX_TEMPFAIL = 0, 2, 75

#: For the confirmation that a turn was interrupted, seconds: when we are told to go, and when it was only asked for.
STOP_WITHIN = 3.0
INTERRUPT_WITHIN = 20.0
#: The longest judgement of a reviewer that is told, in characters of JSON.
MOST_REVIEW = 256 * 1024
#: The same for what its agent had set to work and left at it.
SUBAGENTS_WITHIN = 5.0
#: Connections that were lost again without any sign of progress before it is given up.
MOST_DROPS = 8
#: For a thread that is just being unloaded by somebody else, seconds.
BUSY_PATIENCE = 3.0
#: How often the record is looked at again before what it says of an interruption, or of nothing, is believed.
_LOOKS_AGAIN = 8


class Ended(Exception):
    """There is nothing more to do; carries the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Turn:
    """One turn, from wherever it is to its end."""

    def __init__(self, order: Order, prompt: str, wakeup: int | None = None) -> None:
        self._order = order
        self._prompt = prompt
        self._wakeup = wakeup
        self._marks = Marks(order["prompt_file"], order["work_id"])
        self._thread_id: str | None = None
        self._turn_id: str | None = None
        #: Turns that the server runs within ours: that of a reviewer.
        self._inner: set[str] = set()
        self._report = Report()
        self._questions = Questions(order["approvals"], say, self._report.changes)
        self._subagents = SubAgents(self._asked_by, self._report.used)
        self._commands = Commands()
        #: Messages that came before it was known which turn is ours; ``None`` when they are not kept.
        self._held: list[tuple[Json, bytes]] | None = None
        self._ended: Json | None = None
        self._ended_raw = b""
        self._conversation: Conversation | None = None
        #: Until when the end of the turn is waited for, once it was asked to end.
        self._stop_by: float | None = None
        self._interrupted = False
        self._told_to_go = False
        self._drops = 0

    def stop(self) -> None:
        """Bring the turn to an end, soon; safe to be called by a signal handler."""
        self._told_to_go = True
        self._stop_by = time.monotonic() + STOP_WITHIN
        if self._conversation is not None:
            self._conversation.hurry = self._stop_by

    def run(self) -> int:
        """Carry the turn to its end; the exit status."""
        given_up_at: float | None = None
        pause = 0.02
        while True:
            before, connected = self._report.lines, False
            try:
                self._connect(given_up_at)
                connected, given_up_at = True, None
                self._reconcile()
                self._follow()
            except Ended as end:
                self._leave()
                return end.status
            except Dropped as drop:
                self._disconnect()
                if self._report.lines > before:
                    self._drops, pause = 0, 0.02
                self._drops += connected
                if given_up_at is None:
                    given_up_at = time.monotonic() + self._order["patience"]
                    if self._begun:
                        say("reconnecting", reason=str(drop))
                if self._stop_by is not None:
                    given_up_at = min(given_up_at, self._stop_by)
                if left(given_up_at) == 0.0 or self._drops > MOST_DROPS:
                    return self._lost(str(drop))
                self._sleep(min(pause, left(given_up_at)))
                pause = min(pause * 2, 1.0)

    @property
    def _begun(self) -> bool:
        return self._marks.begun() is not None

    def _connect(self, given_up_at: float | None) -> None:
        deadline = time.monotonic() + self._order["answer_within"]
        if given_up_at is not None:
            deadline = min(deadline, given_up_at)
        connection: Connection
        if self._order["socket"] is not None:
            connection = WebSocketConnection(self._order["socket"], deadline)
        else:
            connection = StdioConnection(self._order["command"], os.environ)
        conversation = self._conversation = Conversation(
            connection, self._hear, wakeup=self._wakeup, answer_within=self._order["answer_within"]
        )
        conversation.hurry = self._stop_by if self._told_to_go else None
        try:
            conversation.open(__version__)
        except RpcError as error:
            raise self._refused(error) from None

    def _talk(self) -> Conversation:
        assert self._conversation is not None
        return self._conversation

    def _disconnect(self) -> None:
        conversation, self._conversation = self._conversation, None
        self._held = None
        self._interrupted = False
        if conversation is not None:
            conversation.close()

    # --- where are we?

    def _reconcile(self) -> None:
        """Find out how far the work has come, and begin it if it has not."""
        begun = self._marks.begun()
        self._thread_id = self._thread_id or self._marks.thread_id()
        if begun is None or self._thread_id is None:
            self._begin()
            return
        accepted = text(begun, "turn_id") is not None
        found = self._find(begun)
        for _ in range(_LOOKS_AGAIN):
            # Measured on 0.169.0: while a thread is unloaded, a turn that just ended can read as one that was cut off.
            # And a request may still lie in the buffer of a connection that the server is only now reading to its end.
            if not (found.unfinished if found is not None else not accepted) or self._stop_by is not None:
                break
            self._sleep(0.25)
            found = self._find(begun)
        if found is None:
            thread = history.thread(self._talk(), self._thread_id)
            if accepted or (thread is None and begun.get("fresh") is not True):
                raise self._crashed("Codex has no record of the turn that it accepted.")
            if thread is None:
                # A thread without any turn is kept in memory only: it went with the server, and so did the request.
                self._thread_id = None
            self._begin()
            return
        if found.status == "inProgress":
            found = self._attach(found, begun)
        if found is not None:
            self._collect(found)

    def _find(self, begun: Json) -> history.Recorded | None:
        assert self._thread_id is not None
        if self._order["review"] is not None:
            earlier, turn_id = texts(begun, "earlier"), text(begun, "turn_id")
            return history.find_review(self._talk(), self._thread_id, earlier, turn_id)
        return history.find_turn(self._talk(), self._thread_id, self._order["work_id"])

    def _attach(self, found: history.Recorded, begun: Json) -> history.Recorded | None:
        """Follow a turn that goes on; if it ended just now, it is returned as it is on record."""
        assert self._thread_id is not None
        self._turn_id = found.id
        self._inner.update(found.inner)
        self._held = []
        try:
            self._talk().request("thread/resume", {"threadId": self._thread_id, "excludeTurns": True})
        except RpcError as error:
            raise Dropped(f"the thread could not be attached to: {error.message}") from None
        again = self._find(begun) or found
        say("attached", threadId=self._thread_id, turnId=found.id)
        self._report.recorded(again.items, self._thread_id, found.id, over=again.status != "inProgress")
        self._subagents.attach(self._talk(), self._thread_id)
        self._release()
        if self._ended is not None:
            return None
        return None if again.status == "inProgress" else again

    def _collect(self, found: history.Recorded) -> None:
        """Report a turn that is over, from the record."""
        assert self._thread_id is not None
        turn = {key: value for key, value in found.turn.items() if key != "items"}
        if found.status == "completed":
            path = text(history.thread(self._talk(), self._thread_id) or {}, "path")
            failure = history.hidden_failure(path, found.id) if self._order["review"] is None else None
            if failure is not None:
                turn |= {"status": "failed", "error": failure}
        say("collected", threadId=self._thread_id, turnId=found.id)
        self._report.recorded(found.items, self._thread_id, found.id, over=True)
        if found.status == "interrupted" and (self._marks.begun() or {}).get("stopped") is not True:
            raise self._crashed("The turn was cut off, most likely by the end of its Codex server.")
        self._ended = {"method": "turn/completed", "params": {"threadId": self._thread_id, "turn": turn}}
        self._finish(json.dumps({**self._ended, "holdfast": "collected"}).encode("utf-8"))

    # --- begin

    def _begin(self) -> None:
        order = self._order
        talk = self._talk()
        self._check_stop()
        try:
            opened, fresh = self._open_thread()
            thread = member(opened, "thread")
            thread_id = text(thread, "id")
            if thread_id is None:
                raise RpcError("thread/start", 0, "Codex opened a thread without naming it.")
            if order["resume"] is not None and history.is_active(thread):
                # A turn that is started now would be mixed into the one that goes on.
                raise RpcError("thread/resume", 0, "The thread is in use: a turn of somebody else goes on in it.")
        except RpcError as error:
            raise self._refused(error) from None
        self._thread_id = thread_id
        self._marks.save_thread(thread_id)
        policy = member(opened, "sandbox")
        say(
            "thread",
            threadId=thread_id,
            model=opened.get("model"),
            effort=opened.get("reasoningEffort"),
            sandbox=policy,
            cwd=opened.get("cwd"),
            forkedFrom=thread.get("forkedFromId"),
        )
        naming: int | None = None
        if order["thread_name"] is not None:
            # The server takes what it is asked in order, so there is no need to wait for this.
            naming = talk.post("thread/name/set", {"threadId": thread_id, "name": order["thread_name"]}, awaited=True)
        notes: Json = {"fresh": fresh, "thread_id": thread_id}
        if order["review"] is not None:
            notes["earlier"] = [] if fresh else history.turn_ids(talk, thread_id)
        self._check_stop()
        self._marks.save_begun(notes)
        self._held = []
        try:
            if order["review"] is not None:
                answer = talk.request("review/start", opening.review_params(order, thread_id, self._prompt))
            else:
                answer = talk.request("turn/start", opening.turn_params(order, thread_id, self._prompt, policy))
        except RpcError as error:
            self._marks.clear_begun()
            raise self._refused(error) from None
        turn_id = text(member(answer, "turn"), "id")
        if turn_id is None:
            raise Dropped("the server began a turn without naming it")
        self._turn_id = turn_id
        # Only the end of this program is to be survived by this, not that of the machine: then the server is gone too.
        try:
            self._marks.save_begun({**notes, "turn_id": turn_id}, sync=False)
        except OSError as error:
            say("notice", text=f"The turn's id could not be noted: {error}")
        say("begun", threadId=thread_id, turnId=turn_id)
        self._release()
        if naming is not None:
            try:
                talk.answer_to(naming, "thread/name/set")
            except RpcError as error:
                say("notice", text=f"Codex did not take the name of the thread: {error.message}")

    def _open_thread(self) -> tuple[Json, bool]:
        """The server's answer, and whether the thread has no turn yet.

        :raises RpcError: it refused
        """
        order, params = self._order, opening.thread_params(self._order)
        if self._thread_id is not None:
            # An earlier start has opened it, and got no further.
            try:
                return self._patiently("thread/resume", {**params, "threadId": self._thread_id}), False
            except RpcError:
                self._thread_id = None
        if order["resume"] is not None:
            return self._patiently("thread/resume", {**params, "threadId": order["resume"]}), False
        if order["fork"] is not None:
            return self._patiently("thread/fork", {**params, "threadId": order["fork"]}), False
        return self._talk().request("thread/start", params), True

    def _patiently(self, method: str, params: Json) -> Json:
        """Ask until a thread that another process is just letting go of is free."""
        until = time.monotonic() + BUSY_PATIENCE
        while True:
            try:
                return self._talk().request(method, {**params, "excludeTurns": True})
            except RpcError as error:
                if opening.failure_class(error) != "thread_busy" or left(until) == 0.0:
                    raise
            self._sleep(0.1)
            self._check_stop()

    # --- the turn goes on

    def _follow(self) -> None:
        """Until the turn is over."""
        talk = self._talk()
        silence = self._order["answer_within"]
        while self._ended is None:
            self._commands.read()
            self._carry_out()
            now = time.monotonic()
            wait = silence
            if self._stop_by is not None:
                if not self._interrupted:
                    self._interrupted = True
                    self._marks.note_stop()
                    for turn_id in (self._turn_id, *self._inner):
                        # Not waited for: 0.142.2 does not answer when there is nothing to interrupt.
                        talk.post("turn/interrupt", {"threadId": self._thread_id, "turnId": turn_id})
                if left(self._stop_by) == 0.0:
                    self._unconfirmed()
                    continue
                wait = left(self._stop_by)
            elif talk.heard_at + silence <= now:
                try:
                    talk.request("thread/loaded/list", {})
                except RpcError:
                    # An older one does not know that. It answers, which is all that was in doubt.
                    pass
                continue
            else:
                wait = talk.heard_at + silence - now
            if self._ended is None:
                talk.wait(wait, also=self._commands.descriptor)
        self._finish(None)

    def _unconfirmed(self) -> None:
        """The server did not say in time that it interrupted the turn."""
        if self._told_to_go:
            raise Dropped("the server did not confirm that the turn was interrupted")
        self._stop_by, self._interrupted = None, False
        for command in self._commands.pending():
            if command.action == "interrupt":
                self._commands.answer(command, "Codex did not confirm that it interrupted the turn")

    def _carry_out(self) -> None:
        for command in self._commands.waiting():
            match command.action:
                case "steer" if command.id in self._report.client_ids:
                    self._commands.answer(command, None)
                case "steer":
                    try:
                        self._talk().request(
                            "turn/steer",
                            {
                                "threadId": self._thread_id,
                                "expectedTurnId": self._turn_id,
                                "clientUserMessageId": command.id,
                                "input": [{"type": "text", "text": command.text, "text_elements": []}],
                            },
                        )
                        self._commands.answer(command, None)
                    except RpcError as error:
                        self._commands.answer(command, error.message)
                case "decide":
                    refusal = self._questions.decide(self._talk(), command.request_id, command.decision)
                    self._commands.answer(command, refusal)
                case _:
                    command.under_way = True
                    self._stop_by = self._stop_by or time.monotonic() + INTERRUPT_WITHIN

    def _hear(self, message: Json, raw: bytes) -> None:
        if self._held is not None:
            self._held.append((message, raw))
        else:
            self._take(message, raw)

    def _release(self) -> None:
        """Take what was held back while it was not known which turn is ours."""
        held, self._held = self._held or [], None
        for message, raw in held:
            self._take(message, raw)

    def _take(self, message: Json, raw: bytes) -> None:
        method, params = message.get("method"), member(message, "params")
        if method == "thread/started" and text(member(params, "thread"), "id") != self._thread_id:
            self._subagents.introduce(member(params, "thread"))
            return
        if text(params, "threadId") not in (None, self._thread_id):
            self._subagents.hear(self._talk(), message, raw, {str(self._turn_id), *self._inner})
            return
        if "id" in message:
            if self._ours(params):
                write(raw)
            self._questions.asked(self._talk(), message)
            return
        if method == "turn/started" and params.get("threadId") == self._thread_id:
            self._inner.update({str(member(params, "turn").get("id"))} - {str(self._turn_id)})
        if not self._ours(params) or self._ended is not None:
            return
        if method == "turn/completed":
            # Written by _finish, after what has to come before it.
            self._ended = message
            self._ended_raw = raw
        elif method == "thread/closed" and self._turn_id is not None:
            raise Dropped("the server closed the thread")
        else:
            if method == "serverRequest/resolved":
                self._questions.resolved(params.get("requestId"))
            self._report.take(message, raw)
            if method in ("item/started", "item/completed"):
                self._subagents.note(self._talk(), method, member(params, "item"))

    def _asked_by(self, message: Json, label: str) -> None:
        self._questions.asked(self._talk(), message, label)

    def _ours(self, params: Json) -> bool:
        """Whether a message speaks of our turn, or of our thread as a whole."""
        thread_id = text(params, "threadId") or text(member(params, "thread"), "id")
        turn_id = text(member(params, "turn"), "id") or text(params, "turnId")
        return thread_id is not None and thread_id == self._thread_id and turn_id in (None, self._turn_id)

    # --- ends

    def _finish(self, raw: bytes | None) -> None:
        """Write what is left to say and the end of the turn."""
        assert self._ended is not None
        self._end_subagents(look=raw is not None)
        self._questions.withdraw()
        answered = member(member(self._ended, "params"), "turn").get("status") == "completed"
        if answered and self._order["review"] is not None:
            self._say_review()
        self._report.close(answered=answered)
        for command in self._commands.pending():
            interrupt = command.action == "interrupt"
            self._commands.answer(command, None if interrupt else "the turn has ended")
        write(raw if raw is not None else self._ended_raw)
        raise Ended(EX_OK)

    def _end_subagents(self, *, look: bool) -> None:
        """What our agent has set to work ends with our turn; the server leaves it at work."""
        assert self._thread_id is not None
        if self._interrupted:
            end_commands(self._talk(), self._thread_id)
        deadline = self._stop_by if self._told_to_go and self._stop_by else time.monotonic() + SUBAGENTS_WITHIN
        ended = self._subagents.end(self._talk(), self._thread_id, deadline, look=look)
        self._subagents.forget()
        if ended is None and self._told_to_go:
            raise Dropped("the server did not confirm that the sub-agents were interrupted")
        if ended is None:
            say("notice", text="Sub-agents that were still at work when the turn ended could not be stopped.")
        elif ended:
            names = ", ".join(ended)
            say("notice", text=f"Still at work when the turn ended, and stopped: sub-agents {names}")

    def _say_review(self) -> None:
        """What the reviewer has judged, if that is on record: its text, which was told, does not say it."""
        path = text(history.thread(self._talk(), str(self._thread_id)) or {}, "path")
        output: Json | None = None
        for _ in range(_LOOKS_AGAIN):
            output = output or history.review_output(path, str(self._turn_id))
            if output is not None or path is None or self._told_to_go:
                break
            # The server writes it down beside its work; nothing says when.
            self._sleep(0.1)
        if output is not None and len(json.dumps(output)) <= MOST_REVIEW:
            say("review", output=output)

    def _leave(self) -> None:
        """Let go of the thread, so that others can go on with it at once; one that is not to be kept is deleted."""
        conversation = self._conversation
        if conversation is None:
            return
        if self._ended is not None and self._thread_id is not None:
            conversation.hurry = None
            delete = self._order["ephemeral"]
            try:
                method = "thread/delete" if delete else "thread/unsubscribe"
                conversation.request(method, {"threadId": self._thread_id}, within=2.0)
            except (RpcError, Dropped) as error:
                if delete:
                    say("notice", text=f"The thread was not deleted: {error}")
        self._disconnect()

    def _check_stop(self) -> None:
        """End here if that was asked for and nothing has begun."""
        self._commands.read()
        interrupts = [command for command in self._commands.waiting() if command.action == "interrupt"]
        if self._stop_by is None and not interrupts:
            return
        for command in self._commands.pending():
            self._commands.answer(command, None if command.action == "interrupt" else "the turn was not begun")
        say("failed", failure="cancelled", message="It was cancelled before Codex began to work.", begun=False)
        raise Ended(EX_OK)

    def _refused(self, error: RpcError) -> Ended:
        """The server refused what has to come before the turn: nothing was begun."""
        say(
            "failed",
            failure=opening.failure_class(error),
            message=f"Codex refused {error.method}: {error.message}",
            upstream=text(error.data, "input_error_code") or str(error.code),
            begun=False,
        )
        return Ended(EX_OK)

    def _crashed(self, message: str) -> Ended:
        """The turn may have begun and its end is not known, nor ever will be."""
        self._questions.withdraw()
        self._report.close()
        say(
            "failed",
            failure="backend_crash",
            message=f"{message} What it did until then stands; go on with thread {self._thread_id}.",
            threadId=self._thread_id,
            begun=True,
        )
        return Ended(EX_OK)

    def _lost(self, reason: str) -> int:
        """The server cannot be had; another start of this program may find out more."""
        begun = self._begun
        if self._stop_by is not None and not begun:
            say("failed", failure="cancelled", message="It was cancelled before Codex began to work.", begun=False)
            return EX_OK
        what = "The turn may have begun" if begun else "Nothing was begun"
        say("lost", reason=reason, mayHaveBegun=begun, threadId=self._thread_id)
        print(f"The Codex server could not be reached again: {reason}. {what}.", file=sys.stderr, flush=True)
        return EX_TEMPFAIL

    def _sleep(self, seconds: float) -> None:
        """Wait; a signal ends it early."""
        poll = select.poll()
        if self._wakeup is not None:
            poll.register(self._wakeup, select.POLLIN)
        if poll.poll(milliseconds(seconds)) and self._wakeup is not None:
            os.read(self._wakeup, 64)


def main(arguments: list[str]) -> int:
    """Carry out the order in the only argument; the exit status."""
    try:
        order: Order = json.loads(arguments[1])
        prompt_file = order["prompt_file"]
    except (IndexError, ValueError, KeyError, TypeError):
        print("usage: program.py ORDER (one JSON object)", file=sys.stderr)
        return EX_USAGE
    is_used = order["review"] is None or order["review"]["type"] == "custom"
    try:
        prompt = opening.read_prompt(prompt_file) if is_used else ""
    except ValueError as error:
        say("failed", failure="bad_request", message=str(error), begun=False)
        return EX_OK
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    turn = Turn(order, prompt, reader)

    def stop(number: int, frame: object) -> None:
        turn.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    return turn.run()
