"""``holdfast model``: which model an agent gets, which ones it knows, and whether the configured ones should stay."""

from __future__ import annotations

import os

import click
import msgspec

from holdfast.agents.adapter import Agent, AgentMissing
from holdfast.agents.catalogue import find_agent, known_agents
from holdfast.agents.models import Choice, Hit, ModelList, check_effort, choose, hits, known_models, references
from holdfast.cli import completion_values, table, terminal
from holdfast.errors import Unavailable


class Check(msgspec.Struct, kw_only=True):
    """What ``check`` found out about one agent."""

    agent: str
    #: Where its list of models came from; ``None``: it has none that can be read, so unknown names go unnoticed.
    source: str | None
    #: Models that the configuration names.
    referenced: list[str]
    hits: list[Hit]


@click.group()
def model() -> None:
    """Show which model and effort an agent gets, which models it knows, and which configured ones need a look.

    No model is asked and nothing is spent.
    """


@model.command()
@click.argument("agent", shell_complete=completion_values.agents)
@click.option("--model", metavar="NAME", help="As 'run --model' would ask for it; aliases are understood.")
@click.option("--effort", metavar="LEVEL", help="As 'run --effort' would ask for it.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line.")
def resolve(*, agent: str, model: str | None, effort: str | None, as_json: bool) -> int:
    """Show the model and the effort that a task of AGENT would get, and who chose them."""
    found = find_agent(agent)
    choice = choose(found, model=model, effort=effort)
    warning = _doubt(found, choice)
    if as_json:
        _json({"agent": found.name, **msgspec.to_builtins(choice), "warning": warning})
        return 0
    alias = f", by the alias {choice.alias}" if choice.alias is not None else ""
    terminal.write_line(
        table.pairs(
            [
                ("model", f"{choice.model or 'as the agent decides'} ({choice.model_source}{alias})"),
                ("effort", f"{choice.effort or 'as the agent decides'} ({choice.effort_source})"),
            ]
        )
    )
    if warning is not None:
        terminal.tell(f"warning: {terminal.printable(warning)}")
    return 0


@model.command("list")
@click.argument("agent", shell_complete=completion_values.agents)
@click.option("--all", "all_", is_flag=True, help="Those as well that the agent does not offer for choosing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line.")
def list_models(*, agent: str, all_: bool, as_json: bool) -> int:
    """List the models that AGENT itself lists, with their efforts.

    The exit status is 127 where it lists none: nothing is guessed.
    """
    known = _known(find_agent(agent))
    if known is None:
        raise Unavailable(
            f"{agent} gives no list of its models.",
            hint="Give the name as the agent knows it: it is passed on as it is.",
        )
    shown = [entry for entry in known.models if all_ or not entry.hidden]
    if as_json:
        _json({"agent": agent, "source": known.source, "models": shown})
        return 0
    rows = [
        [
            entry.name,
            " ".join(f"{effort}*" if effort == entry.default_effort else effort for effort in entry.efforts),
            entry.upgrade or "",
            entry.title or "",
        ]
        for entry in shown
    ]
    terminal.write_line(table.render(["MODEL", "EFFORTS (* default)", "BETTER", "TITLE"], rows))
    terminal.tell(f"from {terminal.printable(known.source)}")
    return 0


@model.command()
@click.option("--strict", is_flag=True, help="Exit with status 1 if anything needs a look.")
@click.option("--json", "as_json", is_flag=True, help='Print {"hits": [...], "agents": [...]} on one line.')
def check(*, strict: bool, as_json: bool) -> int:
    """Show configured models that their agent does not know, or that it recommends to replace.

    What is looked at: the configuration file, and the model in Codex's own.
    """
    checks = [_check(agent) for agent in known_agents()]
    found = list({(hit.location, hit.model): hit for each in checks for hit in each.hits}.values())
    if as_json:
        _json({"hits": found, "agents": checks})
    elif found:
        rows = [[hit.model, hit.reason, hit.suggested or "", hit.location] for hit in found]
        terminal.write_line(table.render(["MODEL", "WHY", "INSTEAD", "WHERE"], rows))
    else:
        terminal.tell("Every configured model may stay as it is, as far as can be told.")
    if not as_json:
        for each in checks:
            if each.source is None and each.referenced:
                names = ", ".join(each.referenced)
                terminal.tell(f"notice: {each.agent} gives no list of its models, so {names} could not be checked")
    return 1 if strict and found else 0


def _check(agent: Agent) -> Check:
    known = _known(agent)
    return Check(
        agent=agent.name,
        source=None if known is None else known.source,
        referenced=sorted({reference.model for reference in references(agent, os.environ) if reference.certain}),
        hits=hits(agent, known, os.environ),
    )


def _known(agent: Agent) -> ModelList | None:
    try:
        return known_models(agent, agent.find(os.environ), os.environ)
    except AgentMissing:
        return None


def _doubt(agent: Agent, choice: Choice) -> str | None:
    try:
        return check_effort(agent, choice, agent.find(os.environ), os.environ)
    except AgentMissing as missing:
        return f"the agent is not installed: {missing.message}"


def _json(document: object) -> None:
    terminal.write([msgspec.json.encode(document) + b"\n"])
