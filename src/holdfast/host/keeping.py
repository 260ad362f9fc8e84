"""The server's side of the keeper: what it hands over, what it gets back, and what it does when the keeper dies."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from holdfast.clock import monotonic
from holdfast.errors import InvalidRequest
from holdfast.host.estate import Estate
from holdfast.host.packets import LEISURE, NO_ROOM, PACKET, Held, hand_out, pack, pid_packets, receive, send, take_in

#: Seconds for which finished processes gather before the keeper is told to let go of them.
_GATHER: Final = 0.05
#: Seconds for which descriptors wait until the user has fewer on their way; longer, somebody else does not read.
_PATIENCE: Final = 1.0


class OverlongOptions(InvalidRequest):
    """What the host is told is more than its keeper can hold."""

    code = "overlong_options"


class KeeperLink:
    """The channel to the keeper.  Without one (stdio, tests) everything is a no-op and nothing survives the server."""

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        #: Called with pid, exit code and signal number of an adopted child that ended.
        self.on_ended: Callable[[int, int, int], None] = lambda pid, code, number: None
        #: Called with the keys of what the keeper could not hold, for want of descriptors.
        self.on_unheld: Callable[[list[str]], None] = lambda keys: None
        #: Called when the keeper is gone.
        self.on_death: Callable[[], None] = lambda: None
        #: Whether the keeper has outlived an earlier server, so that what it did not hold was never started.
        self.outlived = False
        self._letting: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def kept(self) -> bool:
        """Whether there is a keeper, as far as is known."""
        return self._channel is not None

    def take_over(self) -> tuple[Held, list[int]]:
        """What an earlier server left with the keeper: descriptors by key and name, and the pids of its children.

        :raises OSError: there are no free descriptors for them
        """
        held: Held = {}
        children: list[int] = []
        channel = self._channel
        if channel is None:
            return held, children
        while True:
            try:
                words, descriptors = receive(channel)
            except ConnectionResetError:
                # The keeper was killed before it read what came from here.  This is told once, and ahead of what it
                # had sent before.
                continue
            if not words:
                return held, []
            operation, *rest = words
            if operation == "hold":
                if not take_in(held, rest, descriptors):
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            elif operation == "children":
                children += map(int, rest)
            elif operation == "handed":
                self.outlived = bool(rest[0])
                return held, children

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the keeper's messages from now on."""
        self._loop = loop
        if self._channel is not None:
            loop.add_reader(self._channel.fileno(), self._receive)
        # What gathered before there was a loop.
        self._let_now()

    def _receive(self) -> None:
        assert self._channel is not None
        assert self._loop is not None
        while True:
            try:
                words, _ = receive(self._channel, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # As when it takes over: what the keeper had sent comes after this.
                continue
            except OSError:
                words = []
            if not words:
                self._loop.remove_reader(self._channel.fileno())
                self._channel.close()
                self._channel = None
                self.on_death()
                return
            operation, *rest = words
            if operation == "ended":
                pid, code, number = map(int, rest)
                self.on_ended(pid, code, number)
            elif operation == "unheld":
                self.on_unheld(rest)

    def _send(self, words: list[str], descriptors: Sequence[int] = ()) -> None:
        deadline = monotonic() + _PATIENCE
        while self._channel is not None:
            try:
                send(self._channel, words, descriptors)
            except ConnectionError:
                # The keeper is dead; on_death follows and puts another one in its place.
                pass
            except OSError as error:
                # What has no descriptors finds room as soon as there is memory, and must not get lost.
                if error.errno not in NO_ROOM or (descriptors and monotonic() > deadline):
                    raise
                time.sleep(LEISURE)
                continue
            return

    def entrust(self, estate: Estate) -> None:
        """Let the keeper hold what the host has for good.

        :raises OverlongOptions: there is more of it than a packet holds
        :raises OSError: too many descriptors are on their way
        """
        words = ["own", *estate.words()]
        if len(pack(words)) > PACKET:
            raise OverlongOptions(
                f"Directory, URL, issuer, audience and secret together are longer than {PACKET} bytes.",
                hint="Shorten them.",
            )
        self._send(words, [estate.listener, estate.lock])

    def hold(self, held: Held) -> None:
        """Let the keeper hold these, :data:`~holdfast.host.packets.DESCRIPTORS` at most; before a child uses them.

        :raises OSError: too many descriptors are on their way, and the keeper does not hold them
        """
        words, descriptors = hand_out(held)
        self._send(["hold", *words], descriptors)

    def drop(self, key: str, name: str) -> None:
        """Let the keeper close one of them: as long as it holds stdin, the child sees no end of file."""
        self._send(["drop", key, name])

    def let(self, key: str) -> None:
        """Let the keeper close all of them, some time soon."""
        self._letting.append(key)
        if len(self._letting) == 1 and self._loop is not None:
            self._loop.call_later(_GATHER, self._let_now)
        elif len(self._letting) >= 500:
            self._let_now()

    def _let_now(self) -> None:
        keys, self._letting = self._letting, []
        if keys:
            self._send(["let", *keys])

    def adopt(self, pids: list[int]) -> None:
        """Ask for reports about these; every other child of the keeper is reaped."""
        for words in pid_packets("adopt", pids):
            self._send(words)
        self._send(["settled"])

    def reap(self, pid: int) -> None:
        """The end of this child is recorded."""
        self._send(["reap", str(pid)])

    def ready(self) -> None:
        """The server works."""
        self._send(["ready"])

    def leave(self) -> None:
        """The server is about to end on purpose."""
        self._let_now()
        self._send(["leave"])
