"""Compare our host with the real ``codex exec-server``, both measured in turns by the same client in the same run.

    python bench/host.py                      # needs codex: $HOLDFAST_TEST_CODEX, .tools/agents or PATH
    python bench/host.py --runs 9 --only starts

Read the ratios (ours / theirs) and the bars beside them; absolute figures say more about the machine.  "bare" is how
far a plain loop comes that does nothing with what it gets.  The client is a blocking socket with a WebSocket framing of
its own, so that what it costs is small and the same for both.  "quickack" is a client that sets TCP_QUICKACK before
each read, which hides that the reference server leaves Nagle's algorithm on.

Memory is resident memory, as a machine that runs nothing else would see it.  Ours is two processes, the server and its
keeper, forked from it; a page that both have counts once, and every other page of either counts whole, however many
strangers share it.  (The sum of both resident set sizes would count libpython and libc twice; the proportional set size
would be small whenever other Python programs run.)  Where the kernel does not say which pages are the same, which takes
root, it is the resident set of the server and what is private to the keeper.
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
from typing import Any, NamedTuple

_QUICKACK = getattr(socket, "TCP_QUICKACK", 12)
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Bytes of the client's buffer; no frame of either server is larger than a quarter of it.
_BUFFER = 8 * 1024 * 1024
#: Seconds of starts that are not measured at the beginning of each turn: after a server that mostly waits, a virtual
#: machine wakes more slowly for about so long, and the next server would pay for it.
_WARM_UP = 0.1


class Client:
    """A minimal blocking client."""

    def __init__(self, url: str, *, quickack: bool = False) -> None:
        host, port = url.removeprefix("ws://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.quickack = quickack
        # Messages are looked at where they were received: what the client copies would be measured as well.
        self.buffer = bytearray(_BUFFER)
        self.view = memoryview(self.buffer)
        self.begin = self.end = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while (head := self.buffer.find(b"\r\n\r\n", 0, self.end)) < 0:
            self._receive_more()
        self.begin = head + 4
        self.next_id = 0
        self.call("initialize", {"clientName": "bench"})
        self.send({"method": "initialized"})

    def send(self, message: dict[str, Any]) -> None:
        self.socket.sendall(self.frame(json.dumps(message).encode()))

    @staticmethod
    def frame(payload: bytes) -> bytes:
        size = len(payload)
        # A mask of zeros is a valid mask and leaves the payload as it is.
        if size < 126:
            head = struct.pack("!BB", 0x81, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 0xFE, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0xFF, size)
        return head + b"\0\0\0\0" + payload

    def _receive_more(self) -> None:
        if self.begin == self.end:
            self.begin = self.end = 0
        elif len(self.buffer) - self.end < _BUFFER // 4:
            left = self.end - self.begin
            self.view[:left] = bytes(self.view[self.begin : self.end])
            self.begin, self.end = 0, left
        if self.quickack:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        size = self.socket.recv_into(self.view[self.end :])
        if not size:
            raise ConnectionError("the server closed the connection")
        self.end += size

    def _fill(self, size: int) -> None:
        while self.end - self.begin < size:
            self._receive_more()

    def skip(self, size: int) -> None:
        """Throw away the next *size* bytes, whatever they are."""
        while size:
            if self.begin == self.end:
                self._receive_more()
            part = min(size, self.end - self.begin)
            self.begin += part
            size -= part

    def _next_frame(self) -> tuple[int, int]:
        """Its first byte, and the size of its payload, which begins at ``self.begin``."""
        self._fill(2)
        buffer, begin = self.buffer, self.begin
        first, size, offset = buffer[begin], buffer[begin + 1] & 0x7F, 2
        if size == 126:
            self._fill(4)
            size, offset = struct.unpack_from("!H", self.buffer, self.begin + 2)[0], 4
        elif size == 127:
            self._fill(10)
            size, offset = struct.unpack_from("!Q", self.buffer, self.begin + 2)[0], 10
        self._fill(offset + size)
        self.begin += offset
        return first, size

    def receive_raw(self, at_most: int = _BUFFER) -> bytes:
        """The next message, undecoded; of each of its frames *at_most* so many bytes."""
        parts: list[bytes] = []
        while True:
            first, size = self._next_frame()
            payload = bytes(self.view[self.begin : self.begin + min(size, at_most)])
            self.begin += size
            if first & 0x0F in (0, 1, 2):
                parts.append(payload)
                if first & 0x80:
                    return payload if len(parts) == 1 else b"".join(parts)

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
        self.request("process/start", start_params(process_id, argv, **more))

    def close(self) -> None:
        self.socket.close()


_count = 0


def _fresh() -> str:
    global _count
    _count += 1
    return f"bench-{_count}"


def start_params(process_id: str, argv: list[str], **more: Any) -> dict[str, Any]:
    params = {"processId": process_id, "argv": argv, "cwd": "file:///tmp", "env": {"PATH": "/bin:/usr/bin"}}
    return {**params, "tty": False, "arg0": None, **more}


def starts(client: Client, count: int, in_flight: int, *, tty: bool = False) -> float:
    """Processes per second from ``process/start`` to ``process/closed``, once the machine is used to it."""
    used_to_it = time.perf_counter() + _WARM_UP
    while time.perf_counter() < used_to_it:
        _starts(client, max(in_flight, 8), in_flight, tty=tty)
    return _starts(client, count, in_flight, tty=tty)


def _starts(client: Client, count: int, in_flight: int, *, tty: bool) -> float:
    requests = [
        client.frame(json.dumps({"id": n, "method": "process/start", "params": params}).encode())
        for n, params in enumerate((start_params(_fresh(), ["/bin/true"], tty=tty) for _ in range(count)), 1000)
    ]
    began = time.perf_counter()
    started = closed = 0
    while closed < count:
        while started < count and started - closed < in_flight:
            client.socket.sendall(requests[started])
            started += 1
        if b"process/closed" in client.receive_raw():
            closed += 1
    return count / (time.perf_counter() - began)


def pushed(client: Client, size: int) -> float:
    """MB of output per second by notifications."""
    process_id = _fresh()
    began = time.perf_counter()
    client.start(process_id, ["/usr/bin/head", "-c", str(size), "/dev/zero"])
    while b"process/closed" not in client.receive_raw(60):
        pass
    return size / (time.perf_counter() - began) / 1e6


def live(server: Server, client: Client, count: int) -> float:
    """KB of memory for each live process."""
    before = server.resident()
    names = [_fresh() for _ in range(count)]
    for name in names:
        client.start(name, ["/bin/sleep", "1000"])
        while b'"result"' not in client.receive_raw():
            pass
    each = (server.resident() - before) / count * 1000
    for name in names:
        client.request("process/terminate", {"processId": name})
        while b"process/closed" not in client.receive_raw():
            pass
    return each


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


def _processor_clock(pid: int) -> int:
    """The clock of the time that all threads of a process had on the processors, finer than what /proc tells.

    The number is made as clock_getcpuclockid(3) makes it on Linux.
    """
    return ~pid << 3 | 2


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _pages(pid: int) -> set[int] | None:
    """The numbers of the physical pages of a process, None if the kernel does not tell."""
    found: set[int] = set()
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            if begin >= 1 << 47:
                # Pages of the kernel.
                continue
            pagemap.seek(begin // _PAGE * 8)
            for (entry,) in struct.iter_unpack("<Q", pagemap.read((end - begin) // _PAGE * 8)):
                if entry >> 63:
                    found.add(entry & ((1 << 55) - 1))
    return None if found <= {0} else found


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
        first, *others = sorted(self._processes(), key=_resident, reverse=True)
        pages = _pages(first)
        if pages is None:
            return (_resident(first) + sum(_private(pid) for pid in others)) / 1e6
        return len(pages.union(*(_pages(pid) or () for pid in others))) * _PAGE / 1e6

    def cpu(self) -> float:
        """Seconds of processor time so far, children not included."""
        return sum(time.clock_gettime(_processor_clock(pid)) for pid in self._processes())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def pushed_terminal(client: Client, size: int) -> float:
    """MB of a terminal's output per second by notifications."""
    process_id = _fresh()
    began = time.perf_counter()
    client.start(process_id, ["/usr/bin/head", "-c", str(size), "/dev/zero"], tty=True)
    while b"process/closed" not in client.receive_raw(60):
        pass
    return size / (time.perf_counter() - began) / 1e6


def bare_terminal(size: int) -> float:
    """MB of a terminal's output per second for a loop that reads it and throws it away."""
    terminal, other_end = os.openpty()
    argv = ["/usr/bin/head", "-c", str(size), "/dev/zero"]
    began = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=other_end, start_new_session=True):
        os.close(other_end)
        left = size
        while left:
            left -= len(os.read(terminal, 65_536))
        seconds = time.perf_counter() - began
    os.close(terminal)
    return size / seconds / 1e6


def processor(server: Server, client: Client, size: int) -> float:
    """Seconds of processor time for each GB pushed."""
    before = server.cpu()
    pushed(client, size)
    return (server.cpu() - before) / size * 1e9


def wakes(client: Client, count: int) -> float:
    """Microseconds from a write of a process until a long poll that waited for it has returned."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        fifo = f"{scratch}/fifo"
        os.mkfifo(fifo)
        process_id = _fresh()
        client.start(process_id, ["/bin/cat", fifo])
        samples: list[float] = []
        after = 0
        with open(fifo, "wb", buffering=0) as file:
            for _ in range(count):
                poll = {"processId": process_id, "afterSeq": after, "waitMs": 10_000}
                identity = client.request("process/read", poll)
                # Both servers have it by then; a poll that came too late would return at once and look better.
                time.sleep(0.005)
                began = time.perf_counter()
                file.write(b"x")
                while True:
                    message = client.receive()
                    if message.get("id") == identity:
                        break
                samples.append(time.perf_counter() - began)
                after = message["result"]["nextSeq"] - 1
        while b"process/closed" not in client.receive_raw():
            pass
    return statistics.median(samples) * 1e6


def round_trip(client: Client, count: int, in_flight: int) -> float:
    """Microseconds for each ``environment/status``."""
    requests = [{"id": n, "method": "environment/status", "params": None} for n in range(in_flight)]
    batch = b"".join(client.frame(json.dumps(request).encode()) for request in requests)
    # The same requests have the same replies, so from the second time on it is enough to count bytes.
    client.socket.sendall(batch)
    size = sum(2 + len(client.receive_raw()) for _ in range(in_flight))
    began = time.perf_counter()
    for _ in range(count // in_flight):
        client.socket.sendall(batch)
        client.skip(size)
    return (time.perf_counter() - began) / count * 1e6


class Measurement(NamedTuple):
    """One row: what is measured, and where the bar is."""

    name: str
    unit: str
    #: Whether the client sets quickack.
    quickack: bool
    #: Ours / theirs that is asked for, with the direction; empty for a row that is only told.
    bar: str
    #: Measures the server with a client of it; the last argument says whether it is ours.
    measure: Callable[[Server, Client, bool], float]
    #: Whether only the first measurement tells anything.
    once: bool = False
    #: How far a plain loop comes, measured in the same turns.
    bare: Callable[[], float] | None = None


MEASUREMENTS: list[Measurement] = [
    Measurement("memory, idle", "MB", True, "<= 0.6", lambda s, c, ours: s.resident()),
    Measurement("memory for each live process", "KB", True, "<= 0.2", lambda s, c, ours: live(s, c, 1000), once=True),
    Measurement("round trip, one at a time", "us", True, "<= 0.9", lambda s, c, ours: round_trip(c, 2000, 1)),
    Measurement("round trip, 64 in flight", "us", True, "<= 0.5", lambda s, c, ours: round_trip(c, 6400, 64)),
    Measurement("starts, ordinary client", "/s", False, ">= 20", lambda s, c, o: starts(c, 200 if o else 20, 1)),
    Measurement("starts, quickack client", "/s", True, ">= 5", lambda s, c, o: starts(c, 200 if o else 60, 1)),
    Measurement("starts, 8 in flight", "/s", True, "", lambda s, c, o: starts(c, 300 if o else 80, 8)),
    Measurement("starts, 64 in flight", "/s", True, ">= 8", lambda s, c, o: starts(c, 400 if o else 128, 64)),
    Measurement(
        "starts of terminals, 8 in flight", "/s", True, "", lambda s, c, o: starts(c, 200 if o else 80, 8, tty=True)
    ),
    Measurement("output pushed", "MB/s", True, ">= 2", lambda s, c, ours: pushed(c, 200_000_000)),
    Measurement("processor for output pushed", "s/GB", True, "<= 0.4", lambda s, c, ours: processor(s, c, 200_000_000)),
    Measurement(
        "output of a terminal pushed",
        "MB/s",
        True,
        ">= 1.3",
        lambda s, c, ours: pushed_terminal(c, 20_000_000),
        bare=lambda: bare_terminal(20_000_000),
    ),
    Measurement("long poll wakes, ordinary client", "us", False, "<= 0.1", lambda s, c, ours: wakes(c, 20)),
    Measurement("long poll wakes, quickack client", "us", True, "<= 1", lambda s, c, ours: wakes(c, 60)),
    Measurement("stdin echo, ordinary client", "/s", False, "", lambda s, c, ours: echoes(c, 200 if ours else 20)),
]


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
    parser.add_argument("--runs", type=int, default=3, help="turns that each server gets in each row (default 3)")
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
            load = " ".join(f"{value:.1f}" for value in os.getloadavg())
            if not options.json:
                print(f"load {load}, {os.cpu_count()} processors, {options.runs} runs, medians")
            for name, unit, quickack, bar, measure, once, bare in MEASUREMENTS:
                if options.only not in name:
                    continue
                samples: dict[str, list[float]] = {which: [] for which in servers}
                # Memory that was used once is used again: what a process costs is seen only the first time.
                for _ in range(1 if once else options.runs):
                    for which, server in servers.items():
                        client = Client(server.url, quickack=quickack)
                        samples[which].append(measure(server, client, which == "ours"))
                        client.close()
                    if bare is not None:
                        samples.setdefault("bare", []).append(bare())
                median = {which: statistics.median(values) for which, values in samples.items()}
                results[name] = {**median, "unit": unit, "bar": bar}
                line = f"{name:34} ours {median['ours']:9.1f} {unit:5}"
                if "theirs" in median:
                    ratio = results[name]["ratio"] = median["ours"] / max(median["theirs"], 1e-9)
                    line += f" theirs {median['theirs']:9.1f} {unit:5} ratio {ratio:7.2f}x"
                    if bar:
                        reached = ratio >= float(bar[3:]) if bar[0] == ">" else ratio <= float(bar[3:])
                        line += f"  bar {bar}x{'' if reached else ', missed'}"
                if "bare" in median:
                    line += f"  (bare: {median['bare']:.1f})"
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
