"""``holdfast exec-server``: host processes for clients of the exec-server protocol."""

from __future__ import annotations

import sys

import click


@click.command(
    "exec-server",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
    short_help="Host processes for clients of the exec-server protocol.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def exec_server(arguments: tuple[str, ...]) -> None:
    """Host processes for clients of the exec-server protocol; its options are those of the host itself."""
    from holdfast.host.entry import main

    sys.exit(main(arguments))
