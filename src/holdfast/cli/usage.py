"""``holdfast usage``: what tasks used, and what is left of an account's allowance."""

from __future__ import annotations

import os
import time

import click
import msgspec

from holdfast.cli import completion_values, duration, table, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.drivers.app_server.calls import LimitWindow
from holdfast.tasks.account_report import Allowance

_WEEK = 7 * 86_400.0


@click.command()
@click.argument("agents", metavar="[AGENT]...", nargs=-1, shell_complete=completion_values.agents)
@click.option("--since", metavar="DURATION", callback=duration.option, help="Count tasks finished within it.  [7d]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on one line.")
def usage(*, agents: tuple[str, ...], since: float | None, as_json: bool) -> int:
    """Show what finished tasks used, by agent; for each AGENT that is named, ask it for its account and limits.

    Only Codex can be asked; it asks OpenAI, and no model.
    """
    seconds = _WEEK if since is None else duration.limit(since) or _WEEK
    with Daemon() as daemon:
        report = daemon.call(lambda client: client.usage(seconds, list(agents), os.environ))
    if as_json:
        terminal.write([msgspec.json.encode(report) + b"\n"])
        return 0
    rows = [
        [
            used.agent,
            str(used.tasks),
            f"{used.input_tokens:,}",
            f"{used.cached_input_tokens:,}",
            f"{used.output_tokens:,}",
            f"{used.cost_usd:.2f}" if used.cost_usd else "",
            str(used.unknown or ""),
        ]
        for used in report.consumption
    ]
    terminal.write_line(
        table.render(["AGENT", "TASKS", "INPUT TOKENS", "OF IT CACHED", "OUTPUT TOKENS", "USD", "NOT TOLD"], rows)
        if rows
        else f"No task was finished within {duration.words(seconds)}."
    )
    for agent, allowance in report.allowances.items():
        terminal.write_line(f"{agent}: {terminal.printable(_words(allowance))}")
    return 0


def _words(allowance: Allowance) -> str:
    parts: list[str] = []
    if allowance.account is not None:
        who = [allowance.account.kind, allowance.account.email, allowance.account.plan]
        parts.append(" ".join(word for word in who if word) or "not logged in")
    if allowance.limits is not None:
        parts += [_window(window) for window in (allowance.limits.primary, allowance.limits.secondary) if window]
    if allowance.reason is not None:
        parts.append(f"limits unknown: {allowance.reason}")
    return "; ".join(parts)


def _window(window: LimitWindow) -> str:
    span = f" of {duration.words(window.minutes * 60.0)}" if window.minutes else ""
    resets = ""
    if window.resets_at is not None:
        resets = time.strftime(", resets %Y-%m-%d %H:%M", time.localtime(window.resets_at))
    return f"{window.used_percent} %{span} used{resets}"
