"""Running an agent as its adapter says, with nothing of Holdfast in between."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from holdfast.agents.adapter import Agent, Launch, Work
from holdfast.agents.events import Event, Message, ToolEnded, ToolStarted, TurnCompleted, TurnFailed, UsageReported

#: Bounds the life of every agent in a test, in seconds; generous, because nothing depends on it.
PATIENCE = 120.0

Kind = TypeVar("Kind")


@dataclass
class Run:
    """What one run of an agent left behind."""

    launch: Launch
    exit_code: int
    stdout: bytes
    stderr: str
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[Kind]) -> Kind:
        """The only event of a kind."""
        found = self.of(kind)
        assert len(found) == 1, f"{len(found)} {kind.__name__} in {self.events}\n{self.stderr}"
        return found[0]

    @property
    def terminal(self) -> TurnCompleted | TurnFailed:
        """The event that ends the run."""
        found = [event for event in self.events if isinstance(event, TurnCompleted | TurnFailed)]
        assert len(found) == 1, f"{len(found)} terminal events in {self.events}\n{self.stderr}"
        return found[0]

    @property
    def failure(self) -> Any:
        """Why it failed."""
        assert isinstance(self.terminal, TurnFailed), self.events
        return self.terminal.failure

    @property
    def answer(self) -> str:
        """What the run answered."""
        assert isinstance(self.terminal, TurnCompleted), f"{self.events}\n{self.stderr}"
        if self.terminal.message is not None:
            return self.terminal.message
        return self.of(Message)[-1].text

    @property
    def usage(self) -> UsageReported:
        """The last report of usage."""
        return self.of(UsageReported)[-1]

    @property
    def tools(self) -> list[tuple[str, str, bool]]:
        """Every tool use: its type, its title, whether it failed."""
        started = {event.item_id: (str(event.tool), event.title) for event in self.of(ToolStarted)}
        found: list[tuple[str, str, bool]] = []
        for event in self.of(ToolEnded):
            tool, title = started.get(event.item_id, (str(event.tool), event.title or ""))
            found.append((tool, title, event.failed))
        return found


def start(agent: Agent, work: Work, environment: Mapping[str, str], prompt: bytes) -> subprocess.Popen[bytes]:
    """Start one run with *prompt* as a file on its standard input."""
    launch = agent.launch(agent.find(environment), work, environment)
    return _spawn(launch, work, prompt)


def run(agent: Agent, work: Work, environment: Mapping[str, str], prompt: bytes) -> Run:
    """Run to the end and interpret what was written."""
    launch = agent.launch(agent.find(environment), work, environment)
    process = _spawn(launch, work, prompt)
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    events = [event for line in stdout.split(b"\n") for event in agent.interpret(line)]
    return Run(launch, process.returncode, stdout, stderr.decode(errors="replace"), events)


def _spawn(launch: Launch, work: Work, prompt: bytes) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as stdin:
        stdin.write(prompt)
        stdin.seek(0)
        return subprocess.Popen(
            launch.argv, cwd=work.cwd, env=launch.env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


def workspace(directory: Path) -> Path:
    """A small repository to work in."""
    path = directory / "workspace"
    path.mkdir()
    (path / "notes.txt").write_text("first\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=path, check=True, capture_output=True)
    return path
