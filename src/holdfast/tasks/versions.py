"""Which version of an agent did the work: asked once for each installed program, beside the work and not before it."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from holdfast.agents.adapter import Agent, Installation

#: A result is not held up for longer than this by an agent that is slow to tell its version, seconds.
_PATIENCE: Final = 2.0


class Versions:
    """Versions of installed agents, remembered until the program on disk changes."""

    def __init__(self) -> None:
        self._asked: dict[tuple[object, ...], asyncio.Task[str | None]] = {}

    def ask(self, agent: Agent, command: list[str], environment: dict[str, str]) -> None:
        """Find out in the background, unless it is known."""
        key = self._key(agent, command)
        if key is not None and key not in self._asked:
            installation = Installation(command=command)
            self._asked[key] = asyncio.ensure_future(self._probe(agent, installation, environment))

    async def of(self, agent: Agent, command: list[str]) -> str | None:
        """The version of the program, or ``None`` if it was never asked, or did not answer in time."""
        asked = self._asked.get(self._key(agent, command) or ())
        if asked is None:
            return None
        await asyncio.wait({asked}, timeout=_PATIENCE)
        return asked.result() if asked.done() and not asked.cancelled() else None

    async def aclose(self) -> None:
        """Wait for the probes that are under way (each is bounded by its agent)."""
        if self._asked:
            await asyncio.wait(self._asked.values())

    @staticmethod
    async def _probe(agent: Agent, installation: Installation, environment: dict[str, str]) -> str | None:
        return (await asyncio.to_thread(agent.probe, installation, environment)).version

    @staticmethod
    def _key(agent: Agent, command: list[str]) -> tuple[object, ...] | None:
        if not command:
            return None
        try:
            status = os.stat(command[-1])
        except OSError:
            return None
        return (agent.name, *command, status.st_mtime_ns, status.st_size)
