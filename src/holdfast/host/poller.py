"""Readiness of many short-lived descriptors, cheaper than one event-loop reader each.

All of them sit in one epoll instance, and the event loop watches that one.  Registering a pipe costs a system call
instead of an event-loop handle.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT

_BATCH: Final = 256


class Poller:
    """Calls back when a descriptor is ready; level-triggered.

    A callback may be called once without need (another callback of the same batch closed a descriptor and its number
    was used again at once), so callbacks try their non-blocking operation and believe its outcome only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *descriptor* is ready for *events*, or is hung up."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        """Stop; must be called before the descriptor is closed.  Harmless if it was not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _dispatch(self) -> None:
        callbacks = self._callbacks
        for descriptor, _ in self._epoll.poll(0, _BATCH):
            callback = callbacks.get(descriptor)
            if callback is not None:
                callback()

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._epoll.close()
