"""What the server has on record about our turn.

Facts measured on 0.142.2 and 0.169.0: a user message keeps the ``clientUserMessageId`` of its turn as ``clientId``; it
is recorded before the model is asked, so a turn that is not on record has not reached the model.  A turn that was cut
off by the end of its server is ``interrupted``, as one that somebody interrupted.  0.142.2 records a *failed* turn as
``completed``; only its rollout file tells, in that ``task_complete`` names no last message.  A review is recorded
without a client id, as a turn with the items ``enteredReviewMode`` and ``exitedReviewMode``, in 0.169.0 only when it is
over, and one or more turns of the reviewer.
"""

from __future__ import annotations

import json
import os
import stat

from holdfast.drivers.app_server.connection import Dropped
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.payload import is_object, member, members, text, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.drivers.app_server.payload import Json

#: How many turns are asked for at once, and how many at most are looked through; ours is among the newest.
_PAGE = 8
_MOST_PAGES = 64
#: How much of the end of a rollout file is looked through for the end of the turn, in bytes.
_TAIL = 4 * 1024 * 1024


class Recorded:
    """A turn on record."""

    def __init__(self, turn: Json, items: list[Json], inner: list[str] | None = None) -> None:
        self.turn = turn
        self.items = items
        #: The turns that go on within it: a review has one of its own for the reviewer.
        self.inner = inner or []

    @property
    def id(self) -> str:
        """The server's name for it."""
        return str(self.turn.get("id"))

    @property
    def unfinished(self) -> bool:
        """Its end is not on record, and yet it does not go on."""
        return self.status == "interrupted" and self.turn.get("completedAt") is None

    @property
    def status(self) -> str:
        """``inProgress``, ``completed``, ``interrupted`` or ``failed``."""
        return str(self.turn.get("status"))


def thread(conversation: Conversation, thread_id: str) -> Json | None:
    """What the server says of a thread, without its turns; ``None`` if it knows of none.

    :raises Dropped: the connection was lost
    """
    try:
        return member(conversation.request("thread/read", {"threadId": thread_id}), "thread") or None
    except RpcError:
        return None


def loaded(conversation: Conversation) -> list[str]:
    """The threads that the server has in memory: those in which something may go on.

    :raises Dropped: the connection was lost, or the server does not say
    """
    found: list[str] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        try:
            answer = conversation.request("thread/loaded/list", {"cursor": cursor} if cursor is not None else {})
        except RpcError as error:
            raise Dropped(f"the server does not say what goes on in it: {error.message}") from None
        found += texts(answer, "data")
        cursor = text(answer, "nextCursor")
        if cursor is None:
            break
    return found


def is_active(thread: Json) -> bool:
    """Whether a turn is going on in it."""
    return member(thread, "status").get("type") == "active"


def find_turn(conversation: Conversation, thread_id: str, work_id: str) -> Recorded | None:
    """The turn whose user message bears *work_id*.

    :raises Dropped: the connection was lost
    """
    for turn in _turns(conversation, thread_id):
        items = members(turn, "items")
        if any(item.get("type") == "userMessage" and item.get("clientId") == work_id for item in items):
            return Recorded(turn, items)
    return None


def find_review(conversation: Conversation, thread_id: str, earlier: list[str], turn_id: str | None) -> Recorded | None:
    """The review that was begun when the turns *earlier* were on record: whatever came to the thread since.

    :raises Dropped: the connection was lost
    """
    known = set(earlier)
    turns = [turn for turn in _turns(conversation, thread_id) if turn.get("id") not in known][::-1]
    active = is_active(thread(conversation, thread_id) or {})
    if not turns and not (active and turn_id is not None):
        return None
    items = [item for turn in turns for item in members(turn, "items")]
    own: Json = next((turn for turn in turns if turn.get("id") == turn_id), turns[-1] if turns else {})
    if active:
        status = "inProgress"
    elif not any(item.get("type") == "exitedReviewMode" for item in items):
        status = "interrupted"
    else:
        status = str(own["status"]) if own.get("status") in ("failed", "interrupted") else "completed"
    inner = [str(turn.get("id")) for turn in turns if turn.get("status") == "inProgress"]
    return Recorded({**own, "id": turn_id or own.get("id"), "status": status}, items, inner)


def turn_ids(conversation: Conversation, thread_id: str) -> list[str]:
    """The turns on record in a thread.

    :raises Dropped: the connection was lost
    """
    return [str(turn.get("id")) for turn in _turns(conversation, thread_id)]


def active_turn(conversation: Conversation, thread_id: str) -> str | None:
    """The turn that goes on in a thread.

    :raises Dropped: the connection was lost
    """
    page = {"threadId": thread_id, "limit": 1, "sortDirection": "desc"}
    try:
        newest = members(conversation.request("thread/turns/list", page), "data")
    except RpcError:
        return None
    return text(newest[0], "id") if newest and newest[0].get("status") == "inProgress" else None


def hidden_failure(path: str | None, turn_id: str) -> Json | None:
    """Why a turn that is on record as completed failed nevertheless, as a ``TurnError``; ``None`` if it did not.

    :param path: its thread's rollout file, as the server names it
    """
    for event in _latest_events(path, b"task_complete"):
        if event.get("type") != "task_complete" or event.get("turn_id") != turn_id:
            continue
        if error := member(event, "error"):
            return {"message": error.get("message"), "codexErrorInfo": error.get("codex_error_info")}
        if "last_agent_message" in event and event["last_agent_message"] is None:
            return {"message": "Codex ended the turn without an answer and recorded no reason.", "codexErrorInfo": None}
        return None
    return None


def review_output(path: str | None, turn_id: str) -> Json | None:
    """What the reviewer of a turn said, as a ``ReviewOutputEvent``; ``None`` if it is not on record.

    No call of the server tells it; its text form has neither its judgement nor how sure it is.

    :param path: its thread's rollout file, as the server names it
    """
    for event in _latest_events(path, b"eview"):
        item = member(event, "item")
        if event.get("type") == "item_completed" and item.get("type") == "ExitedReviewMode":
            # 0.169: other turns of the thread may have been reviews, too.
            return member(item, "review_output") or None if event.get("turn_id") == turn_id else None
        if event.get("type") == "exited_review_mode":
            # 0.142.2: this one is the newest, or there is none.
            return member(event, "review_output") or None
        if event.get("type") == "entered_review_mode":
            return None
    return None


def _latest_events(path: str | None, *words: bytes) -> Iterator[Json]:
    """The events at the end of a rollout file, the newest first, as far as their lines contain *words*."""
    if path is None:
        return
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).split(b"\n")
    except OSError:
        return
    for line in reversed(lines):
        if all(word in line for word in words):
            try:
                record: object = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if is_object(record):
                yield member(record, "payload")


def _turns(conversation: Conversation, thread_id: str) -> Iterator[Json]:
    """The turns of a thread, the newest first; none of a thread that is unknown or has no turn yet."""
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = {"threadId": thread_id, "limit": _PAGE, "sortDirection": "desc", "itemsView": "full", "cursor": cursor}
        try:
            answer = conversation.request("thread/turns/list", page)
        except RpcError:
            return
        yield from members(answer, "data")
        cursor = text(answer, "nextCursor")
        if cursor is None:
            return
