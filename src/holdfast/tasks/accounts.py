"""What belongs to an agent's account and not to one task: its allowance, what was used of it, imported threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast.agents.adapter import UnsupportedOption
from holdfast.agents.catalogue import find_agent
from holdfast.clock import wall
from holdfast.drivers.app_server import calls
from holdfast.drivers.app_server.agent import CodexAppServer
from holdfast.drivers.choice import through
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.tasks.account_report import Allowance, Consumption, Transferred, UsageReport
from holdfast.tasks.ports import Servers
from holdfast.tasks.queries import Queries


class Accounts:
    """The accounts of the agents that one daemon can reach."""

    def __init__(self, queries: Queries, servers: Servers) -> None:
        self._queries = queries
        self._servers = servers

    async def usage(self, seconds: float, agents: list[str], environment: Mapping[str, str]) -> UsageReport:
        """What was used within the last *seconds*, and what *agents* say of their allowance.

        :raises UnknownAgent: one of them is none
        """
        since = wall() - seconds
        consumption: dict[str, Consumption] = {}
        for agent, usage in await self._queries.usage_since(since):
            total = consumption.setdefault(agent, Consumption(agent=agent))
            total.tasks += 1
            total.unknown += usage.input_tokens is None
            total.input_tokens += usage.input_tokens or 0
            total.cached_input_tokens += usage.cached_input_tokens or 0
            total.output_tokens += usage.output_tokens or 0
            total.cost_usd += usage.cost_usd or 0.0
        allowances = {agent: await self._allowance(agent, environment) for agent in agents}
        return UsageReport(
            since=since, consumption=[consumption[name] for name in sorted(consumption)], allowances=allowances
        )

    async def transfer(self, source: str, cwd: str, environment: Mapping[str, str]) -> Transferred:
        """Make a Codex thread of the Claude Code transcript *source*, to go on with in *cwd*.

        :raises InvalidRequest: *source* is no transcript of Claude Code's
        :raises UnsupportedOption: the installed Codex has no server that can be asked
        :raises HoldfastError: Codex refused, in its own words
        """
        path = await asyncio.to_thread(_transcript, source, environment)
        async with self._codex("codex", environment) as socket:
            thread = await asyncio.to_thread(calls.import_transcript, socket, path, cwd=cwd)
        return Transferred(agent="codex", thread_id=thread, source=str(path))

    async def _allowance(self, agent: str, environment: Mapping[str, str]) -> Allowance:
        account: calls.Account | None = None
        try:
            async with self._codex(agent, environment) as socket:
                account = await asyncio.to_thread(calls.read_account, socket)
                if account.kind is None:
                    return Allowance(account=account, reason="nobody is logged in")
                return Allowance(account=account, limits=await asyncio.to_thread(calls.read_rate_limits, socket))
        except HoldfastError as error:
            return Allowance(account=account, reason=error.message)

    @asynccontextmanager
    async def _codex(self, name: str, environment: Mapping[str, str]) -> AsyncGenerator[str]:
        """The socket of the shared server of *name*, which is kept running meanwhile."""
        agent = through(find_agent(name), None)
        if not isinstance(agent, CodexAppServer):
            raise UnsupportedOption(f"{agent.title} cannot be asked.", hint="Ask its own command.")
        installation = await asyncio.to_thread(agent.find, environment)
        server = agent.server(installation, environment)
        async with self._servers.hold(server):
            yield server.socket


def _transcript(source: str, environment: Mapping[str, str]) -> Path:
    """Only Claude Code's own transcripts: an import copies whatever it is given into another program's records."""
    home = environment.get("CLAUDE_CONFIG_DIR") or Path(environment.get("HOME") or Path.home()) / ".claude"
    projects = Path(home) / "projects"
    path = Path(source)
    hint = f"Give a file of the kind {projects}/*/*.jsonl."
    if path.suffix != ".jsonl":
        raise InvalidRequest(f"{source} is not a transcript: its name does not end in .jsonl.", hint=hint)
    try:
        real = path.resolve(strict=True)
        inside = real.is_relative_to(projects.resolve(strict=True))
    except OSError as error:
        raise InvalidRequest(f"{source} cannot be read: {error.strerror}.", hint=hint) from error
    if not inside or not real.is_file():
        raise InvalidRequest(f"{real} is not one of Claude Code's own transcripts.", hint=hint)
    return real
