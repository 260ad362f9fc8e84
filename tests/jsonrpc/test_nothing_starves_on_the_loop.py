"""The event loop of the host: what takes the short cut is served at once, and asyncio gets its turn all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.jsonrpc.event_loop import HUNG_UP, READABLE, EventLoop, running_poller
from holdfast.jsonrpc.streams import SocketTransport, serve_socket

BOUND = 30.0


def on_the_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await test()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(bounded())


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.transport: Any = None
        self.changed = asyncio.Event()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def pause_writing(self) -> None:
        self._note("paused")

    def resume_writing(self) -> None:
        self._note("resumed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost")


def pair() -> tuple[Recorder, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    recorder = Recorder()
    SocketTransport(running_poller(), ours, recorder)
    return recorder, theirs


@pytest.mark.parametrize("when", ["data_received", "eof_received"])
def test_a_protocol_that_fails_ends_its_own_connection_only(when: str) -> None:
    async def run() -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

        def fail(*arguments: object) -> None:
            raise ValueError("a fault")

        (failing, to_failing), (other, to_other) = pair(), pair()
        setattr(failing, when, fail)
        to_failing.send(b"x")
        to_failing.shutdown(socket.SHUT_WR)
        await failing.until(lambda: "lost" in failing.events)
        assert [str(fault) for fault in faults] == ["a fault"]
        to_other.send(b"x")
        await other.until(lambda: other.received == b"x")
        to_failing.close()
        to_other.close()

    on_the_loop(run)


def test_a_busy_descriptor_keeps_nobody_waiting() -> None:
    async def run() -> None:
        poller = running_poller()
        source, sink = os.pipe()
        os.write(sink, b"x")
        busy = 0
        told = asyncio.Event()

        def ready(events: int) -> None:
            # Never read, so it is ready for ever.
            nonlocal busy
            busy += 1

        poller.watch(source, READABLE, ready)
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, told.set)
        await told.wait()
        assert await asyncio.to_thread(lambda: "from a thread") == "from a thread"
        await asyncio.sleep(0)
        readable, writable = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=readable)
        writable.sendall(b"through asyncio\n")
        assert await reader.readline() == b"through asyncio\n"
        writer.close()
        writable.close()
        interrupted = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, interrupted.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await interrupted.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        assert busy > 3
        poller.unwatch(source)
        os.close(source)
        os.close(sink)

    on_the_loop(run)


def test_what_a_callback_asks_of_asyncio_happens_without_another_event() -> None:
    async def run() -> None:
        poller = running_poller()
        loop = asyncio.get_running_loop()
        for ask in (loop.call_soon, lambda call: loop.call_later(0.001, call)):
            source, sink = os.pipe()
            done = asyncio.Event()

            def ready(events: int, source: int = source, done: asyncio.Event = done, ask: Any = ask) -> None:
                poller.unwatch(source)
                ask(done.set)

            poller.watch(source, READABLE, ready)
            os.write(sink, b"x")
            await done.wait()
            os.close(source)
            os.close(sink)

    on_the_loop(run)


def test_a_failing_callback_is_reported_and_others_are_called() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        poller = running_poller()
        ends = [os.pipe() for _ in range(2)]
        called = asyncio.Event()

        def fail(events: int) -> None:
            poller.unwatch(ends[0][0])
            raise ValueError("a defect")

        poller.watch(ends[0][0], READABLE, fail)

        def succeed(events: int) -> None:
            poller.unwatch(ends[1][0])
            called.set()

        poller.watch(ends[1][0], READABLE, succeed)
        for _, sink in ends:
            os.write(sink, b"x")
        await called.wait()
        assert [str(error) for error in reported] == ["a defect"]
        for descriptor in (end for pipe in ends for end in pipe):
            os.close(descriptor)

    on_the_loop(run)


def test_an_event_is_never_that_of_an_earlier_descriptor() -> None:
    async def run() -> None:
        poller = running_poller()
        first, second = os.pipe(), os.pipe()
        over = asyncio.Event()
        wrong: list[int] = []

        def replace(events: int) -> None:
            # Both are ready; the other one's number gets another meaning before its turn.
            for source, sink in (first, second):
                poller.unwatch(source)
                os.close(source)
                os.close(sink)
            source, sink = os.pipe()
            poller.watch(source, READABLE, wrong.append)
            asyncio.get_running_loop().call_later(0.01, over.set)
            asyncio.get_running_loop().call_later(0.01, poller.unwatch, source)
            kept.extend((source, sink))

        kept: list[int] = []
        for source, sink in (first, second):
            poller.watch(source, READABLE, replace)
            os.write(sink, b"x")
        await over.wait()
        assert kept[0] in (*first, *second)
        assert wrong == []
        for descriptor in kept:
            os.close(descriptor)

    on_the_loop(run)


def test_a_hang_up_is_told_apart() -> None:
    async def run() -> None:
        poller = running_poller()
        source, sink = os.pipe()
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def ready(events: int) -> None:
            poller.unwatch(source)
            told.set_result(events)

        poller.watch(source, READABLE, ready)
        os.close(sink)
        assert await told == HUNG_UP
        os.close(source)

    on_the_loop(run)


async def test_another_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="own event loop"):
        running_poller()


# Streams


def test_a_reader_that_dawdles_gets_everything_in_order() -> None:
    async def run() -> None:
        recorder, theirs = pair()
        recorder.transport.set_write_buffer_limits(100_000, 10_000)
        parts = [os.urandom(size) for size in (10, 300_000, 1, 5000, 0, 70_000) * 6]
        for number, part in enumerate(parts):
            if number % 2:
                recorder.transport.write(part)
            else:
                recorder.transport.writelines([part[:7], part[7:]])
        assert recorder.events == ["made", "paused"]
        expected = b"".join(parts)
        received = await asyncio.to_thread(lambda: receive(theirs, len(expected)))
        assert received == expected
        await recorder.until(lambda: recorder.events == ["made", "paused", "resumed"])
        assert recorder.transport.get_write_buffer_size() == 0
        theirs.close()
        await recorder.until(lambda: recorder.events[-1] == "lost")
        recorder.transport.write(b"nobody hears it")

    on_the_loop(run)


def receive(endpoint: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := endpoint.recv(65536)):
        data += part
    return bytes(data)


def test_a_close_comes_after_what_was_written_and_an_abort_before() -> None:
    async def run() -> None:
        recorder, theirs = pair()
        large = os.urandom(3_000_000)
        recorder.transport.write(large)
        recorder.transport.close()
        recorder.transport.write(b"after the close")
        assert await asyncio.to_thread(lambda: receive(theirs, len(large) + 100)) == large
        await recorder.until(lambda: recorder.events[-1] == "lost")
        theirs.close()
        recorder, theirs = pair()
        recorder.transport.write(large)
        recorder.transport.abort()
        assert len(await asyncio.to_thread(lambda: receive(theirs, len(large)))) < len(large)
        await recorder.until(lambda: recorder.events[-1] == "lost")
        assert recorder.events.count("lost") == 1
        theirs.close()

    on_the_loop(run)


def test_a_peer_that_goes_away_with_answers_outstanding_is_lost_once() -> None:
    async def run() -> None:
        recorder, theirs = pair()
        recorder.transport.write(os.urandom(3_000_000))
        theirs.close()
        await recorder.until(lambda: recorder.events[-1] == "lost")
        recorder.transport.abort()
        await asyncio.sleep(0)
        assert recorder.events.count("lost") == 1

    on_the_loop(run)


def test_answers_to_what_was_read_at_once_leave_together() -> None:
    async def run() -> None:
        class Echo(Recorder):
            def data_received(self, data: bytes) -> None:
                for byte in data:
                    self.transport.write(bytes([byte]))

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        SocketTransport(running_poller(), ours, Echo())
        # Packets keep their boundaries: one answer is one system call.
        theirs.sendall(b"abc")
        assert await asyncio.to_thread(theirs.recv, 100) == b"abc"
        theirs.close()
        await asyncio.sleep(0)

    on_the_loop(run)


def test_what_an_event_brings_leaves_together_unless_somebody_waits_for_it() -> None:
    async def run() -> None:
        poller = running_poller()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        recorder = Recorder()
        SocketTransport(poller, ours, recorder)
        source, sink = os.pipe()

        def happened(events: int) -> None:
            poller.unwatch(source)
            recorder.transport.write(b"an answer")
            recorder.transport.writelines([b", ", b"and news"])
            poller.defers = False
            recorder.transport.write(b" for you")
            poller.defers = True
            recorder.transport.write(b"more news")

        poller.watch(source, READABLE, happened)
        os.write(sink, b"x")
        received = [await asyncio.to_thread(theirs.recv, 100) for _ in range(2)]
        assert received == [b"an answer, and news for you", b"more news"]
        # Outside of an event nobody would send it later.
        recorder.transport.write(b"at once")
        assert theirs.recv(100, socket.MSG_DONTWAIT) == b"at once"
        for descriptor in (source, sink):
            os.close(descriptor)
        theirs.close()
        await recorder.until(lambda: recorder.events[-1] == "lost")

    on_the_loop(run)


def test_a_failure_afterwards_is_reported_and_what_else_waits_is_called() -> None:
    async def run() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        poller = running_poller()
        source, sink = os.pipe()
        called = asyncio.Event()

        def fail() -> None:
            raise ValueError("a defect")

        def happened(events: int) -> None:
            poller.unwatch(source)
            poller.afterwards(fail)
            poller.afterwards(called.set)

        poller.watch(source, READABLE, happened)
        os.write(sink, b"x")
        await called.wait()
        assert [str(error) for error in reported] == ["a defect"]
        for descriptor in (source, sink):
            os.close(descriptor)

    on_the_loop(run)


def test_a_protocol_that_fails_ends_its_connection_and_no_other() -> None:
    async def run() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

        class Failing(Recorder):
            def data_received(self, data: bytes) -> None:
                self.transport.write(b"half an answer")
                raise ValueError("a defect")

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        failing = Failing()
        SocketTransport(running_poller(), ours, failing)
        other, friend = pair()
        for endpoint in (theirs, friend):
            endpoint.sendall(b"x")
        await failing.until(lambda: failing.events[-1] == "lost")
        await other.until(lambda: other.received == b"x")
        assert await asyncio.to_thread(theirs.recv, 100) == b""
        assert [str(error) for error in reported] == ["a defect"]
        friend.close()
        theirs.close()
        await other.until(lambda: other.events[-1] == "lost")

    on_the_loop(run)


def test_after_a_conversation_the_loop_goes_to_sleep() -> None:
    async def run() -> None:
        class Echo(Recorder):
            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        poller = running_poller()
        polled = 0
        poll = poller._epoll.poll  # pyright: ignore[reportPrivateUsage]

        class Counting:
            """The epoll instance, counting how often it is asked."""

            def poll(self, *arguments: Any) -> Any:
                nonlocal polled
                polled += 1
                return poll(*arguments)

            def __getattr__(self, name: str) -> Any:
                return getattr(epoll, name)

        epoll = poller._epoll  # pyright: ignore[reportPrivateUsage]
        poller._epoll = Counting()  # type: ignore[assignment] # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        SocketTransport(poller, ours, Echo())

        def converse() -> None:
            for number in range(300):
                theirs.sendall(b"%d" % number)
                assert theirs.recv(100) == b"%d" % number

        await asyncio.to_thread(converse)
        before = polled
        # A loop that went on looking out would ask some hundred thousand times meanwhile.
        await asyncio.sleep(0.5)
        assert polled - before < 2000
        theirs.close()
        await asyncio.sleep(0)

    on_the_loop(run)


def test_a_listener_accepts_until_it_is_closed() -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        recorders: list[Recorder] = []
        everybody = asyncio.Event()

        def make() -> Recorder:
            recorders.append(Recorder())
            if len(recorders) == 5:
                everybody.set()
            return recorders[-1]

        serving = await serve_socket(listener, make)
        clients = [await asyncio.to_thread(socket.create_connection, address) for _ in range(5)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        await everybody.wait()
        for recorder in recorders:
            await recorder.until(lambda recorder=recorder: bool(recorder.received))
        assert sorted(bytes(recorder.received) for recorder in recorders) == [b"0", b"1", b"2", b"3", b"4"]
        serving.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        recorders[0].transport.write(b"still served")
        received = [await asyncio.to_thread(client.recv, 100) for client in clients[:1]]
        assert received == [b"still served"]
        for client in clients:
            client.close()
        for recorder in recorders:
            await recorder.until(lambda recorder=recorder: recorder.events[-1] == "lost")

    on_the_loop(run)
