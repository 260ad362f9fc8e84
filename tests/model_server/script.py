"""What a model can be told to do: one step for each request that an agent sends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Gate:
    """Holds a step back until the test opens it; ``reached`` tells that a request waits there, or was given up."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        """Let the waiting request go on, and every later one."""
        self._open.set()

    def wait(self) -> None:
        """Wait until the gate is open."""
        self.reached.set()
        self._open.wait()


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all steps have in common."""

    #: Held back before the first byte of the answer.
    gate: Gate | None = None
    #: Seconds to wait before the first byte.
    delay: float = 0.0
    #: HTTP headers of the answer.
    headers: Mapping[str, str] = field(default_factory=dict)
    input_tokens: int = 1000
    output_tokens: int = 10
    #: Why the model stopped, in the words of the Messages API; ``None``: what fits.
    stop_reason: str | None = None


@dataclass(frozen=True)
class Say(Step):
    """Answer with text, in pieces of *piece* characters; ends the turn."""

    text: str
    piece: int = 4096


@dataclass(frozen=True)
class Echo(Step):
    """Answer with the last text of the user: tells many askers apart, in whatever order they come."""


@dataclass(frozen=True)
class Shell(Step):
    """Run a command with the agent's own shell tool."""

    command: str


@dataclass(frozen=True)
class WriteFile(Step):
    """Create a file with the agent's own editing tool."""

    path: str
    text: str


@dataclass(frozen=True)
class EditFile(Step):
    """Replace one line of a file with the agent's own editing tool."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Tool(Step):
    """Call any tool by name."""

    name: str
    arguments: Mapping[str, Any]
    #: The group of tools that it belongs to (Responses API only).
    namespace: str | None = None


@dataclass(frozen=True)
class Together(Step):
    """Call several tools in one answer (Responses API only)."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Decide(Step):
    """Do what a function of all tool results so far says."""

    choose: Callable[[list[str]], Step]


@dataclass(frozen=True)
class Fail(Step):
    """Answer *times* requests with an HTTP error."""

    status: int
    message: str = "scripted failure"
    times: int = 1
    #: The ``error`` object of the answer; made from status and message if not given.
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Drop(Step):
    """Break the connection of *times* requests: in the middle of the answer, or before its first byte."""

    times: int = 1
    in_the_middle: bool = True


@dataclass(frozen=True)
class Hang(Step):
    """Begin an answer and never go on until the gate is opened; then break the connection."""
