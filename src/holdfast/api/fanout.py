"""Carrying out a fan of tasks: so many at once, none beside one that it could collide with, and none of them twice.

A lane's task has an id that follows from what the lane says, so a fan that is run again finds the tasks that it has
already, waits for those that are still at work, and starts only what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import msgspec

from holdfast.api.daemon_access import Daemon
from holdfast.api.follow import until_finished
from holdfast.api.interruption import waiting
from holdfast.api.order import Order, WorkOptions, describe
from holdfast.errors import HoldfastError, InvalidRequest, NotFound
from holdfast.tasks.fanout import Fan, InvalidSpecification, Lane, Level, overlaps, parse, trespasses
from holdfast.tasks.request import new_task_id
from holdfast.tasks.result import Result
from holdfast.tasks.view import TaskView

_logger: Final = logging.getLogger("holdfast")

#: Of the digest in a task's id: enough that two lanes never share one by chance.
_DIGEST_LENGTH: Final = 16


class LaneReceipt(msgspec.Struct, kw_only=True):
    """How one lane ended."""

    lane: str
    #: ``None`` where nothing was started.
    task_id: str | None
    #: As in the result; ``rejected`` when it was refused, ``cancelled`` also when it was not started any more.
    status: str
    ok: bool
    exit_code: int
    #: An earlier run of the same specification had started it.
    repeated: bool = False
    duration_s: float | None = None
    output_path: str | None = None
    output_bytes: int | None = None
    worktree: str | None = None
    #: Observed in its directory; lanes that worked there at the same time see each other's changes.
    files_changed: list[str] = []
    #: Files that it changed although it does not own them, or must not.
    trespasses: list[str] = []
    error: str | None = None


class Fanout:
    """One fan at work.  :meth:`prepare` first, then :meth:`next` until it gives ``None``."""

    def __init__(
        self,
        daemon: Daemon,
        fan: Fan,
        *,
        parallel: int | None = None,
        fresh: bool = False,
        allow_overlap: bool = False,
        interruptible: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """
        :param fresh: every lane is a new task, whatever was run before
        :param allow_overlap: lanes that own the same files work one after the other, instead of being refused
        :param interruptible: entered for as long as nothing is done but waiting
        """
        self._daemon = daemon
        self._fan = fan
        self._parallel = parallel or fan.parallel
        self._fresh = fresh
        self._allow_overlap = allow_overlap
        self._interruptible = interruptible
        self._apart: set[frozenset[str]] = set()
        self._ids: dict[str, str] = {}
        self._orders: dict[str, Order] = {}
        self._repeated: set[str] = set()
        self._waiting: list[Lane] = []
        self._running: dict[str, Lane] = {}
        self._given_up = False
        self._ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

    @property
    def running(self) -> dict[str, str]:
        """Task ids of the lanes at work, by lane."""
        return {name: self._ids[name] for name in self._running}

    def prepare(self) -> list[str]:
        """Check every lane, and start nothing; returns what the caller should know.

        :raises InvalidSpecification: with everything that is wrong
        """
        notices: list[str] = []
        problems: list[str] = []
        for overlap in overlaps(self._fan.lanes):
            if overlap.level is Level.HIGH and not self._allow_overlap:
                problems.append(
                    f"The lanes {overlap.first!r} and {overlap.second!r} both own {overlap.what!r}: "
                    "make them one lane, or allow the overlap."
                )
            else:
                self._apart.add(frozenset({overlap.first, overlap.second}))
                notices.append(
                    f"{overlap.first} and {overlap.second} work one after the other: both may change {overlap.what}"
                )
        for lane in self._fan.lanes:
            task_id = new_task_id() if self._fresh else lane_task_id(lane)
            self._ids[lane.name] = task_id
            if not self._fresh and self._view(task_id) is not None:
                self._repeated.add(lane.name)
                continue
            options: dict[str, Any] = {
                "notify": (),
                "label": lane.name,
                **lane.options,
                "tags": {**lane.options.get("tags", {}), "lane": lane.name},
                "task_id": task_id,
            }
            try:
                description = describe(lane.agent, cast("WorkOptions", cast("object", options)), spell=str)
            except InvalidRequest as error:
                problems.append(f"lane {lane.name!r}: {error.message}")
                continue
            self._orders[lane.name] = Order(
                request=description.request, prompt=lane.prompt, environment=description.environment
            )
            if description.unreadable:
                notices.append(f"variables that are not UTF-8 are not passed on: {', '.join(description.unreadable)}")
        if problems:
            raise InvalidSpecification(problems)
        self._waiting = list(self._fan.lanes)
        return list(dict.fromkeys(notices))

    def next(self) -> LaneReceipt | None:
        """The receipt of the next lane that ends, after everything was started that may work meanwhile.

        An exception that interrupts the waiting changes nothing: call it again.
        """
        while True:
            if self._given_up and self._waiting:
                return self._not_started(self._waiting.pop(0), "cancelled", 130, "it was not started any more")
            refused = self._start_what_may_work()
            if refused is not None:
                return refused
            if not self._running:
                return None
            with self._interruptible():
                name, error = self._ended.get()
            lane = self._running.pop(name)
            if error is not None and not isinstance(error, HoldfastError):
                raise error
            return self._receipt(lane, error)

    def cancel(self) -> None:
        """Start nothing any more, and end what is at work; :meth:`next` goes on giving receipts."""
        self._given_up = True
        for task_id in self.running.values():
            self._daemon.call(lambda client, task_id=task_id: client.cancel(task_id))

    def _start_what_may_work(self) -> LaneReceipt | None:
        held: list[Lane] = []
        for lane in list(self._waiting):
            if len(self._running) >= self._parallel:
                return None
            if any(frozenset({lane.name, other.name}) in self._apart for other in [*self._running.values(), *held]):
                # Nor does it overtake one that it must not work beside.
                held.append(lane)
                continue
            self._waiting.remove(lane)
            try:
                self._start(lane)
            except InvalidRequest as error:
                return self._not_started(lane, "rejected", error.exit_code, error.message)
            except HoldfastError as error:
                return self._not_started(lane, "unavailable", error.exit_code, error.message)
        return None

    def _start(self, lane: Lane) -> None:
        order = self._orders.get(lane.name)
        if order is not None:
            self._daemon.call(lambda client: client.create(order.request, order.prompt, order.environment))
        self._running[lane.name] = lane
        threading.Thread(target=self._attend, args=(lane.name,), name=f"lane {lane.name}", daemon=True).start()

    def _attend(self, name: str) -> None:
        try:
            until_finished(self._daemon, self._ids[name])
        except BaseException as error:
            self._ended.put((name, error))
        else:
            self._ended.put((name, None))

    def _view(self, task_id: str) -> TaskView | None:
        try:
            view = self._daemon.call(lambda client: client.task(task_id))
        except NotFound:
            return None
        return view if view.id == task_id else None

    def _not_started(self, lane: Lane, status: str, exit_code: int, reason: str) -> LaneReceipt:
        return LaneReceipt(lane=lane.name, task_id=None, status=status, ok=False, exit_code=exit_code, error=reason)

    def _receipt(self, lane: Lane, error: HoldfastError | None) -> LaneReceipt:
        task_id = self._ids[lane.name]
        if error is None:
            try:
                result = self._daemon.call(lambda client: client.result(task_id))
            except HoldfastError as failure:
                error = failure
            else:
                return self._of_result(lane, result)
        return LaneReceipt(
            lane=lane.name, task_id=task_id, status="unknown", ok=False, exit_code=error.exit_code, error=error.message
        )

    def _of_result(self, lane: Lane, result: Result) -> LaneReceipt:
        changed = [file.path for file in result.files.changed]
        # Where others were at work beside it, what the lane itself does not claim may be theirs.
        alone = result.files.concurrent_tasks_in_workdir == 0
        its_own = [file.path for file in result.files.changed if file.claimed or alone]
        published = result.output.path is not None
        return LaneReceipt(
            lane=lane.name,
            task_id=result.task_id,
            status=result.status.value,
            ok=result.ok,
            exit_code=result.exit.wrapper_code,
            repeated=lane.name in self._repeated,
            duration_s=round(result.timing.wall_ms / 1000, 3),
            output_path=result.output.path if published else result.message.path,
            output_bytes=result.output.bytes if published else result.message.bytes,
            worktree=result.backend.worktree if result.backend.worktree_kept else None,
            files_changed=changed,
            trespasses=trespasses(lane, its_own),
            error=None if result.error is None else result.error.message,
        )


def fanout(
    specification: Mapping[str, Any],
    *,
    parallel: int | None = None,
    fresh: bool = False,
    allow_overlap: bool = False,
) -> Generator[LaneReceipt]:
    """Do the many pieces of work of a specification (docs/commands.md), and give each lane's receipt as it ends.

    The same specification again does no lane twice, unless *fresh*.  Tasks that are at work when the caller stops
    asking go on.

    :raises InvalidSpecification: with everything that is wrong; nothing was started
    """
    with Daemon() as daemon:
        work = Fanout(
            daemon,
            parse(msgspec.json.encode(specification)),
            parallel=parallel,
            fresh=fresh,
            allow_overlap=allow_overlap,
            interruptible=lambda: waiting(daemon),
        )
        for notice in work.prepare():
            _logger.info("%s", notice)
        try:
            while (receipt := work.next()) is not None:
                yield receipt
        finally:
            if work.running:
                # The threads that wait for them end; the tasks do not.
                daemon.interrupt()


def lane_task_id(lane: Lane) -> str:
    """The id of the task of *lane*: the same as long as the lane says the same."""
    said: Sequence[Any] = (lane.name, lane.agent, lane.cwd, _plain(lane.options), lane.prompt.hex())
    digest = hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()
    return f"fan-{digest[:_DIGEST_LENGTH]}-{lane.name}"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "cwd"}
