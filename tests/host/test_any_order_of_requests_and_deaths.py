"""State machines: whatever is asked for in whatever order, with deaths of the server and of connections in between."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.host.client import HostClient
from holdfast.host.port import Gap, Kind, NotClosed, ProcessSpec, ProcessState, Record, StdinClosed, UnknownProcess

from .harness import PATH, RunningServer, kill_server, start_host, within

T = TypeVar("T")

#: Kills in one run: a server that dies oftener is given a pause, which costs time and proves nothing new.
KILLS = 3
DATA = st.binary(min_size=1, max_size=200).map(lambda data: data.replace(b"\x04", b"."))


class HostMachine(RuleBasedStateMachine):
    """A host, a client of it, and an event loop to drive both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="holdfast-machine-")
        state = Path(self.directory.name) / "state"
        state.mkdir(mode=0o700)
        self.server: RunningServer = start_host(state)
        self.client = self.run(HostClient.connect(self.server.url))
        self.kills = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(within(coroutine))

    def kill(self) -> None:
        self.kills += 1
        self.run(kill_server(self.server))

    def reconnect(self) -> None:
        self.run(self.client.aclose())
        self.client = self.run(HostClient.connect(self.server.url, wait=15.0))

    def teardown(self) -> None:
        async def close() -> None:
            await self.client.aclose()
            # Let the transport say goodbye before its loop is closed.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.run(close())
        self.server.stop()
        self.loop.close()
        self.directory.cleanup()


class Model:
    """What is known of a process that copies its input to its output."""

    def __init__(self, tty: bool, pid: int) -> None:
        self.tty = tty
        self.pid = pid
        self.written = b""
        self.open = True
        #: Exit code and signal; None while it runs.
        self.end: tuple[int, int | None] | None = None


class ProcessTable(HostMachine):
    """start, write, close, signal, terminate, read and list, against a model of each process."""

    processes = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}

    def spec(self, name: str, tty: bool) -> ProcessSpec:
        script = "stty raw -echo; echo up; exec cat" if tty else "echo up; exec cat"
        argv = ["sh", "-c", script]
        return ProcessSpec(process_id=name, argv=argv, cwd=Path("/"), env={"PATH": PATH}, tty=tty, pipe_stdin=not tty)

    async def output(self, name: str, wanted: int, after: int = 0) -> tuple[list[Record], bytes]:
        """Read until so many bytes have come, or to the end."""
        records: list[Record] = []
        data = b""
        reading: AsyncIterator[Record | Gap] = self.client.records(name, after_seq=after)
        async for record in reading:
            assert isinstance(record, Record)
            assert record.seq == after + len(records) + 1
            records.append(record)
            data += record.data
            if self.models[name].end is None and len(data) >= wanted:
                break
        return records, data

    @rule(target=processes, name=st.sampled_from(["a", "b", "c", "../d", ""]), tty=st.booleans())
    def start(self, name: str, tty: bool) -> str:
        status = self.run(self.client.start(self.spec(name, tty)))
        model = self.models.get(name)
        if model is None:
            assert status.pid is not None
            assert status.state is ProcessState.RUNNING
            model = self.models[name] = Model(tty, status.pid)
            _, data = self.run(self.output(name, 3))
            assert data in (b"up\n", b"up\r\n")
        # The same id is the same process, alive or not.
        assert status.pid == model.pid
        assert (status.state is ProcessState.RUNNING) == (model.end is None)
        return name

    @rule(name=processes, data=DATA)
    def write(self, name: str, data: bytes) -> None:
        model = self.models[name]
        if model.open and model.end is None:
            self.run(self.client.write(name, data))
            model.written += data
        else:
            try:
                self.run(self.client.write(name, data))
            except StdinClosed:
                return
            raise AssertionError("written to what takes no input")

    @rule(name=processes)
    def close_stdin(self, name: str) -> None:
        model = self.models[name]
        if model.tty:
            return
        self.run(self.client.close_stdin(name))
        if model.end is None:
            model.open = False
            model.end = (0, None)
            self.run(self.output(name, 0))

    @rule(name=processes, number=st.sampled_from([2, 9, 10, 15]))
    def signal(self, name: str, number: int) -> None:
        model = self.models[name]
        if model.end is None:
            # What was written before must have come through, or the signal might overtake it.
            self.run(self.output(name, 3 + len(model.written)))
        self.run(self.client.signal(name, number))
        if model.end is None:
            model.end = (128 + number, number)
            self.run(self.output(name, 0))

    @rule(name=processes)
    def terminate(self, name: str) -> None:
        model = self.models[name]
        if model.end is None:
            self.run(self.output(name, 3 + len(model.written)))
        ending = self.run(self.client.terminate(name))
        assert ending.survivors == []
        if model.end is None:
            assert ending.was_running
            model.end = (137, 9)
            self.run(self.output(name, 0))

    @rule(name=processes, die=st.booleans())
    def forget(self, name: str, die: bool) -> None:
        model = self.models[name]
        if model.end is None:
            try:
                self.run(self.client.forget(name))
            except NotClosed:
                return
            raise AssertionError("forgot what is running")
        assert self.run(self.client.forget(name)).existed
        assert self.run(self.client.status(name)) is None
        if die and self.kills < KILLS:
            self.kill()
            assert not self.run(self.client.forget(name)).existed
        # The id is free for another process.
        del self.models[name]
        self.run(self.client.start(self.spec(name, model.tty)))
        status = self.run(self.client.status(name))
        assert status is not None and status.pid is not None
        self.models[name] = Model(model.tty, status.pid)
        self.run(self.output(name, 3))

    @rule(name=processes, after=st.integers(0, 5))
    def read(self, name: str, after: int) -> None:
        model = self.models[name]
        whole, data = self.run(self.output(name, 3 + len(model.written)))
        assert data.split(b"\n", 1)[1] == model.written
        if model.end is not None:
            assert [record.kind for record in whole[-2:]] == [Kind.EXITED, Kind.CLOSED]
            assert (whole[-2].exit_code, whole[-2].signal) == model.end
            rest, _ = self.run(self.output(name, 0, min(after, len(whole))))
            assert rest == whole[min(after, len(whole)) :]

    @rule()
    def ask_for_what_is_not_there(self) -> None:
        assert self.run(self.client.status("nobody")) is None
        try:
            self.run(self.client.write("nobody", b"x"))
        except UnknownProcess:
            return
        raise AssertionError("written to nobody")

    @precondition(lambda self: self.kills < KILLS)
    @rule()
    def kill_the_server(self) -> None:
        self.kill()

    @rule()
    def come_again(self) -> None:
        self.reconnect()

    @invariant()
    def the_list_is_the_model(self) -> None:
        listed = {status.process_id: status for status in self.run(self.client.list())}
        assert set(listed) == set(self.models)
        for name, model in self.models.items():
            assert listed[name].pid == model.pid
            if model.end is None:
                assert listed[name].state is ProcessState.RUNNING
            else:
                assert listed[name].state is not ProcessState.LOST


class CursorReads(HostMachine):
    """Readers with cursors of their own, while the log grows and connections and servers end."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.cursors: list[int] = []
        self.got: list[list[Record]] = []
        self.over = False

    @initialize(tty=st.booleans())
    def begin(self, tty: bool) -> None:
        self.tty = tty
        script = "stty raw -echo; echo up; exec cat" if tty else "echo up; exec cat"
        self.run(
            self.client.start(
                ProcessSpec(
                    process_id="p",
                    argv=["sh", "-c", script],
                    cwd=Path("/"),
                    env={"PATH": PATH},
                    tty=tty,
                    pipe_stdin=not tty,
                )
            )
        )
        self.cursors = [0, 0]
        self.got = [[], []]
        self.run(self._read(0, lambda records: any(record.data for record in records)))

    async def _read(self, reader: int, enough: Any) -> None:
        async for record in self.client.records("p", after_seq=self.cursors[reader]):
            assert isinstance(record, Record)
            assert record.seq == self.cursors[reader] + 1
            self.cursors[reader] = record.seq
            self.got[reader].append(record)
            if enough(self.got[reader]):
                return

    @precondition(lambda self: not self.over)
    @rule(data=DATA, times=st.integers(1, 4))
    def grow(self, data: bytes, times: int) -> None:
        for _ in range(times):
            self.run(self.client.write("p", data))
            self.written += data

    @rule(reader=st.integers(0, 1), count=st.integers(1, 3))
    def read_some(self, reader: int, count: int) -> None:
        last = self.run(self.client.status("p")).last_seq  # type: ignore[union-attr]
        goal = min(last, self.cursors[reader] + count)
        if goal > self.cursors[reader]:
            self.run(self._read(reader, lambda records: records[-1].seq >= goal))

    @rule(reader=st.integers(0, 1))
    def read_all_of_it(self, reader: int) -> None:
        size = 3 + len(self.written)
        if sum(len(record.data) for record in self.got[reader]) < size:
            self.run(self._read(reader, lambda records: sum(len(record.data) for record in records) >= size))
        assert self.content(reader) == self.written

    def content(self, reader: int) -> bytes:
        return b"".join(record.data for record in self.got[reader]).partition(b"\n")[2]

    @rule()
    def come_again(self) -> None:
        self.reconnect()

    @rule()
    def lose_the_connection(self) -> None:
        link = self.client._connection.current  # pyright: ignore[reportPrivateUsage]
        assert link is not None
        link.peer.close()

    @precondition(lambda self: self.kills < KILLS)
    @rule()
    def kill_the_server(self) -> None:
        self.kill()

    @precondition(lambda self: not self.over)
    @rule()
    def end(self) -> None:
        # So that nothing is on its way when it ends.
        self.read_all_of_it(0)
        if self.tty:
            self.run(self.client.terminate("p"))
        else:
            self.run(self.client.close_stdin("p"))
        self.over = True

    @invariant()
    def what_was_read_is_a_beginning_of_what_was_written(self) -> None:
        for reader in range(len(self.got)):
            assert self.written.startswith(self.content(reader))

    def teardown(self) -> None:
        if self.got:
            if not self.over:
                self.end()
            for reader in range(2):
                if not self.got[reader] or self.got[reader][-1].kind is not Kind.CLOSED:
                    self.run(self._read(reader, lambda records: False))
                assert self.content(reader) == self.written
            assert self.got[0] == self.got[1]
        super().teardown()


LIMITS = settings(
    max_examples=int(os.environ.get("HOLDFAST_TEST_EXAMPLES", "5")),
    stateful_step_count=14,
    deadline=None,
    # Each example is a host of its own: one that fails is small enough to be read as it is.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestProcessTable = ProcessTable.TestCase
TestProcessTable.settings = LIMITS
TestCursorReads = CursorReads.TestCase
TestCursorReads.settings = LIMITS
