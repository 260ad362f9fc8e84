"""The life of a task: its states, and the only moves between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from holdfast.errors import InternalError


class State(StrEnum):
    """Where a task is in its life.  ``finished`` is final; how it ended is the result's status."""

    #: Accepted and stored; nothing runs yet.
    QUEUED = "queued"
    #: The agent's process is being started, or its first event has not come.
    STARTING = "starting"
    #: The agent has spoken and its process lives.
    RUNNING = "running"
    #: The process tree is being ended (limit, budget or cancel).
    STOPPING = "stopping"
    #: The process is gone; the result is being made.
    FINALISING = "finalising"
    FINISHED = "finished"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.STARTING, State.FINALISING}),
    # An attempt that provably did nothing may be followed by another one: starting -> starting.
    State.STARTING: frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.FINALISING}),
    State.RUNNING: frozenset({State.STARTING, State.STOPPING, State.FINALISING}),
    # An agent that was ended at its budget may be asked, in another attempt, for its conclusion.
    State.STOPPING: frozenset({State.STARTING, State.FINALISING}),
    # Making the result can be interrupted (a crash, a full disk) and is then done again.
    State.FINALISING: frozenset({State.FINALISING, State.FINISHED}),
    State.FINISHED: frozenset(),
}


class IllegalMove(InternalError):
    """A task was asked to move to a state that does not follow from the one it is in."""

    code = "illegal_move"


def check_move(task_id: str, current: State, target: State) -> None:
    """Check that a task may go from *current* to *target*.

    :raises IllegalMove: naming the states that would have been possible
    """
    if target not in TRANSITIONS[current]:
        expected = ", ".join(sorted(TRANSITIONS[current])) or "nothing, it is final"
        raise IllegalMove(
            f"Task {task_id} cannot go from {current} to {target}; expected {expected}.",
            hint="This is a fault in Holdfast; 'holdfast logs' shows what the agent did.",
        )
