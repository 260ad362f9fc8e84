"""Turn programs and servers for tests, with nothing of tasks or daemons around them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from holdfast.agents.adapter import Launch, Work
from holdfast.agents.commands import AnyCommand, encode
from holdfast.agents.events import Event, Message, TurnCompleted, TurnFailed
from holdfast.daemon.runtime import LocalHost
from holdfast.drivers.app_server.agent import CodexAppServer
from holdfast.drivers.app_server.servers import PREFIX, SharedServers
from holdfast.host.port import ProcessState

#: Bounds every wait, seconds; generous, because nothing depends on it.
PATIENCE = 120.0

Kind = TypeVar("Kind", bound=Event)


class Run:
    """What one turn program said."""

    def __init__(self, launch: Launch, exit_code: int, stdout: bytes, stderr: str, events: list[Event]) -> None:
        self.launch = launch
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr
        self.events = events

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def thread_id(self) -> str:
        """The thread that it named."""
        return next(event.thread_id for event in self.events if hasattr(event, "thread_id"))  # type: ignore[union-attr]

    @property
    def end(self) -> TurnCompleted | TurnFailed:
        """The only terminal event."""
        ends = [event for event in self.events if isinstance(event, TurnCompleted | TurnFailed)]
        assert len(ends) == 1, f"{self.events}\n{self.stderr}"
        return ends[0]

    @property
    def answer(self) -> str:
        """What was answered."""
        assert isinstance(self.end, TurnCompleted), f"{self.events}\n{self.stderr}"
        assert self.exit_code == 0
        return self.of(Message)[-1].text

    @property
    def failure(self) -> Any:
        """Why it failed."""
        assert isinstance(self.end, TurnFailed), self.events
        return self.end.failure


class Program:
    """A turn program that runs."""

    def __init__(self, agent: CodexAppServer, launch: Launch) -> None:
        self._agent = agent
        self._launch = launch
        self._lines: list[bytes] = []
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the program)
        self.process = subprocess.Popen(
            launch.argv, env=launch.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )

    def tell(self, command: AnyCommand) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(encode(command))
        self.process.stdin.flush()

    def until(self, kind: type[Kind], fits: Callable[[Kind], bool] = lambda event: True) -> Kind:
        """Read until it says something of a kind."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self._lines.append(line)
            for event in self._agent.interpret(line.rstrip(b"\n")):
                if isinstance(event, kind) and fits(event):
                    return event
        raise AssertionError(f"no {kind.__name__} in {b''.join(self._lines).decode()}")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()
        self._stderr.close()

    def finish(self) -> Run:
        """Wait for its end."""
        try:
            rest, _ = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        self._stderr.seek(0)
        stdout, stderr = b"".join(self._lines) + rest, self._stderr.read().decode(errors="replace")
        self._stderr.close()
        events = [event for line in stdout.split(b"\n") for event in self._agent.interpret(line)]
        return Run(self._launch, self.process.returncode, stdout, stderr, events)


class Rig:
    """A state directory, a workspace, and an agent to launch."""

    def __init__(self, directory: Path, agent: CodexAppServer, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.agent = agent
        self.environment = environment
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        self.workspace = directory / "workspace"
        self.workspace.mkdir()
        self._numbers = itertools.count(1)

    def launch(self, prompt: str | bytes = "Do it.", **options: Any) -> Launch:
        """A new piece of work."""
        number = next(self._numbers)
        files = self.directory / f"task-{number}"
        files.mkdir()
        (files / "prompt").write_bytes(prompt if isinstance(prompt, bytes) else prompt.encode())
        fields: dict[str, Any] = {"cwd": self.workspace, "prompt_file": files / "prompt", "work_id": f"work-{number}"}
        work = Work(**(fields | options))
        return self.agent.launch(self.agent.find(self.environment), work, self.environment)

    def start(self, launch: Launch) -> Program:
        """Start the program."""
        return Program(self.agent, launch)

    async def run(self, launch: Launch) -> Run:
        """Run the program to its end."""
        return await asyncio.to_thread(self.start(launch).finish)

    @contextlib.asynccontextmanager
    async def serving(self, launch: Launch, **options: Any) -> AsyncGenerator[Serving]:
        """The server that *launch* needs, held."""
        async with self.hosting(**options) as serving:
            assert launch.server is not None
            async with serving.servers.hold(launch.server):
                yield serving

    @contextlib.asynccontextmanager
    async def hosting(self, **options: Any) -> AsyncGenerator[Serving]:
        """A host and the servers on it; afterwards nothing of them is left."""
        hosts = LocalHost(self.state)
        servers = SharedServers(hosts, **options)
        try:
            yield Serving(hosts, servers)
        finally:
            await servers.aclose()
            host = await hosts.host()
            for status in await host.list():
                await host.terminate(status.process_id)
            await hosts.aclose()


class Serving:
    """Servers on a host."""

    def __init__(self, hosts: LocalHost, servers: SharedServers) -> None:
        self.hosts = hosts
        self.servers = servers

    async def pids(self) -> list[int]:
        """The living servers."""
        found = await (await self.hosts.host()).list()
        return [
            status.pid
            for status in found
            if status.process_id.startswith(PREFIX) and status.state is ProcessState.RUNNING and status.pid
        ]

    async def kill(self) -> None:
        """SIGKILL the server, which must be the only one."""
        (pid,) = await self.pids()
        os.kill(pid, 9)
