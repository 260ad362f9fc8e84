"""The entry point: finds the command, runs it, and turns whatever went wrong into a sentence and an exit status.

Commands are imported when they are used.  ``holdfast --help`` imports none of them, and waiting for a task does not
import what only the daemon needs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

import holdfast
from holdfast.cli import error_report, terminal
from holdfast.errors import HoldfastError

#: By it a shell's completion script asks; its value says what for.
COMPLETE_VARIABLE: Final = "_HOLDFAST_COMPLETE"

#: Command, what it does in a few words.  The module has the command's name, and so has the click command in it.
COMMANDS: Final[dict[str, str]] = {
    "run": "Give an agent a piece of work, wait, and print its answer.",
    "start": "Give an agent a piece of work and print the task's id at once.",
    "review": "Have a change reviewed, by any agent, with findings in one form.",
    "fanout": "Give agents the many pieces of work of one specification, and print how each ended.",
    "wait": "Wait for tasks to finish, and print how they ended.",
    "result": "Print the answer or the result document of a finished task.",
    "list": "List tasks, newest first.",
    "status": "Show one task, or the daemon itself.",
    "logs": "Show what a task did and what its process wrote.",
    "cancel": "End tasks, whole process trees included.",
    "gc": "Delete finished tasks that nobody needs any more.",
    "resume": "Go on with the thread of a task.",
    "fork": "Begin with a copy of the thread of a task.",
    "steer": "Say something to an agent while it works.",
    "approve": "Answer what an agent asks to be allowed.",
    "usage": "Show what tasks used, and what is left of an account's allowance.",
    "transfer": "Make a Codex thread of a conversation of Claude Code.",
    "setup": "Say what remains to be done before the first task.",
    "agents": "List the agents that can be run, and what is installed.",
    "model": "Show which model an agent gets, and which ones it knows.",
    "doctor": "Check everything that Holdfast needs, and say how to repair it.",
    "up": "Start the daemon (commands that need it do so by themselves).",
    "down": "Stop the daemon; running tasks go on without it.",
    "companion": "Stand in for the companion of Claude Code's Codex plugin.",
    "mcp": "Serve other agents, over the Model Context Protocol, so that they can delegate work.",
    "plugin": "Install the plugins for Claude Code and Codex.",
    "host": "Look at the host, and at the processes that it keeps.",
    "service": "Print a unit for systemd or launchd, or install it.",
    "completion": "Print the completion script of a shell.",
    "schema": "Print the JSON Schema of a result document.",
    "version": "Print the version.",
    "exec-server": "Run a host: keep processes and their logs for clients.",
}


def _show_help(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        terminal.write_line(context.get_help())
        context.exit()


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        terminal.write_line(f"holdfast {holdfast.__version__}")
        context.exit()


def _give_help(command: click.Command) -> None:
    """Let *command*, and those in it, print their help as everything is printed: click's own fails with a traceback.

    What a group says of those in it are whole sentences.
    """
    if command.add_help_option:
        command.add_help_option = False
        command.params.append(
            click.Option(
                ["--help"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_help,
                help="Show this message and exit.",
            )
        )
    if isinstance(command, click.Group):
        for nested in command.commands.values():
            # Click would cut it after a few words.
            nested.short_help = nested.short_help or _first_sentence(nested.help or "")
            _give_help(nested)


def _first_sentence(text: str) -> str:
    sentence, end, _ = " ".join(text.split("\n\n")[0].split()).partition(". ")
    return sentence + end.strip()


class LazyGroup(click.Group):
    """A group whose commands are modules of this package, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"holdfast.cli.{name}"), name)
        assert isinstance(command, click.Command)
        _give_help(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Run coding agents so that they can be trusted: no lost output, no false status, no vanished result.

    \b
      holdfast run codex "Review the last commit"
      holdfast run claude --write "Fix the failing test"
      git diff | holdfast run codex --prompt-file -
    """


_give_help(cli)


def _context(arguments: Sequence[str]) -> click.Context:
    """That of the command which *arguments* name."""
    context = click.Context(cli, info_name="holdfast")
    for word in arguments:
        command = context.command.get_command(context, word) if isinstance(context.command, click.Group) else None
        if command is None:
            break
        context = click.Context(command, parent=context, info_name=word)
    return context


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        return _execute(arguments)
    except terminal.OutputFailed as error:
        # Not as JSON: that would go where nothing can be written.
        return error_report.report(error, as_json=False)


def _execute(arguments: Sequence[str]) -> int:
    as_json = error_report.wants_json(arguments)
    try:
        context = cli.make_context("holdfast", list(arguments))
        with context:
            status = cli.invoke(context)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as help_:
        terminal.tell(help_.format_message())
        return 2
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is None:
            # An option without its value is all that click says then.
            error.ctx = _context(arguments)
        return error_report.report(error_report.from_click(error, arguments, list(COMMANDS)), as_json=as_json)
    except terminal.OutputFailed:
        raise
    except HoldfastError as error:
        return error_report.report(error, as_json=as_json)


def _complete(instruction: str) -> int:
    from holdfast.cli.completion import answer

    try:
        return answer(instruction)
    except HoldfastError as error:
        return error_report.report(error, as_json=False)


def main() -> NoReturn:
    """Run the command line of this process and leave."""
    instruction = os.environ.get(COMPLETE_VARIABLE)
    try:
        status = execute(sys.argv[1:]) if instruction is None else _complete(instruction)
    except terminal.PipeClosed:
        status = terminal.PIPE_CLOSED_EXIT
    except KeyboardInterrupt:
        terminal.tell("")
        status = terminal.INTERRUPTED_EXIT
    sys.exit(status)
