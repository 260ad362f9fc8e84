"""Making sure that a turn does not go on in a shared server, nor what its agent has set to work."""

from __future__ import annotations

import time

from holdfast import __version__
from holdfast.drivers.app_server.connection import Dropped, NobodyListens, WebSocketConnection, left
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.history import active_turn, find_review, find_turn, is_active, loaded, thread
from holdfast.drivers.app_server.marks import Marks
from holdfast.drivers.app_server.payload import text, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.drivers.app_server.order import Order
    from holdfast.drivers.app_server.payload import Json

#: For all of it, seconds.
WITHIN = 5.0


def interrupt(socket: str, order: Order, thread_id: str | None) -> str | None:
    """Interrupt the turn of *order*, and its sub-agents, if they go on in the server on *socket*; wait for their end.

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
        while is_active(thread(conversation, thread_id) or {}):
            if order["review"] is not None:
                found = find_review(conversation, thread_id, texts(begun, "earlier"), turn_id)
            else:
                found = find_turn(conversation, thread_id, order["work_id"])
            if found is not None and found.status != "inProgress":
                # What goes on is somebody else's.
                return None
            marks.note_stop()
            turns = {found.id, *found.inner} if found is not None else {turn_id}
            for number in turns - {None}:
                conversation.post("turn/interrupt", {"threadId": thread_id, "turnId": number})
            if left(deadline) == 0.0:
                return f"Codex did not confirm that the turn in thread {thread_id} was interrupted."
            conversation.wait(0.1)
        end_commands(conversation, thread_id)
        if not interrupt_subagents(conversation, thread_id, deadline, lambda thread: None):
            return f"Codex did not confirm that the sub-agents of thread {thread_id} were interrupted."
        return None
    except (Dropped, RpcError) as error:
        return f"The Codex server did not say whether thread {thread_id} is still at work: {error}."
    finally:
        conversation.close()


def at_work(conversation: Conversation, root: str) -> list[Json]:
    """The threads of the sub-agents of the thread *root*, and of theirs, in which a turn goes on.

    :raises Dropped: the connection was lost
    """
    known = {other: thread(conversation, other) or {} for other in loaded(conversation) if other != root}
    parents = {other: text(said, "parentThreadId") for other, said in known.items()}
    found: list[Json] = []
    for thread_id, said in known.items():
        above, steps = parents[thread_id], 0
        while above is not None and above != root and steps < len(known):
            above, steps = parents.get(above), steps + 1
        if above == root and is_active(said):
            found.append(said)
    return found


def interrupt_subagents(conversation: Conversation, root: str, deadline: float, found: Callable[[Json], None]) -> bool:
    """Interrupt the sub-agents of the thread *root* until none is at work; ``False`` if that was not by *deadline*.

    :param found: gets each thread that is interrupted, once or more
    :raises Dropped: the connection was lost
    """
    ended: set[str] = set()
    while working := at_work(conversation, root):
        if left(deadline) == 0.0:
            return False
        for agent in working:
            found(agent)
            thread_id = str(agent.get("id"))
            ended.add(thread_id)
            turn_id = active_turn(conversation, thread_id)
            if turn_id is not None:
                # Not waited for: 0.142.2 does not answer when there is nothing to interrupt.
                conversation.post("turn/interrupt", {"threadId": thread_id, "turnId": turn_id})
        conversation.wait(0.1)
    for thread_id in ended:
        end_commands(conversation, thread_id)
    return True


def end_commands(conversation: Conversation, thread_id: str) -> None:
    """End what an interrupted turn has left running: 0.142.2 leaves its commands be.

    :raises Dropped: the connection was lost
    """
    try:
        conversation.request("thread/backgroundTerminals/clean", {"threadId": thread_id})
    except RpcError:
        # A server that does not know this knows no such commands.
        return
