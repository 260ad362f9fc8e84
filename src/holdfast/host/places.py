"""The places that are kept ready, so that a start finds one made.

To make a place costs as much as the rest of a start, mostly in the file system.  So there are always some, made by a
thread: a file system that is slow today must not hold up the event loop.  A burst that empties the stock makes it
larger; it is filled up again when the burst is over, also with the places of processes that were forgotten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Final

from holdfast.clock import monotonic
from holdfast.host.place import Nursery, Place, make_place, make_places, recycle_place, remove_place

#: Places kept at least, and at most.
_FEW: Final = 32
_MANY: Final = 1024
#: Seconds without a start after which a larger stock is filled up, and after which it is no longer worth its keep.
_QUIET: Final = 0.05
_LONG_QUIET: Final = 600.0


class Places:
    """The stock of one host, for its event loop."""

    def __init__(self, state_directory: Path, processes_directory: str, instance_id: str) -> None:
        self._nursery = Nursery(state_directory)
        #: What the names of all of them begin with.
        self._stem = f"{processes_directory}/{instance_id}"
        self._count = 0
        self._stock: deque[str] = deque()
        self._wanted = _FEW
        self._last_taken = monotonic()
        self._making: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Place:
        """A place, made now if there is none ready.

        :raises OSError: no room, or no descriptors
        :raises HoldfastError: there is no place for a nursery
        """
        self._last_taken = monotonic()
        while self._stock:
            try:
                place = Place.open(self._stock[0])
            except FileNotFoundError:
                # Somebody else has tidied up.
                remove_place(self._stock.popleft())
                continue
            self._stock.popleft()
            return place
        self._wanted = min(2 * self._wanted, _MANY)
        directory = self._next_directory()
        make_place(self._nursery, directory)
        try:
            return Place.open(directory)
        except OSError:
            remove_place(directory)
            raise

    def _next_directory(self) -> str:
        self._count += 1
        return f"{self._stem}-{self._count}"

    def replenish(self) -> None:
        """See to it that there are some; called after each start, when the child is on its way."""
        if self._making is not None or self._closed:
            return
        ready = len(self._stock)
        if ready <= _FEW // 2:
            self._make(_FEW - ready)
        elif ready < self._wanted and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_QUIET, self._fill_up)

    def _fill_up(self) -> None:
        self._timer = None
        if self._making is None and not self._closed:
            if monotonic() - self._last_taken < _QUIET:
                self._timer = asyncio.get_running_loop().call_later(_QUIET, self._fill_up)
            else:
                self._make(self._wanted - len(self._stock))

    def _make(self, number: int) -> None:
        directories = [self._next_directory() for _ in range(number)]
        self._making = asyncio.get_running_loop().create_task(self._make_them(directories))

    async def _make_them(self, directories: list[str]) -> None:
        try:
            made = await asyncio.to_thread(make_places, self._nursery, directories)
            self._stock.extend(made)
        finally:
            self._making = None
        if made:
            self.replenish()

    async def give_back(self, directories: list[str]) -> None:
        """Nobody needs these any more: use them again, or remove them."""
        if monotonic() - self._last_taken > _LONG_QUIET:
            self._wanted = _FEW
        wanted = 0 if self._closed else max(0, self._wanted - len(self._stock))
        names = {directory: self._next_directory() for directory in directories[:wanted]}
        self._stock.extend(await asyncio.to_thread(_recycle, directories, names))

    async def close(self) -> None:
        """Remove what is left."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._making is not None:
            await self._making
        while self._stock:
            remove_place(self._stock.pop())
        self._nursery.close()


def _recycle(directories: list[str], names: dict[str, str]) -> list[str]:
    """Remove *directories* except those that have a new name; returns the places that they are now."""
    places: list[str] = []
    for directory in directories:
        name = names.get(directory)
        if name is not None and recycle_place(directory, name):
            places.append(name)
        else:
            remove_place(directory)
    return places
