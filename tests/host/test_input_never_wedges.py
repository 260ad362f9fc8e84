"""Input waits for the process that it is for, and nobody waits with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.input import INPUT_LIMIT, STDIN_BUFFER
from holdfast.host.port import Kind, ProcessSpec, Record, StdinClosed, UnknownProcess

from .harness import RunningServer, WireClient, kill_server, within, write_params
from .promises import resident, serving, spec

TERMINAL = pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])


@pytest.fixture
async def client(host: RunningServer) -> AsyncIterator[HostClient]:
    connected = await HostClient.connect(host.url)
    yield connected
    await connected.aclose()


def shell(process_id: str, script: str, tty: bool) -> ProcessSpec:
    """On a terminal that neither echoes nor changes anything."""
    script = f"stty raw -echo; {script}" if tty else script
    return spec(process_id, "sh", "-c", script, tty=tty, stdin=not tty)


async def until_output(client: HostClient, process_id: str, wanted: bytes) -> None:
    async def read() -> None:
        async for record in client.records(process_id):
            if isinstance(record, Record) and wanted in record.data:
                return
        raise AssertionError("it ended before it said so")

    await within(read())


async def output(client: HostClient, process_id: str) -> bytes:
    async def read() -> bytes:
        return b"".join([record.data async for record in client.records(process_id) if isinstance(record, Record)])

    return await within(read())


@TERMINAL
async def test_ten_megabytes_for_a_process_that_never_reads_hold_up_nobody_and_end_with_it(
    host: RunningServer, client: HostClient, tty: bool
) -> None:
    await client.start(shell("deaf", "echo up; sleep 1000", tty))
    await until_output(client, "deaf", b"up")
    before = resident(host.server_pid)
    writing = asyncio.ensure_future(client.write("deaf", b"x" * 10_000_000))
    for number in range(20):
        await client.start(shell(f"other{number}", "echo hello", tty))
        assert b"hello" in await output(client, f"other{number}")
    # Back-pressure is visible: the write is not said to be done, and the host holds only a part of it.
    assert not writing.done()
    assert resident(host.server_pid) - before < 12_000_000
    assert (await client.status("deaf")).state == "running"  # type: ignore[union-attr]
    await within(client.terminate("deaf"))
    with pytest.raises(StdinClosed):
        await within(writing)


@TERMINAL
async def test_what_a_plain_client_sends_too_much_of_waits_for_its_answer(host: RunningServer, tty: bool) -> None:
    client = await WireClient.connect(host.url)
    script = "stty raw -echo; echo up; sleep 1000" if tty else "echo up; sleep 1000"
    await client.start("deaf", "/bin/sh", "-c", script, tty=tty, pipeStdin=not tty)
    await client.until_output("deaf", b"up")
    part = b"x" * 200_000
    requests = [client.request("process/write", write_params("deaf", part, str(number))) for number in range(40)]
    assert await client.result("environment/status") == {"status": "ready"}
    answered = sum(identity in client.replies for identity in requests)
    assert answered * len(part) <= STDIN_BUFFER + 2 * len(part) + 300_000
    assert await client.result("process/terminate", {"processId": "deaf"}) == {"running": True}
    replies = [await client.reply(identity) for identity in requests]
    assert {reply["result"]["status"] for reply in replies} == {"accepted", "stdinClosed"}
    # In order: nothing was taken after something that was not.
    taken = [reply["result"]["status"] == "accepted" for reply in replies]
    assert taken == sorted(taken, reverse=True)
    await client.until_closed("deaf")
    await client.close()


@TERMINAL
async def test_input_without_end_is_refused_before_it_is_begun(host: RunningServer, tty: bool) -> None:
    client = await WireClient.connect(host.url)
    script = "stty raw -echo; " * tty + "echo up; sleep 1000"
    await client.start("deaf", "/bin/sh", "-c", script, tty=tty, pipeStdin=not tty)
    await client.until_output("deaf", b"up")
    before = resident(host.server_pid)
    part = b"x" * 4_000_000
    requests: list[int] = []
    for number in range(80):
        requests.append(client.request("process/write", write_params("deaf", part, str(number))))
        # What is sent faster than it is read would pile up on this side.
        await client.result("environment/status")
    refused = [identity for identity in requests if "error" in client.replies.get(identity, {})]
    assert refused == requests[-len(refused) :]
    waiting = len(requests) - len(refused)
    assert waiting * len(part) <= INPUT_LIMIT < (waiting + 2) * len(part)
    # Besides them there is what one message takes while it is dealt with.
    assert resident(host.server_pid) - before < INPUT_LIMIT + 60_000_000
    error = client.replies[refused[0]]["error"]
    assert error["code"] == -32600
    assert "deaf does not read its input" in error["message"]
    # A refused one was not begun: the same again is no repetition. What was taken already still is one.
    again = client.request("process/write", write_params("deaf", part, str(waiting)))
    assert "error" in await client.reply(again)
    repeated = client.request("process/write", write_params("deaf", part, "0"))
    assert await client.result("process/terminate", {"processId": "deaf"}) == {"running": True}
    assert (await client.reply(repeated))["result"] == {"status": "stdinClosed"}
    await client.until_closed("deaf")
    await client.close()


async def test_writes_of_nothing_are_bounded_too(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await client.start("deaf", "/bin/sleep", "1000", pipeStdin=True)
    await client.result("process/write", write_params("deaf", b"x" * 100_000, "first"))
    requests = [client.request("process/write", write_params("deaf", b"", str(number))) for number in range(10_000)]
    await client.result("environment/status")
    answered = [identity for identity in requests if "result" in client.replies.get(identity, {})]
    assert 0 < len(answered) * 256 < STDIN_BUFFER
    await client.result("process/terminate", {"processId": "deaf"})
    await client.until_closed("deaf")
    await client.close()


@TERMINAL
async def test_all_of_it_arrives_once_the_process_reads(client: HostClient, tty: bool) -> None:
    await client.start(shell("late", "echo up; head -c 3 >/dev/null; head -c 3000000 | cksum", tty))
    await until_output(client, "late", b"up")
    data = bytes(range(256)) * 12_000
    await within(client.write("late", b"go\n" + data[:3_000_000]))
    await client.start(spec("sum", "sh", "-c", "head -c 3000000 | cksum", stdin=True))
    await within(client.write("sum", data[:3_000_000]))
    assert (await output(client, "late")).split()[1:] == (await output(client, "sum")).split()


@TERMINAL
async def test_before_the_start_and_after_the_end_it_is_refused(client: HostClient, tty: bool) -> None:
    with pytest.raises(UnknownProcess):
        await client.write("p", b"early")
    await client.start(shell("p", "exit 3", tty))
    assert await output(client, "p") == b""
    with pytest.raises(StdinClosed):
        await client.write("p", b"late")
    # What cannot be closed any more is closed.
    await client.close_stdin("p")


@TERMINAL
async def test_end_of_file_comes_after_everything_that_was_written(client: HostClient, tty: bool) -> None:
    # A terminal in its ordinary mode: there end of file is a character that is typed.
    script = "stty -echo; echo up; cat; echo end" if tty else "echo up; cat; echo end"
    await client.start(spec("p", "sh", "-c", script, tty=tty, stdin=not tty))
    await until_output(client, "p", b"up")
    for number in range(200):
        await client.write("p", b"line %d\n" % number)
    await client.close_stdin("p")
    got = (await output(client, "p")).replace(b"\r\n", b"\n")
    assert got == b"up\n" + b"".join(b"line %d\n" % number for number in range(200)) + b"end\n"


@TERMINAL
async def test_input_and_its_end_survive_kills_of_the_server(state: Path, tty: bool) -> None:
    async with serving(state) as (server, client):
        await client.start(shell("p", "echo up; head -c 600 | cksum; read x; echo last $x", tty))
        await until_output(client, "p", b"up")
        for number in range(60):
            await client.write("p", b"%09d\n" % number)
            if number % 20 == 10:
                await kill_server(server)
        await client.write("p", b"word\n")
        records = [record async for record in client.records("p") if isinstance(record, Record)]
        assert b"last word" in b"".join(record.data for record in records)
        assert [record.exit_code for record in records if record.kind is Kind.EXITED] == [0]


async def test_a_process_that_closes_its_input_is_not_written_to(host: RunningServer, client: HostClient) -> None:
    await client.start(spec("c", "sh", "-c", "exec <&-; echo closed; sleep 1000", stdin=True))
    await until_output(client, "c", b"closed")
    with pytest.raises(StdinClosed):
        await within(client.write("c", b"x" * 3_000_000))
    await client.terminate("c")
