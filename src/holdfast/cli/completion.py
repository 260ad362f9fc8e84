"""``holdfast completion``: the script that makes a shell complete commands, options, agents and task ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from holdfast.cli import terminal
from holdfast.cli.main import cli


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> int:
    """Print the completion script of a shell.

    \b
      bash:  eval "$(holdfast completion bash)"                          in ~/.bashrc
      zsh:   eval "$(holdfast completion zsh)"                           in ~/.zshrc
      fish:  holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    terminal.write_line(kind(cli, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
    return 0
