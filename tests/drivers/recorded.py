"""A host that has nothing but one finished log, and an agent that repeats every line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from holdfast.agents.adapter import Agent, Installation, Launch, Probe, Work
from holdfast.agents.events import Event, Message
from holdfast.host.dummy import DummyHost
from holdfast.host.port import Gap, Kind, ProcessState, ProcessStatus, Record


class Parrot(Agent):
    """An agent whose every line is a message."""

    name = "parrot"
    title = "Parrot"

    def __init__(self, *, plain_text: bool = False) -> None:
        self.plain_text = plain_text

    def find(self, environment: Mapping[str, str]) -> Installation:
        raise NotImplementedError

    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        raise NotImplementedError

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        raise NotImplementedError

    def interpret(self, line: bytes) -> list[Event]:
        return [Message(text=line.decode("latin-1"))]


class RecordedHost(DummyHost):
    """Serves a log that is written already, and pauses before the positions in *pauses* to break it into steps."""

    def __init__(self, entries: Sequence[Record | Gap], pauses: Collection[int] = ()) -> None:
        super().__init__()
        self.entries = entries
        self.pauses = pauses
        self.readers = 0

    async def status(self, process_id: str) -> ProcessStatus | None:
        last = self.entries[-1]
        last_seq = last.last if isinstance(last, Gap) else last.seq
        return ProcessStatus(process_id=process_id, state=ProcessState.CLOSED, last_seq=last_seq)

    async def records(self, process_id: str, *, after_seq: int = 0, follow: bool = True) -> AsyncIterator[Record | Gap]:
        self.readers += 1
        try:
            for position, entry in enumerate(self.entries):
                if position in self.pauses:
                    for _ in range(4):
                        await asyncio.sleep(0)
                if isinstance(entry, Gap):
                    if entry.last > after_seq:
                        yield Gap(first=max(entry.first, after_seq + 1), last=entry.last)
                elif entry.seq > after_seq:
                    yield entry
        finally:
            self.readers -= 1


def log(*entries: tuple[str, Any] | str) -> list[Record | Gap]:
    """Records from ``("stdout", b"...")``, ``("gap", count)``, ``("exited", code)`` and ``"closed"``."""
    found: list[Record | Gap] = []
    seq = 0
    for entry in entries:
        kind: str = entry[0] if isinstance(entry, tuple) else entry
        value: Any = entry[1] if isinstance(entry, tuple) else None
        if kind == "gap":
            found.append(Gap(first=seq + 1, last=seq + value))
            seq += value
            continue
        seq += 1
        if kind == "exited":
            found.append(Record(seq=seq, kind=Kind.EXITED, time=float(seq), exit_code=value))
        else:
            found.append(Record(seq=seq, kind=Kind(kind), time=float(seq), data=value or b""))
    return found
