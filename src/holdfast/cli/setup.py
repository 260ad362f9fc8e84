"""``holdfast setup``: from a fresh installation to the first task, step by step."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import click
import msgspec

from holdfast.agents.adapter import Agent, AgentMissing, Login
from holdfast.agents.catalogue import known_agents
from holdfast.cli import terminal
from holdfast.cli.daemon_access import Daemon


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """How far one agent is."""

    name: str
    installed: bool
    version: str | None = None
    login: str | None = None
    #: What to do next about it; ``None`` when it can be used.
    next_step: str | None = None


class SetupReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``holdfast setup --json`` prints."""

    #: At least one agent beside the rehearsal can be given work, as far as can be told without asking a model.
    ready: bool
    daemon: str
    agents: list[AgentState]
    next_steps: list[str]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on one line.")
def setup(*, as_json: bool) -> int:
    """Start the daemon, look at every agent, and say what remains to be done before the first task.

    Nothing is installed and no model is asked.  The exit status is 0 when an agent can be given work, else 1.
    """
    with Daemon() as daemon:
        status = daemon.call(lambda client: client.status())
    with ThreadPoolExecutor() as pool:
        agents = list(pool.map(_look, known_agents()))
    usable = [agent.name for agent in agents if agent.next_step is None and agent.name != "rehearsal"]
    steps = [f"{agent.name}: {agent.next_step}" for agent in agents if agent.next_step is not None]
    if usable:
        steps.append(f'Give it work: holdfast run {usable[0]} "Explain what this repository does"')
    else:
        steps.append("Try it without any agent: holdfast run rehearsal 'rehearse: read and answer'")
    steps.append("Let Claude Code or Codex delegate: holdfast plugin install")
    report = SetupReport(
        ready=bool(usable),
        daemon=f"process {status.pid}, version {status.version}",
        agents=agents,
        next_steps=steps,
    )
    if as_json:
        terminal.write([msgspec.json.encode(report) + b"\n"])
    else:
        terminal.write_line(f"The daemon runs: {report.daemon}.")
        for agent in agents:
            state = f"{agent.version or 'installed'}, login {agent.login}" if agent.installed else "not installed"
            terminal.write_line(f"{agent.name:<12} {terminal.printable(state)}")
        terminal.write_line("\nNext:")
        for step in steps:
            terminal.write_line(f"  - {terminal.printable(step)}")
    return 0 if report.ready else 1


def _look(agent: Agent) -> AgentState:
    try:
        installation = agent.find(os.environ)
    except AgentMissing as error:
        return AgentState(name=agent.name, installed=False, next_step=error.hint)
    probe = agent.probe(installation, os.environ)
    unusable = probe.version is None or probe.login is Login.NO
    return AgentState(
        name=agent.name,
        installed=True,
        version=probe.version,
        login=probe.login.value,
        next_step=(probe.hint or probe.detail) if unusable else None,
    )
