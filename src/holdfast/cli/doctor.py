"""``holdfast doctor``: what Holdfast needs, what is wrong with it, and what mends that."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec

from holdfast.cli import host as host_command
from holdfast.cli import terminal
from holdfast.daemon.client import DaemonClient
from holdfast.daemon.documents import SOCKET_NAME as DAEMON_SOCKET
from holdfast.directories import socket_path, state_directory
from holdfast.doctor.check import Check, Level, in_own_thread
from holdfast.doctor.reachable import ReachableCheck
from holdfast.doctor.report import CheckResult, Report, apply_fixes, diagnose
from holdfast.doctor.standard import standard_checks
from holdfast.host.address import SOCKET_NAME as HOST_SOCKET
from holdfast.host.client import HostClient
from holdfast.host.port import HostUnavailable

#: Seconds for the daemon or the host to give a sign of life.
_PATIENCE: Final = 5.0

_MARKS: Final = {
    Level.OK: ("green", "ok"),
    Level.INFO: ("dim", "info"),
    Level.WARNING: ("yellow", "warning"),
    Level.ERROR: ("red", "error"),
}


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning too.")
@click.option("--fix", is_flag=True, help="Mend what can be mended safely, and look again.")
@click.option("--verbose", is_flag=True, help="Say what is known about everything, not only about what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on one line.")
def doctor(*, strict: bool, fix: bool, verbose: bool, as_json: bool) -> int:
    """Check everything that Holdfast needs, and say how to repair what is wrong.

    Nothing is changed without --fix, no daemon is started, and no model is asked.  The exit status is 0 when Holdfast
    can be used, 1 when something is broken.
    """
    checks = _checks()
    report = asyncio.run(_examine(checks, fix=fix))
    if as_json:
        terminal.write([msgspec.json.encode(report) + b"\n"])
    else:
        terminal.write_line("\n".join(_lines(report, verbose=verbose)))
    return 1 if not report.ok or (strict and report.level is Level.WARNING) else 0


def _checks() -> list[Check]:
    state = state_directory()
    reachable = [
        ReachableCheck("daemon.reachable", "The daemon", partial(_ask_daemon, state)),
        ReachableCheck("host.reachable", "The host", partial(_ask_host, state / "host")),
    ]
    return standard_checks(state, Path(os.path.abspath(".")), os.environ, reachable)


async def _ask_daemon(state: Path) -> str | None:
    path = socket_path(state, DAEMON_SOCKET, make=False)
    if not _listens(path):
        return None
    answer = await in_own_thread(lambda: DaemonClient(path).status(timeout=_PATIENCE))
    return f"The daemon answers: process {answer.pid}, version {answer.version}."


async def _ask_host(directory: Path) -> str | None:
    path = socket_path(directory, HOST_SOCKET, make=False)
    if not _listens(path):
        return None
    try:
        async with asyncio.timeout(_PATIENCE):
            host = await HostClient.connect(f"unix://{path}", reconnect_for=_PATIENCE)
            try:
                kept = len(await host.list())
                endings = host_command.endings(await host.overview())
            finally:
                await host.aclose()
    except TimeoutError:
        raise HostUnavailable(
            f"The host takes connections, but does not answer within {_PATIENCE:g} s.",
            hint=f"Look at its process, whose number is in {directory / 'lock'}.",
        ) from None
    return f"The host answers and keeps {kept} process{'es' * (kept != 1)}; it ends them {endings}."


def _listens(path: Path) -> bool:
    """Whether somebody has the socket open; who that is and what it answers is another question."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except OSError:
            pass
    return True


async def _examine(checks: list[Check], *, fix: bool) -> Report:
    report = await diagnose(checks)
    return await apply_fixes(checks, report) if fix else report


def _lines(report: Report, *, verbose: bool) -> list[str]:
    style = terminal.Style(sys.stdout)
    width = max((len(result.title) for result in report.results), default=0)
    lines: list[str] = []
    for result in report.results:
        finding = result.finding
        colour, mark = _MARKS[finding.level]
        indent = " " * 9
        lines.append(f"{style(colour, f'{mark:<7}')}  {result.title:<{width}}  {terminal.printable(finding.summary)}")
        if finding.detail and (verbose or finding.level in (Level.WARNING, Level.ERROR)):
            lines += [f"{indent}{style('dim', terminal.printable(line))}" for line in finding.detail.splitlines()]
        if finding.hint and finding.level is not Level.OK:
            lines.append(f"{indent}{style('bold', 'hint:')} {terminal.printable(finding.hint)}")
        lines += [f"{indent}{line}" for line in _mending(result)]
    return [*lines, "", _conclusion(report, style)]


def _mending(result: CheckResult) -> list[str]:
    if result.fix_error is not None:
        return [f"Mending failed: {terminal.printable(result.fix_error)}"]
    if result.fix_tried:
        return ["This was mended." if result.finding.level in (Level.OK, Level.INFO) else "Mending did not help."]
    return ["This can be mended: holdfast doctor --fix"] if result.finding.fixable else []


def _conclusion(report: Report, style: terminal.Style) -> str:
    counts = {level: sum(result.finding.level is level for result in report.results) for level in Level}
    warnings = f"{counts[Level.WARNING]} warning{'s' * (counts[Level.WARNING] != 1)}"
    if counts[Level.ERROR]:
        errors = f"{counts[Level.ERROR]} error{'s' * (counts[Level.ERROR] != 1)}"
        return style("red", f"{errors}, {warnings}.")
    return f"Holdfast can be used ({warnings})." if counts[Level.WARNING] else "Everything is in order."
