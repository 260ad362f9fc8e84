"""Saying something to a task while it works, and knowing that it arrived.

A command is written to the attempt's process and has arrived when the process says so in its log.  The answer is a fact
like every other one, so whoever asks again under the same id gets it without anything being done twice.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from holdfast.agents.adapter import UnsupportedOption
from holdfast.agents.commands import DECISIONS, AnyCommand, Decide, Steer, encode
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.host.port import StdinClosed, UnknownProcess, WriteUncertain
from holdfast.store.store import Store
from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.ports import Hosts
from holdfast.tasks.queries import Queries
from holdfast.tasks.rows import AttemptRow, Phase, TaskRow

#: For the agent to confirm a command, seconds.
_ANSWER: Final = 30.0


class NotAtWork(InvalidRequest):
    """The task is not at a point where anything can be said to it."""

    code = "not_at_work"


class CommandRefused(InvalidRequest):
    """The agent took note of the command and did not follow it."""

    code = "command_refused"


class CommandUncertain(HoldfastError):
    """The command was sent, and whether it was followed is not known."""

    code = "command_uncertain"


class Conversation:
    """What can be said to the tasks of one store."""

    def __init__(self, store: Store, queries: Queries, hosts: Hosts) -> None:
        self._feed = store.feed
        self._queries = queries
        self._hosts = hosts

    async def steer(self, task_id: str, text: str, command_id: str | None = None) -> None:
        """Add *text* to the turn that task *task_id* is at; returns when the agent has accepted it.

        :raises NotAtWork: the task has not begun, or is over
        :raises UnsupportedOption: nothing can be said to this agent while it works
        :raises CommandRefused: the agent did not take it
        :raises CommandUncertain: no answer came in time; ask again under the same *command_id*
        """
        if not text.strip():
            raise InvalidRequest("There is nothing to say.", hint="Give the words to add.")
        task, attempt = await self._at_work(task_id)
        agent = await asyncio.to_thread(task.acceptance.agent)
        if not agent.can_steer:
            raise UnsupportedOption(
                f"{agent.title} cannot be told anything while it works.",
                hint=f"Wait for it, then go on: holdfast run {agent.name} --resume {task.id}",
            )
        await self._say(attempt, Steer(id=command_id or _new_id(), text=text))

    async def decide(self, task_id: str, decision: str, request_id: str | None, command_id: str | None = None) -> None:
        """Answer a question of the agent: the only one that is open, or *request_id*.

        :raises NotAtWork: nothing is being asked
        :raises InvalidRequest: there is no such decision or question
        """
        if decision not in DECISIONS:
            raise InvalidRequest(f"{decision!r} is no decision.", hint=f"Give one of {', '.join(DECISIONS)}.")
        _, attempt = await self._at_work(task_id)
        command = Decide(id=command_id or _new_id(), request_id=request_id or "", decision=decision)
        if command.id not in attempt.facts.answered:
            command = Decide(id=command.id, request_id=_question(attempt.facts, request_id), decision=decision)
        await self._say(attempt, command)

    async def _at_work(self, task_id: str) -> tuple[TaskRow, AttemptRow]:
        task = await self._queries.task(task_id)
        attempts = await self._queries.attempts(task_id)
        if task.status is not None:
            raise NotAtWork(f"Task {task_id} is finished: {task.status}.", hint=f"Read it: holdfast result {task_id}")
        if not attempts or attempts[-1].phase is not Phase.STARTED or attempts[-1].facts.terminal:
            raise NotAtWork(f"Task {task_id} is {task.state}, not at work.", hint=f"See: holdfast status {task_id}")
        return task, attempts[-1]

    async def _say(self, attempt: AttemptRow, command: AnyCommand) -> None:
        seen = await self._feed.latest()
        if command.id not in attempt.facts.answered:
            host = await self._hosts.host()
            try:
                await host.write(attempt.process_id, encode(command))
            except (StdinClosed, UnknownProcess) as error:
                raise NotAtWork(
                    f"Task {attempt.task_id} takes no more commands: {error.message}",
                    hint=f"See: holdfast status {attempt.task_id}",
                ) from error
            except WriteUncertain:
                # The run recognises a command that it has seen, so sending it again is the way to be certain.
                await host.write(attempt.process_id, encode(command))
        try:
            async with asyncio.timeout(_ANSWER):
                refusal = await self._answer(attempt, command.id, seen)
        except TimeoutError:
            raise CommandUncertain(
                f"Task {attempt.task_id} has not confirmed it within {_ANSWER:g} s.",
                hint=f"See what it does: holdfast logs -f {attempt.task_id}",
            ) from None
        if refusal is not None:
            raise CommandRefused(f"The agent refused: {refusal}", hint=f"See: holdfast status {attempt.task_id}")

    async def _answer(self, attempt: AttemptRow, command_id: str, seen: int) -> str | None:
        while True:
            now = (await self._queries.attempts(attempt.task_id))[attempt.number - 1]
            if command_id in now.facts.answered:
                return now.facts.answered[command_id]
            if now.phase is Phase.ENDED:
                raise CommandUncertain(
                    f"Task {attempt.task_id} ended before it confirmed it.",
                    hint=f"Read how it ended: holdfast result {attempt.task_id}",
                )
            seen = await self._feed.wait_beyond(seen)


def _question(facts: AttemptFacts, request_id: str | None) -> str:
    questions = facts.open_approvals
    if not questions:
        raise NotAtWork("The agent is not asking anything.", hint="See what it does with 'holdfast logs -f'.")
    if request_id is None and len(questions) > 1:
        raise InvalidRequest(
            f"The agent asks {len(questions)} things.", hint=f"Name the question: {', '.join(questions)}."
        )
    name = request_id or next(iter(questions))
    if name not in questions:
        raise InvalidRequest(f"There is no open question {name!r}.", hint=f"Open are: {', '.join(questions)}.")
    return name


def _new_id() -> str:
    return os.urandom(8).hex()
