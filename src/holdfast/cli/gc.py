"""``holdfast gc``: delete what nobody needs any more."""

from __future__ import annotations

import click

from holdfast.cli import byte_size, duration, table, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.tasks.collected import Collected, CollectionRequest

#: What is shown of a list of ids.
_SHOWN = 5


@click.command()
@click.option(
    "--older-than",
    metavar="DURATION",
    default="30d",
    callback=duration.option,
    help="Only tasks that finished so long ago; none: no task, only what belongs to none.  [default: 30d]",
)
@click.option("--keep", metavar="N", type=click.IntRange(0), default=0, help="But not the N newest, however old.")
@click.option("--dry-run", is_flag=True, help="Delete nothing; say what would be deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted as JSON on one line; sizes in bytes.")
def gc(*, older_than: float, keep: int, dry_run: bool, as_json: bool) -> int:
    """Delete finished tasks, with their results, files and logs, and whatever is left of tasks that are gone.

    A task that is not finished is never deleted, and neither is what a task published with --output-file.
    """
    request = CollectionRequest(older_than_s=duration.limit(older_than), keep=keep, dry_run=dry_run)
    with Daemon() as daemon:
        collected = daemon.call(lambda client: client.collect(request))
    if as_json:
        import msgspec

        terminal.write([msgspec.json.encode({**msgspec.to_builtins(collected), "bytes": collected.bytes}) + b"\n"])
        return 0
    terminal.write_line(table.pairs(_rows(collected)))
    if dry_run:
        terminal.tell("Nothing was deleted; leave out --dry-run for that.")
    return 0


def _rows(collected: Collected) -> list[tuple[str, str]]:
    rows = [
        ("tasks", _some(collected.tasks)),
        ("processes", f"{collected.processes}, {byte_size.words(collected.log_bytes)} of logs"),
        ("files", byte_size.words(collected.file_bytes)),
        ("would free" if collected.dry_run else "freed", byte_size.words(collected.bytes)),
    ]
    orphans = collected.orphaned_processes, collected.orphaned_directories
    if any(orphans):
        rows.insert(2, ("of no task", "{} processes, {} directories".format(*orphans)))
    if collected.still_open:
        rows.append(("left, still open", _some(collected.still_open)))
    if collected.still_running:
        rows.append(("left, of no task but running", _some(collected.still_running)))
    if collected.worktrees_kept:
        rows.append(("left, work in worktrees", _some(collected.worktrees_kept)))
    return rows


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > _SHOWN else "")
