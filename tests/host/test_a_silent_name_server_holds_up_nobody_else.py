"""Who asks for a server whose name server never answers waits alone: other clients go on, and the host can end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.http.resolving import Place, Resolver, connect

from .harness import within


def test_names_that_nobody_answers_for_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    look = socket.getaddrinfo

    def look_or_wait(host: str, port: int, **more: Any) -> Any:
        if host.startswith("silent") and not more.get("flags"):
            released.wait()
        return look(host, port, **more)

    async def ask() -> None:
        stuck, other = Resolver(), Resolver()
        waiting = [asyncio.create_task(stuck.places(f"silent-{number}.invalid", 80)) for number in range(128)]
        await asyncio.sleep(0.1)
        assert await within(other.places("localhost", 80))
        # An address is no name.
        assert [place.address for place in await within(stuck.places("127.0.0.1", 80))] == [("127.0.0.1", 80)]
        await within(asyncio.to_thread(int))
        assert not [task for task in waiting if task.done()]

    monkeypatch.setattr(socket, "getaddrinfo", look_or_wait)
    ending = threading.Thread(target=lambda: asyncio.run(ask()))
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    try:
        ending.start()
        ending.join(60)
        assert not ending.is_alive()
        assert not failures, failures
    finally:
        released.set()


class Known(Resolver):
    """Knows where the server may be."""

    def __init__(self, *addresses: Any) -> None:
        super().__init__()
        self._addresses = addresses

    async def places(self, host: str, port: int) -> list[Place]:
        families = (socket.AF_INET6 if len(address) == 4 else socket.AF_INET for address in self._addresses)
        return [
            Place(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
            for family, address in zip(families, self._addresses, strict=True)
        ]


@pytest.fixture
def refusing() -> Iterator[Any]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


def listen(address: str, scope: int = 0) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.bind((address, 0, 0, scope) if ":" in address else (address, 0))
    listener.listen()
    return listener


def link_local() -> tuple[str, int]:
    """An address of this machine that means nothing without its interface, and that."""
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else ():
        address, index, _, scope, *_ = line.split()
        if int(scope, 16) == 0x20:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)), int(index, 16)
    pytest.skip("no interface has a link-local address")


async def test_an_address_is_tried_after_the_one_before_and_needs_no_thread(
    refusing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: pytest.fail("a thread was asked"))
    with (
        listen("127.0.0.1") as listener,
        await within(connect(Known(refusing, listener.getsockname()), "x", 0)) as connected,
    ):
        assert connected.getpeername() == listener.getsockname()


async def test_an_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: pytest.fail("a thread was asked"))
    with listen(*link_local()) as listener, await within(connect(Known(listener.getsockname()), "x", 0)) as connected:
        assert connected.getpeername() == listener.getsockname()


async def test_a_server_that_is_nowhere_tells_of_each_of_its_addresses(refusing: Any) -> None:
    unroutable = ("::ffff:255.255.255.255", 1, 0, 0)
    with pytest.raises(OSError, match=rf"127\.0\.0\.1.*{refusing[1]}.*; .*\[Errno"):
        await within(connect(Known(refusing, unroutable), "x", 0))
    with pytest.raises(OSError, match="no address"):
        await within(connect(Known(), "x", 0))


async def test_who_gives_up_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def never(end: socket.socket, address: object) -> None:
        connecting.put_nowait(end)
        await asyncio.Future()

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    trying = asyncio.create_task(connect(Known(("127.0.0.1", 1)), "x", 0))
    end = await within(connecting.get())
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(trying)
    assert end.fileno() == -1
