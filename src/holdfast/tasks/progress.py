"""What an agent is doing, as lines for people: read from the log, so it can be read again, from any position."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent
from holdfast.agents.events import (
    ApprovalRequested,
    ApprovalResolved,
    Event,
    FilesClaimed,
    Malformed,
    Message,
    Notice,
    Reasoning,
    SubagentReported,
    SubagentStep,
    ThreadStarted,
    ToolEnded,
    ToolStarted,
    ToolType,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Waiting,
)
from holdfast.drivers.one_shot import Cursor, follow
from holdfast.errors import InvalidRequest
from holdfast.host.port import Host
from holdfast.tasks.facts import AttemptFacts, OpenTool, fold
from holdfast.tasks.rows import AttemptRow, TaskRow
from holdfast.tasks.state import State
from holdfast.tasks.view import Progress

#: A position remembers so many open tool uses; one that is forgotten is told of again when it ends.
_OPEN_TOOLS: Final = 16


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a task's progress: the attempt, and how far its log was read."""

    attempt: int = 1
    cursor: Cursor = Cursor()
    tool_uses: int = 0
    #: Lines from behind the cursor that were told already.
    told: int = 0
    #: Tool uses that were told of and have not ended at the cursor, the newest of them.
    open_tools: tuple[str, ...] = ()

    def encode(self) -> str:
        """The form in which it travels: numbers, and what is open in hexadecimal."""
        numbers = (self.attempt, self.cursor.seq, self.cursor.skip, self.cursor.seen, self.tool_uses, self.told)
        open_tools = "-".join(item_id.encode("utf-8", "surrogatepass").hex() for item_id in self.open_tools)
        return ".".join([*map(str, numbers), open_tools])

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """Read what :meth:`encode` wrote; ``None`` is the beginning.

        :raises InvalidRequest: it is something else
        """
        if not text:
            return cls()
        try:
            *numbers, rest = text.split(".")
            attempt, seq, skip, seen, tool_uses, told = map(int, numbers)
            open_tools = tuple(
                bytes.fromhex(item_id).decode("utf-8", "surrogatepass") for item_id in rest.split("-") if item_id
            )
        except ValueError:
            raise InvalidRequest(
                f"{text!r} is not a position in a progress stream.", hint="Use the cursor of an earlier line."
            ) from None
        return cls(
            attempt=attempt,
            cursor=Cursor(seq=seq, skip=skip, seen=seen),
            tool_uses=tool_uses,
            told=told,
            open_tools=open_tools,
        )


async def read_attempt(
    host: Host, agent: Agent, task: TaskRow, attempt: AttemptRow, position: Position, *, follow_on: bool
) -> AsyncGenerator[tuple[Progress, Position], None]:
    """The lines of one attempt from behind *position*, each with the position after it."""
    facts = AttemptFacts(
        tool_total=position.tool_uses,
        open_tools={item_id: OpenTool(tool=ToolType.OTHER, title="") for item_id in position.open_tools},
    )
    told = position.told
    stream = follow(host, attempt.process_id, agent, position.cursor, follow=follow_on)
    async with contextlib.aclosing(stream):
        async for step in stream:
            lines: list[tuple[str, str, str | None, int]] = []
            for event in step.events:
                line = line_of(event, facts)
                fold(facts, event, step.time)
                if line is not None:
                    subagent = event.label if isinstance(event, SubagentReported) else None
                    lines.append((*line, subagent, facts.tool_total))
            for number, (kind, text, subagent, tool_uses) in enumerate(lines, start=1):
                # Only after the last of its lines is the step behind us.
                if number < len(lines):
                    position = msgspec.structs.replace(position, told=number)
                else:
                    position = Position(
                        attempt=attempt.number,
                        cursor=step.cursor_after,
                        tool_uses=tool_uses,
                        open_tools=tuple(facts.open_tools)[-_OPEN_TOOLS:],
                    )
                if number <= told:
                    continue
                progress = Progress(
                    kind=kind,
                    text=text,
                    subagent=subagent,
                    elapsed_s=round(max(0.0, step.time - task.created_at), 3),
                    tool_uses=tool_uses,
                    # Whoever has said something is running, whatever was stored when the reading began.
                    state=State.RUNNING if task.state in (State.QUEUED, State.STARTING) else task.state,
                    cursor=position.encode(),
                )
                yield progress, position
            # What was one step when it happened may be several when it is read again.
            told = max(0, told - len(lines))


def line_of(event: Event, before: AttemptFacts) -> tuple[str, str] | None:
    """Kind and text of the line for *event*; ``None`` for what nobody needs to see."""
    match event:
        case ThreadStarted():
            return "thread", f"thread {event.thread_id}" + (f" ({event.model})" if event.model else "")
        case TurnStarted(turn_id=str()):
            return "turn", f"turn {event.turn_id}"
        case Message():
            return "message", event.text
        case ToolStarted():
            return "tool", event.title
        case ToolEnded():
            open_tool = before.open_tools.get(event.item_id)
            title = event.title or (open_tool.title if open_tool is not None else "") or "a tool"
            if event.failed:
                return "tool_failed", title
            # One that was announced when it began has its line already.
            return ("tool", title) if open_tool is None else None
        case FilesClaimed():
            return "files", ", ".join(event.paths)
        case Notice():
            return "notice", event.text
        case Waiting():
            return "notice", f"waits: {event.text}"
        case ApprovalRequested():
            return "approval", f"asks to be allowed: {event.title}" + (f" ({event.reason})" if event.reason else "")
        case ApprovalResolved():
            return "approval", f"{event.decision or 'withdrawn'}"
        case Reasoning():
            return "reasoning", event.text
        case SubagentReported():
            return _subagent_line(event)
        case TurnCompleted():
            return "state", "the agent reports success"
        case TurnFailed():
            return "notice", f"the agent reports failure: {event.failure.message}"
        case Malformed():
            return "notice", f"unreadable line: {event.excerpt}"
        case _:
            return None


def _subagent_line(event: SubagentReported) -> tuple[str, str]:
    """The same for what a sub-agent did; its tools have the lines of tools."""
    match event.step:
        case SubagentStep.STARTED:
            return "subagent", f"Starting subagent {event.label} via collaboration tool: {event.text}."
        case SubagentStep.ENDED:
            return "subagent", f"Subagent {event.label} {event.text}."
        case SubagentStep.MESSAGE:
            return "subagent_message", f"Subagent {event.label}: {event.text}"
        case SubagentStep.REASONING:
            return "subagent_reasoning", f"Subagent {event.label} reasoning: {event.text}"
