"""The threads of the server, for what takes a while: the event loop goes on meanwhile.

Where none can be made (the user, or the unit, has as many tasks as it may), what a thread would do is done at once, by
whoever asks for it.  That keeps the others waiting, but what could not be done would keep them waiting for ever.  Only
what may itself take for ever is refused then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from holdfast.errors import HoldfastError
from holdfast.host.ending import hear_none

_P = ParamSpec("_P")
_T = TypeVar("_T")


class NoThread(HoldfastError):
    """No thread can be made for what only a thread may do."""

    code = "no_thread"

    def __init__(self) -> None:
        super().__init__(
            "no thread can be made: the host, or its user, has as many tasks as it may",
            hint="End some, or raise the limit (TasksMax of the unit, ulimit -u).",
        )


class Threads(ThreadPoolExecutor):
    """An executor that needs no thread, unless it is told so."""

    def __init__(self, most: int | None = None, name: str = "", *, needed: bool = False) -> None:
        """*most* threads there are, as many as usual if it is None; their names begin with *name*.

        *needed*: what they do may never end, and nobody else does it.
        """
        super().__init__(most, name, hear_none)
        self._needed = needed

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Let a thread call *fn*.

        :raises NoThread: one is needed, and there is none
        """
        future: Future[_T] = Future()
        turn = [True]

        def work() -> None:
            try:
                turn.pop()
            except IndexError:
                # The other one was first.
                return
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            super().submit(work)
        except RuntimeError:
            # It is in the queue all the same, for a thread that is there or can be made later.
            if self._needed:
                turn.clear()
                raise NoThread from None
            work()
        return future


def in_background(function: Callable[[], None]) -> None:
    """Call *function* in a thread for which nobody waits, not even the end of the server."""

    def call() -> None:
        hear_none()
        function()

    try:
        threading.Thread(target=call, daemon=True).start()
    except RuntimeError:
        function()
