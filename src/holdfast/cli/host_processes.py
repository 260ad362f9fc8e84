"""``holdfast host list``, ``logs``, ``stop``, ``forget``: the processes that a host keeps, whoever started them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from holdfast.cli import byte_size, completion_values, duration, host_access, table, terminal
from holdfast.cli.error_report import UsageError

if TYPE_CHECKING:
    from holdfast.host.client import HostClient
    from holdfast.host.port import ProcessStatus, Termination

_ID: Final = click.argument("process_id", metavar="ID", shell_complete=completion_values.processes)
#: Seconds that a reader waits for a host which went away.
_LONG_PATIENCE: Final = 20.0
#: Seconds between SIGTERM and SIGKILL.
_GRACE: Final = 2.0


@click.command("list")
@host_access.options
@click.option("--json", "as_json", is_flag=True, help='Print {"running": ..., "processes": [...]} on one line.')
def list_(*, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """List the processes that the host keeps, ended ones included.

    Those are the ones of its own namespace, as of tasks.  What a client started for its session only (a Codex its
    commands) nobody else can ask about; 'holdfast host status' counts it.
    """
    found = host_access.ask_if_running(url, token_file, lambda client: client.list())
    if as_json:
        _print_json({"running": found is not None, "processes": found or []})
    elif found is None:
        terminal.tell(host_access.NOT_RUNNING)
    elif not found:
        status_command = host_access.command("status", url=url, token_file=token_file)
        terminal.tell(f"The host keeps no process of its own. Those of clients' sessions: {status_command}")
    else:
        rows = [
            [
                status.process_id,
                "" if status.pid is None else str(status.pid),
                _state(status),
                "" if status.age is None else duration.words(status.age),
                status.command,
            ]
            for status in found
        ]
        terminal.write_line(table.render(["ID", "PID", "STATE", "AGE", "COMMAND"], rows))
    return 0


@click.command()
@_ID
@click.option("-f", "--follow", is_flag=True, help="Go on until its last stream is closed.")
@host_access.options
@click.option("--json", "as_json", is_flag=True, help="The records of its log, one JSON object a line.")
def logs(*, process_id: str, follow: bool, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Print what a process wrote, byte for byte: its stdout and terminal to stdout, its stderr to stderr."""
    from holdfast.host.port import Gap

    async def copy(client: HostClient) -> None:
        await _known(client, process_id, url, token_file)
        async for record in client.records(process_id, follow=follow):
            if as_json:
                _print_json({"gap": None, **record.document()})
            elif isinstance(record, Gap):
                terminal.tell(f"notice: records {record.first} to {record.last} are no longer there")
            else:
                terminal.write_record(record.kind, record.data)

    host_access.ask(url, token_file, copy, patience=_LONG_PATIENCE)
    return 0


@click.command()
@_ID
@click.option(
    "--grace",
    metavar="DURATION",
    callback=duration.option,
    help="Between SIGTERM and SIGKILL, 10m at most.  [default: 2s]",
)
@click.option("--now", is_flag=True, help="SIGKILL at once.")
@host_access.options
@click.option("--json", "as_json", is_flag=True, help="Print what was ended and what was not as JSON on one line.")
def stop(
    *, process_id: str, grace: float | None, now: bool, url: str | None, token_file: Path | None, as_json: bool
) -> int:
    """End a process and everything that it left running, and show what that was.

    Its log stays.  The exit status is 1 if something could not be ended.
    """
    from holdfast.host.parameters import GRACE_LIMIT

    if now and grace is not None:
        raise UsageError("--now and --grace contradict each other.", hint="Leave one of them out.")
    seconds = 0.0 if now else _GRACE if grace is None else grace
    if seconds * 1000 > GRACE_LIMIT:
        raise click.UsageError("--grace is 10m at most.")

    async def end(client: HostClient) -> Termination:
        await _known(client, process_id, url, token_file)
        return await client.terminate(process_id, grace=seconds)

    ending = host_access.ask(url, token_file, end)
    if as_json:
        _print_json({"process_id": process_id, **msgspec.to_builtins(ending)})
    else:
        if ending.ended:
            rows = [[str(member.pid), member.command] for member in ending.ended]
            terminal.write_line(table.render(["ENDED", "COMMAND"], rows))
        elif not ending.survivors:
            terminal.write_line("Nothing of it was alive.")
        for member in ending.survivors:
            terminal.tell(f"could not be ended: {member.pid} {terminal.printable(member.command)}")
    return 1 if ending.survivors else 0


@click.command()
@_ID
@click.option("--dry-run", is_flag=True, help="Delete nothing; say how much it would be.")
@host_access.options
@click.option("--json", "as_json", is_flag=True, help="Print how much was deleted as JSON on one line; in bytes.")
def forget(*, process_id: str, dry_run: bool, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Delete the log of a process that has ended, with all its streams; its id is free then."""

    from holdfast.host.port import NotClosed

    async def delete(client: HostClient) -> int:
        await _known(client, process_id, url, token_file)
        try:
            return (await client.forget(process_id, dry_run=dry_run)).bytes
        except NotClosed as error:
            stopping = host_access.command("stop", process_id, url=url, token_file=token_file)
            raise NotClosed(error.message, hint=f"End it first: {stopping}") from error

    freed = host_access.ask(url, token_file, delete)
    if as_json:
        _print_json({"process_id": process_id, "bytes": freed, "dry_run": dry_run})
    else:
        terminal.write_line(f"{byte_size.words(freed)} {'would be freed' if dry_run else 'freed'}")
    return 0


async def _known(client: HostClient, process_id: str, url: str | None, token_file: Path | None) -> None:
    from holdfast.host.port import UnknownProcess

    try:
        found = await client.status(process_id)
    except UnicodeEncodeError:
        # Every id is text.
        found = None
    if found is None:
        hint = f"See: {host_access.command('list', url=url, token_file=token_file)}"
        raise UnknownProcess(f"The host has no process {process_id!r}.", hint=hint)


def _state(status: ProcessStatus) -> str:
    if status.stalled is not None:
        return f"{status.state} (stalled)"
    if status.signal is not None:
        return f"{status.state} (signal {status.signal})"
    return status.state if status.exit_code is None else f"{status.state} ({status.exit_code})"


def _print_json(value: object) -> None:
    terminal.write([msgspec.json.encode(value) + b"\n"])
