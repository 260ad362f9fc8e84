"""The port that every agent CLI is reached through."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import msgspec

from holdfast.agents.events import Event
from holdfast.errors import InvalidRequest, Unavailable


class AgentMissing(Unavailable):
    """The agent's command is not installed where we looked."""

    code = "backend_missing"


class UnknownAgent(InvalidRequest):
    """No agent of that name is known."""

    code = "unknown_agent"


class UnsupportedOption(InvalidRequest):
    """The agent cannot do what the request asks for (resume, a model choice, ...)."""

    code = "unsupported_option"


class Sandbox(StrEnum):
    """How much the agent may touch.  Read-only is the default everywhere."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    DANGER_FULL_ACCESS = "danger-full-access"


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent's command was found."""

    #: What to execute: the resolved program, with an interpreter in front where one is needed.
    command: list[str]


class Login(StrEnum):
    """Whether the agent can talk to its model, as far as can be told without asking the model."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What ``holdfast doctor`` can say about an installed agent."""

    version: str | None
    login: Login
    detail: str
    #: What to do when something is not right.
    hint: str | None = None


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One run of an agent, independent of which agent it is.  The prompt itself never becomes an argument."""

    cwd: Path
    sandbox: Sandbox = Sandbox.READ_ONLY
    model: str | None = None
    effort: str | None = None
    #: The thread to go on with; ``None`` starts a fresh one.
    resume: str | None = None
    #: More directories the agent may write to (only with a sandbox that can write at all).
    add_dirs: list[Path] = []
    #: Names or patterns of the caller's variables that the agent gets although they look like secrets.
    pass_env: list[str] = []


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one run: the prompt goes to standard input, byte for byte."""

    argv: list[str]
    env: dict[str, str]
    #: The thread id, where the caller may choose it before the start (Claude Code); else it comes with an event.
    thread_id: str | None = None


class Agent(abc.ABC):
    """What Holdfast knows of one agent CLI.  Adapters hold no state and start nothing by themselves."""

    #: The word that users type: ``codex``, ``claude``, ``rehearsal``.
    name: ClassVar[str] | str
    #: The name that people know it by.
    title: ClassVar[str] | str
    #: True when the agent's whole standard output is its answer and exit status 0 its only sign of success.
    plain_text: ClassVar[bool] | bool = False
    can_resume: ClassVar[bool] | bool = True

    @abc.abstractmethod
    def find(self, environment: Mapping[str, str]) -> Installation:
        """Locate the agent's command as *environment* (of the caller) would.

        :raises AgentMissing: with the way to install it as hint
        """

    @abc.abstractmethod
    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        """Ask the installed agent for its version and whether it is logged in, without any model call.

        Blocking, bounded to a few seconds.
        """

    @abc.abstractmethod
    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        """Build the command line and environment of one run.

        :raises UnsupportedOption: this agent cannot do what *work* asks
        """

    @abc.abstractmethod
    def interpret(self, line: bytes) -> list[Event]:
        """Translate one line of standard output (without its newline) into events; never raises, keeps no state."""

    def diagnose(self, *, stderr_tail: str, exit_code: int | None) -> list[Event]:
        """Explain a run that ended without a terminal event, from what it wrote to standard error."""
        return []

    def post_mortem(self, thread_id: str, environment: Mapping[str, str]) -> list[Event]:
        """Read what the agent itself recorded about a thread that failed or was ended (usage, typed error).

        Blocking file reads only; an unreadable or absent record gives an empty list.
        """
        return []
