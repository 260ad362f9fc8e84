"""``holdfast completion``: the script that makes a shell complete commands, options, agents and task ids."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import click
from click.shell_completion import BashComplete, CompletionItem, ShellComplete, get_completion_class

from holdfast.cli import terminal
from holdfast.cli.error_report import UsageError
from holdfast.cli.main import COMPLETE_VARIABLE, cli
from holdfast.errors import HoldfastError

#: What a script tells of the command line.
_WORDS: Final = {"COMP_WORDS", "COMP_CWORD"}


class _BashComplete(BashComplete):
    """Values as bash has to have them: what it is offered it puts into the command line as it stands."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        typed = re.sub(r"([^\w@%+=:,./-])", r"\\\1", item.value)
        # The script takes one level of backslashes away.
        return f"{item.type}," + typed.replace("\\", "\\\\")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> int:
    """Print the completion script of a shell.

    \b
      bash:  eval "$(holdfast completion bash)"                          in ~/.bashrc
      zsh:   eval "$(holdfast completion zsh)"                           in ~/.zshrc
      fish:  holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    return answer(f"{shell}_source")


def answer(instruction: str) -> int:
    """Print what a shell's script asks for: ``SHELL_complete``, or ``SHELL_source`` for the script itself.

    :raises UsageError: it is no such *instruction*, or no script asks
    """
    shell, _, wanted = instruction.partition("_")
    kind = _BashComplete if shell == "bash" else get_completion_class(shell)
    if (
        kind is None
        or wanted not in ("source", "complete")
        or (wanted == "complete" and not os.environ.keys() >= _WORDS)
    ):
        raise UsageError(
            f"{COMPLETE_VARIABLE} is for the completion script of a shell.",
            hint="Unset it; see: holdfast completion --help",
        )
    completer = kind(cli, {}, "holdfast", COMPLETE_VARIABLE)
    terminal.write_line(completer.source() if wanted == "source" else _offers(completer))
    return 0


def _offers(completer: ShellComplete) -> str:
    try:
        return completer.complete()
    except (HoldfastError, ValueError):
        # Completion is a courtesy: the command itself will say what is wrong; a shell that asks wrongly gets nothing.
        return ""
