"""A pipe that is hung up may hold something: whoever wrote it can have left between two looks of the kernel."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.log import ProcessLog
from holdfast.host.log_format import EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.output import Output
from holdfast.host.spawn import Streams
from holdfast.host.staging import Staging
from holdfast.jsonrpc.event_loop import HUNG_UP


class HangingUp:
    """``poll`` as it answers when the last writer writes and leaves between its two looks."""

    def register(self, descriptor: int, events: int) -> None: ...

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        return [(0, select.POLLHUP)]


class OnePoller:
    """Remembers whom to call."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[int], None]] = {}

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        self.callbacks[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        del self.callbacks[descriptor]


class Owner:
    """A process that has ended."""

    running = False
    told = 0
    closed = False

    def notify(self) -> None:
        self.told += 1

    def check_closed(self) -> None:
        self.closed = True

    def stall(self, reason: LogFull) -> None:
        raise reason


def last_words() -> int:
    source, sink = os.pipe()
    os.write(sink, b"last words")
    os.close(sink)
    return source


def test_first_and_last_words_of_a_stream_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ProcessLog.create(tmp_path)
    source = last_words()
    with monkeypatch.context() as patch:
        patch.setattr(select, "poll", HangingUp)
        assert log.splice(EntryKind.STDOUT, source) == len(b"last words")
        assert log.splice(EntryKind.STDOUT, source) == 0
    os.close(source)
    log.close()


def test_a_stream_is_closed_when_nothing_is_left_in_it(tmp_path: Path) -> None:
    log, owner = ProcessLog.create(tmp_path), Owner()
    poller: Any = OnePoller()
    output = Output(owner, log, None, poller, Staging(lambda descriptors: None))  # type: ignore[arg-type]
    source = last_words()
    streams = Streams(-1, {source: EntryKind.STDOUT}, False)
    output.open(streams)
    poller.callbacks[source](HUNG_UP)
    assert [log.data(entry) for entry in log.entries(0, 10)] == [b"last words"]
    assert (owner.told, owner.closed, list(streams.outputs)) == (1, False, [source])
    poller.callbacks[source](HUNG_UP)
    assert (owner.told, owner.closed, list(streams.outputs)) == (1, True, [])
    log.close()
