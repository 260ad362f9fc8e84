"""The host is there all day: its two processes load nothing that they do not need, and keep what they were told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from .harness import BOUND, start_host, within
from .promises import eventually

#: What the keeper has no use for, heaviest first.
HEAVY = {"asyncio", "hashlib", "ssl", "msgspec", "typing", "argparse", "pathlib", "json", "re", "ipaddress", "shutil"}

KEEPER = """
import sys
from holdfast.host.entry import main
status = main(["--help"])
print(status, *sys.modules, file=sys.stderr)
"""


def test_the_keeper_imports_only_what_it_needs() -> None:
    finished = subprocess.run([sys.executable, "-c", KEEPER], capture_output=True, text=True, timeout=BOUND, check=True)
    status, *modules = finished.stderr.split()
    assert status == "0"
    assert finished.stdout.startswith("usage: holdfast exec-server")
    assert not HEAVY & set(modules)
    assert {name for name in modules if name.startswith("holdfast.")} == {
        "holdfast.host",
        "holdfast.host.ending",
        "holdfast.host.entry",
        "holdfast.host.estate",
        "holdfast.host.keeper",
        "holdfast.host.packets",
    }


async def test_a_server_that_takes_over_asks_for_no_file_again(tmp_path: Path, state: Path) -> None:
    token, root = tmp_path / "token", tmp_path / "root"
    token.write_text("secret")
    root.mkdir()
    options = ["--ws-auth", "capability-token", "--ws-token-file", str(token), "--root", str(root)]
    server = start_host(state, "ws://127.0.0.1:0", *options)
    try:
        token.unlink()
        root.rmdir()
        for _ in range(2):
            victim = server.server_pid
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: server.server_pid not in (victim, server.pid), "no server took over")  # noqa: B023
            assert await within(asyncio.to_thread(answer, server.url, "secret")) == 101
            assert await within(asyncio.to_thread(answer, server.url, "wrong")) == 401
    finally:
        assert server.stop() == 0


def answer(url: str, token: str) -> int:
    """The status with which an upgrade is answered."""
    import http.client

    connection = http.client.HTTPConnection(url.removeprefix("ws://"), timeout=BOUND)
    try:
        connection.request(
            "GET",
            "/",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Authorization": f"Bearer {token}",
            },
        )
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_host_that_is_ended_while_it_starts_leaves_nothing(state: Path) -> None:
    path = state.with_name("socket")
    arguments = ["--listen", f"unix://{path}"]
    environment = {**os.environ, "HOLDFAST_STATE_DIR": str(state)}
    for line in (False, True):
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.host", *arguments], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        if line:
            process.stdout.readline()
        process.terminate()
        process.wait(BOUND)
        process.stdout.close()
        assert not path.exists()
        hosts = state / "hosts"
        assert not hosts.exists() or not list(hosts.iterdir())
