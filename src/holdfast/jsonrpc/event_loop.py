"""An event loop of one epoll instance, in which what is hot takes a short cut.

asyncio makes a handle of each event and runs the handles after the system call that reported them.  Pipes, children and
connections by the thousand are worth less ceremony: the *poller* is the selector of the loop, and calls back for the
descriptors that it watches itself before it hands the others to asyncio.  Timers, tasks, threads and signals are
asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import select
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVarTuple

READABLE: Final = select.EPOLLIN
#: Every writer of a pipe is gone, or nobody has a terminal open; something may be left in it.
HUNG_UP: Final = select.EPOLLHUP
#: Called back only when something happens to the descriptor, not as long as it is ready.
ONCE_EACH: Final = select.EPOLLET
WRITABLE: Final = select.EPOLLOUT

_BATCH: Final = 256
#: Seconds for which :meth:`Poller.gather` waits.
_GATHER: Final = 0.0001
#: In a conversation, that is after so many requests in a row that came within so many nanoseconds of the last answer,
#: the next one is looked out for, so long, before the loop goes to sleep: to be woken takes longer than to answer.
_PROMPT: Final = 8
_PROMPT_NS: Final = 400_000
_LOOK_OUT_NS: Final = 250_000


_Arguments = TypeVarTuple("_Arguments")


class Poller(selectors.BaseSelector):
    """Calls back with the events when a descriptor is ready; level-triggered, but for :data:`ONCE_EACH`.

    An event is never that of an earlier descriptor with the same number: what was watched since the events were
    gathered is not called before the next time.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()
        self._gathering = False
        #: Whether something is being called back, and small writes are kept until it is done.
        self.defers = False
        self._afterwards: list[Callable[[], None]] = []
        #: Set when a request was read: another one may follow its answer.
        self.conversing = False
        self._prompt = 0
        #: With one processor looking out would only keep the other side from running.
        self.alone = len(os.sched_getaffinity(0)) < 2
        #: Set when asyncio got something to do, so that it is not kept waiting.
        self.interrupted = False
        #: What asyncio watches.
        self._keys: dict[int, selectors.SelectorKey] = {}

    # Short cut

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call *callback* with what it is ready for whenever *descriptor* is ready for *events*, or is hung up."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback
        self._fresh.add(descriptor)

    def change(self, descriptor: int, events: int) -> None:
        """Watch it for other events from now on."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Stop; must be called before the descriptor is closed.  Harmless if it was not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor of which no other process has a copy; closing it does the rest."""
        self._callbacks.pop(descriptor, None)

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call *call* when everything that was ready is called back, or at the next :meth:`catch_up`."""
        self._afterwards.append(call)

    def catch_up(self) -> None:
        """Call what waits for the end of the callbacks; for one that takes its time and should keep nobody waiting."""
        while self._afterwards:
            call = self._afterwards.pop(0)
            try:
                call()
            except Exception as error:
                self._failed(error)

    def gather(self) -> None:
        """Wait a moment before the next events are looked at: something pours in, in portions too small to be worth it.

        The whole event loop waits, for a tenth of a millisecond: less than it is busy with a large portion.
        """
        self._gathering = True

    # What asyncio asks of a selector

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = _number(fileobj)
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._epoll.register(descriptor, _to_epoll(events))
        self._keys[descriptor] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(_number(fileobj))
        try:
            self._epoll.unregister(key.fd)
        except OSError:
            # It was closed before; that has ended the registration.
            pass
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = _number(fileobj)
        key = self._keys[descriptor]
        if events != key.events:
            self._epoll.modify(descriptor, _to_epoll(events))
        key = self._keys[descriptor] = key._replace(events=events, data=data)
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[_number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, call back for what is watched here, and return when there is something for asyncio to do."""
        deadline = None
        if timeout is None:
            timeout = -1
        elif timeout > 0:
            deadline = time.monotonic() + timeout
            timeout = _whole_milliseconds(timeout)
        callbacks, fresh = self._callbacks, self._fresh
        rest: list[tuple[selectors.SelectorKey, int]] = []
        self.interrupted = False
        while True:
            if self._gathering:
                self._gathering = False
                time.sleep(_GATHER)
            found = self._converse(timeout) if self.conversing else self._epoll.poll(timeout, _BATCH)
            fresh.clear()
            self.defers = True
            for descriptor, events in found:
                callback = callbacks.get(descriptor)
                if callback is None:
                    self._collect(descriptor, events, rest)
                elif descriptor not in fresh:
                    try:
                        callback(events)
                    except Exception as error:
                        self._failed(error)
            self.catch_up()
            self.defers = False
            if rest or self.interrupted or not found or not timeout:
                return rest
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return rest
                timeout = _whole_milliseconds(left)

    def _converse(self, timeout: float) -> list[tuple[int, int]]:
        """Wait for what comes after an answer."""
        self.conversing = False
        answered = time.monotonic_ns()
        found: list[tuple[int, int]] = []
        if self._prompt >= _PROMPT and timeout and not self.alone:
            while not (found := self._epoll.poll(0, _BATCH)) and time.monotonic_ns() - answered < _LOOK_OUT_NS:
                # Whoever was answered may have been woken on this processor.
                os.sched_yield()
            if not found:
                self._prompt = 0
        if not found:
            found = self._epoll.poll(timeout, _BATCH)
        self._prompt = self._prompt + 1 if time.monotonic_ns() - answered < _PROMPT_NS else 0
        return found

    def _collect(self, descriptor: int, events: int, rest: list[tuple[selectors.SelectorKey, int]]) -> None:
        key = self._keys.get(descriptor)
        if key is None:
            return
        ready = 0
        if events & ~select.EPOLLIN:
            ready |= selectors.EVENT_WRITE
        if events & ~select.EPOLLOUT:
            ready |= selectors.EVENT_READ
        if ready & key.events:
            rest.append((key, ready & key.events))

    def close(self) -> None:
        """Stop watching everything."""
        self._callbacks.clear()
        self._keys.clear()
        self._epoll.close()


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


def _whole_milliseconds(seconds: float) -> float:
    """Rounded up: or the loop would spin until the timer is due."""
    return math.ceil(seconds * 1e3) * 1e-3


def _to_epoll(events: int) -> int:
    return (select.EPOLLIN if events & selectors.EVENT_READ else 0) | (
        select.EPOLLOUT if events & selectors.EVENT_WRITE else 0
    )


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a :class:`Poller`."""

    def __init__(self) -> None:
        self.poller = Poller(self._callback_failed)
        super().__init__(self.poller)

    def call_soon(
        self,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self.poller.interrupted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        self.poller.interrupted = True
        return super().call_at(when, callback, *args, context=context)

    async def shutdown_default_executor(self) -> None:
        try:
            await super().shutdown_default_executor()
        except RuntimeError:
            # asyncio waits for threads in a thread, and there is none to be had.
            return

    def _callback_failed(self, error: Exception) -> None:
        self.call_exception_handler({"message": "a callback of the poller failed", "exception": error})


def running_poller() -> Poller:
    """The poller of the running event loop.

    :raises RuntimeError: it is a loop of another kind, or none runs
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, EventLoop):
        raise RuntimeError(f"This needs holdfast's own event loop, not {type(loop).__name__}.")
    return loop.poller
