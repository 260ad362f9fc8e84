"""A repeated write is answered with what became of the first one, and no gap in the input goes unsaid."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from holdfast.host.input import STDIN_BUFFER
from holdfast.host.writes import WriteLedger

from .harness import RunningServer, WireClient, kill_server, start_host, within, write_params

#: Reads nothing until it gets a signal, and then tells how much it was.
LATE_READER = "trap 'wc -c; exit' USR1; echo up; while :; do sleep 0.05; done"

COUNTS_SIGNALS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("up", flush=True)
for count in range(1, 4):
    signal.sigwait([signal.SIGUSR1])
    print("got", count, flush=True)
"""


async def late_reader(client: WireClient, tty: bool = False) -> None:
    script = f"stty raw -echo; {LATE_READER}" if tty else LATE_READER
    await client.start("p", "/bin/sh", "-c", script, tty=tty, pipeStdin=not tty)
    await client.until_output("p", b"up")


async def test_a_repeated_write_that_waits_ends_as_the_first_does(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await client.start("p", "/bin/sh", "-c", "sleep 1000", pipeStdin=True)
    params = write_params("p", b"x" * (STDIN_BUFFER + 200_000), "1")
    twice = [client.request("process/write", params) for _ in range(2)]
    waiting = client.request("process/write", {**params, "untilWritten": True})
    assert await client.result("environment/status") == {"status": "ready"}
    assert not client.replies.keys() & {*twice, waiting}
    await client.result("process/terminate", {"processId": "p"})
    for request in (*twice, waiting):
        assert (await client.reply(request))["result"] == {"status": "stdinClosed"}
    assert await client.result("process/write", params) == {"status": "stdinClosed"}
    await client.close()


async def test_a_repeated_write_is_written_once(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await late_reader(client)
    params = write_params("p", b"x" * 300_000, "1")
    for _ in range(3):
        assert await client.result("process/write", params) == {"status": "accepted"}
    waiting = client.request("process/write", {**params, "untilWritten": True})
    ending = client.request("process/closeStdin", {"processId": "p"})
    assert await client.result("environment/status") == {"status": "ready"}
    # There is an end of file only behind what waits.
    assert not client.replies.keys() & {waiting, ending}
    assert await client.result("process/write", write_params("p", b"y", "2")) == {"status": "stdinClosed"}
    again = client.request("process/closeStdin", {"processId": "p"})
    await client.result("process/signal", {"processId": "p", "signal": 10})
    assert (await client.reply(waiting))["result"] == {"status": "accepted"}
    assert (await client.reply(ending))["result"] == {}
    assert (await client.reply(again))["result"] == {}
    await client.until_closed("p")
    assert client.output("p").endswith(b"\n300000\n")
    await client.close()


@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
async def test_who_writes_after_a_gap_is_told_of_it_once(state: Path, tty: bool) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    first = await WireClient.connect(server.url)
    await late_reader(first, tty)
    for number in range(3):
        accepted = await first.result("process/write", write_params("p", b"x" * 150_000, f"{number}"))
        assert accepted == {"status": "accepted"}
    ending = first.request("process/closeStdin", {"processId": "p", "writeId": "end"})
    assert await first.result("environment/status") == {"status": "ready"}
    assert ending not in first.replies
    await kill_server(server)
    await first.until_lost()

    second = await WireClient.connect(server.url, resume=first.session)
    repeated = await second.error("process/write", write_params("p", b"x" * 150_000, "1"))
    assert repeated == (-32603, "the server was killed during this write; how much of it arrived is not known")
    lost = 3 if tty else 2
    code, message = await second.error("process/write", write_params("p", b"y", "3"))
    assert (code, f"before {lost} earlier write(s)" in message) == (-32603, True), message
    assert await second.result("process/write", write_params("p", b"y", "3")) == {"status": "accepted"}
    await second.result("process/terminate", {"processId": "p"})
    await second.until_closed("p")
    await second.close()
    assert server.stop() == 0


async def test_a_write_is_known_when_its_process_has_closed_and_the_server_was_killed(state: Path) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    first = await WireClient.connect(server.url)
    await first.start("p", "head", "-n1", pipeStdin=True)
    written = {**write_params("p", b"hello\n", "1"), "untilWritten": True}
    assert await first.result("process/write", written) == {"status": "accepted"}
    await first.until_closed("p")
    await kill_server(server)
    await first.until_lost()
    second = await WireClient.connect(server.url, resume=first.session)
    assert await second.result("process/write", written) == {"status": "accepted"}
    assert await second.result("process/write", write_params("p", b"y", "2")) == {"status": "stdinClosed"}
    await second.close()
    assert server.stop() == 0


async def test_an_end_of_input_after_a_gap_is_refused_once(state: Path) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    first = await WireClient.connect(server.url)
    await late_reader(first)
    await first.result("process/write", write_params("p", b"x" * 150_000, "1"))
    await kill_server(server)
    await first.until_lost()
    second = await WireClient.connect(server.url, resume=first.session)
    code, message = await second.error("process/closeStdin", {"processId": "p"})
    assert (code, "before 1 earlier write(s)" in message) == (-32603, True), message
    assert await second.result("process/closeStdin", {"processId": "p"}) == {}
    await second.result("process/signal", {"processId": "p", "signal": 10})
    await second.until_closed("p")
    assert await within(asyncio.to_thread(server.stop)) == 0
    await second.close()


async def test_a_repeated_signal_is_sent_once_and_one_that_a_kill_cut_off_is_told_to_be(state: Path) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    first = await WireClient.connect(server.url)
    await first.start("p", sys.executable, "-c", COUNTS_SIGNALS)
    await first.until_output("p", b"up")
    for _ in range(2):
        assert await first.result("process/signal", {"processId": "p", "signal": 10, "signalId": "sent"}) == {}
    await first.until_output("p", b"got 1\n")
    (notes,) = state.glob("processes/*/writes")  # noqa: ASYNC240 - a test has the loop for itself
    # What a server leaves that is killed between the note and the signal.
    ledger = WriteLedger(str(notes.parent))
    ledger.begin_signal("cut off")
    ledger.close()
    await kill_server(server)
    await first.until_lost()

    second = await WireClient.connect(server.url, resume=first.session)
    assert await second.result("process/signal", {"processId": "p", "signal": 10, "signalId": "sent"}) == {}
    told = await second.error("process/signal", {"processId": "p", "signal": 10, "signalId": "cut off"})
    assert told == (-32603, "the server was killed during this signal; whether it arrived is not known")
    assert await second.result("process/signal", {"processId": "p", "signal": 10, "signalId": "new"}) == {}
    await second.until_output("p", b"got 2\n")
    await second.result("process/terminate", {"processId": "p"})
    await second.until_closed("p")
    await second.close()
    assert server.stop() == 0
