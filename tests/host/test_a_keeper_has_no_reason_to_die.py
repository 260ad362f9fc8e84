"""What makes a lesser keeper die, wait for ever or lose somebody: no room for a fork, many children, silent ones."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import socket
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdfast.host import keeper, keeping, packets
from holdfast.host.client import HostClient
from holdfast.host.estate import Estate
from holdfast.host.keeper import Keeper
from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import PACKET, hand_out, pack, pid_packets, send, take_in
from holdfast.host.port import Kind, ProcessState, Record

from .harness import BOUND, RunningServer, alive, kill_server, start_host, until_dead, within
from .promises import eventually, kill_keeper, spec

#: A host where a socket has no more room than Linux gives by default.
SMALL = """
import socket, sys

genuine = socket.socket.setsockopt

def setsockopt(self, level, option, value):
    return genuine(self, level, option, min(value, 212992) if level == socket.SOL_SOCKET else value)

socket.socket.setsockopt = setsockopt
from holdfast.host.entry import main
sys.exit(main())
"""
MANY = 1200
PYTHON = Path(sys.executable).resolve()


async def test_who_has_closed_its_streams_outlives_keeper_and_server(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    started = await client.start(spec("silent", "sh", "-c", "exec >&- 2>&- <&-; sleep 1000; exit 3"))
    assert started.pid is not None
    await eventually(lambda: not os.path.exists(f"/proc/{started.pid}/fd/1"), "it closes its streams")
    keeper_pid = await kill_keeper(server.pid)
    server.process.wait(BOUND)
    status = await client.status("silent")
    assert status is not None
    assert (status.state, status.pid) == (ProcessState.RUNNING, started.pid)
    ending = await client.terminate("silent")
    assert ending.was_running
    await client.aclose()
    os.kill(keeper_pid, signal.SIGTERM)
    await until_dead(keeper_pid)


def test_what_has_no_descriptor_is_handed_over_as_well() -> None:
    held = {"loud": {"stdout": 7, "stdin": 5}, "silent": {}}
    received: dict[str, dict[str, int]] = {}
    assert take_in(received, *hand_out(held))
    assert received == held


def test_it_waits_until_there_is_room_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.fork
    refused: list[int] = []

    def fork() -> int:
        if len(refused) < 3:
            refused.append(1)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return genuine()

    def serve(channel: int, estate: Estate | None, announce: bool) -> int:
        link = KeeperLink(socket.socket(fileno=channel))
        held, _ = link.take_over()
        link.leave()
        return 7 if list(held) == ["place"] else 8

    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            monkeypatch.setattr(os, "fork", fork)
            monkeypatch.setattr(keeper, "_PAUSE", 0.01)
            status = Keeper(serve, held={"place": {}}).run()
        finally:
            os._exit(status if len(refused) == 3 else 10)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_stop_does_not_wait_for_ever_until_there_is_room_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            signal.alarm(int(BOUND))
            left = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)
            os.write(tell, str(left).encode())
            monkeypatch.setattr(os, "fork", refuse)
            monkeypatch.setattr(keeper, "_PAUSE", 0.01)
            status = Keeper(lambda *_: 8, held={}).run()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not alive(int(os.read(told, 20)))
    os.close(told)
    os.close(tell)


@pytest.mark.parametrize("number", sorted(packets.NO_ROOM))
def test_what_finds_no_room_is_handed_over_all_the_same(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    genuine = packets.send
    refused: list[int] = []

    def send_or_not(channel: socket.socket, words: list[str], descriptors: list[int]) -> None:
        if len(refused) % 3 != 2:
            refused.append(1)
            raise OSError(number, os.strerror(number))
        refused.append(0)
        genuine(channel, words, descriptors)

    def serve(channel: int, estate: Estate | None, announce: bool) -> int:
        link = KeeperLink(socket.socket(fileno=channel))
        held, _ = link.take_over()
        link.leave()
        return 7 if [list(held[key]) for key in ("a", "b")] == [["stdout"], ["stderr"]] and link.outlived else 8

    held = {"a": {"stdout": os.dup(0)}, "b": {"stderr": os.dup(0)}}
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            monkeypatch.setattr(keeper, "send", send_or_not)
            monkeypatch.setattr(keeper, "LEISURE", 0.001)
            status = Keeper(serve, held=held).run()
        finally:
            os._exit(status if len(refused) >= 9 else 10)
    for descriptors in held.values():
        for descriptor in descriptors.values():
            os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_nothing_finds_room_for_a_server_that_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(channel: socket.socket, words: list[str], descriptors: list[int]) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    def serve(channel: int, estate: Estate | None, announce: bool) -> int:
        return 7

    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            monkeypatch.setattr(keeper, "send", refuse)
            status = Keeper(serve).run()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_the_keeper_is_not_taken_for_dead_while_too_many_descriptors_are_on_their_way() -> None:
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            status = crowd()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def crowd() -> int:
    """Send more descriptors than this process may have on their way; 7 if each of them arrives."""
    if os.geteuid() == 0:
        # Root may.  Nobody else has this number.
        os.setresuid(*[2**31 - 4711] * 3)
    # Whatever else is open leaves no room for those that arrive.
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arrived: list[str] = []

    def read(seconds: float = 0.0) -> None:
        words, descriptors = packets.receive(theirs, socket.MSG_DONTWAIT)
        arrived.extend(words[1:])
        for descriptor in descriptors:
            os.close(descriptor)

    keeping.time = SimpleNamespace(sleep=read)
    link = KeeperLink(ours)
    for number in range(200):
        link.hold({str(number): {"stdout": 0}})
    waited = len(arrived)
    while len(arrived) < 200:
        read()
    return 7 if waited and arrived == [f"{number}/stdout" for number in range(200)] else 8


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 40_000])
def test_any_number_of_pids_arrives_whole(count: int) -> None:
    pids = range(4_000_000, 4_000_000 + count)
    packets = pid_packets("adopt", pids)
    assert all(len(pack(words)) <= PACKET and words[0] == "adopt" for words in packets)
    assert [int(word) for words in packets for word in words[1:]] == list(pids)


async def test_hundreds_that_end_at_once_are_all_told_of(state: Path) -> None:
    server = RunningServer([sys.executable, "-c", SMALL, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    names = [f"p{number}" for number in range(MANY)]
    started = await asyncio.gather(*(client.start(spec(name, "sleep", "1000", stdin=True)) for name in names))
    await kill_server(server)
    assert (await client.status("p0")) is not None
    for status in started:
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)

    async def last(name: str) -> object:
        return [record async for record in client.records(name)][-1]

    ends = await within(asyncio.gather(*map(last, names)))
    assert all(isinstance(end, Record) and end.kind is Kind.CLOSED for end in ends)
    await client.aclose()
    assert server.stop() == 0


@pytest.mark.parametrize("gone", ["python", "source/holdfast/host/keeper.py"])
async def test_a_server_that_cannot_become_the_keeper_still_serves_and_stops(
    tmp_path: Path, state: Path, gone: str
) -> None:
    python = tmp_path / "python"
    python.symlink_to(PYTHON)
    source = shutil.copytree(Path(keeper.__file__).parents[2], tmp_path / "source")
    path = [str(source), *sys.path, sysconfig.get_paths()["purelib"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    argv = [str(python), "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer(argv, env=environment, stderr=tmp_path / "stderr")
    client = await HostClient.connect(server.url)
    started = await client.start(spec("p", "sleep", "1000"))
    assert started.pid is not None
    serving = server.server_pid
    # As an upgrade does.
    (tmp_path / gone).unlink()
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait(BOUND)
    await eventually(lambda: "cannot become the keeper" in (tmp_path / "stderr").read_text(), "it says so")
    status = await client.status("p")
    assert status is not None
    assert status.state is ProcessState.RUNNING
    await client.aclose()
    os.kill(serving, signal.SIGTERM)
    await until_dead(serving)
    assert not alive(started.pid)


async def test_no_file_where_the_host_was_started_becomes_part_of_it(tmp_path: Path, state: Path) -> None:
    project, ran = tmp_path / "project", tmp_path / "ran"
    project.mkdir()
    for name in ("resource", "socket", "holdfast"):
        (project / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\n")
    host = [sys.executable, "-P", "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer(["sh", "-c", 'cd "$0" && exec "$@"', str(project), *host])
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    await client.start(spec("p", "sleep", "1000"))
    heir = await kill_keeper(server.pid)
    server.process.wait(BOUND)
    status = await client.status("p")
    assert status is not None
    assert status.state is ProcessState.RUNNING
    assert not ran.exists()
    await client.aclose()
    os.kill(heir, signal.SIGTERM)
    await until_dead(heir)


async def test_a_keeper_is_told_of_what_ended_before_its_server_listened() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        link = KeeperLink(ours)
        link.let("place")
        link.listen(loop)
        assert await within(loop.sock_recv(theirs, PACKET)) == pack(["let", "place"])


def test_what_a_killed_keeper_had_told_is_heard() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told: list[tuple[int, int, int]] = []

    async def listen() -> None:
        died = asyncio.Event()
        link = KeeperLink(ours)
        link.on_ended = lambda pid, code, number: told.append((pid, code, number))
        link.on_death = died.set
        # What it did not read is told first, as an error.
        link.reap(1)
        send(theirs, ["ended", "4711", "3", "0"])
        theirs.close()
        link.listen(asyncio.get_running_loop())
        async with asyncio.timeout(BOUND):
            await died.wait()

    asyncio.run(listen())
    assert told == [(4711, 3, 0)]


async def test_what_it_has_no_descriptors_for_is_offered_again(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    descriptors = Path(f"/proc/{server.pid}/fd")
    lock = os.fspath(state / "lock")
    await eventually(lambda: lock in map(os.readlink, descriptors.iterdir()), "it has what it keeps for good")
    before = len(os.listdir(descriptors))
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    # Room for one of three.
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (before + 1, hard))
    started = await client.start(spec("p", "sh", "-c", "read x; echo $x; exit 3", stdin=True))
    log = state.with_name(state.name + ".stderr")
    await eventually(lambda: "no free descriptors" in log.read_text(), "it says so")
    assert len(os.listdir(descriptors)) == before
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
    await eventually(lambda: len(os.listdir(descriptors)) >= before + 3, "it is offered again")
    await kill_server(server)
    status = await client.status("p")
    assert status is not None
    assert (status.state, status.pid) == (ProcessState.RUNNING, started.pid)
    await client.write("p", b"still here\n")
    records = [record async for record in client.records("p")]
    assert [(record.data, record.exit_code) for record in records if isinstance(record, Record)][:2] == [
        (b"still here\n", None),
        (b"", 3),
    ]
    await client.aclose()
    assert server.stop() == 0


def test_a_full_disk_keeps_nobody_from_becoming_the_keeper() -> None:
    full = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        os.pwrite(full, b"x", 0)
    Estate(0, full, "unix:///s", "/s", False, []).sign(os.getpid())
    os.close(full)
