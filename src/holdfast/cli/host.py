"""``holdfast host``: the host, the process that keeps processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli import duration, table, terminal
from holdfast.directories import state_directory

if TYPE_CHECKING:
    from holdfast.host.overview import Overview

#: Seconds for a host to answer.
_PATIENCE: Final = 5.0
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@click.group()
def host() -> None:
    """Look at the host, the process that keeps processes and their logs."""


@host.command()
@click.option("--url", metavar="URL", help="unix://PATH or ws://IP:PORT (default: the host of the state directory).")
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The capability token of a ws:// host that asks for one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line; sizes in bytes, times in seconds.")
def status(*, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Show what a running host keeps and needs; none is started for that.

    The exit status is 0, also when no host runs for the state directory, and 127 when the one at URL does not answer.
    """
    import asyncio

    from holdfast.host.address import host_url
    from holdfast.host.port import HostUnavailable

    token = None if token_file is None else token_file.read_text().strip()
    try:
        found = asyncio.run(_ask(url or host_url(state_directory() / "host"), token))
    except HostUnavailable:
        if url is not None:
            raise
        terminal.write_line('{"running": false}' if as_json else "No host is running; a task that needs one starts it.")
        return 0
    if as_json:
        import msgspec

        terminal.write([msgspec.json.encode({"running": True, **msgspec.to_builtins(found)}) + b"\n"])
    else:
        terminal.write_line(table.pairs(_rows(found)))
    return 0


async def _ask(url: str, token: str | None) -> Overview:
    from holdfast.host.client import HostClient

    client = await HostClient.connect(url, token=token, reconnect_for=_PATIENCE)
    try:
        return await client.overview()
    finally:
        await client.aclose()


def _rows(found: Overview) -> list[tuple[str, str]]:
    keeper = "no keeper" if found.keeper_pid is None else f"keeper {found.keeper_pid}"
    restarted = f", its server for {duration.words(found.server_uptime)}" * (found.uptime - found.server_uptime > 1)
    counts = ", ".join(f"{count} {state}" for state, count in found.processes.items() if count)
    return [
        ("host", f"running, {keeper}, server {found.server_pid}, version {found.version}"),
        ("up", f"for {duration.words(found.uptime)}{restarted}"),
        ("directory", found.state_directory),
        ("processes", counts or "none"),
        ("clients", f"{found.connections} connected, {found.sessions} sessions"),
        ("memory", f"server {size(found.memory.server)}, keeper {size(found.memory.keeper)}"),
        ("disk", f"logs {size(found.disk.logs)}, free {size(found.disk.free)}"),
        ("endings", endings(found)),
        ("retained", f"{size(found.retention.kept)} of {size(found.retention.budget)}"),
    ]


def endings(found: Overview) -> str:
    """How the host ends everything of a process."""
    if found.ending.method == "cgroup":
        return "by a cgroup for each process, and by its tree"
    return "by the tree of a process" + (f" ({found.ending.reason})" if found.ending.reason else "")


def size(count: int) -> str:
    """A number of bytes as people read it."""
    amount = float(count)
    for unit in _UNITS[:-1]:
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} {_UNITS[-1]}"
