"""Which model and effort a piece of work gets, who chose them, and what is known of an agent's models.

The caller's word comes first, then the agent's table in the configuration file, then ``[models]`` there, and where
nobody says anything the agent decides for itself.  An alias stands for one name; it is never resolved twice.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents import foreign, options, program
from holdfast.agents.adapter import Agent, Installation, UnsupportedOption, Work
from holdfast.agents.catalogue import preferences, read_table
from holdfast.agents.environment import agent_environment

#: What ``claude --help`` of 2.1.329 names; another version may know more, so nothing is refused because of it.
_CLAUDE_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


class Source(StrEnum):
    """Who chose a value."""

    CALLER = "caller"
    CONFIG = "config"
    #: Nobody: the agent decides.
    BACKEND_DEFAULT = "backend_default"


class ModelsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[models]`` of the configuration file."""

    #: For every agent that can be told a model and has none in its own table.
    default: str | None = None
    #: The same for the effort.
    effort: str | None = None
    #: Short names: each stands for one model, or for one model per agent.
    aliases: dict[str, str | dict[str, str]] = {}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The model and effort of a piece of work; ``None`` leaves it to the agent."""

    model: str | None = None
    model_source: Source = Source.BACKEND_DEFAULT
    #: The name that stood for ``model``, if it was one.
    alias: str | None = None
    effort: str | None = None
    effort_source: Source = Source.BACKEND_DEFAULT


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its agent lists it."""

    name: str
    title: str | None = None
    efforts: list[str] = []
    default_effort: str | None = None
    #: The agent does not offer it for choosing.
    hidden: bool = False
    #: The model that the agent recommends instead.
    upgrade: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The models of an agent, and where that was learned."""

    models: list[KnownModel]
    source: str

    def find(self, name: str) -> KnownModel | None:
        """The model of exactly that name."""
        return next((model for model in self.models if model.name == name), None)


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A configured model that should not stay as it is."""

    model: str
    #: File and key.
    location: str
    #: ``upgrade``: the agent recommends another one; ``migration``: its configuration names a successor;
    #: ``unknown``: it is not in the agent's list.
    reason: str
    suggested: str | None = None


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A place where a model is named."""

    model: str
    location: str
    #: It can only be meant for this agent, so a name that it does not know is a mistake.
    certain: bool


def choose(agent: Agent, *, model: str | None, effort: str | None) -> Choice:
    """What *agent* works with when a caller asks for *model* and *effort* (``None``: does not ask).

    :raises UnsupportedOption: a value cannot be the name of a model or an effort
    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    table, own = read_table("models", ModelsTable), preferences(agent.name)
    model, model_source = _first(model, own.model, table.default if agent.can_choose_model else None)
    effort, effort_source = _first(effort, own.effort, table.effort if agent.can_choose_effort else None)
    alias, target = None, table.aliases.get(model) if model is not None else None
    if isinstance(target, dict):
        target = target.get(agent.name)
    if target is not None:
        alias, model = model, target
    # Whoever wrote it: it becomes an argument, and must not be read as an option.
    options.check(Work(cwd=Path("/"), model=model, effort=effort), agent)
    return Choice(model=model, model_source=model_source, alias=alias, effort=effort, effort_source=effort_source)


def _first(asked: str | None, own: str | None, default: str | None) -> tuple[str | None, Source]:
    if asked is not None:
        return asked, Source.CALLER
    configured = own if own is not None else default
    return configured, Source.BACKEND_DEFAULT if configured is None else Source.CONFIG


def check_effort(
    agent: Agent, choice: Choice, installation: Installation, environment: Mapping[str, str]
) -> str | None:
    """A warning when it cannot be told whether the chosen model takes the chosen effort.

    :raises UnsupportedOption: the agent's own list says that it does not
    """
    effort = choice.effort
    if effort is None or (agent.name == "claude" and effort in _CLAUDE_EFFORTS):
        return None
    known = known_models(agent, installation, environment)
    if known is None:
        return f"whether {agent.title} takes the effort {effort!r} could not be checked"
    settings = _codex_settings(environment)
    # With a provider of the user's own the list is somebody else's; a profile may name one.
    own_provider = any(key in settings for key in ("model_provider", "profile", "oss_provider"))
    name = choice.model or foreign.text(settings, "model")
    if name is not None or own_provider:
        model = known.find(name) if name is not None else None
        if model is None or not model.efforts or (own_provider and effort not in model.efforts):
            which = f"the model {name!r}" if name is not None else "the agent's default model"
            return f"whether {which} takes the effort {effort!r} is not known"
        if effort not in model.efforts:
            raise UnsupportedOption(
                f"The model {model.name} does not take the effort {effort!r}.",
                hint=f"Use one of {', '.join(model.efforts)}.",
            )
        return None
    takers = [model for model in known.models if effort in model.efforts]
    if known.models and not takers:
        efforts = dict.fromkeys(name for model in known.models for name in model.efforts)
        raise UnsupportedOption(
            f"No model of {agent.title} takes the effort {effort!r}.", hint=f"Use one of {', '.join(efforts)}."
        )
    if len(takers) < len(known.models):
        return f"whether the agent's default model takes the effort {effort!r} is not known"
    return None


def known_models(agent: Agent, installation: Installation, environment: Mapping[str, str]) -> ModelList | None:
    """The models that *agent* itself lists, without asking anybody on the network; ``None`` if it lists none.

    Codex (0.169) keeps the list of the account in ``$CODEX_HOME/models_cache.json`` and prints the one that it was
    shipped with by ``codex debug models --bundled``; both have the same form.  Blocking, bounded to a few seconds.
    """
    if agent.name != "codex":
        return None
    cache = codex_home(environment) / "models_cache.json"
    try:
        found = _models(cache.read_bytes())
    except OSError:
        found = None
    if found:
        return ModelList(models=found, source=str(cache))
    try:
        written = os.stat(installation.command[-1]).st_mtime_ns
    except OSError:
        return None
    chosen = agent_environment(environment, cwd=Path.cwd())
    found = _bundled(tuple(installation.command), written, tuple(sorted(chosen.items())))
    return ModelList(models=list(found), source="codex debug models --bundled") if found else None


@lru_cache(maxsize=8)
def _bundled(
    command: tuple[str, ...], written: int, environment: tuple[tuple[str, str], ...]
) -> tuple[KnownModel, ...]:
    # Part of the program, so it is asked once for each program (told by its time of modification).
    answer = program.ask([*command, "debug", "models", "--bundled"], dict(environment))
    return tuple(_models(answer.stdout.encode()) or ()) if answer.exit_code == 0 else ()


def _models(document: bytes) -> list[KnownModel] | None:
    whole = foreign.parse(document)
    if whole is None:
        return None
    found: list[KnownModel] = []
    for entry in foreign.members(whole, "models"):
        name = foreign.text(entry, "slug")
        if name is None:
            continue
        levels = [foreign.text(level, "effort") for level in foreign.members(entry, "supported_reasoning_levels")]
        found.append(
            KnownModel(
                name=name,
                title=foreign.text(entry, "display_name"),
                efforts=[level for level in levels if level is not None],
                default_effort=foreign.text(entry, "default_reasoning_level"),
                hidden=foreign.text(entry, "visibility") == "hide",
                upgrade=foreign.text(foreign.member(entry, "upgrade"), "model"),
            )
        )
    return found


def codex_home(environment: Mapping[str, str]) -> Path:
    """Where Codex keeps its things for somebody with this *environment*."""
    home = environment.get("CODEX_HOME")
    return Path(home) if home else Path(environment.get("HOME") or Path.home()) / ".codex"


def references(agent: Agent, environment: Mapping[str, str]) -> list[Reference]:
    """Every place of the configuration where a model for *agent* is named.

    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    table, own = read_table("models", ModelsTable), preferences(agent.name)
    found: list[Reference] = []

    def note(model: str | None, location: str, *, certain: bool) -> None:
        if model is not None and model not in table.aliases:
            found.append(Reference(model=model, location=location, certain=certain))

    note(own.model, f"config.toml: agents.{agent.name}.model", certain=True)
    if own.model is None and agent.can_choose_model:
        note(table.default, "config.toml: models.default", certain=False)
    for name, target in table.aliases.items():
        if isinstance(target, str):
            note(target, f"config.toml: models.aliases.{name}", certain=False)
        else:
            note(target.get(agent.name), f"config.toml: models.aliases.{name}.{agent.name}", certain=True)
    if agent.name == "codex":
        settings = _codex_settings(environment)
        # With a provider of the user's own, the names are that provider's.
        note(foreign.text(settings, "model"), _CODEX_CONFIG + "model", certain="model_provider" not in settings)
    return found


_CODEX_CONFIG: Final = "$CODEX_HOME/config.toml: "


def hits(agent: Agent, known: ModelList | None, environment: Mapping[str, str]) -> list[Hit]:
    """The places of :func:`references` that need a look, judged by the agent's own list and configuration."""
    moved: foreign.Payload = {}
    if agent.name == "codex":
        moved = foreign.member(foreign.member(_codex_settings(environment), "notice"), "model_migrations")
    found: list[Hit] = []
    for reference in references(agent, environment):
        model = known.find(reference.model) if known is not None else None
        successor = moved.get(reference.model)
        if isinstance(successor, str):
            reason, suggested = "migration", successor
        elif model is not None and model.upgrade is not None:
            reason, suggested = "upgrade", model.upgrade
        elif model is None and known is not None and reference.certain:
            reason, suggested = "unknown", None
        else:
            continue
        found.append(Hit(model=reference.model, location=reference.location, reason=reason, suggested=suggested))
    return found


def _codex_settings(environment: Mapping[str, str]) -> foreign.Payload:
    try:
        return tomllib.loads((codex_home(environment) / "config.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        # Codex's own file: Codex says what is wrong with it.
        return {}
