"""Readiness of many short-lived descriptors, cheaper than one event-loop reader each.

All of them sit in one epoll instance, and the event loop watches that one.  Registering a pipe costs a system call
instead of an event-loop handle.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Final

READABLE: Final = select.EPOLLIN
#: Every writer of a pipe is gone; without ``READABLE`` there is nothing left in it either.
HUNG_UP: Final = select.EPOLLHUP
WRITABLE: Final = select.EPOLLOUT

_BATCH: Final = 256
#: Seconds for which :meth:`Poller.gather` waits.
_GATHER: Final = 0.0001


class Poller:
    """Calls back with the events when a descriptor is ready; level-triggered.

    An event is never that of an earlier descriptor with the same number: what was watched since the events were
    gathered is not called before the next time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()
        self._gathering = False
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call *callback* with what it is ready for whenever *descriptor* is ready for *events*, or is hung up."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback
        self._fresh.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Stop; must be called before the descriptor is closed.  Harmless if it was not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor of which no other process has a copy; closing it does the rest."""
        self._callbacks.pop(descriptor, None)

    def gather(self) -> None:
        """Wait a moment before the next events are looked at: something pours in, in portions too small to be worth it.

        The whole event loop waits, for a tenth of a millisecond: less than it is busy with a large portion.
        """
        self._gathering = True

    def _dispatch(self) -> None:
        if self._gathering:
            self._gathering = False
            time.sleep(_GATHER)
        callbacks, fresh = self._callbacks, self._fresh
        fresh.clear()
        for descriptor, events in self._epoll.poll(0, _BATCH):
            callback = callbacks.get(descriptor)
            if callback is not None and descriptor not in fresh:
                callback(events)

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._epoll.close()
