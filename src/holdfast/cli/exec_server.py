"""``holdfast exec-server``: host processes for clients of the exec-server protocol."""

from __future__ import annotations

import re
import sys

import click
from click.shell_completion import CompletionItem


class _HostCommand(click.Command):
    """A command whose options the host itself reads, by a parser of its own."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from holdfast.host.options import build_parser

        options = re.findall(r"\[(--[a-z0-9-]+)", build_parser().format_usage())
        return [CompletionItem(option) for option in options if option.startswith(incomplete)]


@click.command(
    "exec-server",
    cls=_HostCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
    short_help="Host processes for clients of the exec-server protocol.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def exec_server(arguments: tuple[str, ...]) -> None:
    """Host processes for clients of the exec-server protocol; its options are those of the host itself."""
    from holdfast.host.entry import main

    sys.exit(main(arguments))
