"""What a task reports, in the words of a job's log: lines ``[time] message``, and titled blocks for what was said."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from holdfast.companion.daemon import Document
from holdfast.companion.job import second_word, shorten

#: Titles of blocks: what stands under them is no progress.
BLOCK_TITLES: Final = frozenset({"Final output", "Assistant message", "Reasoning summary", "Review output"})
#: Words of a command line that checks what was done; compiled when there is one, as it takes a millisecond.
_CHECKS: Final = r"(?i)\b(tests?|lint|build|type-?check|check|verify|validate|pytest|jest|vitest|tsc|eslint|ruff)\b"


class Entry(NamedTuple):
    """One entry of a log, and the phase that the job is in from here on, if it says so."""

    message: str
    phase: str | None = None
    #: Title and text of a block that follows.
    title: str | None = None
    body: str | None = None
    #: Shown to whoever waits, too.
    shown: bool = True


def narrate(line: Document, *, review: bool) -> Entry | None:
    """The entry for one line of a task's progress; ``None`` for what nobody needs to read."""
    text: str = line["text"]
    match line["kind"]:
        case "thread":
            return Entry(f"Thread ready ({second_word(text)}).", "starting")
        case "turn":
            return Entry(f"Turn started ({second_word(text)}).", "reviewing" if review else "running")
        case "tool":
            return Entry(f"Running: {shorten(text)}", _phase_of(text, review=review))
        case "tool_failed":
            return Entry(f"Failed: {shorten(text)}", _phase_of(text, review=review))
        case "files":
            return Entry(f"File changes: {shorten(text)}", "editing")
        case "message" if review:
            return Entry("Review output captured.", "finalizing", "Review output", text, shown=False)
        case "message":
            excerpt = f"Assistant message captured: {shorten(text)}"
            return Entry(excerpt, None, "Assistant message", text, shown=False)
        case "reasoning":
            sections = reasoning(text)
            if not sections:
                return None
            body = "\n".join(f"- {section}" for section in sections)
            message = f"Reasoning summary captured: {shorten(sections[0])}"
            return Entry(message, None, "Reasoning summary", body, shown=False)
        case "subagent_message":
            name = f"Subagent {line['subagent']}"
            said = text.removeprefix(f"{name}: ")
            return Entry(f"{name}: {shorten(said)}", None, f"{name} message", said, shown=False)
        case "subagent_reasoning":
            name = f"Subagent {line['subagent']}"
            thought = " ".join(reasoning(text.removeprefix(f"{name} reasoning: ")))
            title = f"{name} reasoning summary"
            return Entry(f"{name} reasoning: {shorten(thought)}", None, title, f"- {thought}", shown=False)
        case "state":
            return Entry("Turn completed.", "finalizing")
        case "finished":
            return None
        case _:
            return Entry(shorten(text, 400))


def reasoning(text: str) -> list[str]:
    """The sections of a summary of what the agent thought, each on one line."""
    line = " ".join(text.split())
    return [line] if line else []


def preview(log: str, lines: int = 4) -> list[str]:
    """The last *lines* entries of a log that tell of progress."""
    messages = [line.partition("]")[2].strip() for line in log.splitlines() if line.startswith("[")]
    return [each for each in messages if each and each not in BLOCK_TITLES and not _heads_block(each)][-lines:]


def _heads_block(message: str) -> bool:
    return message.startswith("Subagent ") and message.endswith((" message", " reasoning summary"))


def _phase_of(title: str, *, review: bool) -> str:
    if review:
        return "reviewing"
    return "verifying" if re.search(_CHECKS, title) else "investigating"
