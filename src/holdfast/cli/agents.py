"""``holdfast agents``: who can be given work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import click
import msgspec

from holdfast.agents.adapter import Agent, AgentMissing, Installation, Probe
from holdfast.agents.catalogue import known_agents
from holdfast.cli import table, terminal


class Row(msgspec.Struct, kw_only=True):
    """One agent as this command shows it."""

    name: str
    title: str
    installed: bool
    command: list[str] | None = None
    can_resume: bool
    #: With ``--check`` only.
    version: str | None = None
    login: str | None = None
    detail: str | None = None
    hint: str | None = None


@click.command()
@click.option(
    "--check", is_flag=True, help="Also ask each installed agent for its version and whether it is logged in."
)
@click.option("--json", "as_json", is_flag=True, help='Print {"agents": [...]} on one line.')
def agents(*, check: bool, as_json: bool) -> int:
    """List the agents that work can be given to, and where they are installed.

    No model is asked and nothing is spent, with --check either.
    """
    # Side by side: each probe starts a program and may take a second.
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(partial(_look, check=check), known_agents()))
    if as_json:
        terminal.write([msgspec.json.encode({"agents": rows}) + b"\n"])
    else:
        header = ["AGENT", "NAME", "INSTALLED", *(["VERSION", "LOGIN"] if check else []), "WHERE"]
        terminal.write_line(table.render(header, list(_cells(rows, check=check))))
    return 0


def _look(agent: Agent, *, check: bool) -> Row:
    row = Row(name=agent.name, title=agent.title, installed=False, can_resume=agent.can_resume)
    try:
        installation: Installation = agent.find(os.environ)
    except AgentMissing as error:
        row.detail, row.hint = error.message, error.hint
        return row
    row.installed, row.command = True, installation.command
    if check:
        probe: Probe = agent.probe(installation, os.environ)
        row.version, row.login, row.detail, row.hint = probe.version, probe.login, probe.detail, probe.hint
    return row


def _cells(rows: Iterable[Row], *, check: bool) -> Iterable[list[str]]:
    for row in rows:
        where = row.hint or row.detail or "" if row.command is None else shlex.join(row.command)
        probed = [row.version or "", row.login or ""] if check else []
        yield [row.name, row.title, "yes" if row.installed else "no", *probed, where]
