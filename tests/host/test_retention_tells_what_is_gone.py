"""Output beyond the budget is deleted oldest first, and every reader is told which records are gone."""

from __future__ import annotations

from pathlib import Path

from holdfast.host.client import HostClient
from holdfast.host.port import Gap, Kind, ProcessSpec, ProcessState, Record

from .harness import PATH, WireClient, kill_server, start_host, within


def spec(process_id: str, script: str) -> ProcessSpec:
    return ProcessSpec(process_id=process_id, argv=["sh", "-c", script], cwd=Path("/"), env={"PATH": PATH})


async def read(client: HostClient, process_id: str, after: int = 0) -> list[Record | Gap]:
    async def all_records() -> list[Record | Gap]:
        return [record async for record in client.records(process_id, after_seq=after)]

    return await within(all_records())


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


def beside_the_mark(state: Path) -> Path:
    """Where the standard error of the only process was whose output was dropped."""
    (mark,) = state.glob("processes/*/dropped")
    return mark.with_name("stderr")


async def test_what_a_kill_left_of_it_is_deleted_by_the_next_server(state: Path) -> None:
    server = start_host(state, "unix://", "--retain-bytes", "1000")
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "head -c 2000 /dev/zero; echo error >&2"))
    await read(client, "p")
    leftover = beside_the_mark(state)
    assert not leftover.exists()
    leftover.write_bytes(b"error\n")
    await kill_server(server)
    await client.status("p")
    assert not leftover.exists()
    gap, *ends = await read(client, "p")
    assert isinstance(gap, Gap)
    assert [end.kind for end in ends if isinstance(end, Record)] == [Kind.EXITED, Kind.CLOSED]
    await client.aclose()
    server.stop()
