"""Reviews: ``holdfast.review``, and its two halves, starting one and reading what it found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import msgspec

from holdfast.agents.adapter import Drive
from holdfast.agents.catalogue import find_agent
from holdfast.api import sync
from holdfast.api.order import HasId, Order, WorkOptions, describe
from holdfast.drivers.choice import through
from holdfast.errors import InvalidRequest
from holdfast.tasks.review import plan, rendering
from holdfast.tasks.review.rendering import Review
from holdfast.tasks.review.targets import Choice


class ReviewOptions(WorkOptions, total=False):
    """What is reviewed, how, and how the task is to be done.  A review never writes."""

    #: What is not committed.
    uncommitted: bool
    #: What the current branch has that this one does not.
    base: str | None
    #: One commit.
    commit: str | None
    #: A pull request: its number, the address of its page, or a ref of the remote.
    pull_request: str | None
    #: The remote that has it.
    remote: str | None
    #: What the focus says, whatever it is.
    custom: bool
    #: Look for the strongest reasons against releasing the change.
    adversarial: bool
    #: Use the agent's own reviewer, or (``False``) a prompt; by default its own where it has one and it will do.
    native: bool | None


def review(
    agent: str = "codex", focus: str = "", *, cancel_on_interrupt: bool = False, **options: Unpack[ReviewOptions]
) -> Review:
    """Have *agent* review a change, wait for it, and return what it found, whatever that is.

    Only ``verdict == "approve"`` is an approval; without a review ``ok`` is false and ``verdict`` is ``None``.

    :param focus: what to weigh above all
    :raises InvalidRequest: there is nothing to review, or it was refused; nothing was started
    """
    result = sync.carry_out(_order(agent, focus, options), cancel_on_interrupt=cancel_on_interrupt)
    return read_review(result.task_id)


def start_review(agent: str = "codex", focus: str = "", **options: Unpack[ReviewOptions]) -> sync.Task:
    """The same without waiting; :func:`read_review` gives what it found when it is finished.

    :raises InvalidRequest: there is nothing to review, or it was refused; nothing was started
    """
    return sync.hand_over(_order(agent, focus, options))


def read_review(task: str | HasId) -> Review:
    """What a finished review has found, as often as you like.

    :raises NotFinished: it is not finished
    :raises InvalidRequest: the task is no review
    """
    view = sync.status(task)
    tag = rendering.tag_of(view)
    result = sync.result(view.id)
    return rendering.review_of(result, tag, sync.message(view.id) if result.message.bytes else b"")


def _order(agent: str, focus: str, options: ReviewOptions) -> Order:
    if options.get("write") or options.get("sandbox") not in (None, "read-only"):
        raise InvalidRequest("A review only reads.", hint="Leave write and sandbox out.")
    drive = options.get("drive")
    if drive not in (None, *Drive):
        raise InvalidRequest(f"There is no drive {drive!r}.", hint=f"Give drive one of: {', '.join(Drive)}.")
    made = plan.make(
        through(find_agent(agent), None if drive is None else Drive(drive)),
        Path(options.get("cwd") or os.getcwd()).absolute(),
        Choice(
            uncommitted=options.get("uncommitted", False),
            base=options.get("base"),
            commit=options.get("commit"),
            pull_request=options.get("pull_request"),
            custom=options.get("custom", False),
            remote=options.get("remote"),
        ),
        focus,
        adversarial=options.get("adversarial", False),
        native=options.get("native"),
    )
    work: WorkOptions = {**options, "cwd": made.cwd, "label": options.get("label") or made.label}
    request, environment, _ = describe(agent, work, spell=str)
    request = msgspec.structs.replace(
        request, review=made.review, output_schema=made.output_schema, tags={**request.tags, **made.tags}
    )
    return Order(request=request, prompt=made.prompt.encode("utf-8", "replace"), environment=environment)
