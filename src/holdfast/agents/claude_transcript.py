"""What Claude Code keeps of each session: the transcript, which knows what an ended run had used.

It lies in ``$CLAUDE_CONFIG_DIR/projects/<directory>/<session id>.jsonl``, those of sub-agents in a directory of that
name beside it.  Every line of type ``assistant`` carries the usage of the model call it came from; a call that gave
several blocks is on several lines, under one message id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.agents import foreign
from holdfast.agents.events import Event, Usage, UsageReported
from holdfast.agents.foreign import Payload

_SESSION_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

#: A transcript larger than this is not read, in bytes; the usage is then unknown.
_LARGEST = 256 * 1024 * 1024


def read(session_id: str, environment: Mapping[str, str]) -> list[Event]:
    """Usage of the whole session, sub-agents included, without cost; empty if nothing is recorded."""
    if not _SESSION_ID.fullmatch(session_id):
        return []
    calls: dict[str, Payload] = {}
    for path in _transcripts(session_id.lower(), environment):
        for line in _assistant_lines(path):
            message = foreign.member(foreign.parse(line) or {}, "message")
            message_id, counts = foreign.text(message, "id"), foreign.member(message, "usage")
            # What Claude Code says in the place of a model (an API error, ...) is marked so, and used nothing.
            if message_id and counts and foreign.text(message, "model") != "<synthetic>":
                calls[message_id] = counts
    if not calls:
        return []
    cached = _sum(calls, "cache_read_input_tokens")
    usage = Usage(
        input_tokens=_sum(calls, "input_tokens") + _sum(calls, "cache_creation_input_tokens") + cached,
        cached_input_tokens=cached,
        output_tokens=_sum(calls, "output_tokens"),
    )
    return [UsageReported(usage=usage, of_thread=True, source="transcript")]


def _sum(calls: Mapping[str, Payload], key: str) -> int:
    return sum(foreign.whole(counts, key) or 0 for counts in calls.values())


def _transcripts(session_id: str, environment: Mapping[str, str]) -> list[Path]:
    configured = environment.get("CLAUDE_CONFIG_DIR")
    home = Path(configured) if configured else Path(environment.get("HOME") or Path.home()) / ".claude"
    try:
        projects = home / "projects"
        return [*projects.glob(f"*/{session_id}.jsonl"), *projects.glob(f"*/{session_id}/subagents/*.jsonl")]
    except OSError:
        return []


def _assistant_lines(path: Path) -> Iterator[bytes]:
    try:
        if path.stat().st_size > _LARGEST:
            return
        with path.open("rb") as file:
            for line in file:
                # Most of a transcript is tool output; parsing only what can matter is ten times as fast.
                if b'"type":"assistant"' in line:
                    yield line
    except OSError:
        return
