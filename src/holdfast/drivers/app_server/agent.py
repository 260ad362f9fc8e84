"""Codex through its app-server: every run is a turn program that converses with a server which many runs share."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from holdfast import __version__
from holdfast.agents import codex_events, codex_rollout, options, program
from holdfast.agents.adapter import (
    Drive,
    Installation,
    Launch,
    ReviewKind,
    ReviewTarget,
    SharedServer,
    UnsupportedOption,
    Work,
)
from holdfast.agents.codex import CodexAgent
from holdfast.agents.environment import matches
from holdfast.agents.events import Event, TurnFailed
from holdfast.agents.failure import Failure, FailureClass
from holdfast.directories import socket_path, state_directory
from holdfast.drivers.app_server import dialect, interruption
from holdfast.drivers.app_server.conversation import ANSWER_WITHIN
from holdfast.drivers.app_server.ending import EX_TEMPFAIL
from holdfast.drivers.app_server.order import Order, Review

#: How every server is configured: a thread that nobody is subscribed to is unloaded at once, so that other programs
#: (``codex resume``) can go on with it.  0.142.2, which has no lock on threads, takes the option and ignores it.
OVERRIDES = ("thread_unload_delay_secs=0",)

#: Variables that differ from shell to shell and mean nothing to a server.
_NOISE = (
    "PWD", "OLDPWD", "SHLVL", "_", "TERM", "TERM_*", "TERMINFO*", "COLORTERM", "COLUMNS", "LINES", "SSH_CLIENT",
    "SSH_CONNECTION", "SSH_TTY", "TMUX", "TMUX_*", "STY", "WINDOW", "WINDOWID", "XDG_SESSION_*", "XDG_VTNR",
    "SESSION_MANAGER", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "GNOME_TERMINAL_*", "KITTY_*",
    "WEZTERM_*", "ALACRITTY_*", "VTE_VERSION", "ITERM_*", "STARSHIP_*", "PS1", "PS2", "PROMPT_COMMAND", "HISTFILE",
    "VSCODE_*", "GIT_ASKPASS",
)  # fmt: skip

#: Sockets are known to be there from this version on (0.142.0 was tried; earlier ones are asked).
_SOCKETS_SINCE = (0, 142)

#: The kernel takes no longer argument (MAX_ARG_STRLEN is 128 KiB on Linux).
_LONGEST_ORDER = 120_000

_PROGRAM = Path(__file__).with_name("program.py")

#: Whether a command can listen on a socket, by the command and its program's time of change.
_can_listen: dict[tuple[str, ...], bool] = {}


class CodexAppServer(CodexAgent):
    """The ``codex`` command, as a server."""

    drive = Drive.APP_SERVER
    can_fork = True
    can_review = True
    can_ask = True
    can_steer = True
    outlives_its_process = True

    #: Whether a server is shared; ``None`` leaves it to what the installed Codex can.
    listens: bool | None = None
    #: Seconds that the turn program waits for a server that went away; whoever holds the server starts it again.
    patience: float = 30.0
    #: Seconds after which a server that does not answer is taken for dead.
    answer_within: float = ANSWER_WITHIN

    @classmethod
    def like(cls, agent: CodexAgent) -> CodexAppServer:
        """The same command and variables as *agent*, conversed with in this way."""
        if isinstance(agent, CodexAppServer):
            return agent
        return cls(command=agent._command, pass_env=agent._pass_env)

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        _check(work, self)
        env = self._environment(installation, environment, work)
        shares = can_listen(installation, env) if self.listens is None else self.listens
        server = shared_server(installation, env) if shares else None
        order = json.dumps(
            _order(
                installation,
                work,
                server,
                self.title,
                patience=self.patience,
                answer_within=self.answer_within,
            ),
            separators=(",", ":"),
        )
        if len(order) > _LONGEST_ORDER:
            raise UnsupportedOption(
                f"The options of this task take {len(order)} bytes; {_LONGEST_ORDER} can be passed on.",
                hint="Give a shorter output schema.",
            )
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), order]
        return Launch(argv=argv, env=env, server=server, commands=True)

    def server(self, installation: Installation, environment: Mapping[str, str]) -> SharedServer:
        """The server that serves runs of *installation* in the *environment* of a caller.

        :raises UnsupportedOption: this Codex cannot listen on a socket
        """
        env = self._environment(installation, environment, Work(cwd=Path.cwd()))
        if not can_listen(installation, env):
            raise UnsupportedOption(f"This {self.title} has no server to be asked.", hint=f"Update it: {self.install}")
        return shared_server(installation, env)

    def interpret(self, line: bytes) -> list[Event]:
        return dialect.interpret(line)

    def diagnose(self, *, stderr_tail: str, exit_code: int | None) -> list[Event]:
        said = stderr_tail.strip().rpartition("\n")[2]
        if exit_code == EX_TEMPFAIL:
            failure_class = FailureClass.BACKEND_CRASH
        elif exit_code not in (None, 0) and "Traceback (most recent call last)" in stderr_tail:
            failure_class = FailureClass.INTERNAL
        else:
            return []
        message = said or "The Codex server could not be reached again."
        failure = Failure(failure_class=failure_class, message=message, remedy=codex_events.remedies(failure_class))
        return [TurnFailed(failure=failure)]

    def end(self, launch: Launch, thread_id: str | None) -> str | None:
        if launch.server is None:
            return None
        order: Order = json.loads(launch.argv[-1])
        return interruption.interrupt(launch.server.socket, order, thread_id)


def shared_server(installation: Installation, env: Mapping[str, str]) -> SharedServer:
    """The server that serves every run of this installation with an environment like *env*."""
    server_env = {name: value for name, value in env.items() if not matches(name, _NOISE)}
    overrides = [word for override in OVERRIDES for word in ("-c", override)]
    identity = {
        "command": installation.command,
        "program": _identity(Path(installation.command[0])),
        "home": str(codex_rollout.home(env)),
        "overrides": overrides,
        "env": sorted(server_env.items()),
    }
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    socket = str(socket_path(state_directory() / "codex", f"{key}.sock"))
    return SharedServer(
        key=key,
        argv=[*installation.command, "app-server", "--listen", f"unix://{socket}", *overrides],
        env=server_env,
        socket=socket,
    )


def can_listen(installation: Installation, env: Mapping[str, str]) -> bool:
    """Whether the installed Codex can serve many clients on a socket; known for packages, asked once of any other."""
    binary = Path(installation.command[0])
    version = _packaged_version(binary)
    if version is not None and version >= _SOCKETS_SINCE:
        return True
    identity = (*installation.command, *map(str, _identity(binary)))
    known = _can_listen.get(identity)
    if known is None:
        answer = program.ask([*installation.command, "app-server", "--help"], env)
        known = answer.exit_code == 0 and "unix://" in answer.stdout
        if answer.exit_code is not None:
            _can_listen[identity] = known
    return known


def _identity(binary: Path) -> tuple[str, int, int]:
    real = binary.resolve()
    try:
        status = real.stat()
    except OSError:
        return str(real), 0, 0
    return str(real), status.st_mtime_ns, status.st_size


def _packaged_version(binary: Path) -> tuple[int, int] | None:
    """Major and minor version of a native binary inside its npm package (``vendor/<target>/bin/codex``)."""
    parents = binary.resolve().parents
    if len(parents) < 4 or parents[2].name != "vendor":
        return None
    try:
        version = str(json.loads((parents[3] / "package.json").read_text(encoding="utf-8"))["version"])
        major, minor, *_ = version.split(".")
        return int(major), int(minor)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(work: Work, agent: CodexAppServer) -> None:
    options.check(work, agent)
    if work.prompt_file is None or not work.work_id:
        raise UnsupportedOption(f"{agent.title} needs the prompt as a file, and a name for the work.")
    if work.resume is not None and work.fork is not None:
        raise UnsupportedOption("A thread can be resumed or forked, not both.", hint="Leave one of the two out.")
    if work.review is not None and work.output_schema is not None:
        raise UnsupportedOption(
            f"The reviewer of {agent.title} answers in its own form.",
            hint="Leave out the output schema, or the review.",
        )


def _order(
    installation: Installation,
    work: Work,
    server: SharedServer | None,
    title: str,
    *,
    patience: float,
    answer_within: float,
) -> Order:
    return Order(
        version=__version__,
        socket=server.socket if server is not None else None,
        command=[] if server is not None else [*installation.command, "app-server"],
        work_id=work.work_id,
        prompt_file=str(work.prompt_file),
        # A server looks threads up by id alone: what is no id of its own is an error there, never a fresh thread.
        resume=work.resume,
        fork=work.fork,
        ephemeral=work.ephemeral,
        thread_name=work.thread_name,
        cwd=str(work.cwd),
        model=work.model,
        effort=work.effort,
        sandbox=work.sandbox.value,
        writable_roots=[str(directory) for directory in work.add_dirs],
        network=work.network,
        approvals=work.approvals.value,
        output_schema=work.output_schema,
        review=_review(work.review) if work.review is not None else None,
        patience=patience,
        answer_within=answer_within,
    )


def _review(target: ReviewTarget) -> Review:
    match target.kind:
        case ReviewKind.UNCOMMITTED:
            return Review(type="uncommittedChanges", branch=None, sha=None)
        case ReviewKind.CUSTOM:
            return Review(type="custom", branch=None, sha=None)
        case ReviewKind.BASE | ReviewKind.COMMIT if not target.value:
            raise UnsupportedOption(
                f"A review of the kind {target.kind.value} needs a name.", hint="Name the branch or the commit."
            )
        case ReviewKind.BASE:
            return Review(type="baseBranch", branch=target.value, sha=None)
        case ReviewKind.COMMIT:
            return Review(type="commit", branch=None, sha=target.value)
