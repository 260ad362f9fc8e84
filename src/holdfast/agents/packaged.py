"""Agents whose command people install as a package: where it is, and whether it runs at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from holdfast.agents import program
from holdfast.agents.adapter import Agent, AgentMissing, Installation, Login, Probe


class PackagedAgent(Agent):
    """What such agents have in common."""

    #: The command line that installs it.
    install: ClassVar[str]

    def __init__(self, *, command: Sequence[str] = (), pass_env: Sequence[str] = ()) -> None:
        """*command* is what to run instead of the agent's name, *pass_env* the variables that it gets in any case."""
        self._command = list(command) or [self.name]
        self._pass_env = tuple(pass_env)

    def find(self, environment: Mapping[str, str]) -> Installation:
        found = program.locate(self._command[0], environment)
        if found is None:
            raise AgentMissing(
                f"The {self.name} command was not found (looked for {self._command[0]!r} on PATH).",
                hint=f"Install it: {self.install}",
            )
        return Installation(command=[str(self._executable(found)), *self._command[1:]])

    def _executable(self, found: Path) -> Path:
        """What to execute where *found* is what people would."""
        return found

    def _version(self, installation: Installation, env: Mapping[str, str]) -> str | Probe:
        """What ``--version`` says, or what to report when it cannot even say that."""
        answer = program.ask([*installation.command, "--version"], env)
        if answer.exit_code == 0:
            return answer.stdout.strip()
        return Probe(
            version=None,
            login=Login.UNKNOWN,
            detail=f"{installation.command[0]} --version failed: {answer.stderr.strip()[-200:]}",
            hint=f"Install it again: {self.install}",
        )
