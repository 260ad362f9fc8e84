"""The beginning of a turn: its thread is opened, and the server asked for it once."""

from __future__ import annotations

import time

from holdfast.drivers.app_server import history, opening
from holdfast.drivers.app_server.connection import Dropped, left
from holdfast.drivers.app_server.conversation import RpcError
from holdfast.drivers.app_server.ending import check_stop, refused
from holdfast.drivers.app_server.payload import member, text
from holdfast.drivers.app_server.report import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json
    from holdfast.drivers.app_server.turn import Turn

#: For a thread that is just being unloaded by somebody else, seconds.
BUSY_PATIENCE = 3.0


def begin(turn: Turn) -> None:
    """Open the thread and have the turn, or review, begun in it.

    :raises Ended: that was refused, or its end was asked for before
    :raises Dropped: the connection was lost; it may have been begun
    """
    order = turn.order
    talk = turn.talk()
    check_stop(turn)
    try:
        opened, fresh = _open_thread(turn)
        thread = member(opened, "thread")
        thread_id = text(thread, "id")
        if thread_id is None:
            raise RpcError("thread/start", 0, "Codex opened a thread without naming it.")
        if order["resume"] is not None and history.is_active(thread):
            # A turn that is started now would be mixed into the one that goes on.
            raise RpcError("thread/resume", 0, "The thread is in use: a turn of somebody else goes on in it.")
    except RpcError as error:
        raise refused(error) from None
    turn.thread_id = thread_id
    turn.marks.save_thread(thread_id)
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
    check_stop(turn)
    turn.marks.save_begun(notes)
    turn.held = []
    try:
        if order["review"] is not None:
            answer = talk.request("review/start", opening.review_params(order, thread_id, turn.prompt))
        else:
            answer = talk.request("turn/start", opening.turn_params(order, thread_id, turn.prompt, policy))
    except RpcError as error:
        turn.marks.clear_begun()
        raise refused(error) from None
    turn_id = text(member(answer, "turn"), "id")
    if turn_id is None:
        raise Dropped("the server began a turn without naming it")
    turn.turn_id = turn_id
    # Only the end of this program is to be survived by this, not that of the machine: then the server is gone too.
    try:
        turn.marks.save_begun({**notes, "turn_id": turn_id}, sync=False)
    except OSError as error:
        say("notice", text=f"The turn's id could not be noted: {error}")
    say("begun", threadId=thread_id, turnId=turn_id)
    turn.release()
    if naming is not None:
        try:
            talk.answer_to(naming, "thread/name/set")
        except RpcError as error:
            say("notice", text=f"Codex did not take the name of the thread: {error.message}")


def _open_thread(turn: Turn) -> tuple[Json, bool]:
    """The server's answer, and whether the thread has no turn yet.

    :raises RpcError: it refused
    """
    order, params = turn.order, opening.thread_params(turn.order)
    if turn.thread_id is not None:
        # An earlier start has opened it, and got no further.
        try:
            return _patiently(turn, "thread/resume", {**params, "threadId": turn.thread_id}), False
        except RpcError:
            turn.thread_id = None
    if order["resume"] is not None:
        return _patiently(turn, "thread/resume", {**params, "threadId": order["resume"]}), False
    if order["fork"] is not None:
        return _patiently(turn, "thread/fork", {**params, "threadId": order["fork"]}), False
    return turn.talk().request("thread/start", params), True


def _patiently(turn: Turn, method: str, params: Json) -> Json:
    """Ask until a thread that another process is just letting go of is free."""
    until = time.monotonic() + BUSY_PATIENCE
    while True:
        try:
            return turn.talk().request(method, {**params, "excludeTurns": True})
        except RpcError as error:
            if opening.failure_class(error) != "thread_busy" or left(until) == 0.0:
                raise
        turn.sleep(0.1)
        check_stop(turn)
