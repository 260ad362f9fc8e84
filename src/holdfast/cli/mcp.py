"""``holdfast mcp``: the door for agents that speak the Model Context Protocol."""

from __future__ import annotations

import click

from holdfast.cli import duration
from holdfast.cli.error_report import UsageError
from holdfast.errors import Unavailable


class ExtraMissing(Unavailable):
    """An optional part of Holdfast is not installed."""

    code = "extra_missing"


@click.command()
@click.option(
    "--longest-wait",
    metavar="DURATION",
    callback=duration.option,
    help="How long one call waits at most; keep it below the limit of your host.  [default: 50s]",
)
def mcp(*, longest_wait: float | None) -> int:
    """Serve the Model Context Protocol on standard input and output, so that an agent can delegate work to others.

    Needs the extra: pip install 'holdfast[mcp]'.  How to add it to Claude Code and Codex: docs/mcp.md.
    """
    try:
        from holdfast.mcp import server
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "holdfast":
            raise
        raise ExtraMissing(
            f"The MCP server needs the Python package {package!r}, which is not installed.",
            hint="Install it with: pip install 'holdfast[mcp]' (or: pipx inject holdfast mcp)",
        ) from error
    seconds = server.DEFAULT_LONGEST_WAIT if longest_wait is None else duration.limit(longest_wait)
    if seconds is None:
        raise UsageError("A call must end at some time.", hint="Give --longest-wait a length of time.")
    server.build(longest_wait=seconds).run("stdio")
    return 0
