"""The verbs of :mod:`holdfast.api.sync`, to be awaited: ``await holdfast.aio.run(...)``.

Each is the blocking one in a thread of its own, so there is one implementation, and any number can wait side by side.
A cancelled ``await`` ends the waiting at once and leaves no thread behind.  It does not end the task, unless
``cancel_on_interrupt`` says so; a note of the :exc:`asyncio.CancelledError` tells what became of the task.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from holdfast.api import fanout as fan
from holdfast.api import review as reviews
from holdfast.api import sync
from holdfast.api.interruption import Interruption, interruptible_by
from holdfast.api.order import WorkOptions
from holdfast.api.review import ReviewOptions

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _awaitable(function: Callable[_P, _T]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """*function* as a coroutine function."""

    @wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        interruption, context = _interruptible()
        return await _in_thread(context, interruption, lambda: function(*args, **kwargs))

    return call


def _iterable(function: Callable[_P, Generator[_T]]) -> Callable[_P, AsyncGenerator[_T]]:
    """*function* as an asynchronous generator function."""

    @wraps(function)
    async def iterate(*args: _P.args, **kwargs: _P.kwargs) -> AsyncGenerator[_T]:
        interruption, context = _interruptible()
        generator = function(*args, **kwargs)

        def step() -> builtins.list[_T]:
            # StopIteration must not reach a future.
            return builtins.list(itertools.islice(generator, 1))

        while items := await _in_thread(context, interruption, step):
            try:
                yield items[0]
            except BaseException:
                context.run(generator.close)
                raise

    return iterate


def _interruptible() -> tuple[Interruption, Context]:
    interruption, context = Interruption(), copy_context()
    context.run(interruptible_by, interruption)
    return interruption, context


async def _in_thread(context: Context, interruption: Interruption, function: Callable[[], _T]) -> _T:
    """Run a blocking call in a thread of its own; when this is cancelled, interrupt it and wait for its thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def work() -> None:
        try:
            answer = context.run(function)
        except BaseException as error:
            settle(done.set_exception, error)
        else:
            settle(done.set_result, answer)

    def settle(how: Callable[[Any], None], what: Any) -> None:
        # A loop that is closed has nobody left to be told.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(how, what)

    threading.Thread(target=work, name="holdfast", daemon=True).start()
    try:
        await asyncio.wait([done])
    except asyncio.CancelledError as cancelled:
        interruption.set()
        # Its last words; a second cancellation does not wait for them.
        await asyncio.wait([done])
        for note in getattr(done.exception(), "__notes__", ()):
            cancelled.add_note(note)
        raise
    return done.result()


run = _awaitable(sync.run)
wait = _awaitable(sync.wait)
wait_any = _awaitable(sync.wait_any)
wait_all = _awaitable(sync.wait_all)
status = _awaitable(sync.status)
result = _awaitable(sync.result)
message = _awaitable(sync.message)
cancel = _awaitable(sync.cancel)
review = _awaitable(reviews.review)
read_review = _awaitable(reviews.read_review)
steer = _awaitable(sync.steer)
approve = _awaitable(sync.approve)
list = _awaitable(sync.list)
fanout = _iterable(fan.fanout)
progress = _iterable(sync.progress)
log = _iterable(sync.log)

_start: Final = _awaitable(sync.start)
_start_review: Final = _awaitable(reviews.start_review)


async def start(agent: str, prompt: str | bytes, **options: Unpack[WorkOptions]) -> Task:
    """Hand over a task without waiting for it; see :func:`holdfast.start`."""
    return Task((await _start(agent, prompt, **options)).id)


async def start_review(agent: str = "codex", focus: str = "", **options: Unpack[ReviewOptions]) -> Task:
    """Hand over a review without waiting for it; see :func:`holdfast.start_review`."""
    return Task((await _start_review(agent, focus, **options)).id)


class Task:
    """A task to go on with: the verbs to be awaited, bound to one id."""

    def __init__(self, id: str) -> None:
        """*id* may be the beginning of one, as long as only one task fits."""
        self.id = id

    def __repr__(self) -> str:
        return f"aio.Task({self.id!r})"

    wait = wait
    status = status
    result = result
    message = message
    cancel = cancel
    steer = steer
    approve = approve
    progress = progress
    log = log
