"""Agents that the user declares in the configuration file, one table each.

.. code-block:: toml

    [agents.mistral]
    title = "Mistral Vibe"
    command = ["vibe"]
    args = ["--print", ["--model", "{model}"], "{sandbox}"]
    dialect = "text"
    pass_env = ["MISTRAL_*"]
    sandbox = { read-only = ["--no-tools"], danger-full-access = ["--yes"] }

An element of ``args`` whose placeholder has no value is dropped, a nested list as a whole.  The prompt always goes to
standard input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from holdfast.agents import neutral, options, program
from holdfast.agents.adapter import (
    Agent,
    AgentMissing,
    Installation,
    Launch,
    Login,
    Probe,
    Sandbox,
    UnsupportedOption,
    Work,
)
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
from holdfast.agents.environment import agent_environment
from holdfast.agents.events import Event

PLACEHOLDERS = frozenset({"cwd", "model", "effort", "resume", "add_dir", "sandbox"})
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

#: One argument, or several that stand and fall together.
Argument = str | list[str]


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[agents.NAME]`` of an agent that is not built in."""

    #: The program, and arguments that it always gets first.
    command: list[str]
    title: str | None = None
    args: list[Argument] = []
    #: Used instead of ``args`` when a thread is resumed; needed only where ``{resume}`` in ``args`` does not do.
    resume_args: list[Argument] | None = None
    #: How to read its standard output: as the answer itself, or as one of the dialects that Holdfast knows.
    dialect: Literal["text", "events", "codex", "claude"] = "text"
    #: The arguments that stand for ``{sandbox}`` in each mode.  A mode that is not named is refused.
    sandbox: dict[Sandbox, list[str]] = {}
    #: Patterns of environment variables that it gets although they look like secrets.
    pass_env: list[str] = []
    #: Environment variables that are set for it.
    env: dict[str, str] = {}
    #: Arguments that make it print its version.
    version_args: list[str] | None = None
    #: What it gets where a caller does not choose.
    model: str | None = None
    effort: str | None = None
    #: At most so many tasks of it at once.
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


class DeclaredAgent(Agent):
    """An agent made from a :class:`Declaration`.

    It is not told an output schema, only its answer is checked: the prompt has to say what it shall look like.
    """

    def __init__(self, name: str, declaration: Declaration) -> None:
        self.name = name
        self.title = declaration.title or name
        self.plain_text = declaration.dialect == "text"
        self.can_resume = declaration.resume_args is not None or "resume" in placeholders(declaration.args)
        self.can_choose_model = "model" in placeholders(declaration.args)
        self.can_choose_effort = "effort" in placeholders(declaration.args)
        self._declaration = declaration
        self._reader: Agent | None = {"codex": CodexAgent(), "claude": ClaudeAgent()}.get(declaration.dialect)

    def find(self, environment: Mapping[str, str]) -> Installation:
        command = self._declaration.command
        found = program.locate(command[0], environment)
        if found is None:
            raise AgentMissing(
                f"The command {command[0]!r} of the agent {self.name!r} was not found.",
                hint=f"Install it, or correct agents.{self.name}.command in the configuration file.",
            )
        return Installation(command=[str(found), *command[1:]])

    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        detail = "Declared in the configuration file; whether it is logged in cannot be told."
        version_args = self._declaration.version_args
        if version_args is None:
            return Probe(version=None, login=Login.UNKNOWN, detail=detail)
        answer = program.ask(
            [*installation.command, *version_args], self._environment(environment, Work(cwd=Path.cwd()))
        )
        if answer.exit_code != 0:
            return Probe(
                version=None,
                login=Login.UNKNOWN,
                detail=f"It did not tell its version: {answer.stderr.strip()[-200:]}",
                hint=f"Correct agents.{self.name}.version_args in the configuration file.",
            )
        lines = answer.stdout.strip().splitlines()
        return Probe(version=lines[0] if lines else None, login=Login.UNKNOWN, detail=detail)

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        options.check(work, self)
        template = self._declaration.args
        if work.resume is not None and self._declaration.resume_args is not None:
            template = self._declaration.resume_args
        known = placeholders(template)
        asked = {
            "model": work.model is not None,
            "effort": work.effort is not None,
            "resume": work.resume is not None and template is not self._declaration.resume_args,
            "add_dir": bool(work.add_dirs),
        }
        for placeholder, is_asked in asked.items():
            if is_asked and placeholder not in known:
                raise UnsupportedOption(
                    f"The agent {self.name!r} cannot be told the option {placeholder!r}.",
                    hint=f"Leave it out, or use {{{placeholder}}} in agents.{self.name}.args.",
                )
        sandbox = self._declaration.sandbox.get(work.sandbox)
        if sandbox is None:
            raise UnsupportedOption(
                f"The agent {self.name!r} does not declare the sandbox mode {work.sandbox.value!r}.",
                hint=f"Add {work.sandbox.value!r} to agents.{self.name}.sandbox, with the arguments that enforce it.",
            )
        argv = list(installation.command)
        if "sandbox" not in known:
            argv += sandbox
        for element in template:
            argv += _expand(element, work, sandbox)
        return Launch(argv=argv, env=self._environment(environment, work))

    def interpret(self, line: bytes) -> list[Event]:
        return self._reader.interpret(line) if self._reader is not None else neutral.interpret(line)

    def diagnose(self, *, stderr_tail: str, exit_code: int | None) -> list[Event]:
        return self._reader.diagnose(stderr_tail=stderr_tail, exit_code=exit_code) if self._reader is not None else []

    def post_mortem(self, thread_id: str, environment: Mapping[str, str]) -> list[Event]:
        return self._reader.post_mortem(thread_id, environment) if self._reader is not None else []

    def _environment(self, environment: Mapping[str, str], work: Work) -> dict[str, str]:
        chosen = agent_environment(environment, cwd=work.cwd, passed=(*self._declaration.pass_env, *work.pass_env))
        return {**chosen, **self._declaration.env}


def placeholders(template: list[Argument]) -> set[str]:
    """The names in braces that occur in a template."""
    words = [word for element in template for word in ([element] if isinstance(element, str) else element)]
    return {name for word in words for name in _PLACEHOLDER.findall(word)}


def _expand(element: Argument, work: Work, sandbox: list[str]) -> list[str]:
    if element == "{sandbox}":
        return sandbox
    group = [element] if isinstance(element, str) else element
    used = placeholders([group])
    values = {"cwd": str(work.cwd), "model": work.model, "effort": work.effort, "resume": work.resume,
              "sandbox": work.sandbox.value}  # fmt: skip
    if "add_dir" in used:
        return [word for directory in work.add_dirs for word in _filled(group, {**values, "add_dir": str(directory)})]
    return [] if any(values[name] is None for name in used) else _filled(group, values)


def _filled(group: list[str], values: Mapping[str, str | None]) -> list[str]:
    return [_PLACEHOLDER.sub(lambda match: values[match.group(1)] or "", word) for word in group]
