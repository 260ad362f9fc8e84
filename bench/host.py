"""Compare our host with the real ``codex exec-server``, both measured in turns by the same client in the same run.

    python bench/host.py                      # needs codex: $HOLDFAST_TEST_CODEX, .tools/agents or PATH
    python bench/host.py --rounds 5 --only starts

Read the ratios (ours / theirs); absolute figures say more about the machine.  The client is a blocking socket with a
WebSocket framing of its own, so that what it costs is small and the same for both.  "quickack" is a client that sets
TCP_QUICKACK before each read, which hides that the reference server leaves Nagle's algorithm on.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_QUICKACK = getattr(socket, "TCP_QUICKACK", 12)


class Client:
    """A minimal blocking client."""

    def __init__(self, url: str, *, quickack: bool = False) -> None:
        host, port = url.removeprefix("ws://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.quickack = quickack
        self.buffer = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(4096)
        del self.buffer[: self.buffer.index(b"\r\n\r\n") + 4]
        self.next_id = 0
        self.call("initialize", {"clientName": "bench"})
        self.send({"method": "initialized"})

    def send(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode()
        size = len(payload)
        # A mask of zeros is a valid mask and leaves the payload as it is.
        if size < 126:
            head = struct.pack("!BB", 0x81, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 0xFE, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0xFF, size)
        self.socket.sendall(head + b"\0\0\0\0" + payload)

    def _fill(self, size: int) -> None:
        while len(self.buffer) < size:
            if self.quickack:
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the server closed the connection")
            self.buffer += data

    def receive_raw(self) -> bytes:
        """The next message, undecoded."""
        parts: list[bytes] = []
        while True:
            self._fill(2)
            first, size = self.buffer[0], self.buffer[1] & 0x7F
            offset = 2
            if size == 126:
                self._fill(4)
                size, offset = struct.unpack_from("!H", self.buffer, 2)[0], 4
            elif size == 127:
                self._fill(10)
                size, offset = struct.unpack_from("!Q", self.buffer, 2)[0], 10
            self._fill(offset + size)
            payload = bytes(memoryview(self.buffer)[offset : offset + size])
            del self.buffer[: offset + size]
            if first & 0x0F in (0, 1, 2):
                parts.append(payload)
                if first & 0x80:
                    return b"".join(parts)

    def receive(self) -> dict[str, Any]:
        return json.loads(self.receive_raw())

    def request(self, method: str, params: Any) -> int:
        self.next_id += 1
        self.send({"id": self.next_id, "method": method, "params": params})
        return self.next_id

    def call(self, method: str, params: Any) -> Any:
        identity = self.request(method, params)
        while True:
            message = self.receive()
            if message.get("id") == identity:
                return message["result"]

    def start(self, process_id: str, argv: list[str], **more: Any) -> None:
        params = {"processId": process_id, "argv": argv, "cwd": "file:///tmp", "env": {"PATH": "/bin:/usr/bin"}}
        self.request("process/start", {**params, "tty": False, "arg0": None, **more})

    def close(self) -> None:
        self.socket.close()


_count = 0


def _fresh() -> str:
    global _count
    _count += 1
    return f"bench-{_count}"


def starts(client: Client, count: int, in_flight: int, *, tty: bool = False) -> float:
    """Processes per second from ``process/start`` to ``process/closed``."""
    began = time.perf_counter()
    started = closed = 0
    while closed < count:
        while started < count and started - closed < in_flight:
            client.start(_fresh(), ["/bin/true"], tty=tty)
            started += 1
        if b"process/closed" in client.receive_raw():
            closed += 1
    return count / (time.perf_counter() - began)


def pushed(client: Client, size: int) -> float:
    """MB of output per second by notifications."""
    process_id = _fresh()
    began = time.perf_counter()
    client.start(process_id, ["/usr/bin/head", "-c", str(size), "/dev/zero"])
    while b"process/closed" not in client.receive_raw()[:60]:
        pass
    return size / (time.perf_counter() - began) / 1e6


def round_trips(client: Client, count: int) -> float:
    """``environment/status`` per second, one at a time."""
    began = time.perf_counter()
    for _ in range(count):
        client.call("environment/status", None)
    return count / (time.perf_counter() - began)


def echoes(client: Client, count: int) -> float:
    """Lines per second written to a process and seen in its output, one at a time."""
    process_id = _fresh()
    client.start(process_id, ["/bin/cat"], pipeStdin=True)
    began = time.perf_counter()
    for number in range(count):
        client.request("process/write", {"processId": process_id, "chunk": "eAo=", "writeId": str(number)})
        while b"process/output" not in client.receive_raw():
            pass
    rate = count / (time.perf_counter() - began)
    client.call("process/terminate", {"processId": process_id})
    return rate


#: Name, unit, whether the client sets quickack, and the measurement with its size for (ours, theirs).
MEASUREMENTS: list[tuple[str, str, bool, Callable[[Client, bool], float]]] = [
    ("starts: sequential, ordinary client", "/s", False, lambda c, ours: starts(c, 300 if ours else 20, 1)),
    ("starts: sequential, quickack client", "/s", True, lambda c, ours: starts(c, 300 if ours else 100, 1)),
    ("starts: 8 in flight, ordinary client", "/s", False, lambda c, ours: starts(c, 400 if ours else 100, 8)),
    ("starts: 8 in flight, quickack client", "/s", True, lambda c, ours: starts(c, 400 if ours else 100, 8)),
    ("starts: terminals, 8 in flight", "/s", False, lambda c, ours: starts(c, 300 if ours else 100, 8, tty=True)),
    ("output pushed", "MB/s", False, lambda c, ours: pushed(c, 400_000_000)),
    ("round trips", "/s", True, lambda c, ours: round_trips(c, 3000)),
    ("stdin echo, ordinary client", "/s", False, lambda c, ours: echoes(c, 300 if ours else 20)),
]


class Server:
    """A server to measure; ``url`` is where it listens."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().decode().strip()
        self.start_seconds = time.perf_counter() - began

    def _processes(self) -> list[int]:
        """The server with its keeper, if it has one; hosted children are not counted."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        own = Path(f"/proc/{self.process.pid}/cmdline").read_bytes()
        return [self.process.pid, *(int(p) for p in children if Path(f"/proc/{p}/cmdline").read_bytes() == own)]

    def resident(self) -> float:
        """MB of memory."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self._processes()]
        return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) / 1000

    def cpu(self) -> float:
        """Seconds of processor time so far, children not included."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._processes()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def find_codex() -> str | None:
    given = os.environ.get("HOLDFAST_TEST_CODEX")
    if given:
        return given
    root = Path(__file__).parents[1] / ".tools" / "agents" / "node_modules"
    for candidate in root.glob("@openai/codex-linux-*/vendor/*/bin/codex"):
        return str(candidate)
    return shutil.which("codex")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each server gets (default 5)")
    parser.add_argument("--only", default="", help="measurements whose name contains this")
    parser.add_argument("--ours-only", action="store_true", help="no comparison")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    codex = None if options.ours_only else find_codex()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        state = Path(scratch) / "state"
        state.mkdir(mode=0o700)
        host = [sys.executable, "-m", "holdfast.host", "--listen", "ws://127.0.0.1:0", "--state-dir", str(state)]
        servers = {"ours": Server(host)}
        if codex is not None:
            home = Path(scratch) / "codex"
            home.mkdir()
            env = {**os.environ, "CODEX_HOME": str(home)}
            servers["theirs"] = Server([codex, "exec-server", "--listen", "ws://127.0.0.1:0"], env)
        elif not options.ours_only:
            print("no codex found: measuring ours only", file=sys.stderr)
        results: dict[str, Any] = {}
        try:
            for name, unit, quickack, measure in MEASUREMENTS:
                if options.only not in name:
                    continue
                samples: dict[str, list[float]] = {which: [] for which in servers}
                for _ in range(options.rounds):
                    for which, server in servers.items():
                        client = Client(server.url, quickack=quickack)
                        samples[which].append(measure(client, which == "ours"))
                        client.close()
                median = {which: statistics.median(values) for which, values in samples.items()}
                results[name] = {**median, "unit": unit}
                line = f"{name:40} ours {median['ours']:9.0f} {unit}"
                if "theirs" in median:
                    results[name]["ratio"] = median["ours"] / median["theirs"]
                    line += f"   theirs {median['theirs']:8.0f} {unit}   ratio {results[name]['ratio']:6.1f}x"
                if not options.json:
                    print(line, flush=True)
            for which, server in servers.items():
                results[f"{which}: start seconds"] = server.start_seconds
                results[f"{which}: resident MB"] = server.resident()
                if not options.json:
                    figures = f"{server.start_seconds:.3f} s, {server.resident():.0f} MB, {server.cpu():.1f} s CPU"
                    print(f"{which}: ready in {figures}")
        finally:
            for server in servers.values():
                server.stop()
        if options.json:
            print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
