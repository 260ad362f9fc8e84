"""A reader that is cut off after any frame goes on exactly behind the last record that it got."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.clock import boot_id
from holdfast.host.client import HostClient
from holdfast.host.description import Description
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import EntryKind
from holdfast.host.port import Record

from .harness import RunningServer, WireClient, start_host, within

#: As many as make a subscription of a dozen frames.
RECORDS = 700
KINDS = {False: (EntryKind.STDOUT, EntryKind.STDERR), True: (EntryKind.PTY,)}


def write_log(state: Path, process_id: str, tty: bool) -> list[tuple[str, bytes]]:
    """The log of a process that has ended, record by record; returns what a reader must get."""
    directory = state / "processes" / process_id
    directory.mkdir(mode=0o700, parents=True)
    os.chmod(state / "processes", 0o700)
    description = Description(
        process_id=process_id,
        session_id=None,
        argv=["x"],
        cwd="/",
        tty=tty,
        marker=None,
        created_ns=1,
        boot_id=boot_id(),
    )
    (directory / "process").write_bytes(msgspec.json.encode(description) + b'\n{"pid":1,"started":1}\n')
    log = ProcessLog.create(directory)
    expected: list[tuple[str, bytes]] = []
    for number in range(RECORDS):
        kind = KINDS[tty][number % len(KINDS[tty])]
        data = b"%d:" % number + bytes((number + offset) & 255 for offset in range(number % 97))
        log.append(kind, data)
        expected.append((kind.name.lower(), data))
    log.append_end(exit_code=5, exited=True, closed=True)
    log.close()
    return [*expected, ("exited", b""), ("closed", b"")]


@pytest.fixture(scope="module", params=["unix://", "ws://127.0.0.1:0"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, dict[bool, list[tuple[str, bytes]]]]]:
    """A host with two logs, and what is in them."""
    state = tmp_path_factory.mktemp("frames") / "state"
    state.mkdir(mode=0o700)
    expected = {tty: write_log(state, "tty" if tty else "pipe", tty) for tty in (False, True)}
    server = start_host(state, request.param)
    yield server, expected
    server.stop()


class CutAfter:
    """Makes each connection of a client end after so many messages to it; the later ones are never seen."""

    def __init__(self, client: HostClient, frames: list[int]) -> None:
        self._frames = frames
        self.cuts = 0
        connection = client._connection  # pyright: ignore[reportPrivateUsage]
        genuine = connection.open

        async def open_cut() -> Any:
            link = await genuine()
            if self._frames:
                self._limit(link.peer, self._frames.pop(0))
            return link

        connection.open = open_cut  # type: ignore[method-assign]

    def _limit(self, peer: Any, left: int) -> None:
        genuine = peer.message_received

        def received(message: bytes) -> None:
            nonlocal left
            if left == 0:
                return
            left -= 1
            genuine(message)
            if left == 0:
                self.cuts += 1
                peer.close()

        peer.message_received = received


async def read(url: str, process_id: str, after: int, frames: list[int]) -> tuple[list[tuple[str, bytes]], int]:
    client = HostClient(url)
    cutter = CutAfter(client, list(frames))
    found: list[tuple[str, bytes]] = []
    try:
        async for record in client.records(process_id, after_seq=after):
            assert isinstance(record, Record)
            assert record.seq == after + len(found) + 1
            found.append((record.kind.value, record.data))
    finally:
        await client.aclose()
    return found, cutter.cuts


@pytest.mark.parametrize("tty", [False, True])
async def test_each_boundary_by_itself(
    served: tuple[RunningServer, dict[bool, list[tuple[str, bytes]]]], tty: bool
) -> None:
    server, expected = served
    boundary, cuts = 1, 1
    while cuts:
        # Every connection ends after so many frames, until that is more than there are.
        found, cuts = await within(read(server.url, "tty" if tty else "pipe", 0, [boundary]))
        assert found == expected[tty]
        boundary += 1
    assert boundary > 10


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after=st.integers(0, RECORDS + 2), frames=st.lists(st.integers(1, 8), max_size=8), tty=st.booleans())
async def test_any_cursor_and_any_row_of_cuts(
    served: tuple[RunningServer, dict[bool, list[tuple[str, bytes]]]], after: int, frames: list[int], tty: bool
) -> None:
    server, expected = served
    found, _ = await within(read(server.url, "tty" if tty else "pipe", after, frames))
    assert found == expected[tty][after:]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.integers(1, 9000), min_size=1, max_size=6), tty=st.booleans())
async def test_polling_with_a_session_that_is_resumed_after_every_reply(
    served: tuple[RunningServer, dict[bool, list[tuple[str, bytes]]]], limits: list[int], tty: bool
) -> None:
    """The protocol as every client of the reference implementation speaks it: ``afterSeq`` and ``maxBytes``."""
    server, expected = served
    after, number, session = 0, 0, None
    found: list[tuple[str, bytes]] = []
    while True:
        # The last of the limits is at least large enough to come to an end.
        limit = limits[number] if number < len(limits) else 20_000
        number += 1
        client = await WireClient.connect(server.url, resume=session)
        assert session in (None, client.session)
        session = client.session
        params = {"processId": "tty" if tty else "pipe", "afterSeq": after, "maxBytes": limit}
        reply = await client.result("process/read", params)
        assert client.connection is not None
        await client.close()
        found += [(chunk["stream"], base64.b64decode(chunk["chunk"])) for chunk in reply["chunks"]]
        after = reply["nextSeq"] - 1
        assert (reply["exited"], reply["exitCode"], reply["closed"]) == (True, 5, True)
        if not reply["chunks"]:
            break
    assert found == expected[tty][:RECORDS]
