"""Which agents there are: those built in, and those that the user's configuration file declares or adjusts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from holdfast.agents import foreign
from holdfast.agents.adapter import Agent, UnknownAgent
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
from holdfast.agents.declared import PLACEHOLDERS, Declaration, DeclaredAgent, placeholders
from holdfast.agents.foreign import Payload
from holdfast.agents.rehearsal import RehearsalAgent
from holdfast.directories import config_file
from holdfast.errors import InvalidRequest

_Table = TypeVar("_Table", bound=msgspec.Struct)

Table = TypeVar("Table", bound=msgspec.Struct)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

#: msgspec ends its messages with the place: "Expected `array`, got `str` - at `$.command`", or "at `key` in `$.x`".
_PLACE = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")


class InvalidConfiguration(InvalidRequest):
    """The configuration file says something that cannot be meant."""

    code = "invalid_configuration"


class Adjustment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[agents.NAME]`` of an agent that is built in."""

    #: The program to run instead of the one found on PATH, and arguments that it always gets first.
    command: list[str] | None = None
    #: Patterns of environment variables that it gets although they look like somebody else's secrets.
    pass_env: list[str] = []
    #: What it gets where a caller does not choose.
    model: str | None = None
    effort: str | None = None
    #: At most so many tasks of it at once.
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """What every table ``[agents.NAME]`` may say, whatever sort of agent it is."""

    model: str | None = None
    effort: str | None = None
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


def _codex(table: Adjustment) -> Agent:
    return CodexAgent(command=table.command or (), pass_env=table.pass_env)


def _claude(table: Adjustment) -> Agent:
    return ClaudeAgent(command=table.command or (), pass_env=table.pass_env)


def _rehearsal(table: Adjustment) -> Agent:
    return RehearsalAgent(pass_env=table.pass_env)


#: The agents that Holdfast knows by itself.  A new one is a line here and a module beside this one.
_BUILT_IN: dict[str, Callable[[Adjustment], Agent]] = {
    "claude": _claude,
    "codex": _codex,
    "rehearsal": _rehearsal,
}


def find_agent(name: str) -> Agent:
    """The agent that users call *name*.

    :raises UnknownAgent: there is none
    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    tables = _tables()
    if name in _BUILT_IN or name in tables:
        return _make(name, tables)
    known = sorted({*_BUILT_IN, *tables})
    raise UnknownAgent(
        f"There is no agent {name!r}.",
        hint=f"Use one of {', '.join(known)}, or declare it as [agents.{name}] in {config_file()}.",
    )


def known_agents() -> list[Agent]:
    """Every agent, by name.

    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    tables = _tables()
    return [_make(name, tables) for name in sorted({*_BUILT_IN, *tables})]


def preferences(name: str) -> Preferences:
    """What the configuration file says about the use of the agent *name*.

    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    return _convert(name, _tables().get(name, {}), Preferences)


def slots_of_agents() -> dict[str, int]:
    """For every agent that has such a bound: at most how many of its tasks work at once.

    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    found = {name: _convert(name, table, Preferences).slots for name, table in _tables().items()}
    return {name: slots for name, slots in found.items() if slots is not None}


def read_table(name: str, kind: type[_Table]) -> _Table:
    """The table ``[name]`` of the configuration file, empty where there is none.

    :raises InvalidConfiguration: the configuration file cannot be understood
    """
    path = config_file()
    table = _read(path).get(name, {})
    if not foreign.is_object(table):
        raise _invalid(path, name, "is not a table", f"Write it as a table [{name}].")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        what, place = _PLACE.sub("", str(error)), _PLACE.search(str(error))
        fields = ", ".join(sorted(kind.__struct_fields__))
        key = f"{name}{place.group(1) if place else ''}"
        raise _invalid(path, key, f"is wrong: {what}", f"The table [{name}] has the keys {fields}.") from None


def _make(name: str, tables: dict[str, Payload]) -> Agent:
    table = tables.get(name, {})
    build = _BUILT_IN.get(name)
    if build is not None:
        return build(_convert(name, table, Adjustment))
    return DeclaredAgent(name, _checked(name, _convert(name, table, Declaration)))


def _read(path: Path) -> Payload:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error}", hint=f"Make {path} readable UTF-8.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfiguration(f"{path} is not valid TOML: {error}", hint=f"Correct {path}.") from error


def _tables() -> dict[str, Payload]:
    path = config_file()
    agents = _read(path).get("agents", {})
    if not foreign.is_object(agents):
        raise _invalid(path, "agents", "is not a table", "Write one table [agents.NAME] for each agent.")
    tables: dict[str, Payload] = {}
    for name, table in agents.items():
        if not _NAME.fullmatch(name):
            raise _invalid(
                path, f"agents.{name}", "is not a name for an agent", "Use small letters, digits and hyphens."
            )
        if not foreign.is_object(table):
            raise _invalid(path, f"agents.{name}", "is not a table", f"Write it as a table [agents.{name}].")
        tables[name] = table
    return tables


def _convert(name: str, table: Payload, kind: type[_Table]) -> _Table:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        what, place = _PLACE.sub("", str(error)), _PLACE.search(str(error))
        key = f"agents.{name}{place.group(1) if place else ''}"
        fields = ", ".join(sorted(kind.__struct_fields__))
        raise _invalid(
            config_file(), key, f"is wrong: {what}", f"An agent of this sort has the keys {fields}."
        ) from None


def _checked(name: str, declaration: Declaration) -> Declaration:
    if not declaration.command:
        raise _invalid(config_file(), f"agents.{name}.command", "is empty", "Name the program to run.")
    for key, template in (("args", declaration.args), ("resume_args", declaration.resume_args or [])):
        unknown = sorted(placeholders(template) - PLACEHOLDERS)
        if unknown:
            raise _invalid(
                config_file(),
                f"agents.{name}.{key}",
                f"has the unknown placeholder {{{unknown[0]}}}",
                f"Use {', '.join('{' + known + '}' for known in sorted(PLACEHOLDERS))}.",
            )
    return declaration


def _invalid(path: Path, key: str, problem: str, hint: str) -> InvalidConfiguration:
    return InvalidConfiguration(f"{path}: {key} {problem}.", hint=hint)
