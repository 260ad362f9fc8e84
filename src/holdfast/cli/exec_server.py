"""``holdfast exec-server``: host processes for clients of the exec-server protocol."""

from __future__ import annotations

import sys

import click
from click.shell_completion import CompletionItem

from holdfast.cli import completion_values


class _HostCommand(click.Command):
    """A command whose options the host itself reads, by a parser of its own."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return completion_values.host_options(ctx, self.params[0], incomplete)


@click.command(
    "exec-server",
    cls=_HostCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
    short_help="Host processes for clients of the exec-server protocol.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=completion_values.host_options)
def exec_server(arguments: tuple[str, ...]) -> None:
    """Host processes for clients of the exec-server protocol; its options are those of the host itself."""
    from holdfast.host.entry import main

    sys.exit(main(arguments))
