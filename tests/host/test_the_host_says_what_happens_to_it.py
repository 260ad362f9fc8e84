"""What an operator reads on standard error: little by default, and every session and process if asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import HostUnavailable

from .harness import RunningServer, WireClient, kill_server


def said(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in state.with_suffix(".err").read_text().splitlines()]


def start(state: Path, *options: str) -> RunningServer:
    argv = [sys.executable, "-m", "holdfast.host", "--state-dir", str(state), "--log-format", "json", *options]
    return RunningServer(argv, stderr=state.with_suffix(".err"))


async def test_by_default_only_what_should_not_happen(state: Path) -> None:
    digest = "00" * 32
    options = ("--listen", "ws://127.0.0.1:0", "--ws-auth", "capability-token", "--ws-token-sha256", digest)
    server = start(state, *options)
    with pytest.raises(HostUnavailable):
        await HostClient.connect(server.url, token="wrong")
    await kill_server(server)
    assert server.stop() == 0
    refused, replaced = said(state)
    assert (refused["level"], refused["message"]) == (
        "warning",
        "did not admit a client: invalid websocket bearer token",
    )
    assert replaced["message"] == "took over from a server that died: 0 processes go on, 0 were lost"


async def test_if_asked_for_every_session_and_process(state: Path) -> None:
    server = start(state, "--listen", "unix://", "--log-level", "info")
    client = await WireClient.connect(server.url)
    await client.start("p\nq", "/bin/sh", "-c", "exit 3")
    await client.until_closed("p\nq")
    await client.start("r", "/bin/sleep", "1000")
    await kill_server(server)
    again = await WireClient.connect(server.url, resume=client.session)
    await again.close()
    assert server.stop() == 0
    messages = [entry["message"] for entry in said(state)]
    serves = f"serves {server.url}, with its state in {state}"
    expected = [
        serves,
        f"'test' opened session {client.session}",
        "started process 'p\\nq'",
        "process 'p\\nq' is closed, exit 3",
    ]
    expected += ["started process 'r'", "took over from a server that died: 1 processes go on, 0 were lost", serves]
    expected += [f"'test' resumed session {client.session}", "ends, with everything that runs in it", "process 'r' is"]
    assert [begin for begin, message in zip(expected, messages, strict=True) if not message.startswith(begin)] == []
