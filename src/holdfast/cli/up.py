"""``holdfast up``: the daemon."""

from __future__ import annotations

import click

from holdfast.cli import terminal
from holdfast.cli.error_report import UsageError
from holdfast.directories import state_directory


@click.command()
@click.option("--foreground", is_flag=True, help="Be the daemon, until SIGTERM or Ctrl-C: for a service manager.")
@click.option("--detach", is_flag=True, help="Start it in the background and return when it answers (the default).")
@click.option(
    "--idle-exit", metavar="SECONDS", type=click.FloatRange(min=0.05), help="End after this long without any work."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What the daemon says of its work: lines for people, or JSON objects.",
)
@click.option("--ready-fd", type=click.IntRange(min=0), hidden=True)
def up(*, foreground: bool, detach: bool, idle_exit: float | None, log_format: str, ready_fd: int | None) -> int:
    """Start the daemon, which needs no root, no port and no configuration.

    Commands that need a daemon start one by themselves; such a one ends when it has had nothing to do for half an
    hour.  One that is started here stays until 'holdfast down'.
    """
    if foreground and detach:
        raise UsageError("--foreground and --detach contradict each other.", hint="Leave one of them out.")
    directory = state_directory()
    if foreground:
        import logging

        from holdfast.daemon.main import run_foreground
        from holdfast.host.log_lines import configure

        configure(level=logging.INFO, log_format=log_format)
        run_foreground(directory, ready_fd=ready_fd, idle_exit=idle_exit)
        return 0
    from holdfast.daemon.lifecycle import connect_existing, start_detached

    client = connect_existing(directory)
    running = client is not None
    if client is None:
        client = start_detached(directory, idle_exit=idle_exit)
    answer = client.status()
    word = "runs already" if running else "runs"
    terminal.write_line(f"The daemon {word}: process {answer.pid}, {answer.state_directory}")
    return 0
