"""Making sure, from outside, that a turn does not go on in a shared server."""

from __future__ import annotations

import time

from holdfast import __version__
from holdfast.drivers.app_server.connection import Dropped, NobodyListens, WebSocketConnection, left
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.history import find_review, find_turn, is_active, thread
from holdfast.drivers.app_server.marks import Marks
from holdfast.drivers.app_server.order import Order
from holdfast.drivers.app_server.payload import text, texts

#: For all of it, seconds.
WITHIN = 5.0


def interrupt(socket: str, order: Order, thread_id: str | None) -> str | None:
    """Interrupt the turn of *order* if it goes on in the server on *socket*, and wait until it does not.

    Returns why it is not certain that nothing goes on, or ``None`` when it is.  A server that is not there works on
    nothing.
    """
    deadline = time.monotonic() + WITHIN
    marks = Marks(order["prompt_file"], order["work_id"])
    begun = marks.begun()
    thread_id = marks.thread_id() or thread_id
    if begun is None or thread_id is None:
        return None
    try:
        connection = WebSocketConnection(socket, deadline)
    except NobodyListens:
        return None
    except Dropped as drop:
        return f"The Codex server cannot be asked: {drop}."
    conversation = Conversation(connection, lambda message, raw: None)
    conversation.hurry = deadline
    try:
        conversation.open(__version__)
        turn_id = text(begun, "turn_id")
        while True:
            if not is_active(thread(conversation, thread_id) or {}):
                return None
            if order["review"] is not None:
                found = find_review(conversation, thread_id, texts(begun, "earlier"), turn_id)
            else:
                found = find_turn(conversation, thread_id, order["work_id"])
            if found is not None and found.status != "inProgress":
                return None
            marks.note_stop()
            turns = {found.id, *found.inner} if found is not None else {turn_id}
            for number in turns - {None}:
                conversation.post("turn/interrupt", {"threadId": thread_id, "turnId": number})
            if left(deadline) == 0.0:
                return f"Codex did not confirm that the turn in thread {thread_id} was interrupted."
            conversation.wait(0.1)
    except (Dropped, RpcError) as error:
        return f"The Codex server did not say whether thread {thread_id} is still at work: {error}."
    finally:
        conversation.close()
