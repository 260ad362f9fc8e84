"""``holdfast companion``: the commands that Claude Code's Codex plugin calls."""

from __future__ import annotations

import click


@click.command(
    "companion",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
    short_help="Stand in for the companion of Claude Code's Codex plugin.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def companion(arguments: tuple[str, ...]) -> int:
    """Stand in for the companion of Claude Code's Codex plugin; its commands and their options are its own."""
    from holdfast.companion.main import run

    return run(arguments)
