"""How a turn ends, and what is said of it then: as the server said, before it began, or in the dark."""

from __future__ import annotations

import json
import sys
import time

from holdfast.drivers.app_server import history, opening
from holdfast.drivers.app_server.connection import Dropped
from holdfast.drivers.app_server.conversation import RpcError
from holdfast.drivers.app_server.interruption import end_commands
from holdfast.drivers.app_server.payload import member, text
from holdfast.drivers.app_server.report import say, write
from holdfast.drivers.app_server.turn import LOOKS_AGAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json
    from holdfast.drivers.app_server.turn import Turn

EX_OK, EX_USAGE, EX_TEMPFAIL = 0, 2, 75

#: For the end of what its agent had set to work and left at it, seconds.
SUBAGENTS_WITHIN = 5.0
#: The longest judgement of a reviewer that is told, in characters of JSON.
MOST_REVIEW = 256 * 1024


class Ended(Exception):
    """There is nothing more to do; carries the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def finish(turn: Turn, raw: bytes | None) -> None:
    """Write what is left to say and the end of the turn, which is *raw* if it was read from the record.

    :raises Ended: that is done
    :raises Dropped: the connection was lost, or sub-agents may go on when they must not
    """
    assert turn.ended is not None
    _end_subagents(turn, look=raw is not None)
    turn.questions.withdraw()
    answered = member(member(turn.ended, "params"), "turn").get("status") == "completed"
    if answered and turn.order["review"] is not None:
        _say_review(turn)
    turn.report.close(answered=answered)
    for command in turn.commands.pending():
        interrupt = command.action == "interrupt"
        turn.commands.answer(command, None if interrupt else "the turn has ended")
    write(raw if raw is not None else turn.ended_raw)
    raise Ended(EX_OK)


def _end_subagents(turn: Turn, *, look: bool) -> None:
    """What our agent has set to work ends with our turn; the server leaves it at work."""
    assert turn.thread_id is not None
    if turn.interrupted:
        end_commands(turn.talk(), turn.thread_id)
    deadline = turn.stop_by if turn.told_to_go and turn.stop_by else time.monotonic() + SUBAGENTS_WITHIN
    ended = turn.subagents.end(turn.talk(), turn.thread_id, deadline, look=look)
    turn.subagents.forget()
    if ended is None and turn.told_to_go:
        raise Dropped("the server did not confirm that the sub-agents were interrupted")
    if ended is None:
        say("notice", text="Sub-agents that were still at work when the turn ended could not be stopped.")
    elif ended:
        names = ", ".join(ended)
        say("notice", text=f"Still at work when the turn ended, and stopped: sub-agents {names}")


def _say_review(turn: Turn) -> None:
    """What the reviewer has judged, if that is on record: its text, which was told, does not say it."""
    path = text(history.thread(turn.talk(), str(turn.thread_id)) or {}, "path")
    output: Json | None = None
    for _ in range(LOOKS_AGAIN):
        output = output or history.review_output(path, str(turn.turn_id))
        if output is not None or path is None or turn.told_to_go:
            break
        # The server writes it down beside its work; nothing says when.
        turn.sleep(0.1)
    if output is not None and len(json.dumps(output)) <= MOST_REVIEW:
        say("review", output=output)


def leave(turn: Turn) -> None:
    """Let go of the thread, so that others can go on with it at once; one that is not to be kept is deleted."""
    conversation = turn.conversation
    if conversation is None:
        return
    if turn.ended is not None and turn.thread_id is not None:
        conversation.hurry = None
        delete = turn.order["ephemeral"]
        try:
            method = "thread/delete" if delete else "thread/unsubscribe"
            conversation.request(method, {"threadId": turn.thread_id}, within=2.0)
        except (RpcError, Dropped) as error:
            if delete:
                say("notice", text=f"The thread was not deleted: {error}")
    turn.disconnect()


def check_stop(turn: Turn) -> None:
    """End here if that was asked for; nothing has begun.

    :raises Ended: it was
    """
    turn.commands.read()
    interrupts = [command for command in turn.commands.waiting() if command.action == "interrupt"]
    if turn.stop_by is None and not interrupts:
        return
    for command in turn.commands.pending():
        turn.commands.answer(command, None if command.action == "interrupt" else "the turn was not begun")
    _say_cancelled()
    raise Ended(EX_OK)


def _say_cancelled() -> None:
    say("failed", failure="cancelled", message="It was cancelled before Codex began to work.", begun=False)


def refused(error: RpcError) -> Ended:
    """Say that the server refused what has to come before the turn: nothing was begun."""
    say(
        "failed",
        failure=opening.failure_class(error),
        message=f"Codex refused {error.method}: {error.message}",
        upstream=text(error.data, "input_error_code") or str(error.code),
        begun=False,
    )
    return Ended(EX_OK)


def crashed(turn: Turn, message: str) -> Ended:
    """Say that the turn may have begun, and that its end is not known nor ever will be."""
    turn.questions.withdraw()
    turn.report.close()
    say(
        "failed",
        failure="backend_crash",
        message=f"{message} What it did until then stands; go on with thread {turn.thread_id}.",
        threadId=turn.thread_id,
        begun=True,
    )
    return Ended(EX_OK)


def lost(turn: Turn, reason: str) -> int:
    """The exit status when the server cannot be had; another start of this program may find out more."""
    begun = turn.begun
    if turn.stop_by is not None and not begun:
        _say_cancelled()
        return EX_OK
    what = "The turn may have begun" if begun else "Nothing was begun"
    say("lost", reason=reason, mayHaveBegun=begun, threadId=turn.thread_id)
    print(f"The Codex server could not be reached again: {reason}. {what}.", file=sys.stderr, flush=True)
    return EX_TEMPFAIL
