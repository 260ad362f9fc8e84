"""Why an attempt was no success: from the tails of its log, and from what the agent itself recorded."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.agents.events import TurnFailed, UsageReported
from holdfast.agents.failure import FailureClass
from holdfast.drivers.one_shot import tail
from holdfast.errors import HoldfastError
from holdfast.host.port import Kind
from holdfast.tasks.ports import Hosts
from holdfast.tasks.rows import AttemptRow

_TAIL_BYTES: Final = 16_384
_TAIL_LINES: Final = 20
_TAIL_LINE_LENGTH: Final = 400


class Tails(msgspec.Struct):
    """The last lines that an agent wrote, for people."""

    stderr: list[str] = []
    stdout: list[str] = []


async def diagnose(
    attempt: AttemptRow,
    *,
    agent: Agent | None,
    record_env: dict[str, str],
    hosts: Hosts,
    warnings: list[str],
) -> Tails:
    """Find out why *attempt* was no success; what is learnt goes into its facts.

    :param record_env: where the agent keeps its own records
    :param warnings: gets what could not be looked at
    """
    facts, tails = attempt.facts, Tails()
    if facts.start_failure is not None:
        return tails
    try:
        host = await hosts.host()
        tails.stderr = _lines(await tail(host, attempt.process_id, Kind.STDERR, _TAIL_BYTES))
        if not facts.terminal:
            # After an orderly end the output is the agent's event stream, and its failure says it better.
            tails.stdout = _lines(await tail(host, attempt.process_id, Kind.STDOUT, _TAIL_BYTES))
    except HoldfastError as error:
        warnings.append(f"the log could not be read: {error}")
    if agent is None:
        return tails
    events = agent.diagnose(stderr_tail="\n".join(tails.stderr), exit_code=facts.exit_code)
    if facts.thread_id is not None:
        events += await asyncio.to_thread(agent.post_mortem, facts.thread_id, record_env)
    for event in events:
        if isinstance(event, TurnFailed):
            known = facts.failure
            # The agent's own typed record outweighs what was read from prose.
            if known is None or known.failure_class is FailureClass.UNKNOWN or event.failure.upstream_code:
                facts.failure = event.failure
        elif isinstance(event, UsageReported) and facts.usage is None:
            facts.usage, facts.usage_of_thread, facts.usage_source = event.usage, event.of_thread, event.source
    return tails


def _lines(data: bytes) -> list[str]:
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return [line[:_TAIL_LINE_LENGTH] for line in lines[-_TAIL_LINES:]]
