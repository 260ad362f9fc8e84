"""Nothing of a process's tree survives its ending, and nobody else is touched."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import pytest

from holdfast.host import tree
from holdfast.host.client import HostClient
from holdfast.host.os_process import OsProcess, read_process, send, start_time
from holdfast.host.port import Kind, ProcessSpec, Record
from holdfast.host.tree import MARKER, Tree

from .harness import PATH, RunningServer, WireClient, alive, kill_server, until_dead, within

#: A tree that does what it can to survive; prints the pid of each member.
ESCAPE_ARTIST = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hold(label):
    print(label, os.getpid(), flush=True)
    time.sleep(1000)
if os.fork() == 0:
    hold("child")
if os.fork() == 0:
    os.setsid()
    hold("own-session")
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    hold("daemon")
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    print("silent", os.getpid(), flush=True)
    for stream in range(3):
        os.dup2(null, stream)
    time.sleep(1000)
hold("leader")
"""


@pytest.fixture
async def client(host: RunningServer) -> AsyncIterator[HostClient]:
    connected = await HostClient.connect(host.url)
    yield connected
    await connected.aclose()


def spec(process_id: str, *argv: str, tty: bool = False) -> ProcessSpec:
    return ProcessSpec(process_id=process_id, argv=list(argv), cwd=Path("/tmp"), env={"PATH": PATH}, tty=tty)


async def announced(client: HostClient, process_id: str, count: int) -> dict[str, int]:
    """Read until *count* members have told their pids."""

    async def read() -> dict[str, int]:
        text = b""
        async for record in client.records(process_id):
            assert isinstance(record, Record)
            text += record.data
            lines = text.decode().split("\n")[:-1]
            if len(lines) == count:
                return {name: int(pid) for name, pid in (line.split() for line in lines)}
        raise AssertionError(text)

    return await within(read())


@pytest.mark.parametrize("tty", [False, True])
async def test_forks_sessions_daemons_and_ignored_signals_do_not_help(client: HostClient, tty: bool) -> None:
    await client.start(spec("x", sys.executable, "-c", ESCAPE_ARTIST, tty=tty))
    pids = await announced(client, "x", 5)
    members = await client.members("x")
    while {member.pid for member in members} > set(pids.values()):
        # Who only made one of them, and is about to end.
        members = await within(client.members("x"))
    assert members[0].pid == pids["leader"]
    assert {member.pid for member in members} == set(pids.values())
    outcome = await within(client.terminate("x", grace=0.1))
    assert outcome.was_running
    assert {member.pid for member in outcome.ended} >= set(pids.values())
    assert outcome.survivors == []
    for pid in pids.values():
        await until_dead(pid)
    assert await client.members("x") == []
    last = [record async for record in client.records("x")][-2]
    assert isinstance(last, Record)
    assert (last.exit_code, last.signal) == (137, 9)


async def kinds(client: HostClient, process_id: str) -> list[Kind]:
    return [record.kind async for record in client.records(process_id) if isinstance(record, Record)]


#: Each of it lives for an instant, has a session of its own, and no parent; for a minute at most.
FLEETING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", os.getpid(), flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


@pytest.mark.parametrize("killed", [False, True])
async def test_who_is_gone_before_everybody_is_listed_is_ended_as_well(
    host: RunningServer, client: HostClient, killed: bool
) -> None:
    await client.start(spec("p", sys.executable, "-c", FLEETING))
    await announced(client, "p", 1)
    if killed:
        # From here on they are the keeper's children.
        await kill_server(host)
    outcome = await within(client.terminate("p"))
    assert outcome.survivors == []
    assert (await within(kinds(client, "p")))[-1] == Kind.CLOSED


async def test_grace_lets_a_process_end_by_itself(client: HostClient) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up 1; while :; do sleep 0.02; done"
    await client.start(spec("g", "sh", "-c", script))
    await announced(client, "g", 1)
    outcome = await within(client.terminate("g", grace=15.0))
    assert outcome.survivors == []
    records = [record async for record in client.records("g") if isinstance(record, Record)]
    assert b"".join(record.data for record in records if record.kind is Kind.STDOUT) == b"up 1\nbye\n"
    assert records[-2].exit_code == 3


async def test_a_stopped_process_is_ended_too(client: HostClient) -> None:
    await client.start(spec("s", "sh", "-c", "echo up 1; sleep 1000"))
    await announced(client, "s", 1)
    await client.signal("s", signal.SIGSTOP)
    outcome = await within(client.terminate("s", grace=10.0))
    assert outcome.was_running
    assert outcome.survivors == []


async def test_long_graces_keep_nobody_else_waiting(client: HostClient, state: Path) -> None:
    """The looks into /proc and everything else that takes a thread have but a few, whatever is being ended."""
    patient = [f"p{number}" for number in range(40)]
    for process_id in patient:
        await client.start(spec(process_id, "sh", "-c", "trap '' TERM; echo up 1; while :; do sleep 1000; done"))
        await announced(client, process_id, 1)
    endings = [asyncio.ensure_future(client.terminate(process_id, grace=500.0)) for process_id in patient]
    for process_id in patient:
        # Each look has a thread: it could not be had.
        await within(client.members(process_id))
    # And who is in more of a hurry need not wait either, for what is being ended already.
    outcomes = await within(asyncio.gather(*(client.terminate(process_id) for process_id in patient)))
    assert all(outcome.ended and not outcome.survivors for outcome in outcomes)
    for outcome, earlier in zip(outcomes, await within(asyncio.gather(*endings)), strict=True):
        assert earlier.ended == outcome.ended


async def test_an_ending_goes_on_when_nobody_waits_for_it_any_more(host: RunningServer, client: HostClient) -> None:
    await client.start(spec("p", "sh", "-c", "trap '' TERM; echo shell $$; while :; do sleep 1000; done"))
    pids = await announced(client, "p", 1)
    other = await WireClient.connect(host.url)
    other.request("process/terminate", {"processId": "p", "tree": True, "graceMs": 500})
    await other.result("environment/status")
    await other.close()
    await until_dead(pids["shell"])


async def test_a_grace_without_measure_is_refused(host: RunningServer, client: HostClient) -> None:
    await client.start(spec("p", "sleep", "1000"))
    wire = await WireClient.connect(host.url)
    code, text = await wire.error("process/terminate", {"processId": "p", "tree": True, "graceMs": 600_001})
    assert code == -32602
    assert "600000" in text
    assert "graceMs" in text
    status = await client.status("p")
    assert status is not None
    assert status.state == "running"
    await wire.close()
    await client.terminate("p")


async def test_who_may_not_be_signalled_is_a_survivor_and_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a setuid program is to a host without privileges; the tests may have them."""
    owned = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    foreign = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    both = [found for found in (read_process(foreign.pid), read_process(owned.pid)) if found is not None]
    handles: dict[int, int] = {}
    pidfd_open, send = os.pidfd_open, signal.pidfd_send_signal

    def opened(pid: int) -> int:
        handle = pidfd_open(pid)
        handles[handle] = pid
        return handle

    def refused(handle: int, number: int) -> None:
        if handles[handle] == foreign.pid:
            raise PermissionError
        send(handle, number)

    monkeypatch.setattr(tree, "_KILL_PATIENCE", 0.05)
    monkeypatch.setattr(os, "pidfd_open", opened)
    monkeypatch.setattr(signal, "pidfd_send_signal", refused)
    family = Tree(0, 0)
    monkeypatch.setattr(family, "members", lambda: [one for one in both if alive(one.pid)])
    try:
        ending = await within(tree.end_tree(family, grace=0.0))
        assert ([one.pid for one in ending.ended], [one.pid for one in ending.survivors]) == (
            [owned.pid],
            [foreign.pid],
        )
    finally:
        foreign.kill()
        await foreign.wait()
        await owned.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start what it may not signal")
async def test_what_runs_as_somebody_else_is_named_and_everything_around_it_ends(state: Path) -> None:
    """The host is root without CAP_KILL here, which may start a program of nobody's and is nobody to it then."""
    unprivileged = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill", "--"]
    server = RunningServer(
        [*unprivileged, sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)]
    )
    client, wire = await HostClient.connect(server.url), await WireClient.connect(server.url)
    foreign = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    script = "sleep 1000 & exec " + " ".join(foreign) + " sh -c 'echo other $$; exec sleep 1000'"
    group = "exec " + " ".join(foreign) + " sh -c 'echo other $$; exec sleep 1000'"
    await client.start(spec("tree", "sh", "-c", script))
    await wire.start("group", "/bin/sh", "-c", group)
    await wire.until_output("group", b"\n")
    others = [(await announced(client, "tree", 1))["other"], int(wire.output("group").split()[1])]
    try:
        repeated = ("process/signal", {"signal": "interrupt", "signalId": "1"})
        for method, more in (
            ("process/signal", {"signal": "interrupt"}),
            repeated,
            repeated,
            ("process/terminate", {}),
        ):
            code, text = await wire.error(method, {"processId": "group", **more})
            assert (code, text) == (
                -32603,
                "The host may send no signal to process group: it runs as somebody else.",
            )
        outcome = await within(client.terminate("tree"))
        assert [member.pid for member in outcome.survivors] == [others[0]]
        assert [member.command for member in outcome.ended] == ["sleep"]
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        await wire.close()
        await client.aclose()
        assert server.stop() == 0


async def test_what_an_exited_process_left_is_ended(client: HostClient) -> None:
    await client.start(spec("e", "sh", "-c", "setsid sleep 1000 & echo left $!; exit 0"))
    pids = await announced(client, "e", 1)
    async for record in client.records("e"):
        if isinstance(record, Record) and record.kind == "exited":
            break
    outcome = await within(client.terminate("e"))
    assert not outcome.was_running
    assert pids["left"] in {member.pid for member in outcome.ended}
    await until_dead(pids["left"])
    assert [record async for record in client.records("e")][-1].kind == "closed"  # type: ignore[union-attr]


async def test_what_ended_unnoticed_was_not_running(host: RunningServer, client: HostClient, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    await client.start(spec("u", "sh", "-c", f"echo up $$; read line < {fifo}"))
    pid = (await announced(client, "u", 1))["up"]
    os.kill(host.server_pid, signal.SIGSTOP)
    try:
        # It is asked first, and comes to it when the process has ended.
        asked = asyncio.ensure_future(client.terminate("u"))
        await asyncio.wait({asked}, timeout=0.1)
        fifo.write_bytes(b"\n")
        await until_dead(pid)
    finally:
        os.kill(host.server_pid, signal.SIGCONT)
    assert not (await within(asked)).was_running


async def test_neighbours_are_left_alone(client: HostClient) -> None:
    await client.start(spec("a", "sleep", "1000"))
    await client.start(spec("b", "sleep", "1000"))
    await client.terminate("a")
    b = await client.status("b")
    assert b is not None
    assert b.pid is not None
    assert alive(b.pid)
    await client.terminate("b")
    assert not (await client.terminate("nobody")).was_running


async def test_a_pid_that_was_used_again_is_never_hit() -> None:
    bystander = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    try:
        now = read_process(bystander.pid)
        assert now is not None
        earlier = Tree(bystander.pid, now.started - 1)
        assert earlier.members() == []
        assert not send(now._replace(started=now.started - 1), signal.SIGKILL)
        ending = await tree.end_tree(earlier, grace=0.0)
        assert (ending.ended, ending.survivors) == ([], [])
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_who_may_not_be_seen_keeps_nobody_from_being_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc is mounted with hidepid=1, to a host without privileges."""
    genuine = open

    def refuse(name: str, *arguments: Any, **more: Any) -> IO[Any]:
        if name == "/proc/1/stat":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        return genuine(name, *arguments, **more)

    own = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    found = read_process(own.pid)
    assert found is not None
    monkeypatch.setattr("builtins.open", refuse)
    ending = await within(tree.end_tree(Tree(own.pid, found.started), grace=0.0))
    assert ([one.pid for one in ending.ended], ending.survivors) == ([own.pid], [])
    await own.wait()


async def test_the_marker_finds_what_everything_else_lost() -> None:
    orphan = await asyncio.create_subprocess_exec(
        "cat",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={"PATH": PATH, MARKER: "abc"},
    )
    assert orphan.stdin is not None
    assert orphan.stdout is not None
    try:
        # While it is being executed it has no environment to be seen.
        orphan.stdin.write(b"it runs\n")
        assert await within(orphan.stdout.readline()) == b"it runs\n"
        assert Tree(0, 0, "abd").members() == []
        assert [member.pid for member in Tree(0, 0, "abc").members()] == [orphan.pid]
    finally:
        orphan.kill()
        await orphan.wait()


async def test_unkillable_members_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = OsProcess(999_999_999, 1, 1, 1, 1, "stuck", True, True)
    monkeypatch.setattr(tree, "_KILL_PATIENCE", 0.05)
    monkeypatch.setattr(Tree, "members", lambda self: [stuck])  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(os, "pidfd_open", _gone)
    ending = await tree.end_tree(Tree(1, 1), grace=0.0)
    assert ending.ended == []
    assert ending.survivors == [stuck]


def _gone(pid: int) -> int:
    raise ProcessLookupError(pid)


async def test_without_descriptors_to_look_with_nothing_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    child = await asyncio.create_subprocess_exec("sleep", "1000")
    genuine, refused = os.listdir, 0

    def listdir(path: str) -> list[str]:
        nonlocal refused
        if path == "/proc" and refused < 3:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return genuine(path)

    monkeypatch.setattr(os, "listdir", listdir)
    ending = await within(tree.end_tree(Tree(child.pid, start_time(child.pid)), grace=1000.0))
    assert [process.pid for process in ending.ended] == [child.pid]
    assert (refused, ending.survivors) == (3, [])
    await child.wait()


async def test_who_cannot_look_for_long_says_that_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors(self: Tree) -> list[OsProcess]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Tree, "members", no_descriptors)
    monkeypatch.setattr(tree, "_KILL_PATIENCE", 0.0)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        await within(tree.end_tree(Tree(1, 1), grace=0.0))
