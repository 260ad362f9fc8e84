"""``holdfast service``: units for the service managers of people's own sessions."""

from __future__ import annotations

import os
import plistlib
import pwd
import re
import sys
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from holdfast.cli import completion_values, terminal
from holdfast.cli.error_report import UsageError
from holdfast.directories import config_file, socket_path, state_directory
from holdfast.errors import InvalidRequest
from holdfast.host.cgroup import DELEGATED_UNIT

#: By this line a file is known to be ours to replace.
MARK: Final = "Written by: holdfast service"
#: What a service needs of the environment: where agents are found, and where our own things are.
_VARIABLES: Final = ("PATH", "HOLDFAST_STATE_DIR", "HOLDFAST_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
#: What systemd has a file in for each user whose services go on without a session.
_LINGER: Final = Path("/var/lib/systemd/linger")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Among what click remembers of a command line.
_SEPARATED: Final = "holdfast.separated"
_LABELS: Final = {"daemon": "holdfast", "exec-server": "holdfast-host"}
_DESCRIPTIONS: Final = {
    "daemon": "Holdfast daemon",
    "exec-server": "Holdfast host: keeps processes and their logs",
}


class AlreadyInstalled(InvalidRequest):
    """Another unit of Holdfast is where this one would be."""

    code = "already_installed"


class NotOurs(InvalidRequest):
    """A file that Holdfast did not write is where the unit would be."""

    code = "not_ours"


class CannotInstall(InvalidRequest):
    """The unit cannot be written where it belongs."""

    code = "cannot_install"


class _ServiceCommand(click.Command):
    """A command that knows whether options of the host begin behind ``--``: only there they are understood."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_SEPARATED] = "--" in args
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in completion_values.options_of_host():
                raise
            raise UsageError(
                f"{error.option_name} is an option of the exec-server itself.",
                hint=f"Put those behind --: holdfast service MANAGER exec-server -- {error.option_name} ...",
            ) from error


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    if context.params["what"] != "exec-server" or not context.meta[_SEPARATED]:
        return []
    return completion_values.host_options(context, parameter, incomplete)


@click.command(cls=_ServiceCommand)
@click.argument("manager", type=click.Choice(["systemd", "launchd"]))
@click.argument("what", type=click.Choice(["daemon", "exec-server"]), default="daemon")
@click.argument(
    "arguments", nargs=-1, metavar="[-- EXEC-SERVER OPTIONS]", type=click.UNPROCESSED, shell_complete=_complete
)
@click.option("--install", is_flag=True, help="Write it where the manager looks for it, and say how to start it.")
@click.option("--force", is_flag=True, help="With --install: replace another one of that name.")
@click.option("--name", metavar="NAME", help="For a second one beside that without a name.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="What the service's log has.")
def service(
    *,
    manager: str,
    what: str,
    arguments: tuple[str, ...],
    install: bool,
    force: bool,
    name: str | None,
    log_format: str,
) -> int:
    """Print a systemd user unit or a launchd plist for the daemon, or for a host.

    The host is that of the state directory, so the daemon finds and uses it, unless it has a --name, or options after
    -- name another --state-dir.
    """
    if force and not install:
        raise UsageError("--force does nothing without --install.", hint="Add --install, or leave it out.")
    if arguments and what != "exec-server":
        raise click.UsageError("Only an exec-server takes options of its own.")
    if name is not None and not _NAME.fullmatch(name):
        raise click.UsageError("--name takes letters, digits, '_' and '-'.")
    if name is not None and what == "daemon" and name.split("-")[0] == "host":
        raise click.UsageError("That is the name of the service of a host; choose another --name.")
    label = _LABELS[what] if name is None else f"{_LABELS[what]}-{name}"
    form = ["--log-format", log_format] if log_format != "text" else []
    if what == "daemon":
        command = [sys.executable, "-P", "-m", "holdfast", "up", "--foreground", *form]
    else:
        command = [sys.executable, "-P", "-m", "holdfast.host", *_host_options(arguments, name), *form]
    text = _systemd(what, command) if manager == "systemd" else _launchd(what, label, command)
    if not install:
        terminal.write([text.encode()])
        return 0
    try:
        path = _place(manager, label)
    except RuntimeError as error:
        raise CannotInstall(
            "There is no home directory that the unit could be in.", hint="Set HOME, or print the unit instead."
        ) from error
    try:
        replaced = _write(path, text, force=force)
    except OSError as error:
        raise CannotInstall(
            f"{path} cannot be written: {error.strerror}.",
            hint="Make its directory writable, or print the unit and put it where it belongs yourself.",
        ) from error
    terminal.write_line(f"{path}\nStart it, now and with every session:\n  {_start(manager, label, path)}")
    if replaced:
        terminal.write_line(f"If it runs, it goes on as it was until:\n  {_restart(manager, label, path)}")
    if manager == "systemd" and not _lingers():
        terminal.write_line("It ends with your last session, unless:\n  loginctl enable-linger")
    return 0


def _host_options(given: tuple[str, ...], name: str | None) -> list[str]:
    """The options of the host: those *given*, after the address and the state directory if they are not among them.

    What would otherwise only be told by a service that does not start is found out here.

    :raises InvalidRequest: no host, or no service, can be started with these options
    """
    from holdfast.host.address import SOCKET_NAME
    from holdfast.host.command import checked_options

    directory = state_directory() / ("host" if name is None else f"host-{name}")
    defaults = {"--listen": "unix://", "--state-dir": str(directory)}
    missing = defaults.keys() - {word.partition("=")[0] for word in given}
    words = [word for option in defaults if option in missing for word in (option, defaults[option])] + list(given)
    options = checked_options(words)
    if options.listen.startswith("stdio"):
        raise InvalidRequest(
            "Nobody talks to the standard input of a service.", hint="Use ws://IP:PORT or unix://PATH."
        )
    socket = options.listen.removeprefix("unix://") if options.listen.startswith("unix://") else ""
    files = (options.state_dir, options.root, options.ws_token_file, options.ws_shared_secret_file)
    for path in (*files, Path(socket) if socket else None):
        if path is not None and not path.is_absolute():
            raise InvalidRequest(
                f"{path} would be looked for where the service runs, which is not here.",
                hint=f"Give the whole path: {path.absolute()}",
            )
    its_own = ("unix://", f"unix://{socket_path(state_directory() / 'host', SOCKET_NAME, make=False)}")
    if options.state_dir == state_directory() / "host" and options.listen not in its_own:
        # The daemon would find nobody in that directory, and could start no host of its own there.
        raise InvalidRequest(
            f"The host of the state directory does not listen on {options.listen}.",
            hint="Make it a second host with --name NAME, or with --state-dir DIR behind --.",
        )
    return words


def _environment() -> dict[str, str]:
    """Paths as they are here: the service runs elsewhere."""
    found = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    for name, place in (("HOLDFAST_STATE_DIR", state_directory), ("HOLDFAST_CONFIG", config_file)):
        if name in found:
            found[name] = str(place())
    # A relative one means nothing, says the XDG Base Directory Specification.
    return {name: value for name, value in found.items() if not name.startswith("XDG_") or os.path.isabs(value)}


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
        # It refuses what it was told, and would do so again.
        f"RestartPreventExitStatus={InvalidRequest.exit_code}",
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


def _launchd(what: str, label: str, command: list[str]) -> str:
    log = state_directory() / f"{label}.log"
    description = {
        "Label": label,
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
    try:
        text = plistlib.dumps(description, sort_keys=False).decode()
    except ValueError as error:
        # Control characters, or bytes that are not UTF-8.
        raise InvalidRequest(
            f"What the service needs cannot be written into a plist: {error}.", hint="Use paths of plain text."
        ) from error
    head, declaration, rest = text.partition("<plist ")
    return f"{head}<!-- {MARK} -->\n{declaration}{rest}"


def _place(manager: str, label: str) -> Path:
    if manager == "launchd":
        return Path.home() / "Library" / "LaunchAgents" / f"{label}.plist"
    configuration = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not configuration.is_absolute():
        # It counts for nobody then (XDG Base Directory Specification).
        configuration = Path.home() / ".config"
    return configuration / "systemd" / "user" / f"{label}.service"


def _start(manager: str, label: str, path: Path) -> str:
    if manager == "launchd":
        return f"launchctl bootstrap gui/{os.getuid()} {path}"
    return f"systemctl --user daemon-reload && systemctl --user enable --now {label}.service"


def _restart(manager: str, label: str, path: Path) -> str:
    if manager == "launchd":
        return f"launchctl bootout gui/{os.getuid()}/{label}; {_start(manager, label, path)}"
    return f"systemctl --user daemon-reload && systemctl --user restart {label}.service"


def _lingers() -> bool:
    """Whether systemd keeps this user's services without a session (loginctl(1))."""
    try:
        return (_LINGER / pwd.getpwuid(os.getuid()).pw_name).exists()
    except KeyError:
        # In a container: a number without a name.
        return False


def _write(path: Path, text: str, *, force: bool) -> bool:
    """Write the unit; returns whether it took the place of another one.

    :raises NotOurs: what is there is not a unit of Holdfast
    :raises AlreadyInstalled: another one is there, and *force* is not set
    """
    there = path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else None
    if os.path.lexists(path) and (there is None or MARK not in there):
        raise NotOurs(f"{path} was not written by Holdfast.", hint="Move it away, or print the unit instead.")
    replaces = there is not None and there != text
    if replaces and not force:
        raise AlreadyInstalled(
            f"{path} is there already, and is another one.",
            hint="Replace it with --force, or give this one a --name of its own.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # It may carry paths of yours, and nobody else has to read it.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        # For example on a full disk: nothing of it stays.
        temporary.unlink()
        raise
    return replaces
