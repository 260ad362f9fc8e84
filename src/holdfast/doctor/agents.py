"""The agents: installed, able to start, logged in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from holdfast.agents.adapter import Agent, AgentMissing, Login
from holdfast.agents.rehearsal import RehearsalAgent
from holdfast.doctor.check import BlockingCheck, Finding, Level
from holdfast.errors import HoldfastError


class AgentCheck(BlockingCheck):
    """One agent is installed, tells its version, and is logged in.  Asks no model."""

    #: Several questions to a large program that may be started for the first time.
    timeout_s = 30.0

    def __init__(self, agent: Agent, environment: Mapping[str, str]) -> None:
        self.agent = agent
        self.environment = environment
        self.id = f"agent.{agent.name}"
        self.title = agent.title

    def look(self) -> Finding:
        try:
            installation = self.agent.find(self.environment)
        except AgentMissing as error:
            # Nobody needs all agents.
            return Finding(level=Level.INFO, summary=f"{self.agent.title} is not installed.", hint=error.hint)
        command = " ".join(installation.command)
        probe = self.agent.probe(installation, self.environment)
        if probe.version is None:
            return Finding(
                level=Level.ERROR,
                summary=f"{self.agent.title} is installed but does not work.",
                detail=f"{command}: {probe.detail}",
                hint=probe.hint or f"Run '{command} --version' and mend what it reports.",
            )
        match probe.login:
            case Login.NO:
                return Finding(
                    level=Level.WARNING,
                    summary=f"{self.agent.title} {probe.version} is not logged in.",
                    detail=f"{command}: {probe.detail}",
                    hint=probe.hint or f"Start '{command}' once and log in.",
                )
            case Login.UNKNOWN:
                return Finding(
                    level=Level.INFO,
                    summary=f"{self.agent.title} {probe.version}; whether it is logged in cannot be told.",
                    detail=f"{command}: {probe.detail}",
                    hint=probe.hint,
                )
            case Login.YES:
                return Finding(
                    level=Level.OK,
                    summary=f"{self.agent.title} {probe.version}, logged in",
                    detail=f"{command}: {probe.detail}",
                )


class AnyAgentCheck(BlockingCheck):
    """There is at least one agent to give work to."""

    id = "agents.any"
    title = "An agent to work with"

    def __init__(self, agents: Sequence[Agent], environment: Mapping[str, str]) -> None:
        self.agents = [agent for agent in agents if not isinstance(agent, RehearsalAgent)]
        self.environment = environment

    def look(self) -> Finding:
        installed: list[str] = []
        for agent in self.agents:
            try:
                agent.find(self.environment)
            except AgentMissing:
                continue
            installed.append(str(agent.name))
        if installed:
            return Finding(level=Level.OK, summary=f"Installed: {', '.join(installed)}.")
        return Finding(
            level=Level.ERROR,
            summary="No agent is installed; only the built-in rehearsal can be run.",
            detail=f"Searched: {self.environment.get('PATH', os.defpath)}",
            hint="Install one of the agents below, or declare one in the configuration file.",
        )


class BrokenCatalogueCheck(BlockingCheck):
    """Stands in for all agents when the configuration that names them cannot be understood."""

    id = "agents.configuration"
    title = "Configuration of agents"

    def __init__(self, error: HoldfastError) -> None:
        self.error = error

    def look(self) -> Finding:
        return Finding(
            level=Level.ERROR, summary=self.error.message, hint=self.error.hint or "Correct the configuration file."
        )
