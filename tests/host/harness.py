"""What the tests of the host share: a host of their own, a client that records every message, the real thing."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.lines import connect_unix
from holdfast.jsonrpc.websocket import connect_websocket

#: What programs need of /etc when the tests put a directory of their own over it.
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "ssl")
#: Seconds after which a wait for something that must happen is a failure.
BOUND = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def within(awaitable: Any) -> Any:
    """Await with a bound; unlike ``wait_for`` this lets no cancellation get lost when the result has just come."""
    async with asyncio.timeout(BOUND):
        return await awaitable


def serving_child(keeper: int) -> int:
    """The server among the children of a keeper (the others it inherited from dead servers); 0 if there is none."""
    try:
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    except OSError:
        return 0
    own = Path(f"/proc/{keeper}/cmdline").read_bytes()
    return next((pid for pid in map(int, children) if alive(pid) and _is_server(pid, keeper, own)), 0)


def _is_server(pid: int, keeper: int, own: bytes) -> bool:
    """Whether *pid* has the command line of its keeper, and is not a child of a server just before its exec.

    Such a child has all signals blocked until it leads a session of its own, or is another program; a server that
    begins only some.
    """
    command_line = Path(f"/proc/{pid}/cmdline")
    if command_line.read_bytes() != own:
        return False
    while _blocked(pid) >> (signal.SIGUSR1 - 1) & 1:
        # Also a server that starts somebody at this moment.
        time.sleep(0.0001)
    return command_line.read_bytes() == own and os.getsid(pid) == os.getsid(keeper)


def _blocked(pid: int) -> int:
    """The signals that *pid* has blocked, a bit for each."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")), 16)


class RunningServer:
    """An exec-server as a process of its own."""

    def __init__(self, argv: list[str], *, env: dict[str, str] | None = None, stderr: Path | None = None) -> None:
        self.stderr = stderr
        with open(stderr or os.devnull, "ab") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=True
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url, f"{argv} did not start: {stderr.read_text() if stderr else ''}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def server_pid(self) -> int:
        """The process that serves: the child of our keeper, or (reference, stdio) the one that was started."""
        return serving_child(self.pid) or self.pid

    def kill(self) -> None:
        """SIGKILL: the crash that everything has to bear."""
        self.process.kill()
        self.process.wait(BOUND)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """SIGTERM: the orderly end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(BOUND)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def start_host(
    state: Path | None, listen: str = "unix://", *options: str, env: dict[str, str] | None = None
) -> RunningServer:
    """Start our host."""
    arguments = ["--listen", listen, *options]
    if state is not None:
        arguments += ["--state-dir", str(state)]
    log = None if state is None else state.with_name(state.name + ".stderr")
    # There pytest says which test runs, with its parameters, and what the host must not know may be among them.
    env = {name: value for name, value in (env or os.environ).items() if name != "PYTEST_CURRENT_TEST"}
    return RunningServer([sys.executable, "-m", "holdfast.host", *arguments], env=env, stderr=log)


def find_codex() -> str | None:
    """The real Codex, if it is installed: $HOLDFAST_TEST_CODEX, .tools/agents, or PATH."""
    given = os.environ.get("HOLDFAST_TEST_CODEX")
    if given:
        return given
    root = Path(__file__).parents[2] / ".tools" / "agents" / "node_modules"
    for candidate in (*root.glob("@openai/codex-linux-*/vendor/*/bin/codex"), root / ".bin" / "codex"):
        if candidate.exists():
            return str(candidate)
    return shutil.which("codex")


#: The parameters of a fixture that is our host and then the reference implementation.
BOTH = ["holdfast", pytest.param("codex", marks=pytest.mark.real_agent)]


def needed_codex() -> str:
    """The real Codex; a comparison that is skipped promises nothing."""
    codex = find_codex()
    if codex is None:
        pytest.fail("There is no codex: set HOLDFAST_TEST_CODEX or install it below .tools/agents.", pytrace=False)
    return codex


def server_command(which: str, state: Path) -> list[str]:
    """The command that starts one of ``BOTH`` on WebSocket."""
    if which == "holdfast":
        return [sys.executable, "-m", "holdfast.host", "--listen", "ws://127.0.0.1:0", "--state-dir", str(state)]
    return [needed_codex(), "exec-server", "--listen", "ws://127.0.0.1:0"]


def over_etc(directory: Path, command: list[str]) -> list[str]:
    """A command that finds *directory* in the place of ``/etc/codex``."""
    # With process ids of their own, all end with the outermost process, whatever becomes of it.
    around = ["bwrap", "--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc"]
    around += ["--tmpfs", "/etc", "--ro-bind", str(directory), "/etc/codex"]
    for name in ETC:
        around += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [*around, "--", *command]


def start_codex(binary: str, home: Path) -> RunningServer:
    """Start the reference implementation."""
    home.mkdir(exist_ok=True)
    env = {**os.environ, "CODEX_HOME": str(home)}
    return RunningServer([binary, "exec-server", "--listen", "ws://127.0.0.1:0"], env=env)


class WireClient:
    """Speaks the protocol by hand and keeps everything that arrives."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.notifications: list[dict[str, Any]] = []
        self.replies: dict[Any, dict[str, Any]] = {}
        self.lost = False
        self._next_id = 0
        self._changed = asyncio.Event()

    @classmethod
    async def connect(cls, url: str, *, initialize: bool = True, resume: str | None = None) -> WireClient:
        client = cls()
        if url.startswith("unix://"):
            await within(connect_unix(Path(url.removeprefix("unix://")), client._accept))
        else:
            await within(connect_websocket(url, client._accept))
        if initialize:
            client.session = await client.initialize(resume)
        return client

    session: str = ""

    async def initialize(self, resume: str | None = None) -> str:
        params: dict[str, Any] = {"clientName": "test"}
        if resume is not None:
            params["resumeSessionId"] = resume
        result = await self.result("initialize", params)
        self.notify("initialized", {})
        return result["sessionId"]

    def _accept(self, connection: Connection) -> WireClient:
        self.connection = connection
        return self

    def message_received(self, message: bytes) -> None:
        decoded = json.loads(message)
        if "method" in decoded:
            self.notifications.append(decoded)
        else:
            self.replies[decoded["id"]] = decoded
        self._wake()

    def writing_resumed(self) -> None:
        pass

    def connection_lost(self) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until *condition* holds; returns what it gave."""

        async def wait() -> Any:
            while not (value := condition()):
                if self.lost:
                    raise ConnectionError("the connection is gone")
                await self._changed.wait()
            return value

        return await within(wait())

    async def until_lost(self) -> None:
        async def wait() -> None:
            while not self.lost:
                await self._changed.wait()

        await within(wait())

    def send(self, text: str | bytes) -> None:
        assert self.connection is not None
        self.connection.send(text.encode() if isinstance(text, str) else text)

    def request(self, method: str, params: Any = None) -> int:
        """Send a request; returns its id."""
        self._next_id += 1
        self.send(json.dumps({"id": self._next_id, "method": method, "params": params}))
        return self._next_id

    def notify(self, method: str, params: Any = None) -> None:
        self.send(json.dumps({"method": method, "params": params}))

    async def reply(self, identity: Any) -> dict[str, Any]:
        """Wait for the reply to a request, result or error."""
        return await self.until(lambda: self.replies.get(identity))

    async def call(self, method: str, params: Any = None) -> dict[str, Any]:
        return await self.reply(self.request(method, params))

    async def result(self, method: str, params: Any = None) -> Any:
        reply = await self.call(method, params)
        assert "result" in reply, reply
        return reply["result"]

    async def error(self, method: str, params: Any = None) -> tuple[int, str]:
        reply = await self.call(method, params)
        assert "error" in reply, reply
        return reply["error"]["code"], reply["error"]["message"]

    async def start(self, process_id: str, *argv: str, **params: Any) -> Any:
        """``process/start`` with the usual parameters."""
        given = {
            "processId": process_id,
            "argv": list(argv),
            "cwd": "file:///tmp",
            "env": {"PATH": PATH},
            "tty": False,
            "arg0": None,
        }
        return await self.result("process/start", {**given, **params})

    def of(self, process_id: str) -> list[dict[str, Any]]:
        """The notifications about a process, in the order of their numbers."""
        found = [n for n in self.notifications if n["params"].get("processId") == process_id]
        return sorted(found, key=lambda n: n["params"]["seq"])

    def output(self, process_id: str, *streams: str) -> bytes:
        return b"".join(
            base64.b64decode(n["params"]["chunk"])
            for n in self.of(process_id)
            if n["method"] == "process/output" and (not streams or n["params"]["stream"] in streams)
        )

    def methods(self, process_id: str) -> list[str]:
        return [n["method"].removeprefix("process/") for n in self.of(process_id)]

    def exit_code(self, process_id: str) -> int:
        """What ``process/exited`` told: wherever it stands, because the reference may number output after it."""
        (code,) = [n["params"]["exitCode"] for n in self.of(process_id) if n["method"] == "process/exited"]
        return code

    async def until_closed(self, process_id: str) -> None:
        await self.until(lambda: "closed" in self.methods(process_id))

    async def until_output(self, process_id: str, wanted: bytes) -> None:
        await self.until(lambda: wanted in self.output(process_id))

    async def close(self) -> None:
        if self.connection is not None and not self.lost:
            self.connection.close()
            await self.until_lost()


def write_params(process_id: str, data: bytes, write_id: str) -> dict[str, Any]:
    return {"processId": process_id, "chunk": base64.b64encode(data).decode(), "writeId": write_id}


def everything_below(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies in and below *top*, where a host makes, moves and removes places meanwhile (`rglob` fails on those)."""
    for directory, _, files in os.walk(top):
        for path in (Path(directory), *(Path(directory, name) for name in files)):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            yield path, status


def alive(pid: int) -> bool:
    """Whether *pid* runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def until_dead(pid: int) -> None:
    """Wait until *pid* has ended."""

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, lambda: ended.done() or ended.set_result(None))
    try:
        await within(ended)
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def server_of(keeper: int) -> int:
    """The serving child of *keeper*, 0 if it cannot be seen at the moment."""
    try:
        return serving_child(keeper)
    except (FileNotFoundError, ProcessLookupError):
        return 0


async def kill_serving(keeper: int) -> None:
    """Kill the server of *keeper*, whatever it is doing, and wait until there is another one."""
    deadline = time.monotonic() + BOUND
    while not (victim := server_of(keeper)):
        assert time.monotonic() < deadline and alive(keeper), "there is no server"
        await asyncio.sleep(0.002)
    os.kill(victim, signal.SIGKILL)
    await until_dead(victim)
    while server_of(keeper) in (0, victim):
        assert time.monotonic() < deadline and alive(keeper), "no server came back"
        await asyncio.sleep(0.005)


async def kill_server(server: RunningServer) -> None:
    """Kill the serving process, and wait until its keeper has another one."""
    await kill_serving(server.pid)
