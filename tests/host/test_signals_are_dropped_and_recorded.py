"""What hooks leave in the drop of a process becomes records: each once, in order, also when nobody was there."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.drop import EVENT_LIMIT, DropWatcher, SignalDrop
from holdfast.host.log import ProcessLog
from holdfast.host.log_index import LogFull
from holdfast.host.port import Kind, ProcessSpec, Record

from .harness import PATH, RunningServer, kill_server, start_host, within

#: What a hook does: no interpreter but sh.
HOOK = 'f=$(mktemp "$1/tmp/XXXXXX") && printf "%s" "$2" > "$f" && mv "$f" "$1/new/"'


def spec(process_id: str, script: str, *arguments: str) -> ProcessSpec:
    return ProcessSpec(
        process_id=process_id,
        argv=["sh", "-c", script, "sh", *arguments],
        cwd=Path("/"),
        env={"PATH": PATH},
        pipe_stdin=True,
        signal_drop=True,
    )


async def read(client: HostClient, process_id: str) -> list[Record]:
    async def all_records() -> list[Record]:
        return [record async for record in client.records(process_id) if isinstance(record, Record)]

    return await within(all_records())


async def test_events_are_records_in_the_order_of_the_process(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    drop = client.signal_drop("p")
    hook = f"hook() {{ {HOOK}; }}"
    # Step by step: what comes at the same time has no order between a stream and the drop.
    steps = ("echo one", "hook $1 '{\"n\":1}'", "echo two", "hook $1 '{\"n\":2}'; exit 3")
    await client.start(spec("p", f"{hook}; {'; read x; '.join(steps)}", str(drop)))
    assert stat.S_IMODE(os.stat(drop).st_mode) == 0o700

    async def step_by_step() -> None:
        async for record in client.records("p"):
            assert isinstance(record, Record)
            if record.seq < len(steps):
                await client.write("p", b"go\n")

    await within(step_by_step())
    records = await read(client, "p")
    told = [(record.kind, record.data) for record in records]
    assert (Kind.SIGNAL, b'{"n":2}') in told
    assert told.index((Kind.STDOUT, b"one\n")) < told.index((Kind.SIGNAL, b'{"n":1}'))
    assert told.index((Kind.SIGNAL, b'{"n":1}')) < told.index((Kind.STDOUT, b"two\n"))
    assert [kind for kind, _ in told][-2:] == [Kind.EXITED, Kind.CLOSED]
    assert drop.name not in os.listdir(drop.parent)
    await client.aclose()


async def test_an_event_wakes_readers_at_once(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    drop = client.signal_drop("w")
    await client.start(spec("w", "read x"))

    async def first() -> Record:
        async for record in client.records("w"):
            assert isinstance(record, Record)
            return record
        raise AssertionError

    waiting = asyncio.ensure_future(first())
    (drop / "tmp" / "a").write_text('{"hello":1}')
    os.rename(drop / "tmp" / "a", drop / "new" / "a")
    record = await within(waiting)
    assert (record.kind, record.data) == (Kind.SIGNAL, b'{"hello":1}')
    await client.terminate("w")
    await client.aclose()


async def test_events_that_cannot_be_read_or_are_too_large_are_named(host: RunningServer, tmp_path: Path) -> None:
    client = await HostClient.connect(host.url)
    drop = client.signal_drop("o")
    await client.start(spec("o", "read x"))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.symlink(secret, drop / "tmp" / "link")
    os.mkfifo(drop / "tmp" / "fifo")
    (drop / "tmp" / "large").write_bytes(b"x" * (EVENT_LIMIT + 1))
    for name in ("link", "fifo", "large"):
        os.rename(drop / "tmp" / name, drop / "new" / name)
    await client.close_stdin("o")
    events = [record.data for record in await read(client, "o") if record.kind is Kind.SIGNAL]
    assert len(events) == 3
    assert all("holdfast" in json.loads(event) for event in events)
    assert secret.read_text() == "secret"
    await client.aclose()


def leave(drop: Path, name: str, event: str) -> None:
    """What a hook does."""
    (drop / "tmp" / "event").write_text(event)
    os.rename(drop / "tmp" / "event", drop / "new" / name)


def _directory(drop: Path) -> None:
    (drop / "tmp" / "directory").mkdir()
    (drop / "tmp" / "directory" / "file").write_text("x")
    os.rename(drop / "tmp" / "directory", drop / "new" / "directory")


def _long_name(drop: Path) -> None:
    leave(drop, "n" * 255, "{}")


def _stranger(drop: Path) -> None:
    (drop / "cur" / "no-number").write_text("x")
    (drop / "cur" / "0-zero").write_text("x")
    leave(drop, "event", "{}")


def _gone(drop: Path) -> None:
    shutil.rmtree(drop)


def _file(drop: Path) -> None:
    shutil.rmtree(drop)
    drop.write_text("x")


def _no_place(drop: Path) -> None:
    _file(drop)
    # What is private no more is refused, whoever opened it.
    os.chmod(drop.parent, 0o755)


@pytest.mark.parametrize("mischief", [_directory, _long_name, _stranger, _gone, _file, _no_place])
async def test_whatever_a_process_does_to_its_drop_it_ends_and_the_host_goes_on(
    state: Path, mischief: Callable[[Path], None]
) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    drop, other = client.signal_drop("m"), client.signal_drop("n")
    await client.start(spec("m", "read x; exit 5"))
    await client.start(spec("n", "read x"))
    mischief(drop)
    leave(other, "event", "1")
    await kill_server(server)
    for process_id in ("m", "n"):
        await client.close_stdin(process_id)
    records = await read(client, "m")
    assert [(record.kind, record.exit_code) for record in records[-2:]] == [(Kind.EXITED, 5), (Kind.CLOSED, None)]
    assert [record.kind for record in records[:-2]] == ([] if mischief in (_gone, _file, _no_place) else [Kind.SIGNAL])
    assert [record.data for record in await read(client, "n") if record.kind is Kind.SIGNAL] == [b"1"]
    assert os.listdir(drop.parent) == []
    await client.aclose()
    server.stop()


class FakePoller:
    """Watches nothing."""

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        pass

    def unwatch(self, descriptor: int) -> None:
        pass


def test_events_are_found_also_where_no_watch_is_left(state: Path) -> None:
    poller = FakePoller()
    watcher = DropWatcher(poller)  # type: ignore[arg-type]
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    watcher.close()
    # A closed descriptor refuses as one without room does.
    drop.watch(lambda: None)
    assert not drop.watched
    (state / "log").mkdir()
    log = ProcessLog.create(state / "log")
    (state / "drop" / "new" / "event").write_text("1")
    assert drop.collect(log)
    assert [log.data(entry) for entry in log.entries(0, 10)] == [b"1"]
    drop.close()
    log.close()


async def test_no_event_is_lost_or_doubled_when_the_server_is_killed(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    drop = client.signal_drop("k")
    await client.start(spec("k", "read x"))
    for number in range(300):
        (drop / "tmp" / "e").write_text(json.dumps(number))
        os.rename(drop / "tmp" / "e", drop / "new" / f"{number:04d}")
        if number % 100 == 50:
            await kill_server(server)
    await client.status("k")
    await client.close_stdin("k")
    events = [int(record.data) for record in await read(client, "k") if record.kind is Kind.SIGNAL]
    assert sorted(events) == list(range(300))
    await client.aclose()
    server.stop()


@pytest.mark.parametrize("call", ["scandir", "open"])
def test_events_wait_for_descriptors_to_be_read_with(state: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    watcher = DropWatcher(FakePoller())  # type: ignore[arg-type]
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    (state / "log").mkdir()
    log = ProcessLog.create(state / "log")
    leave(state / "drop", "event", "1")
    with monkeypatch.context() as patch:
        genuine = getattr(os, call)

        def refuse(path: str, *rest: int) -> object:
            if str(path).startswith(str(state / "drop")):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return genuine(path, *rest)

        patch.setattr(os, call, refuse)
        with pytest.raises(LogFull, match="Too many open files"):
            drop.collect(log)
        assert not log.entries(0, 10)
    assert drop.collect(log)
    assert [log.data(entry) for entry in log.entries(0, 10)] == [b"1"]
    assert not drop.collect(log)
    drop.close()
    log.close()
    watcher.close()


def test_of_many_events_some_are_taken_at_a_time_in_their_order(state: Path) -> None:
    watcher = DropWatcher(FakePoller())  # type: ignore[arg-type]
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    (state / "log").mkdir()
    log = ProcessLog.create(state / "log")

    def leave_numbered(number: int) -> None:
        leave(state / "drop", f"event {number}", str(number))
        os.utime(state / "drop" / "new" / f"event {number}", ns=(number, number))

    many = 1000
    for number in range(many):
        leave_numbered(number)
    assert drop.collect(log)
    assert 0 < log.last_seq < many / 10
    # Left by a server that was killed before it wrote the record of it, and what came while the others waited.
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    os.rename(state / "drop" / "new" / f"event {log.last_seq}", state / "drop" / "cur" / f"{log.last_seq + 1:020d}-x")
    assert drop.collect(log)
    leave_numbered(many)
    while drop.more:
        drop.collect(log)
    found = [log.data(entry) for entry in log.entries(0, 2 * many)]
    assert found == [str(number).encode() for number in range(many + 1)]
    drop.close()
    log.close()
    watcher.close()


def test_however_many_events_are_there_at_once_others_have_their_turn(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = DropWatcher(FakePoller())  # type: ignore[arg-type]
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    (state / "log").mkdir()
    log = ProcessLog.create(state / "log")
    many = 2500
    for number in range(many):
        leave(state / "drop", f"{number * 7919 % many}", str(number))
        os.utime(state / "drop" / "new" / f"{number * 7919 % many}", ns=(number, number))
    seen = 0

    class Counted:
        def __init__(self, directory: str) -> None:
            self._entries = scandir(directory)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *reason: object) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            nonlocal seen
            for entry in self._entries:
                seen += 1
                yield entry

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Counted)
    assert not drop.collect(log)
    assert drop.more
    # A look that is not at its end may begin anew.
    drop.look()
    most = seen
    while drop.more:
        before = seen
        drop.collect(log)
        most = max(most, seen - before)
    assert 0 < most < many / 2
    assert [log.data(entry) for entry in log.entries(0, 2 * many)] == [str(number).encode() for number in range(many)]
    drop.close()
    log.close()
    watcher.close()


def test_events_that_cannot_be_moved_are_not_tried_for_ever(state: Path) -> None:
    watcher = DropWatcher(FakePoller())  # type: ignore[arg-type]
    drop = SignalDrop(state / "drop", watcher)
    drop.make()
    (state / "log").mkdir()
    log = ProcessLog.create(state / "log")
    for number in range(120):
        leave(state / "drop", str(number), "1")
    (state / "drop" / "cur").rmdir()
    # Some at a time, until each of them was tried.
    looks = [drop.more for _ in range(5) if not drop.collect(log)]
    assert looks[0] and not looks[2]
    assert not log.entries(0, 10)
    drop.close()
    log.close()
    watcher.close()


#: A host that takes its time for events, has none when it ends, and lets processes have theirs.
TAKES_ITS_TIME = """
import sys
from holdfast.host import drop, entry, server
drop._AT_ONCE = 1
server._LAST_CLOSE = 0
server.STOP_GRACE = 1000.0
sys.exit(entry.main())
"""
#: Leaves many events, and is gone.
PARTING = """
for i in $(seq 400); do echo $i >$1/tmp/$i; done
trap 'mv $1/tmp/* $1/new/; exit 3' TERM
echo up
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("ending", ["killed host", "stopped host"])
async def test_all_events_come_before_the_end_of_the_process(state: Path, ending: str) -> None:
    argv = [sys.executable, "-c", TAKES_ITS_TIME, "--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer(argv)
    client = await HostClient.connect(server.url)
    await client.start(spec("p", PARTING, str(client.signal_drop("p"))))
    async for record in client.records("p"):
        assert isinstance(record, Record)
        break
    if ending == "killed host":
        await client.signal("p", signal.SIGTERM)
        await kill_server(server)
    else:
        await client.aclose()
        assert await asyncio.to_thread(server.stop) == 0
        server = RunningServer(argv)
        client = await HostClient.connect(server.url)
    records = await read(client, "p")
    events = sorted(int(record.data) for record in records if record.kind is Kind.SIGNAL)
    assert events == list(range(1, 401))
    assert [(record.kind, record.exit_code) for record in records[-2:]] == [(Kind.EXITED, 3), (Kind.CLOSED, None)]
    await client.aclose()
    server.stop()
