"""The real Codex asks our host for its configuration, and uses what it gets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.model_server import ModelServer, Say, Shell

from .harness import RunningServer, start_host
from .test_real_codex_uses_our_host import Codex, codex, commands

__all__ = ["codex"]

pytestmark = pytest.mark.real_agent


class McpServer:
    """An HTTP server that offers no tools, and remembers who asked for what."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            # It changed its mind.
            pass
        finally:
            writer.close()


@pytest.fixture
async def mcp_server() -> AsyncIterator[McpServer]:
    found = McpServer()
    server = await asyncio.start_server(found.accept, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    yield found
    server.close()
    await server.wait_closed()


class ConfiguredHost:
    """Our host with a home of Codex that is another one than that of the Codex that uses it."""

    def __init__(self, server: RunningServer, home: Path) -> None:
        self.url = server.url
        self._home = home

    def configure(self, text: str) -> None:
        """Write its ``config.toml``."""
        (self._home / "config.toml").write_text(text)


@pytest.fixture
def host(state: Path, tmp_path: Path) -> Iterator[ConfiguredHost]:
    home = tmp_path / "home-of-the-host"
    home.mkdir()
    server = start_host(state, "ws://127.0.0.1:0", env={**os.environ, "CODEX_HOME": str(home)})
    yield ConfiguredHost(server, home)
    server.stop()


async def test_a_server_that_only_the_host_knows_is_asked(
    codex: Codex, host: ConfiguredHost, mcp_server: McpServer, model_server: ModelServer
) -> None:
    host.configure(f'[mcp_servers.docs]\nurl = "{mcp_server.url}"\n')
    model_server.script(Shell("echo fine"), Say("Done."))
    assert commands(await codex.run(host.url)) == [(0, "fine\n")]
    assert any(request.startswith(b"POST /mcp ") for request in mcp_server.requests)


async def test_configuration_that_cannot_be_read_stops_nothing(
    codex: Codex, host: ConfiguredHost, model_server: ModelServer
) -> None:
    host.configure("this is = = not TOML")
    model_server.script(Shell("echo fine"), Say("Done."))
    assert commands(await codex.run(host.url)) == [(0, "fine\n")]
