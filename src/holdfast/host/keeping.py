"""The server's side of the keeper: what it hands over, what it gets back, and what it does when the keeper dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from array import array
from collections.abc import Callable
from typing import Any, Final

from holdfast.host.keeper import PACKET, Held
from holdfast.jsonrpc.messages import encode_json

#: Seconds for which finished processes gather before the keeper is told to let go of them.
_GATHER: Final = 0.05


class KeeperLink:
    """The channel to the keeper.  Without one (stdio, tests) everything is a no-op and nothing survives the server."""

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        #: Called with pid, exit code and signal number of an adopted child that ended.
        self.on_ended: Callable[[int, int, int], None] = lambda pid, code, number: None
        #: Called when the keeper is gone.
        self.on_death: Callable[[], None] = lambda: None
        #: Whether the keeper has outlived an earlier server, so that what it did not hold was never started.
        self.outlived = False
        self._letting: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def kept(self) -> bool:
        """Whether there is a keeper."""
        return self._channel is not None

    def take_over(self) -> tuple[Held, list[int]]:
        """What an earlier server left with the keeper: descriptors by key and name, and the pids of its children."""
        held: Held = {}
        channel = self._channel
        if channel is None:
            return held, []
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, PACKET, 8)
            if not data:
                return held, []
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            message = json.loads(data)
            if message["op"] == "hold":
                held[message["key"]] = dict(zip(message["names"], descriptors, strict=True))
            elif message["op"] == "children":
                self.outlived = message["outlived"]
                return held, message["pids"]

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the keeper's messages from now on."""
        self._loop = loop
        if self._channel is not None:
            loop.add_reader(self._channel.fileno(), self._receive)

    def _receive(self) -> None:
        assert self._channel is not None
        assert self._loop is not None
        while True:
            try:
                data = self._channel.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._channel.fileno())
                self.on_death()
                return
            message = json.loads(data)
            if message["op"] == "ended":
                self.on_ended(message["pid"], message["code"], message["signal"])

    def _send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        if self._channel is None:
            return
        try:
            if descriptors:
                rights = array("i", descriptors)
                self._channel.sendmsg([encode_json(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            else:
                self._channel.send(encode_json(message))
        except OSError:
            # The keeper is dead; on_death follows and puts another one in its place.
            pass

    def hold(self, key: str, descriptors: dict[str, int]) -> None:
        """Let the keeper hold these; before the child that uses them is started."""
        self._send({"op": "hold", "key": key, "names": list(descriptors)}, list(descriptors.values()))

    def drop(self, key: str, name: str) -> None:
        """Let the keeper close one of them: as long as it holds stdin, the child sees no end of file."""
        self._send({"op": "drop", "key": key, "name": name})

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
            self._send({"op": "let", "keys": keys})

    def adopt(self, pids: list[int]) -> None:
        """Ask for reports about these; every other child of the keeper is reaped."""
        self._send({"op": "adopt", "pids": pids})

    def reap(self, pid: int) -> None:
        """The end of this child is recorded."""
        self._send({"op": "reap", "pid": pid})

    def ready(self) -> None:
        """The server works."""
        self._send({"op": "ready"})

    def leave(self) -> None:
        """The server is about to end on purpose."""
        self._let_now()
        self._send({"op": "leave"})
