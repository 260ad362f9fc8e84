"""``holdfast service``: units for the service managers of people's own sessions."""

from __future__ import annotations

import os
import plistlib
import sys
from pathlib import Path
from typing import Final

import click

from holdfast.cli import terminal
from holdfast.directories import state_directory
from holdfast.errors import InvalidRequest
from holdfast.host.cgroup import DELEGATED_UNIT

#: By this line a file is known to be ours to replace.
MARK: Final = "Written by: holdfast service"
#: What a service needs of the environment: where agents are found, and where our own things are.
_VARIABLES: Final = ("PATH", "HOLDFAST_STATE_DIR", "HOLDFAST_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
_LABELS: Final = {"daemon": "holdfast", "exec-server": "holdfast-host"}
_DESCRIPTIONS: Final = {
    "daemon": "Holdfast daemon",
    "exec-server": "Holdfast host: keeps processes and their logs",
}


class NotOurs(InvalidRequest):
    """A file that Holdfast did not write is where the unit would be."""

    code = "not_ours"


@click.command()
@click.argument("manager", type=click.Choice(["systemd", "launchd"]))
@click.argument("what", type=click.Choice(["daemon", "exec-server"]), default="daemon")
@click.argument("arguments", nargs=-1, metavar="[-- EXEC-SERVER OPTIONS]", type=click.UNPROCESSED)
@click.option("--install", is_flag=True, help="Write it where the manager looks for it, and say how to start it.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="What the service's log has.")
def service(*, manager: str, what: str, arguments: tuple[str, ...], install: bool, log_format: str) -> int:
    """Print a systemd user unit or a launchd plist for the daemon, or for a host.

    The host is that of the state directory, so the daemon finds and uses it; options after -- make it another one.
    """
    if arguments and what != "exec-server":
        raise click.UsageError("Only an exec-server takes options of its own.")
    command = _command(what, arguments, log_format)
    text = _systemd(what, command) if manager == "systemd" else _launchd(what, command)
    if not install:
        terminal.write([text.encode()])
        return 0
    path = _place(manager, what)
    _write(path, text)
    terminal.write_line(f"{path}\nStart it, now and with every session:\n  {_start(manager, what, path)}")
    return 0


def _command(what: str, arguments: tuple[str, ...], log_format: str) -> list[str]:
    form = ["--log-format", log_format] if log_format != "text" else []
    if what == "daemon":
        return [sys.executable, "-m", "holdfast", "up", "--foreground", *form]
    place = arguments or ("--listen", "unix://", "--state-dir", str(state_directory() / "host"))
    return [sys.executable, "-m", "holdfast.host", *place, *form]


def _environment() -> dict[str, str]:
    return {name: value for name in _VARIABLES if (value := os.environ.get(name))}


def _systemd(what: str, command: list[str]) -> str:
    environment = [f"Environment={_quoted(f'{name}={value}')}" for name, value in _environment().items()]
    environment.append(f"Environment={DELEGATED_UNIT}=%n")
    ending = (
        # The host that the daemon started, and the tasks in it, outlive the daemon.
        ["KillMode=process"]
        if what == "daemon"
        # The keeper ends what runs, in order; and while the server lives the death of the keeper is not the end: it
        # takes the keeper's place, and tells systemd so.
        else ["KillMode=mixed", "ExitType=cgroup", "NotifyAccess=all", "TimeoutStopSec=30"]
    )
    order = ["After=holdfast-host.service"] if what == "daemon" else []
    lines = [
        f"# {MARK}",
        "[Unit]",
        f"Description={_DESCRIPTIONS[what]}",
        *order,
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(_quoted(word, command=True) for word in command)}",
        *environment,
        "Restart=on-failure",
        "RestartSec=1",
        # Each process that the host keeps gets a cgroup of its own, by which all of it is found and ended.
        "Delegate=yes",
        *ending,
        "UMask=0077",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str, *, command: bool = False) -> str:
    """*word* as one word of a unit file (systemd.syntax(7)): nothing in it is expanded."""
    for character in word:
        if not character.isprintable():
            raise InvalidRequest(f"{word!r} cannot be written into a unit file.", hint="Use a path without it.")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        escaped = escaped.replace("$", "$$")
    plain = escaped == word and word and all(character.isalnum() or character in "/._-=:+,@" for character in word)
    return word if plain else f'"{escaped}"'


def _launchd(what: str, command: list[str]) -> str:
    log = state_directory() / f"{_LABELS[what]}.log"
    description = {
        "Label": _LABELS[what],
        "ProgramArguments": command,
        "EnvironmentVariables": _environment(),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        # The host that the daemon started, and the tasks in it, outlive the daemon.
        "AbandonProcessGroup": what == "daemon",
        "ExitTimeOut": 30,
        "Umask": 0o077,
        "StandardErrorPath": str(log),
        "StandardOutPath": str(log),
    }
    head, declaration, rest = plistlib.dumps(description, sort_keys=False).decode().partition("<plist ")
    return f"{head}<!-- {MARK} -->\n{declaration}{rest}"


def _place(manager: str, what: str) -> Path:
    if manager == "launchd":
        return Path.home() / "Library" / "LaunchAgents" / f"{_LABELS[what]}.plist"
    configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(configuration) / "systemd" / "user" / f"{_LABELS[what]}.service"


def _start(manager: str, what: str, path: Path) -> str:
    if manager == "launchd":
        return f"launchctl bootstrap gui/{os.getuid()} {path}"
    return f"systemctl --user daemon-reload && systemctl --user enable --now {_LABELS[what]}.service"


def _write(path: Path, text: str) -> None:
    try:
        if path.is_symlink() or MARK not in path.read_text():
            raise NotOurs(f"{path} was not written by Holdfast.", hint="Move it away, or print the unit instead.")
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # It may carry paths of yours, and nobody else has to read it.
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)
