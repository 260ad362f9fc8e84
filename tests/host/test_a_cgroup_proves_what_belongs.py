"""Where the host may manage cgroups, nothing of a process escapes; where not, it says why and touches nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.clock import boot_id
from holdfast.host import cgroup, os_process, tree
from holdfast.host.cgroup import contain, find_delegation, recall
from holdfast.host.client import HostClient
from holdfast.host.os_process import start_time
from holdfast.host.port import ProcessSpec, Record
from holdfast.host.tree import Tree, end_tree
from holdfast.jsonrpc.messages import RpcError

from .harness import BOUND, PATH, RunningServer, alive, kill_server, start_host, until_dead, within
from .promises import eventually

#: Leaves everything by which a descendant could be known, but its cgroup: a session, its parents, its environment.
FUGITIVE = """
import os, sys, time
while "/holdfast-" not in open("/proc/self/cgroup").read():
    time.sleep(0.005)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    told = os.dup(1)
    for stream in range(3):
        os.dup2(null, stream)
    os.write(told, b"fugitive %d\\n" % os.getpid())
    os.execve("/bin/sleep", ["sleep", "1000"], {})
os.wait()
if len(sys.argv) > 1:
    time.sleep(1000)
"""

#: A host whose later servers have no descriptors to read a note with.
POOR = """
import errno, os, sys
from holdfast.host import entry, process

def refuse(place, boot):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

process.recall = refuse
sys.exit(entry.main())
"""


def hierarchy() -> Path | None:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A cgroup of our own, marked as delegated, the way systemd does it."""
    mounted = hierarchy()
    if mounted is None:
        pytest.skip("NOT TESTED FOR REAL: this machine has no cgroup v2 mounted")
    directory = mounted / f"delegated-to-a-test-{secrets.token_hex(4)}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED FOR REAL: no cgroup can be made here: {error}")
    try:
        os.setxattr(directory, "user.delegate", b"1")
        if not (directory / "cgroup.kill").exists():
            pytest.skip("NOT TESTED FOR REAL: this kernel has no cgroup.kill")
        yield directory
    finally:
        # Of a test that failed somebody may be left.
        (directory / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + BOUND
        while "populated 1" in (directory / "cgroup.events").read_text():
            assert time.monotonic() < deadline, "somebody cannot be killed"
            time.sleep(0.01)
        for place, _, _ in os.walk(directory, topdown=False):
            os.rmdir(place)


@pytest.fixture
def contained_host(delegated: Path, state: Path) -> Iterator[RunningServer]:
    """A host in that cgroup."""
    script = 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"'
    argv = [sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer(["sh", "-c", script, "sh", str(delegated), *argv], stderr=state.with_name("stderr"))
    yield server
    server.stop()
    assert [path for path in delegated.iterdir() if path.is_dir()] == []
    assert "Traceback" not in state.with_name("stderr").read_text()


@pytest.fixture
async def client(contained_host: RunningServer) -> AsyncIterator[HostClient]:
    connected = await HostClient.connect(contained_host.url)
    yield connected
    await connected.aclose()


def fugitive(*arguments: str) -> ProcessSpec:
    argv = [sys.executable, "-c", FUGITIVE, *arguments]
    return ProcessSpec(process_id="p", argv=argv, cwd=Path("/"), env={"PATH": PATH})


async def announced(client: HostClient) -> int:
    async def first() -> int:
        async for record in client.records("p"):
            if isinstance(record, Record) and record.data:
                return int(record.data.split()[1])
        raise AssertionError("nothing was said")

    return await within(first())


async def test_who_left_session_parents_and_environment_is_found_and_ended(client: HostClient, delegated: Path) -> None:
    assert (await client.overview()).ending.method == "cgroup"
    await client.start(fugitive("stay"))
    pid = await announced(client)
    assert pid in {member.pid for member in await client.members("p")}
    outcome = await within(client.terminate("p", grace=0.1))
    assert pid in {member.pid for member in outcome.ended}
    assert outcome.survivors == []
    await until_dead(pid)


async def test_it_is_found_after_the_exit_too_and_after_a_kill_of_the_server(
    client: HostClient, contained_host: RunningServer
) -> None:
    await client.start(fugitive())
    pid = await announced(client)
    async for _ in client.records("p"):
        pass
    await kill_server(contained_host)
    assert alive(pid)
    outcome = await within(client.terminate("p"))
    assert (outcome.was_running, [member.pid for member in outcome.ended]) == (False, [pid])
    await until_dead(pid)


async def test_what_was_running_when_the_server_was_killed_keeps_its_cgroup(
    client: HostClient, contained_host: RunningServer
) -> None:
    await client.start(fugitive("stay"))
    pid = await announced(client)
    await kill_server(contained_host)
    outcome = await within(client.terminate("p"))
    assert outcome.was_running
    assert pid in {member.pid for member in outcome.ended}
    await until_dead(pid)


async def test_short_processes_leave_no_cgroup(client: HostClient, delegated: Path) -> None:
    async def run(number: int) -> None:
        await client.start(ProcessSpec(process_id=f"s{number}", argv=["/bin/true"], cwd=Path("/"), env={}))
        async for _ in client.records(f"s{number}"):
            pass

    await asyncio.wait_for(asyncio.gather(*(run(number) for number in range(20))), 60)
    await eventually(lambda: not [path for path in delegated.iterdir() if path.is_dir()], "a cgroup is left")


# The search, on directories that only look like cgroups


class Machine:
    """What the search looks at."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount = directory / "cgroup fs"
        self.own = self.mount / "user.slice" / "holdfast.service"
        self.own.mkdir(parents=True)
        for name, text in (("cgroup.type", "domain\n"), ("cgroup.kill", ""), ("cgroup.procs", "")):
            (self.own / name).write_text(text)
        self.membership = directory / "membership"
        self.membership.write_text("1:name=systemd:/x\n0::/user.slice/holdfast.service\n")
        self.mounts = directory / "mountinfo"
        self.mounted("/", self.mount)
        self.attributes: dict[str, dict[str, bytes]] = {str(self.own): {"user.delegate": b"1"}}

        def getxattr(path: Path, name: str) -> bytes:
            try:
                return self.attributes[str(path)][name]
            except KeyError:
                raise OSError(61, "No data available") from None

        monkeypatch.setattr(os, "getxattr", getxattr)

    def mounted(self, root: str, point: Path) -> None:
        escaped = str(point).replace(" ", "\\040")
        self.mounts.write_text(
            "22 1 0:21 / /proc rw - proc proc rw\n"
            f"30 22 0:26 {root} {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        )

    def search(self) -> tuple[Path | None, str]:
        return find_delegation(membership=self.membership, mounts=self.mounts)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_was_delegated_is_used(machine: Machine) -> None:
    assert machine.search() == (machine.own, "")
    machine.attributes[str(machine.own)] = {"trusted.delegate": b"1"}
    assert machine.search() == (machine.own, "")
    # As a container shows it: its own part of the hierarchy is all there is, and is its own.
    machine.attributes.clear()
    machine.membership.write_text("0::/\n")
    machine.mounted("/", machine.own)
    assert machine.search() == (machine.own, "")
    # Or mounted from outside, and shown with the path that it has there.
    machine.membership.write_text("0::/docker/abc\n")
    machine.mounted("/docker/abc", machine.own)
    assert machine.search() == (machine.own, "")


def test_a_unit_may_say_itself_that_it_is_delegated(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.attributes.clear()
    monkeypatch.setenv("HOLDFAST_DELEGATED_UNIT", "holdfast.service")
    assert machine.search() == (machine.own, "")
    # Whoever inherited the word and is elsewhere by now, in a cgroup below it for one, has nothing from it.
    for name in ("user.slice", "holdfast", "other.service", ""):
        monkeypatch.setenv("HOLDFAST_DELEGATED_UNIT", name)
        assert machine.search() == (None, f"{machine.own} was not delegated to the host")
    monkeypatch.setenv("HOLDFAST_DELEGATED_UNIT", "holdfast.service")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert machine.search() == (None, f"{machine.own} cannot be written to")


def test_what_was_not_delegated_is_left_alone_and_the_reason_told(machine: Machine) -> None:
    machine.attributes[str(machine.own.parent)] = {"user.delegate": b"1"}
    machine.attributes[str(machine.own)] = {"user.delegate": b"0"}
    assert machine.search() == (None, f"{machine.own} was not delegated to the host")
    machine.attributes[str(machine.own)] = {"user.delegate": b"1"}
    (machine.own / "cgroup.type").write_text("threaded\n")
    assert "threaded" in machine.search()[1]
    (machine.own / "cgroup.type").unlink()
    assert machine.search() == (None, "the host is in the root cgroup")
    (machine.own / "cgroup.type").write_text("domain\n")
    (machine.own / "cgroup.kill").unlink()
    assert "cgroup.kill" in machine.search()[1]
    machine.mounted("/elsewhere", machine.mount)
    assert "not mounted" in machine.search()[1]
    machine.membership.write_text("1:name=systemd:/x\n")
    assert machine.search() == (None, "there is no cgroup v2")
    machine.membership.unlink()
    assert "cannot be read" in machine.search()[1]


async def test_a_cgroup_that_cannot_be_used_is_no_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    child = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    try:
        own = Tree(child.pid, start_time(child.pid))
        with pytest.raises(FileNotFoundError):
            contain(tmp_path / "missing", str(place), own)
        assert own.cgroup is None

        def refuse(cgroup: Path, process: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(cgroup, "_move", refuse)
        with pytest.raises(PermissionError):
            contain(tmp_path, str(place), own)
        assert own.cgroup is None
        assert os.listdir(tmp_path) == ["place"]
        # A note of something that is not there, or is of another boot, means nothing.
        assert recall(str(place), "another boot") is None
        assert [member.pid for member in own.members()] == [child.pid]
    finally:
        child.kill()
        await child.wait()


async def test_who_is_in_it_and_may_not_be_seen_does_not_count_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where /proc hides who has become somebody else's (hidepid)."""
    hidden = await asyncio.create_subprocess_exec("sleep", "1000")
    genuine = os_process.read_process
    for module in (os_process, tree):
        monkeypatch.setattr(module, "read_process", lambda pid: None if pid == hidden.pid else genuine(pid))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(tree, "_KILL_PATIENCE", 0.05)
    (tmp_path / "cgroup.procs").write_text(f"{hidden.pid}\n")
    contained = Tree(0, 0, cgroup=str(tmp_path))
    try:
        ending = await within(end_tree(contained, grace=0.0))
        assert (ending.ended, [member.pid for member in ending.survivors]) == ([], [hidden.pid])
        # All of it is killed at one stroke, seen or not.
        assert (tmp_path / "cgroup.kill").read_text() == "1"
    finally:
        hidden.kill()
        await hidden.wait()
    assert contained.members() == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_note_that_cannot_be_read_for_want_of_descriptors_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert recall(str(tmp_path), boot_id()) is None

    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cgroup, "open", refuse, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)):
        recall(str(tmp_path), boot_id())


async def test_without_descriptors_to_look_for_its_cgroup_nothing_of_a_process_counts_as_ended(state: Path) -> None:
    server = RunningServer([sys.executable, "-c", POOR, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    await client.start(ProcessSpec(process_id="p", argv=["true"], cwd=Path("/"), env={"PATH": PATH}))
    async for _ in client.records("p"):
        pass
    await kill_server(server)
    for request in (client.members("p"), client.terminate("p", grace=0.0)):
        with pytest.raises(RpcError, match="what is alive of process p cannot be told: Too many open files"):
            await within(request)
    await client.aclose()
    assert server.stop() == 0


async def test_a_host_without_one_says_why(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    ending = (await client.overview()).ending
    assert ending.method == "cgroup" or (ending.method == "tree" and ending.reason)
    await client.aclose()
    server.stop()
