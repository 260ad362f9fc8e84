"""Where is the turn?  What an earlier start has left and what the server has on record decide how it goes on."""

from __future__ import annotations

import json

from holdfast.drivers.app_server import history
from holdfast.drivers.app_server.beginning import begin
from holdfast.drivers.app_server.connection import Dropped
from holdfast.drivers.app_server.conversation import RpcError
from holdfast.drivers.app_server.ending import crashed, finish
from holdfast.drivers.app_server.payload import text, texts
from holdfast.drivers.app_server.report import say
from holdfast.drivers.app_server.turn import LOOKS_AGAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.payload import Json
    from holdfast.drivers.app_server.turn import Turn


def reconcile(turn: Turn) -> None:
    """Find out how far the work has come, and begin it if it has not.

    :raises Ended: it is over, or refused
    :raises Dropped: the connection was lost
    """
    begun = turn.marks.begun()
    turn.thread_id = turn.thread_id or turn.marks.thread_id()
    if begun is None or turn.thread_id is None:
        begin(turn)
        return
    accepted = text(begun, "turn_id") is not None
    found = _find(turn, begun)
    for _ in range(LOOKS_AGAIN):
        # Measured on 0.169.0: while a thread is unloaded, a turn that just ended can read as one that was cut off.
        # And a request may still lie in the buffer of a connection that the server is only now reading to its end.
        if not (found.unfinished if found is not None else not accepted) or turn.stop_by is not None:
            break
        turn.sleep(0.25)
        found = _find(turn, begun)
    if found is None:
        thread = history.thread(turn.talk(), turn.thread_id)
        if accepted or (thread is None and begun.get("fresh") is not True):
            raise crashed(turn, "Codex has no record of the turn that it accepted.")
        if thread is None:
            # A thread without any turn is kept in memory only: it went with the server, and so did the request.
            turn.thread_id = None
        begin(turn)
        return
    if found.status == "inProgress":
        found = _attach(turn, found, begun)
    if found is not None:
        _collect(turn, found)


def _find(turn: Turn, begun: Json) -> history.Recorded | None:
    assert turn.thread_id is not None
    if turn.order["review"] is not None:
        earlier, turn_id = texts(begun, "earlier"), text(begun, "turn_id")
        return history.find_review(turn.talk(), turn.thread_id, earlier, turn_id)
    return history.find_turn(turn.talk(), turn.thread_id, turn.order["work_id"])


def _attach(turn: Turn, found: history.Recorded, begun: Json) -> history.Recorded | None:
    """Follow a turn that goes on; if it ended just now, it is returned as it is on record."""
    assert turn.thread_id is not None
    turn.turn_id = found.id
    turn.inner.update(found.inner)
    turn.held = []
    try:
        turn.talk().request("thread/resume", {"threadId": turn.thread_id, "excludeTurns": True})
    except RpcError as error:
        raise Dropped(f"the thread could not be attached to: {error.message}") from None
    again = _find(turn, begun) or found
    say("attached", threadId=turn.thread_id, turnId=found.id)
    turn.report.recorded(again.items, turn.thread_id, found.id, over=again.status != "inProgress")
    turn.subagents.attach(turn.talk(), turn.thread_id)
    turn.release()
    if turn.ended is not None:
        return None
    return None if again.status == "inProgress" else again


def _collect(turn: Turn, found: history.Recorded) -> None:
    """Report a turn that is over, from the record."""
    assert turn.thread_id is not None
    ended = {key: value for key, value in found.turn.items() if key != "items"}
    if found.status == "completed":
        path = text(history.thread(turn.talk(), turn.thread_id) or {}, "path")
        failure = history.hidden_failure(path, found.id) if turn.order["review"] is None else None
        if failure is not None:
            ended |= {"status": "failed", "error": failure}
    say("collected", threadId=turn.thread_id, turnId=found.id)
    turn.report.recorded(found.items, turn.thread_id, found.id, over=True)
    if found.status == "interrupted" and (turn.marks.begun() or {}).get("stopped") is not True:
        raise crashed(turn, "The turn was cut off, most likely by the end of its Codex server.")
    turn.ended = {"method": "turn/completed", "params": {"threadId": turn.thread_id, "turn": ended}}
    finish(turn, json.dumps({**turn.ended, "holdfast": "collected"}).encode("utf-8"))
