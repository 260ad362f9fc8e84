"""Who asks for a server whose name server never answers waits alone: other clients go on, and the host can end."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from holdfast.host.http.resolving import Resolver

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
