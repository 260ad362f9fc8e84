"""The verbs, blocking: ``holdfast.run``, ``holdfast.start``, ``holdfast.wait`` and so on.

Every task is named by its id (or the unique beginning of one), or by anything that has an ``id``.  Nothing is kept
between calls: tasks belong to the daemon, which is found, or started, or found again when it died meanwhile.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from typing import Literal, Unpack

from holdfast.api.answer import answer_bytes
from holdfast.api.daemon_access import Daemon
from holdfast.api.follow import Follower, StillRunning, as_finished, log_entries, until_finished
from holdfast.api.interruption import waiting
from holdfast.api.order import HasId, Order, WorkOptions, describe, with_output_marker
from holdfast.clock import monotonic
from holdfast.daemon.client import LogEntry
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.tasks.result import Result
from holdfast.tasks.view import Progress, TaskView

_logger = logging.getLogger("holdfast")


class TaskNotCompleted(HoldfastError):
    """The task is finished, and not as ``completed``; raised only where ``check`` asks for it."""

    code = "task_not_completed"

    def __init__(self, result: Result) -> None:
        reason = f": {result.error.message}" if result.error is not None else "."
        hint = result.error.remedy[0].text if result.error is not None and result.error.remedy else None
        super().__init__(f"Task {result.task_id} ended as {result.status}{reason}", hint=hint)
        #: How it ended.
        self.result = result


def run(
    agent: str,
    prompt: str | bytes,
    *,
    check: bool = False,
    cancel_on_interrupt: bool = False,
    **options: Unpack[WorkOptions],
) -> Result:
    """Give *agent* a piece of work, wait for its end, and return the result, whatever it is.

    :param check: raise :exc:`TaskNotCompleted` unless it completed
    :param cancel_on_interrupt: end the task when this call is interrupted (Ctrl-C, a cancelled ``await``); otherwise
        it goes on, and a note of the exception says how to find it
    :raises InvalidRequest: it was refused, and nothing was started
    """
    return carry_out(_order(agent, prompt, options), check=check, cancel_on_interrupt=cancel_on_interrupt)


def start(agent: str, prompt: str | bytes, **options: Unpack[WorkOptions]) -> Task:
    """The same without waiting.  Returns when the task is stored: from then on it has an end and a result.

    :raises InvalidRequest: it was refused, and nothing was started
    """
    return hand_over(_order(agent, prompt, options))


def carry_out(order: Order, *, check: bool = False, cancel_on_interrupt: bool = False) -> Result:
    """:func:`run`, for an order that is made already."""
    with _attended(order.request.task_id, cancel=cancel_on_interrupt, order=order), Daemon() as daemon:
        _create(daemon, order)
        return _await_end(daemon, order.request.task_id, None, check=check)


def hand_over(order: Order) -> Task:
    """:func:`start`, for an order that is made already."""
    with _attended(order.request.task_id), Daemon() as daemon:
        _create(daemon, order)
        # Who no longer wants the answer must hear from the exception that there is a task.
        with waiting(daemon):
            return Task(order.request.task_id)


def wait(
    task: str | HasId, *, timeout: float | None = None, check: bool = False, cancel_on_interrupt: bool = False
) -> Result:
    """Wait for the end of a task.

    :param timeout: seconds to wait; this is no limit of the task, which goes on
    :raises StillRunning: *timeout* is over
    :raises TaskNotCompleted: with *check* only
    """
    deadline = _deadline(timeout)
    with Daemon() as daemon:
        task_id = _resolve(daemon, task)
        with _attended(task_id, cancel=cancel_on_interrupt):
            return _await_end(daemon, task_id, deadline, check=check)


def wait_any(tasks: Iterable[str | HasId], *, timeout: float | None = None) -> Result:
    """Wait until one of several tasks is finished, and return its result.

    :raises StillRunning: *timeout* (seconds) is over, and none is
    """
    deadline = _deadline(timeout)
    with Daemon() as daemon:
        ids = builtins.list(dict.fromkeys(_resolve(daemon, task) for task in tasks))
        if not ids:
            raise InvalidRequest("There is no task to wait for.", hint="Name at least one.")
        with waiting(daemon), closing(as_finished(daemon, ids, deadline=deadline)) as finished:
            for task_id, error in finished:
                if error is None:
                    return daemon.call(lambda client, task_id=task_id: client.result(task_id))
                if not isinstance(error, StillRunning):
                    raise error
    raise StillRunning(f"Still running: {', '.join(ids)}.", hint="Wait again; the tasks go on.")


def wait_all(tasks: Iterable[str | HasId], *, timeout: float | None = None) -> builtins.list[Result]:
    """Wait until every one of several tasks is finished; their results come in the order of *tasks*.

    :raises StillRunning: *timeout* (seconds) is over, and one is not
    """
    deadline = _deadline(timeout)
    with Daemon() as daemon:
        # Every id is looked up first, so that a wrong one is refused at once and not after an hour.
        ids = [_resolve(daemon, task) for task in tasks]
        return [_await_end(daemon, task_id, deadline, check=False) for task_id in ids]


def status(task: str | HasId) -> TaskView:
    """Where a task is, with the evidence and its age.

    :raises NotFound: there is none of that id
    """
    with Daemon() as daemon:
        return daemon.call(lambda client: client.task(_id(task)))


def result(task: str | HasId) -> Result:
    """How a finished task ended.

    :raises NotFinished: it has not
    """
    with Daemon() as daemon:
        return daemon.call(lambda client: client.result(_id(task)))


def message(task: str | HasId, *, offset: int | None = None, limit: int | None = None) -> bytes:
    """The answer of a finished task, byte for byte, or *limit* bytes of it from *offset* on.

    :raises NotFinished: it has none yet
    """
    with Daemon() as daemon:
        finished = daemon.call(lambda client: client.result(_id(task)))
        return b"".join(answer_bytes(daemon, finished, offset=offset or 0, limit=limit))


def cancel(task: str | HasId) -> TaskView:
    """Ask for the end of a task, whole process tree included; :func:`wait` returns when it has ended.

    What was said and changed until then stays in the result.  A finished task stays as it is.
    """
    with Daemon() as daemon:
        return daemon.call(lambda client: client.cancel(_id(task)))


def steer(task: str | HasId, text: str) -> TaskView:
    """Add *text* to what the agent of a task is working on; returns when the agent has confirmed it.

    :raises InvalidRequest: the task is not at work, its agent cannot be told anything, or it refused
    :raises HoldfastError: it was sent, and no confirmation came in time (``command_uncertain``)
    """
    with Daemon() as daemon:
        return daemon.call(lambda client: client.steer(_id(task), text))


def approve(
    task: str | HasId,
    decision: Literal["accept", "accept_for_session", "decline", "cancel"] = "accept",
    *,
    request_id: str | None = None,
) -> TaskView:
    """Answer what the agent of a task asks to be allowed: the only open question, or *request_id*.

    What is open stands in :attr:`TaskView.approvals`.

    :raises InvalidRequest: nothing is being asked, or several things
    """
    with Daemon() as daemon:
        return daemon.call(lambda client: client.decide(_id(task), decision, request_id))


def list(*, active: bool = False, limit: int | None = 100) -> builtins.list[TaskView]:
    """Tasks, newest first: *limit* of them at most (10,000 with ``None``), or only those that are not finished."""
    with Daemon() as daemon:
        return daemon.call(lambda client: client.tasks(active=active, limit=10_000 if limit is None else limit))


def progress(
    task: str | HasId, *, after: str | None = None, follow: bool = True, timeout: float | None = None
) -> Generator[Progress]:
    """What a task does, line by line, until it is finished; the last line is of kind ``finished``.

    :param after: the ``cursor`` of the last line that was seen
    :param follow: with ``False`` only what there is by now
    :raises StillRunning: *timeout* (seconds) is over; the task goes on
    """
    deadline = _deadline(timeout)
    with Daemon() as daemon:
        task_id = _resolve(daemon, task)
        if follow:
            with waiting(daemon):
                yield from Follower(daemon, task_id, after=after, deadline=deadline).lines()
        else:
            yield from daemon.call(lambda client: [*client.progress(task_id, after=after, follow=False)])


def log(task: str | HasId, *, attempt: int | None = None, after: int = 0, follow: bool = False) -> Generator[LogEntry]:
    """The records of the log of a task's process, exactly as its host wrote them; with *follow* to its end.

    :param after: the sequence number of the last record of *attempt* that was seen
    """
    with Daemon() as daemon:
        task_id = _resolve(daemon, task)
        with waiting(daemon):
            yield from log_entries(daemon, task_id, attempt=attempt, after=after, follow=follow)


class Task:
    """A task to go on with: the verbs, bound to one id.  It holds nothing, so make as many as you like."""

    def __init__(self, id: str) -> None:
        """*id* may be the beginning of one, as long as only one task fits."""
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    wait = wait
    status = status
    result = result
    message = message
    cancel = cancel
    steer = steer
    approve = approve
    progress = progress
    log = log


def _order(agent: str, prompt: str | bytes, options: WorkOptions) -> Order:
    data = prompt.encode() if isinstance(prompt, str) else prompt
    if not data.strip():
        raise InvalidRequest("The prompt is empty.", hint="Give the agent something to do.")
    request, environment, unreadable = describe(agent, with_output_marker(options, data), spell=str)
    if unreadable:
        _logger.warning("Variables that are not UTF-8 are not passed on: %s", ", ".join(unreadable))
    return Order(request=request, prompt=data, environment=environment)


def _create(daemon: Daemon, order: Order) -> TaskView:
    return daemon.call(lambda client: client.create(order.request, order.prompt, order.environment))


def _await_end(daemon: Daemon, task_id: str, deadline: float | None, *, check: bool) -> Result:
    with waiting(daemon):
        until_finished(daemon, task_id, deadline=deadline)
        found = daemon.call(lambda client: client.result(task_id))
    if check and not found.ok:
        raise TaskNotCompleted(found)
    return found


@contextmanager
def _attended(task_id: str, *, cancel: bool = False, order: Order | None = None) -> Generator[None]:
    """Say in a note of whatever interrupts the caller (it is no failure of the task) what becomes of the task."""
    try:
        yield
    except Exception:
        raise
    except BaseException as interruption:
        interruption.add_note(_end(task_id, order) if cancel else _FAREWELL.format(task_id))
        raise


_FAREWELL = "Task {0} goes on; pick it up with holdfast.wait({0!r})."


def _end(task_id: str, order: Order | None) -> str:
    try:
        # The interrupted daemon access is of no use any more.
        with Daemon() as daemon:
            if order is not None:
                # It may not have arrived yet, and only an accepted task can be cancelled for certain.
                _create(daemon, order)
            daemon.call(lambda client: client.cancel(task_id))
    except HoldfastError as error:
        return f"Task {task_id} may go on ({error}); end it with holdfast.cancel({task_id!r})."
    return f"Task {task_id} is being ended; holdfast.wait({task_id!r}) returns when it has."


def _resolve(daemon: Daemon, task: str | HasId) -> str:
    return daemon.call(lambda client: client.task(_id(task))).id


def _id(task: str | HasId) -> str:
    return task if isinstance(task, str) else task.id


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else monotonic() + timeout
