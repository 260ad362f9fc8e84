"""What a start needs is held by the keeper before it is used, in a burst several by one message, and let go again."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import Held, receive, send, take_in
from holdfast.host.places import Places
from holdfast.host.port import Kind, Record, StartRefused
from holdfast.host.prepared import Prepared, PreparedStarts

from .harness import RunningServer
from .promises import eventually, spec


class Keeper:
    """The other end of the link: it takes in what it is sent."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.held: Held = {}
        #: How many keys each ``hold`` brought.
        self.holds: list[int] = []

    def read(self) -> None:
        while True:
            try:
                words, descriptors = receive(self._channel, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            operation, *rest = words
            if operation == "hold":
                before = len(self.held)
                take_in(self.held, rest, descriptors)
                self.holds.append(len(self.held) - before)
            elif operation == "let":
                for key in rest:
                    for descriptor in self.held.pop(key).values():
                        os.close(descriptor)


class Rig:
    def __init__(self, directory: Path) -> None:
        self.processes = directory / "processes"
        self.processes.mkdir()
        self.ends = ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keeper = Keeper(theirs)
        self.link = KeeperLink(ours)
        self.places = Places(directory, str(self.processes), "instance")
        self.starts = PreparedStarts(self.places, self.link)

    def take(self, *, tty: bool = False, pipe_stdin: bool = False) -> Prepared:
        prepared = self.starts.take(tty=tty, pipe_stdin=pipe_stdin, stdin_file=None)
        self.keeper.read()
        held = self.keeper.held[prepared.key]
        streams = prepared.preparation.streams.by_name()
        assert held.keys() == streams.keys()
        assert all(os.path.sameopenfile(held[name], streams[name]) for name in streams)
        return prepared

    async def end(self, taken: list[Prepared]) -> None:
        """Nothing is left of them, nor of what was made ahead."""
        for prepared in taken:
            prepared.discard(self.link)
        self.starts.close()
        self.link.leave()
        self.keeper.read()
        assert self.keeper.held == {}
        await self.places.close()
        assert os.listdir(self.processes) == []

    def close(self) -> None:
        for end in self.ends:
            end.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


async def test_without_a_pause_several_are_made_for_one_message(rig: Rig) -> None:
    taken = [rig.take()]
    for _ in range(5):
        rig.starts.look_ahead()
        taken.append(rig.take())
    assert rig.keeper.holds == [1, 4, 4]
    assert len({prepared.place.directory for prepared in taken}) == len(taken)
    taken += [rig.take(tty=True), rig.take(pipe_stdin=True)]
    assert rig.keeper.holds == [1, 4, 4, 1, 1]
    await rig.end(taken)


async def test_what_the_keeper_cannot_be_given_is_not_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(channel: socket.socket, words: list[str], descriptors: Sequence[int]) -> None:
        if descriptors:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        send(channel, words, descriptors)

    monkeypatch.setattr("holdfast.host.keeping._PATIENCE", 0.0)
    with monkeypatch.context() as crowded:
        crowded.setattr("holdfast.host.keeping.send", refuse)
        for tty in (False, True):
            with pytest.raises(OSError, match=os.strerror(errno.ETOOMANYREFS)):
                rig.take(tty=tty)
    await rig.end([rig.take()])


async def test_of_several_that_cannot_all_be_made_some_are(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.take()
    rig.starts.look_ahead()
    take, left = rig.places.take, [1, 1]

    def scarce() -> object:
        if not left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left.pop()
        return take()

    monkeypatch.setattr(rig.places, "take", scarce)
    taken = [first, rig.take(), rig.take()]
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        rig.take()
    assert rig.keeper.holds == [1, 2]
    await rig.end(taken)


#: A host in which the start of "refused" can watch so many descriptors, and no more.
WATCHES = """
import errno, os, sys
from holdfast.host import entry, process
from holdfast.jsonrpc.event_loop import Poller

enough = int(sys.argv.pop(1))
start, watch = process.HostedProcess.started, Poller.watch

def started(self, *arguments):
    left = [None] * enough
    def scarce(*watched):
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left.pop()
        watch(*watched)
    if self.process_id == "refused":
        Poller.watch = scarce
    try:
        start(self, *arguments)
    finally:
        Poller.watch = watch

process.HostedProcess.started = started
sys.exit(entry.main())
"""


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.mark.parametrize(("tty", "enough"), [(False, 0), (False, 1), (False, 2), (True, 0), (True, 1)])
async def test_a_start_that_cannot_be_watched_is_refused_and_does_not_run(state: Path, tty: bool, enough: int) -> None:
    arguments = ["--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer([sys.executable, "-c", WATCHES, str(enough), *arguments])
    client = await HostClient.connect(server.url)
    serving = server.server_pid
    for _ in range(2):
        with pytest.raises(StartRefused, match="No space left on device"):
            await client.start(spec("refused", "sleep", "1000", tty=tty))
        assert await client.status("refused") is None
        assert children(serving) == ""
        # The numbers of its streams are free, and mean something else now.
        await client.start(spec("other", "echo", "up", tty=tty))
        assert [record.kind async for record in client.records("other") if isinstance(record, Record)][
            -1
        ] is Kind.CLOSED
        await client.forget("other")
    await client.aclose()
    assert server.stop() == 0


#: A host that has no descriptors left, at one moment or another, for a child that it may not kill.
POWERLESS = """
import errno, os, sys
from holdfast.host import child, entry, spawner

def refuse(*arguments):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

def forbid(*arguments):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

{place} = refuse
os.killpg = forbid
sys.exit(entry.main())
"""


@pytest.mark.parametrize("place", ["spawner.OwnChild", "child.OwnChild.watch"])
async def test_of_a_refused_start_that_may_not_be_killed_nothing_is_kept(state: Path, place: str) -> None:
    stderr = state.parent / "stderr"
    script = POWERLESS.format(place=place)
    server = RunningServer(
        [sys.executable, "-c", script, "--listen", "unix://", "--state-dir", str(state)], stderr=stderr
    )
    client = await HostClient.connect(server.url)
    try:
        # It goes on for as long as somebody has the other end of its output.
        with pytest.raises(StartRefused, match="No file descriptors available"):
            await client.start(spec("p", "sh", "-c", "while echo up; do sleep 0.05; done"))
        (told,) = re.findall(r"pid (\d+), left over by refused process 'p'", stderr.read_text())
        await eventually(lambda: not os.path.exists(f"/proc/{told}"), f"{told} is kept")
        assert await client.status("p") is None
    finally:
        await client.aclose()
        assert server.stop() == 0
