"""The port that every agent CLI is reached through."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

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


class Drive(StrEnum):
    """The ways to converse with an agent; not every agent knows every way."""

    #: A shared server of the agent that keeps the thread (Codex).
    APP_SERVER = "app-server"
    #: One process per turn.
    ONE_SHOT = "one-shot"


class Approvals(StrEnum):
    """Who answers when an agent asks whether it may do something that its sandbox does not allow."""

    #: Nobody: it is declined and the agent goes on without.
    DECLINE = "decline"
    #: A person: the task waits, its idle clock stands still, and ``holdfast approve`` answers.
    ASK = "ask"
    #: Everything is allowed.
    ACCEPT = "accept"


class ReviewKind(StrEnum):
    """What a code review looks at."""

    #: Everything that is not committed: staged, unstaged and untracked.
    UNCOMMITTED = "uncommitted"
    #: What the current branch has that the branch ``value`` does not.
    BASE = "base"
    #: The commit ``value``.
    COMMIT = "commit"
    #: What the prompt says.
    CUSTOM = "custom"


class ReviewTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The subject of a review by an agent's own reviewer."""

    kind: ReviewKind
    #: A branch or commit, for the kinds that need one.
    value: str | None = None


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
    #: Where the prompt lies, byte for byte, for a program that cannot have it as standard input.
    prompt_file: Path | None = None
    #: Names this piece of work to the agent, the same in every attempt: a turn that bears it was begun by us.
    work_id: str = ""
    #: Begin with a copy of this thread, which stays as it is.
    fork: str | None = None
    #: Do not keep the thread once the work is done.
    ephemeral: bool = False
    #: What the agent shall call the thread in its own lists, if it has any.
    thread_name: str | None = None
    #: Let commands reach the network from within the sandbox.
    network: bool = False
    approvals: Approvals = Approvals.DECLINE
    #: The JSON Schema that the answer must fit; an agent that cannot be told it has its answer checked all the same.
    output_schema: dict[str, Any] | None = None
    #: Where it lies as a file, for a program that wants one.
    output_schema_file: Path | None = None
    #: Have the agent's own reviewer do it; the prompt is then the instruction of a custom review, else it is not used.
    review: ReviewTarget | None = None


class SharedServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server process of an agent that many launches share.  Equal keys mean that one process serves both."""

    key: str
    argv: list[str]
    env: dict[str, str]
    #: The Unix socket that it shall listen on; a connection that is accepted means that it is ready.
    socket: str


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one run: the prompt goes to standard input, byte for byte, unless ``commands`` is set."""

    argv: list[str]
    env: dict[str, str]
    #: The thread id, where the caller may choose it before the start (Claude Code); else it comes with an event.
    thread_id: str | None = None
    #: The server that must be there before the start and as long as the run lasts.
    server: SharedServer | None = None
    #: The run takes commands (:mod:`holdfast.agents.commands`) on standard input, which is then a pipe.
    commands: bool = False


class Agent(abc.ABC):
    """What Holdfast knows of one agent CLI.  Adapters hold no state and start nothing by themselves."""

    #: The word that users type: ``codex``, ``claude``, ``rehearsal``.
    name: ClassVar[str] | str
    #: The name that people know it by.
    title: ClassVar[str] | str
    #: True when the agent's whole standard output is its answer and exit status 0 its only sign of success.
    plain_text: ClassVar[bool] | bool = False
    #: The way in which this object converses with it.
    drive: ClassVar[Drive] | Drive = Drive.ONE_SHOT
    can_resume: ClassVar[bool] | bool = True
    #: Whether it can be told which model to use, and with which effort.
    can_choose_model: ClassVar[bool] | bool = True
    can_choose_effort: ClassVar[bool] | bool = True
    #: What it can do beyond a plain run; a request for anything else is refused before anything is started.
    can_fork: ClassVar[bool] | bool = False
    can_review: ClassVar[bool] | bool = False
    can_ask: ClassVar[bool] | bool = False
    can_steer: ClassVar[bool] | bool = False
    can_open_network: ClassVar[bool] | bool = False
    can_forget: ClassVar[bool] | bool = False
    #: True when the work may go on although the process that we started for it has died: another attempt then collects
    #: it, and never does it twice.
    outlives_its_process: ClassVar[bool] | bool = False

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

    def end(self, launch: Launch, thread_id: str | None) -> str | None:
        """Make sure that no work of a run that was ended goes on anywhere else (in a shared server).

        Blocking, bounded to a few seconds.  Returns why that is not certain, or ``None`` when it is.
        """
        return None

    def post_mortem(self, thread_id: str, environment: Mapping[str, str]) -> list[Event]:
        """Read what the agent itself recorded about a thread that failed or was ended (usage, typed error).

        Blocking file reads only; an unreadable or absent record gives an empty list.
        """
        return []
