"""The laws: exit is not close, a cursor never lies, bytes are kept, a slow reader slows nobody."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import Gap, Kind, ProcessSpec, ProcessState, Record, StartRefused, StdinClosed, UnknownProcess

from .harness import PATH, RunningServer, WireClient, kill_server, within


@pytest.fixture
async def client(host: RunningServer) -> AsyncIterator[HostClient]:
    connected = await HostClient.connect(host.url)
    yield connected
    await connected.aclose()


def spec(
    process_id: str, *argv: str, tty: bool = False, stdin: bool = False, stdin_file: Path | None = None
) -> ProcessSpec:
    return ProcessSpec(
        process_id=process_id,
        argv=list(argv),
        cwd=Path("/tmp"),
        env={"PATH": PATH},
        tty=tty,
        pipe_stdin=stdin,
        stdin_file=stdin_file,
    )


async def collect(client: HostClient, process_id: str, after: int = 0, *, follow: bool = True) -> list[Record]:
    async def read() -> list[Record]:
        found: list[Record] = []
        async for record in client.records(process_id, after_seq=after, follow=follow):
            assert isinstance(record, Record)
            found.append(record)
        return found

    return await within(read())


def output(records: list[Record], *kinds: Kind) -> bytes:
    wanted = kinds or (Kind.STDOUT, Kind.STDERR, Kind.PTY)
    return b"".join(record.data for record in records if record.kind in wanted)


async def test_records_are_numbered_timed_and_end_with_closed(client: HostClient) -> None:
    await client.start(spec("p", "sh", "-c", "echo out; echo err >&2; kill -9 $$"))
    records = await collect(client, "p")
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
    assert (records[-2].exit_code, records[-2].signal) == (137, 9)
    assert output(records, Kind.STDOUT) == b"out\n"
    assert output(records, Kind.STDERR) == b"err\n"
    times = [record.time for record in records]
    assert times == sorted(times)
    assert times[0] > 1e9
    status = await client.status("p")
    assert status is not None
    assert (status.state, status.exit_code, status.signal, status.last_seq) == (
        ProcessState.CLOSED,
        137,
        9,
        len(records),
    )


async def test_late_output_of_a_grandchild_is_kept_and_closed_comes_last(client: HostClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    holder = os.open(gate, os.O_RDWR)
    try:
        await client.start(spec("g", "sh", "-c", f"(read x < {gate}; echo late) & echo early; exit 5"))
        seen: list[Record] = []
        async for record in client.records("g"):
            assert isinstance(record, Record)
            seen.append(record)
            if record.kind is Kind.EXITED:
                status = await client.status("g")
                assert status is not None
                assert (status.state, status.exit_code) == (ProcessState.EXITED, 5)
                os.write(holder, b"now\n")
        assert output(seen) == b"early\nlate\n"
        assert [record.kind for record in seen] == [Kind.STDOUT, Kind.EXITED, Kind.STDOUT, Kind.CLOSED]
    finally:
        os.close(holder)


async def test_a_terminal_closes_when_its_session_ends(client: HostClient) -> None:
    # The kernel hangs the terminal up with its session; what was written before is kept, and closed still comes last.
    await client.start(spec("g", "sh", "-c", "sleep 1000 & echo early; exit 5", tty=True))
    seen = await collect(client, "g")
    assert output(seen) == b"early\r\n"
    assert [record.kind for record in seen[-2:]] == [Kind.EXITED, Kind.CLOSED]
    await client.terminate("g")


@pytest.mark.parametrize("tty", [False, True])
async def test_every_byte_value_passes_unchanged(client: HostClient, tty: bool, tmp_path: Path) -> None:
    data = bytes(range(256)) * 512 + os.urandom(1_000_000)
    source = tmp_path / "data"
    source.write_bytes(data)
    # A terminal changes newlines unless it is told not to.
    script = f"{'stty raw -echo;' if tty else ''} cat {source}"
    await client.start(spec("b", "sh", "-c", script, tty=tty))
    records = await collect(client, "b")
    assert hashlib.sha256(output(records)).digest() == hashlib.sha256(data).digest()


async def test_memory_does_not_grow_with_output(host: RunningServer, client: HostClient) -> None:
    def resident() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{host.server_pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    await client.start(spec("warm", "head", "-c", "5000000", "/dev/zero"))
    await collect(client, "warm")
    before = resident()
    size = 300_000_000
    await client.start(spec("big", "head", "-c", str(size), "/dev/zero"))
    received = 0
    async for record in client.records("big"):
        assert isinstance(record, Record)
        received += len(record.data)
    assert received == size
    assert resident() - before < 30_000_000


async def test_a_reader_that_stands_still_slows_neither_the_process_nor_other_readers(client: HostClient) -> None:
    size = 40_000_000
    await client.start(spec("f", "sh", "-c", f"read x; head -c {size} /dev/zero", stdin=True))
    slow = client.records("f").__aiter__()
    first = asyncio.ensure_future(slow.__anext__())
    await client.write("f", b"go\n")
    await within(first)
    # The slow reader now holds one record and asks for no more; the same connection serves everything else.
    whole = await collect(client, "f")
    assert len(output(whole)) == size
    assert whole[-1].kind is Kind.CLOSED
    rest = [await within(first)]
    async for record in slow:
        rest.append(record)
    assert rest == whole


async def test_a_connection_that_is_not_read_neither_blocks_the_child_nor_fills_the_host(
    host: RunningServer, tmp_path: Path
) -> None:
    client = await WireClient.connect(host.url)
    assert client.connection is not None
    size = 60_000_000
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    holder = os.open(gate, os.O_RDWR)
    client.connection._transport.pause_reading()  # type: ignore[attr-defined]
    client.request(
        "process/start",
        {
            "processId": "f",
            "argv": ["sh", "-c", f"head -c {size} /dev/zero; echo done > {gate}"],
            "cwd": "file:///tmp",
            "env": {"PATH": PATH},
            "tty": False,
        },
    )
    assert await within(asyncio.to_thread(os.read, holder, 5)) == b"done\n"
    os.close(holder)
    client.connection._transport.resume_reading()  # type: ignore[attr-defined]
    await client.until_closed("f")
    assert len(client.output("f")) == size
    seqs = [notification["params"]["seq"] for notification in client.notifications]
    assert seqs == list(range(1, len(seqs) + 1))
    await client.close()


async def test_reading_goes_on_exactly_after_any_cursor(client: HostClient) -> None:
    await client.start(spec("c", "sh", "-c", "for i in $(seq 300); do echo line $i; done; exit 1"))
    whole = await collect(client, "c")
    for after in (0, 1, len(whole) // 2, len(whole) - 1, len(whole), len(whole) + 5):
        assert await collect(client, "c", after) == whole[after:]
    assert await collect(client, "c", follow=False) == whole


async def test_without_follow_a_reader_stops_at_the_present_end(client: HostClient) -> None:
    await client.start(spec("n", "sh", "-c", "echo one; read x", stdin=True))
    async for record in client.records("n"):
        assert isinstance(record, Record)
        break
    assert [record.data for record in await collect(client, "n", follow=False)] == [b"one\n"]
    assert await collect(client, "n", 1, follow=False) == []
    await client.close_stdin("n")
    await collect(client, "n")


async def test_a_second_start_with_the_same_id_is_the_first_one(client: HostClient, host: RunningServer) -> None:
    first = await client.start(spec("same", "sleep", "1000"))
    other = await HostClient.connect(host.url)
    again = await asyncio.gather(*(each.start(spec("same", "sleep", "1000")) for each in (client, other) * 10))
    assert {status.pid for status in again} == {first.pid}
    assert [status.process_id for status in await other.list()] == ["same"]
    await client.terminate("same")
    assert (await other.start(spec("same", "sleep", "1000"))).state is ProcessState.CLOSED
    await other.aclose()


async def test_processes_outlive_the_client_that_started_them(host: RunningServer) -> None:
    first = await HostClient.connect(host.url)
    await first.start(spec("o", "sh", "-c", "read x; echo got $x", stdin=True))
    await first.aclose()
    second = await HostClient.connect(host.url)
    await second.write("o", b"word\n")
    assert output(await collect(second, "o")) == b"got word\n"
    await second.aclose()


async def test_stdin_from_a_file_is_byte_exact_and_only_from_regular_files(client: HostClient, tmp_path: Path) -> None:
    source = tmp_path / "prompt"
    source.write_bytes(bytes(range(256)) * 40)
    await client.start(spec("i", "cat", stdin_file=source))
    assert output(await collect(client, "i")) == source.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(source)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    missing = tmp_path / "missing"
    reasons = {
        link: "is a symlink",
        fifo: "is not a regular file",
        tmp_path: "is not a regular file",
        missing: "cannot be opened: No such file or directory",
        source / "below": "cannot be opened: Not a directory",
    }
    for number, (refused, reason) in enumerate(reasons.items()):
        with pytest.raises(StartRefused) as caught:
            await client.start(spec(f"refused{number}", "cat", stdin_file=refused))
        assert caught.value.message.endswith(f": stdinFile {refused} {reason}.")
        assert "standard input" in str(caught.value.hint)
    assert [status.process_id for status in await client.list()] == ["i"]


async def test_large_input_waits_for_a_process_that_does_not_read_and_blocks_nobody(client: HostClient) -> None:
    await client.start(spec("w", "sh", "-c", "read go; wc -c", stdin=True))
    data = b"go\n" + b"x" * 10_000_000
    writing = asyncio.ensure_future(client.write("w", data))
    await client.start(spec("other", "echo", "hello"))
    assert output(await collect(client, "other")) == b"hello\n"
    await within(writing)
    await client.close_stdin("w")
    # ``read`` takes its line byte by byte, so all the rest is counted.
    assert output(await collect(client, "w")).strip() == b"10000000"


async def test_writes_to_what_takes_no_input_are_refused(client: HostClient) -> None:
    await client.start(spec("n", "sleep", "1000"))
    with pytest.raises(StdinClosed):
        await client.write("n", b"x")
    with pytest.raises(UnknownProcess):
        await client.write("nobody", b"x")
    with pytest.raises(UnknownProcess):
        await collect(client, "nobody")
    assert await client.status("nobody") is None
    await client.start(spec("c", "sh", "-c", "exec <&-; echo closed; sleep 1000", stdin=True))
    async for record in client.records("c"):
        if isinstance(record, Record) and record.data:
            break
    with pytest.raises(StdinClosed):
        await within(client.write("c", b"x" * 100))
    await client.terminate("n")
    await client.terminate("c")


async def test_a_terminal_sees_end_of_file(client: HostClient) -> None:
    await client.start(spec("t", "cat", tty=True))
    await client.write("t", b"abc\n")
    await client.close_stdin("t")
    records = await collect(client, "t")
    assert records[-2].exit_code == 0
    assert output(records) == b"abc\r\nabc\r\n"


@pytest.mark.parametrize("killed", [False, True], ids=["serving", "killed"])
async def test_what_is_said_on_a_terminal_that_was_closed_for_a_while_is_kept(
    host: RunningServer, client: HostClient, tmp_path: Path, killed: bool
) -> None:
    gates = [tmp_path / word for word in ("one", "two", "three")]
    for gate in gates:
        os.mkfifo(gate)
    # As ssh and sudo ask for a password, whatever their streams are.
    say = "".join(f"read x <{gate}; echo $x >/dev/tty; " for gate in gates)
    await client.start(spec("p", "sh", "-c", f"exec </dev/null >/dev/null 2>&1; {say}exit 4", tty=True))
    for gate in gates:
        # It can be opened when the process waits there, and has closed its terminal.
        opened = await within(asyncio.to_thread(gate.open, "w"))
        if killed:
            await kill_server(host)
        assert await client.status("p") is not None
        with opened:
            opened.write(f"{gate.name}\n")
    records = await collect(client, "p")
    assert output(records, Kind.PTY) == b"one\r\ntwo\r\nthree\r\n"
    assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
    assert records[-2].exit_code == 4


async def test_a_terminal_that_was_closed_for_a_while_closes_with_its_last_user(
    client: HostClient, tmp_path: Path
) -> None:
    gates = [tmp_path / word for word in ("again", "leave", "speak")]
    for gate in gates:
        os.mkfifo(gate)
    away = "exec </dev/null >/dev/null 2>&1"
    left = f"trap '' HUP; {away}; read x <{gates[0]}; exec 3>$T; read x <{gates[2]}; printf hello >&3"
    await client.start(spec("p", "sh", "-c", f"T=$(tty); ({left}) & {away}; read x <{gates[1]}; exit 7", tty=True))
    opened = [await within(asyncio.to_thread(gate.open, "w")) for gate in gates[:2]]
    # Now nobody has it open; then one has again, says nothing, and stays when the process exits.
    assert await client.status("p") is not None
    print(file=opened[0], flush=True)
    last = await within(asyncio.to_thread(gates[2].open, "w"))
    print(file=opened[1], flush=True)
    async for record in client.records("p"):
        assert isinstance(record, Record)
        if record.kind is Kind.EXITED:
            print(file=last, flush=True)
    records = await collect(client, "p")
    assert [(record.kind, record.data) for record in records] == [
        (Kind.EXITED, b""),
        (Kind.PTY, b"hello"),
        (Kind.CLOSED, b""),
    ]
    for gate in (*opened, last):
        gate.close()


async def test_any_signal_can_be_sent(client: HostClient) -> None:
    await client.start(spec("s", "sh", "-c", "trap 'echo usr1' USR1; echo up; read x; read x", stdin=True))
    async for record in client.records("s"):
        assert isinstance(record, Record)
        if b"up" in record.data:
            await client.signal("s", 10)
        elif b"usr1" in record.data:
            await client.signal("s", 15)
        elif record.kind is Kind.EXITED:
            assert (record.exit_code, record.signal) == (143, 15)
    await client.signal("s", 15)


async def test_a_gap_is_never_silent() -> None:
    """The type exists so that a hole cannot be overlooked: it is not a record."""
    assert not isinstance(Gap(first=1, last=2), Record)
