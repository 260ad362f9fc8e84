"""``holdfast host``: the host, the process that keeps processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli import byte_size, duration, host_access, host_processes, table, terminal

if TYPE_CHECKING:
    from holdfast.host.overview import Overview


@click.group()
def host() -> None:
    """Look at the host, the process that keeps processes and their logs; and at what it keeps."""


for _command in (host_processes.list_, host_processes.logs, host_processes.stop, host_processes.forget):
    host.add_command(_command)


@host.command()
@host_access.options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line; sizes in bytes, times in seconds.")
def status(*, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Show what a running host keeps and needs; none is started for that.

    The exit status is 0, also when no host runs for the state directory, and 127 when the one at URL does not answer.
    """
    found = host_access.ask_if_running(url, token_file, lambda client: client.overview())
    if found is None:
        terminal.write_line('{"running": false}' if as_json else host_access.NOT_RUNNING)
        return 0
    if as_json:
        import msgspec

        terminal.write([msgspec.json.encode({"running": True, **msgspec.to_builtins(found)}) + b"\n"])
    else:
        terminal.write_line(table.pairs(_rows(found)))
    return 0


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
        ("memory", f"server {byte_size.words(found.memory.server)}, keeper {byte_size.words(found.memory.keeper)}"),
        ("disk", f"logs {byte_size.words(found.disk.logs)}, free {byte_size.words(found.disk.free)}"),
        ("endings", endings(found)),
        ("retained", f"{byte_size.words(found.retention.kept)} of {byte_size.words(found.retention.budget)}"),
    ]


def endings(found: Overview) -> str:
    """How the host ends everything of a process."""
    if found.ending.method == "cgroup":
        return "by a cgroup for each process, and by its tree"
    return "by the tree of a process" + (f" ({found.ending.reason})" if found.ending.reason else "")
