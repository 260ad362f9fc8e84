"""A reader that is cut off after any frame goes on exactly behind the last record that it got."""

from __future__ import annotations

import base64
import os
import signal
import sys
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
from holdfast.host.port import ProcessSpec, Record

from .harness import PATH, RunningServer, WireClient, start_host, within, write_params

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


#: A host that cannot read a log until it gets SIGUSR1.
READS_LATER = """
import errno, os, signal, sys
from holdfast.host import entry, log, push
push._AGAIN = 0.01
read, error = log.ProcessLog.entries, sys.argv.pop()

def refuse(self, after, limit):
    raise MemoryError if error == "memory" else OSError(errno.EMFILE, os.strerror(errno.EMFILE))

def allow(*_):
    log.ProcessLog.entries = read

log.ProcessLog.entries = refuse
signal.signal(signal.SIGUSR1, allow)
sys.exit(entry.main())
"""


@pytest.mark.parametrize("error", ["memory", "descriptors"])
async def test_what_cannot_be_read_at_the_moment_comes_later(state: Path, error: str) -> None:
    host = RunningServer([sys.executable, "-c", READS_LATER, "--listen", "unix://", "--state-dir", str(state), error])
    client = await WireClient.connect(host.url)
    await client.start("p", "sh", "-c", "head -n1", pipeStdin=True)
    for identity in (1, 2):
        await client.result("process/subscribe", {"processId": "p", "subscriptionId": identity, "afterSeq": 0})
    await client.result("process/write", write_params("p", b"once\n", "1"))
    while (await client.result("process/status", {"processId": "p"}))["status"]["state"] != "closed":
        pass
    assert client.notifications == []
    os.kill(host.server_pid, signal.SIGUSR1)
    await client.until_closed("p")
    assert client.methods("p") == ["output", "exited", "closed"]
    assert client.output("p") == b"once\n"

    def pushed(identity: int) -> list[dict[str, Any]]:
        return [n["params"] for n in client.notifications if n["params"].get("subscriptionId") == identity]

    for identity in (1, 2):
        await client.until(lambda identity=identity: any(one.get("done") for one in pushed(identity)))
        kinds = [record["kind"] for one in pushed(identity) for record in one["records"]]
        assert kinds == ["stdout", "exited", "closed"]
    await client.close()
    assert host.stop() == 0


#: A host that has no memory in the middle of its third message with records.
BREAKS_OFF = """
import sys
from holdfast.host import entry
from holdfast.jsonrpc.lines import LineConnection
send, messages = LineConnection.send, []

def break_off(self, message):
    if b'"process/records"' in message[:40]:
        messages.append(message)
        if len(messages) == 3:
            self._transport.write(message[:50])
            raise MemoryError
    send(self, message)

LineConnection.send = break_off
sys.exit(entry.main())
"""


async def test_a_message_that_breaks_off_for_want_of_memory_ends_the_connection_and_nothing_else(state: Path) -> None:
    host = RunningServer([sys.executable, "-c", BREAKS_OFF, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(host.url)
    lines = b"".join(b"%d\n" % number for number in range(600_000))
    await client.start(ProcessSpec(process_id="p", argv=["seq", "0", "599999"], cwd=Path("/"), env={"PATH": PATH}))
    found = b"".join([record.data async for record in client.records("p") if isinstance(record, Record)])
    assert found == lines
    assert client.established == 2
    await client.aclose()
    assert host.stop() == 0
