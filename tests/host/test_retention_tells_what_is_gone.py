"""Output beyond the budget is deleted oldest first, and every reader is told which records are gone."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.host.client import HostClient
from holdfast.host.log_format import RECORD
from holdfast.host.port import Gap, Kind, ProcessSpec, ProcessState, Record

from .harness import PATH, WireClient, kill_server, start_host, within


def spec(process_id: str, script: str, *, pipe_stdin: bool = False) -> ProcessSpec:
    return ProcessSpec(
        process_id=process_id, argv=["sh", "-c", script], cwd=Path("/"), env={"PATH": PATH}, pipe_stdin=pipe_stdin
    )


async def read(client: HostClient, process_id: str, after: int = 0) -> list[Record | Gap]:
    async def all_records() -> list[Record | Gap]:
        return [record async for record in client.records(process_id, after_seq=after)]

    return await within(all_records())


async def say(client: HostClient, process_id: str, *lines: bytes) -> None:
    """Write each of *lines* when what came of the one before is a record of its own."""
    for number, line in enumerate(lines):
        await client.write(process_id, line)
        async for _ in client.records(process_id, after_seq=number):
            break


async def test_the_oldest_output_goes_first_and_its_absence_is_a_gap(state: Path) -> None:
    script = "head -c 400000 /dev/zero; echo end >&2; exit 5"
    for _ in range(2):
        server = start_host(state, "unix://", "--retain-bytes", "1000000")
        client = await HostClient.connect(server.url)
        for number in range(4):
            await client.start(spec(f"p{number}", script))
            await read(client, f"p{number}")
        kept = await read(client, "p3")
        assert sum(len(record.data) for record in kept if isinstance(record, Record)) == 400_004
        gone = await read(client, "p0")
        last = gone[-1]
        assert isinstance(last, Record)
        assert gone[0] == Gap(first=1, last=last.seq - 2)
        assert [record.kind for record in gone[1:] if isinstance(record, Record)] == [Kind.EXITED, Kind.CLOSED]
        assert (await read(client, "p0", after=2))[0] == Gap(first=3, last=last.seq - 2)
        status = await client.status("p0")
        assert status is not None
        assert (status.state, status.exit_code) == (ProcessState.CLOSED, 5)
        wire = await WireClient.connect(server.url)
        reply = await wire.result("process/read", {"processId": "p0"})
        assert reply["chunks"] == []
        assert reply["gap"] == {"first": 1, "last": last.seq - 2}
        assert "gap" not in await wire.result("process/read", {"processId": "p3"})
        await wire.close()
        await client.aclose()
        server.stop()


def used_place(state: Path) -> Path:
    """The directory of the only process that said something."""
    (output,) = state.glob("processes/*/stdout")
    return output.parent


async def test_what_a_kill_left_of_it_is_still_told_and_the_rest_is_a_gap(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "read line; echo output; read line; echo error >&2", pipe_stdin=True))
    await say(client, "p", b"\n", b"\n")
    before = await read(client, "p")
    assert [record.kind for record in before if isinstance(record, Record)][:2] == [Kind.STDOUT, Kind.STDERR]
    directory = used_place(state)
    (directory / "stdout").unlink()
    await kill_server(server)
    assert await read(client, "p") == [Gap(first=1, last=1), *before[1:]]
    await client.aclose()
    server.stop()


def lose_power(directory: Path) -> None:
    """What was not on the disk yet is zeros afterwards, or is not there."""
    records = bytearray((directory / "index").read_bytes())
    records[RECORD.size : 3 * RECORD.size] = bytes(2 * RECORD.size)
    (directory / "index").write_bytes(records)
    os.truncate(directory / "stdout", 11)


async def test_what_a_loss_of_power_took_from_a_log_is_named_and_hangs_nobody(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "for word in a b c d e f; do read line; echo $word; done; exit 5", pipe_stdin=True))
    await say(client, "p", *[b"\n"] * 6)
    before = await read(client, "p")
    assert len(before) == 8
    server.stop()
    directory = used_place(state)
    lose_power(directory)
    server = start_host(state)
    client = await HostClient.connect(server.url)
    expected = [before[0], Gap(first=2, last=3), *before[3:5], Gap(first=6, last=6), *before[6:]]
    assert await read(client, "p") == expected
    wire = await WireClient.connect(server.url)
    chunks: list[int] = []
    gaps: list[dict[str, int]] = []
    following = 1
    while following <= len(before):
        reply = await wire.result("process/read", {"processId": "p", "afterSeq": following - 1})
        following = reply["nextSeq"]
        chunks += [chunk["seq"] for chunk in reply["chunks"]]
        gaps += [reply["gap"]] if "gap" in reply else []
    assert (chunks, gaps) == ([1, 4, 5], [{"first": 2, "last": 3}, {"first": 6, "last": 6}])
    await wire.close()
    await client.aclose()
    server.stop()
