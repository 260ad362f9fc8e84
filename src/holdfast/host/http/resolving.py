"""Finding the addresses of a server: in threads of its own, because a name server may never answer.

The threads of the event loop do what every client waits for, and the host does not end before they have ended.
"""

from __future__ import annotations

import asyncio
import socket
from functools import cache
from typing import Any, Final, NamedTuple

from holdfast.host.threads import Threads

#: Names that are looked for at the same time, for one connection and for all of them.
_THREADS: Final = 8
_ALL_THREADS: Final = 256


class Place(NamedTuple):
    """Where a server may be, as ``getaddrinfo`` tells it."""

    family: int
    kind: int
    protocol: int
    name: str
    address: Any


@cache
def _threads() -> Threads:
    return Threads(_ALL_THREADS, "names", needed=True)


def _look(host: str, port: int, flags: int = 0) -> list[Place]:
    return [Place(*found) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


class Resolver:
    """Looks for the names that one connection asks for."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_THREADS)

    async def places(self, host: str, port: int) -> list[Place]:
        """Where *host* may be.

        :raises OSError: nobody knows, or nobody answers
        :raises ValueError: it can be no name
        :raises NoThread: there is nobody to wait for a name server
        """
        try:
            return _look(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            # A name, and not what it stands for.
            pass
        await self._free.acquire()
        try:
            looking = asyncio.get_running_loop().run_in_executor(_threads(), _look, host, port)
        except BaseException:
            self._free.release()
            raise
        # Who gives up leaves the thread at work: its place is free only afterwards.
        looking.add_done_callback(lambda looking: self._free.release())
        return await asyncio.shield(looking)


async def connect(resolver: Resolver, host: str, port: int) -> socket.socket:
    """A socket that is connected to *host*, at the first of its addresses where it listens.

    :raises OSError: it is unknown or cannot be reached, and why not at each of its addresses
    :raises ValueError: it can be no name
    :raises NoThread: there is nobody to wait for a name server
    """
    failures: list[OSError] = []
    for place in await resolver.places(host, port):
        try:
            return await _connected(place)
        except OSError as error:
            failures.append(error)
    raise OSError("; ".join(map(str, failures)) or "the server has no address")


async def _connected(place: Place) -> socket.socket:
    connecting = socket.socket(place.family, place.kind, place.protocol)
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, place.address)
    except BaseException:
        connecting.close()
        raise
    return connecting
