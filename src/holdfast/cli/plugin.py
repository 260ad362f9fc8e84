"""``holdfast plugin``: the plugins of Holdfast for Claude Code and Codex, which come with the program."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import click

import holdfast
from holdfast.cli import table, terminal
from holdfast.errors import HoldfastError, Unavailable

#: How the plugin and its marketplace are called by both programs.
_NAME: Final = "holdfast"
_ID: Final = f"{_NAME}@{_NAME}"
#: Seconds for one command of a program; none of them needs the network.
_PATIENCE: Final = 120.0

#: Seconds after which a prompt that was written for a command is removed.
_KEPT: Final = 86_400.0


class PluginFailed(HoldfastError):
    """The program that the plugin is for refused."""

    code = "plugin_failed"


class ProgramMissing(Unavailable):
    """The program that the plugin is for is not installed."""

    code = "program_missing"


class Program(NamedTuple):
    """A program that takes plugins."""

    command: str
    title: str
    #: Arguments behind which a plugin is named.
    add: tuple[str, ...]
    remove: tuple[str, ...]


_PROGRAMS: Final = {
    "claude-code": Program("claude", "Claude Code", ("plugin", "install"), ("plugin", "uninstall")),
    "codex": Program("codex", "Codex", ("plugin", "add"), ("plugin", "remove")),
}

_which = click.argument("which", metavar="[claude-code|codex]", type=click.Choice(list(_PROGRAMS)), required=False)


@click.group()
def plugin() -> None:
    """Install the plugins for Claude Code and Codex, which come with this program.

    Without a name, install and uninstall are about every one of the two that is there.
    """


@plugin.command()
@_which
def path(*, which: str | None) -> int:
    """Print where the plugin is, or without a name the marketplace that has both."""
    terminal.write_line(str(directory() / which if which else directory()))
    return 0


@plugin.command()
@_which
def install(*, which: str | None) -> int:
    """Add the marketplace that comes with this program, and install the plugin from it."""
    for name in _chosen(which):
        program = _PROGRAMS[name]
        known = _marketplace(program)
        if known is not None and Path(known) != directory():
            # Of another installation of Holdfast, which may be gone.
            _run(program, "plugin", "marketplace", "remove", _NAME)
            known = None
        if known is None:
            _run(program, "plugin", "marketplace", "add", str(directory()))
        elif _installed(program) is not None:
            # Neither of them takes a changed plugin of the same version otherwise.
            _run(program, *program.remove, _ID)
        _run(program, *program.add, _ID)
        terminal.write_line(
            f"{program.title}: installed {_ID} {holdfast.__version__}.  It is there in the next session."
        )
    return 0


@plugin.command()
@_which
def uninstall(*, which: str | None) -> int:
    """Remove the plugin and its marketplace; what is not there is no mistake."""
    for name in _chosen(which):
        program = _PROGRAMS[name]
        was_there = _installed(program) is not None
        if was_there:
            _run(program, *program.remove, _ID)
        if _marketplace(program) is not None:
            _run(program, "plugin", "marketplace", "remove", _NAME)
        terminal.write_line(f"{program.title}: {'uninstalled' if was_there else 'was not installed'}.")
    return 0


@plugin.command()
@_which
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, which: str | None, as_json: bool) -> int:
    """Show which plugin is installed, in which version."""
    report: dict[str, dict[str, Any]] = {}
    for name in [which] if which else _PROGRAMS:
        program = _PROGRAMS[name]
        there = shutil.which(program.command) is not None
        version = _installed(program) if there else None
        report[name] = {
            "program": there,
            "installed": version is not None,
            "version": version,
            "current": version == holdfast.__version__,
        }
    if as_json:
        terminal.write_line(json.dumps({"plugins": report, "path": str(directory())}))
    else:
        terminal.write_line(table.pairs([(_PROGRAMS[name].title, _words(facts)) for name, facts in report.items()]))
    return 0


@plugin.command("prompt-file")
def prompt_file() -> int:
    """Print the path of a new file for a prompt, in a directory that nobody else can enter.

    The file itself is not made.  Those of yesterday are removed.
    """
    from holdfast.clock import wall
    from holdfast.directories import private_directory, state_directory

    place = private_directory(private_directory(state_directory()) / "prompts")
    for old in place.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if old.lstat().st_mtime < wall() - _KEPT:
                old.unlink()
    terminal.write_line(str(place / f"{secrets.token_hex(8)}.md"))
    return 0


def directory() -> Path:
    """The marketplace of both plugins."""
    return Path(__file__).resolve().parent.parent / "plugins"


def _words(facts: dict[str, Any]) -> str:
    if not facts["program"]:
        return "the program is not on PATH"
    if not facts["installed"]:
        return "not installed"
    note = "" if facts["current"] else f"; this program has {holdfast.__version__}: run 'holdfast plugin install'"
    return f"{facts['version']}{note}"


def _chosen(which: str | None) -> list[str]:
    names = [which] if which else [name for name, each in _PROGRAMS.items() if shutil.which(each.command)]
    if not names:
        raise ProgramMissing("Neither Claude Code nor Codex is on PATH.", hint="Install one of them first.")
    return names


def _marketplace(program: Program) -> str | None:
    """Where the marketplace of our name is, if there is one."""
    answer: Any = json.loads(_run(program, "plugin", "marketplace", "list", "--json"))
    found = cast("list[dict[str, Any]]", answer["marketplaces"] if isinstance(answer, dict) else answer)
    for marketplace in found:
        if marketplace.get("name") == _NAME:
            return str(marketplace.get("root") or marketplace.get("path") or marketplace.get("installLocation") or "")
    return None


def _installed(program: Program) -> str | None:
    """The version of the plugin that is installed."""
    answer: Any = json.loads(_run(program, "plugin", "list", "--json"))
    found = cast("list[dict[str, Any]]", answer["installed"] if isinstance(answer, dict) else answer)
    for each in found:
        if _ID in (each.get("pluginId"), each.get("id")):
            return str(each.get("version") or "unknown")
    return None


def _run(program: Program, *arguments: str) -> str:
    """Run one command of *program* and return its standard output."""
    command = shutil.which(program.command)
    if command is None:
        raise ProgramMissing(f"{program.title} ({program.command}) is not on PATH.", hint="Install it first.")
    words = f"{program.command} {' '.join(arguments)}"
    try:
        ended = subprocess.run(
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PluginFailed(f"'{words}' did not end in time.", hint="Run it by hand to see why.") from None
    except OSError as error:
        raise PluginFailed(
            f"'{words}' cannot be started: {error}.", hint=f"Check the {program.command} command."
        ) from None
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip().splitlines()
        raise PluginFailed(
            f"'{words}' failed: {said[0] if said else f'exit status {ended.returncode}'}",
            hint=f"{program.title} may be too old for plugins; run it by hand to see more.",
        )
    return ended.stdout.decode(errors="replace")
