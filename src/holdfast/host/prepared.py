"""What a start needs and does not depend on what is started: a place with its files open, and streams that are held.

The usual kind, pipes without input, is made ready ahead, while the child of the last start is on its way: then a start
is little more than writing down what it is and the system call.  Where starts follow each other without a pause there
is no such time, and several are made at once, for one message to the keeper.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final, NamedTuple

from holdfast.errors import HoldfastError
from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import DESCRIPTORS
from holdfast.host.place import Place
from holdfast.host.places import Places
from holdfast.host.spawn import Preparation, prepare

#: Seconds after a start in which the next one finds everything ready; then the descriptors are not worth keeping.
_KEPT: Final = 2.0
#: Made at once in a burst: each of them has two streams.
_SEVERAL: Final = DESCRIPTORS // 2


class Prepared(NamedTuple):
    """A start that only wants its program."""

    place: Place
    preparation: Preparation
    #: The name under which the keeper holds the streams.
    key: str

    def discard(self, link: KeeperLink) -> None:
        """Give up; nothing is left."""
        self.preparation.close()
        link.let(self.key)
        self.place.discard()


class PreparedStarts:
    """Makes them, the usual kind ahead."""

    def __init__(self, places: Places, link: KeeperLink) -> None:
        self._places = places
        self._link = link
        #: Opened once for all children: to find it costs a child more than to share it.
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._ready: deque[Prepared] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._looking_ahead = False
        #: Whether one was of use since the timer was set.
        self._used = False
        self._closed = False

    def take(self, *, tty: bool, pipe_stdin: bool, stdin_file: str | None) -> Prepared:
        """One with these streams; the keeper holds them before anybody uses them.

        :raises RpcError: *stdin_file* cannot be standard input; nothing is left
        :raises OSError: no room, or no descriptors; nothing is left
        :raises HoldfastError: there is no place for what is made; nothing is left
        """
        if tty or pipe_stdin or stdin_file is not None:
            prepared = self._make(tty=tty, pipe_stdin=pipe_stdin, stdin_file=stdin_file)
            self._hold(prepared)
            return prepared
        if self._ready:
            self._used = True
        else:
            # If the last start is so fresh that nothing could be made ready since, there may be more to come.
            self._make_ready(_SEVERAL if self._looking_ahead else 1)
        return self._ready.popleft()

    def _make(self, *, tty: bool = False, pipe_stdin: bool = False, stdin_file: str | None = None) -> Prepared:
        place = self._places.take()
        try:
            preparation = prepare(self._nothing, tty=tty, pipe_stdin=pipe_stdin, stdin_file=stdin_file)
        except BaseException:
            place.discard()
            raise
        return Prepared(place, preparation, place.directory.rpartition("/")[2])

    def _make_ready(self, number: int) -> None:
        """Make so many, or as many as can be made.

        :raises OSError: not even one; nothing is left
        """
        made: list[Prepared] = []
        try:
            for _ in range(number):
                made.append(self._make())
        except (OSError, HoldfastError):
            if not made:
                raise
        self._hold(*made)
        self._ready.extend(made)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_KEPT, self._let_go_unused)

    def _hold(self, *made: Prepared) -> None:
        try:
            self._link.hold({prepared.key: prepared.preparation.streams.by_name() for prepared in made})
        except BaseException:
            for place, preparation, _ in made:
                preparation.close()
                place.discard()
            raise

    def look_ahead(self) -> None:
        """Make the next one ready, soon: called when a child was started."""
        if not self._looking_ahead and not self._ready and not self._closed:
            self._looking_ahead = True
            asyncio.get_running_loop().call_soon(self._make_next)

    def _make_next(self) -> None:
        self._looking_ahead = False
        if not self._ready and not self._closed:
            try:
                self._make_ready(1)
            except (OSError, HoldfastError):
                # The start that needs it will say so.
                return

    def _let_go_unused(self) -> None:
        self._timer = None
        if self._used and not self._closed:
            self._used = False
            self._timer = asyncio.get_running_loop().call_later(_KEPT, self._let_go_unused)
            return
        self.let_go()

    def let_go(self) -> None:
        """Let go of what was made ahead."""
        while self._ready:
            # Its place is not used again: the keeper is told by its name to let go of these streams, some time soon.
            self._ready.popleft().discard(self._link)

    def close(self) -> None:
        """Let go of what was made ahead, and make no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.let_go()
        os.close(self._nothing)
