"""``holdfast fanout``: many tasks from one specification."""

from __future__ import annotations

import sys

import click
import msgspec

from holdfast.api.fanout import Fanout, LaneReceipt
from holdfast.cli import duration, table, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.cli.interrupts import Interrupts
from holdfast.tasks.fanout import InvalidSpecification, parse
from holdfast.tasks.result import worst_exit_code

#: Of a lane that changed what is not its own, whatever else became of it.
_TRESPASS_EXIT = 1


@click.command()
@click.argument("specification", metavar="SPEC.json|-")
@click.option(
    "--parallel", metavar="N", type=click.IntRange(min=1), help="At most so many lanes at once, whatever SPEC says."
)
@click.option("--allow-overlap", is_flag=True, help="Let lanes that own the same files work one after the other.")
@click.option("--fresh", is_flag=True, help="Do every lane anew, whatever was done before.")
@click.option("--json", "as_json", is_flag=True, help="Print one receipt a line as lanes end, then a summary.")
@click.option("--quiet", is_flag=True, help="Nothing on standard error but failures.")
def fanout(
    *, specification: str, parallel: int | None, allow_overlap: bool, fresh: bool, as_json: bool, quiet: bool
) -> int:
    """Do the many pieces of work that SPEC describes, several at once, and print how each ended.

    SPEC is a JSON object with "lanes", each of which is one task, and "defaults" for all of them; '-' is standard
    input.  It is checked whole before anything is started.  Lanes that could change the same files are refused, or work
    one after the other.

    Running the same SPEC again does no lane twice: it waits for those that are at work and starts what is missing.

    The exit status is that of the lane that ended worst.  Ctrl-C ends all of them and waits for their results; a second
    Ctrl-C leaves at once.
    """
    try:
        return _carry_out(
            specification, parallel=parallel, allow_overlap=allow_overlap, fresh=fresh, as_json=as_json, quiet=quiet
        )
    except InvalidSpecification as error:
        if as_json or len(error.problems) == 1:
            raise
        for problem in error.problems:
            terminal.tell(f"error: {terminal.printable(problem)}")
        terminal.tell(f"hint: {error.hint}")
        return error.exit_code


def _carry_out(
    specification: str, *, parallel: int | None, allow_overlap: bool, fresh: bool, as_json: bool, quiet: bool
) -> int:
    fan = parse(_read(specification))
    receipts: list[LaneReceipt] = []
    with Daemon() as daemon, Interrupts() as interrupts:
        work = Fanout(
            daemon,
            fan,
            parallel=parallel,
            fresh=fresh,
            allow_overlap=allow_overlap,
            interruptible=interrupts.allowed,
        )
        for notice in work.prepare():
            if not quiet:
                terminal.tell(f"notice: {terminal.printable(notice)}")
        while True:
            try:
                receipt = work.next()
            except KeyboardInterrupt:
                if interrupts.count > 1:
                    terminal.tell(f"Left.  Being ended: {', '.join(work.running.values()) or 'nothing'}")
                    return terminal.INTERRUPTED_EXIT
                terminal.tell("Cancelling every lane; press Ctrl-C again to leave at once.")
                work.cancel()
                continue
            if receipt is None:
                break
            receipts.append(receipt)
            if as_json:
                terminal.write([msgspec.json.encode(receipt) + b"\n"], hint=terminal.STORED)
            elif not quiet or not receipt.ok:
                terminal.tell(_line(receipt))
    exit_code = worst_exit_code(_exit_code(receipt) for receipt in receipts)
    if as_json:
        summary = {"lanes": len(receipts), "ok": sum(receipt.ok for receipt in receipts), "exit_code": exit_code}
        terminal.write([msgspec.json.encode({"summary": summary}) + b"\n"], hint=terminal.STORED)
    else:
        order = {lane.name: position for position, lane in enumerate(fan.lanes)}
        receipts.sort(key=lambda receipt: order[receipt.lane])
        terminal.write_line(_table(receipts), hint=terminal.STORED)
    return exit_code


def _read(specification: str) -> bytes:
    if specification == "-":
        return sys.stdin.buffer.read()
    try:
        with open(specification, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(
            f"The specification {specification!r} cannot be read: {error.strerror}.", hint="Check its path."
        ) from error


def _exit_code(receipt: LaneReceipt) -> int:
    return receipt.exit_code or (_TRESPASS_EXIT if receipt.trespasses else 0)


def _line(receipt: LaneReceipt) -> str:
    words = [receipt.lane, receipt.status]
    if receipt.repeated:
        words.append("(was done before)")
    if receipt.error is not None:
        words.append(f"- {receipt.error}")
    if receipt.trespasses:
        words.append(f"- changed what is not its own: {', '.join(receipt.trespasses)}")
    return terminal.printable(" ".join(words))


def _table(receipts: list[LaneReceipt]) -> str:
    rows = [
        [
            receipt.lane,
            receipt.status if not receipt.trespasses else f"{receipt.status}, trespassed",
            "" if receipt.duration_s is None else duration.words(receipt.duration_s),
            str(len(receipt.files_changed)),
            receipt.task_id or "",
            receipt.worktree or receipt.output_path or "",
        ]
        for receipt in receipts
    ]
    return table.render(["LANE", "STATUS", "TIME", "FILES", "TASK", "WHERE"], rows)
