"""What waits for a file system that never answers waits alone: other clients, and all that needs no file, go on."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.host.files import service
from holdfast.host.hanging import HangingMounts

from .harness import RunningServer, WireClient
from .sandboxes import bubblewrap, sandbox, special

_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


class Hung:
    """A file system in user space whose program has stopped."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._program = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._program},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
        if _LIBC.mount(b"hung", os.fsencode(top), b"fuse", 0, options.encode()) != 0:
            os.close(self._program)
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def unmount(self) -> None:
        """Take it out of the tree of files; who waits for it goes on waiting."""
        _LIBC.umount2(os.fsencode(self.top), _MNT_DETACH)

    def end(self) -> None:
        """Let its program end, whereupon nobody waits for it any more."""
        if self._program >= 0:
            os.close(self._program)
            self._program = -1


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Hung]:
    top = tmp_path / "hängt da"
    top.mkdir()
    try:
        hung = Hung(top)
    except OSError as error:
        pytest.skip(f"this account can mount nothing: {error}")
    try:
        yield hung
    finally:
        hung.unmount()
        hung.end()


@pytest.fixture
def hung(program: Hung) -> Path:
    return program.top


async def test_a_client_whose_files_hang_takes_no_threads_of_others(
    host: RunningServer, hung: Path, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("there")
    stuck, other = await WireClient.connect(host.url), await WireClient.connect(host.url)
    waiting = [stuck.request("fs/readFile", {"path": f"{hung.as_uri()}/{number}"}) for number in range(50)]
    waiting.append(stuck.request("fs/readDirectory", {"path": hung.as_uri()}))
    root = {"id": "a", "path": hung.as_uri()}
    waiting.append(stuck.request("capabilityRoots/discoverV1", {"roots": [root]}))
    assert await stuck.result("environment/status") == {"status": "ready"}
    assert await other.result("fs/readFile", {"path": f"file://{tmp_path}/f"}) == {"dataBase64": "dGhlcmU="}
    await other.start("p", "/bin/echo", "hello")
    await other.until_output("p", b"hello")
    await stuck.start("p", "/bin/echo", "hello")
    await stuck.until_output("p", b"hello")
    assert not [identity for identity in waiting if identity in stuck.replies]
    # Who gave up, and comes again, does not take theirs either.
    await stuck.close()
    assert await other.result("fs/readFile", {"path": f"file://{tmp_path}/f"}) == {"dataBase64": "dGhlcmU="}
    await other.close()


@pytest.mark.parametrize("way", ["cwd", "cwd by a link", "program", "PATH", "stdin"])
async def test_a_start_that_hangs_hangs_alone(
    host: RunningServer, program: Hung, hung: Path, tmp_path: Path, way: str
) -> None:
    (tmp_path / "link").symlink_to(hung / "deep")
    stuck, other = await WireClient.connect(host.url), await WireClient.connect(host.url)
    start = {"processId": "p", "argv": ["cat"], "cwd": "file:///tmp", "env": {"PATH": "/usr/bin:/bin"}, "tty": False}
    more = {
        "cwd": {"cwd": hung.as_uri()},
        "cwd by a link": {"cwd": f"file://{tmp_path}/link/further"},
        "program": {"argv": [f"{tmp_path}/../{tmp_path.name}/{hung.name}/program"]},
        "PATH": {"env": {"PATH": f"{hung}/bin:/usr/bin:/bin"}},
        "stdin": {"holdfast": {"persistent": True, "stdinFile": f"{hung}/f"}},
    }
    waiting = stuck.request("process/start", {**start, **more[way]})
    assert await stuck.result("environment/status") == {"status": "ready"}
    await other.start("p", "echo", "hello", cwd=f"file://{tmp_path}")
    await other.until_output("p", b"hello")
    assert waiting not in stuck.replies
    program.end()
    reply = await stuck.reply(waiting)
    if way == "PATH":
        # It is found elsewhere.
        assert reply["result"]["processId"] == "p"
        await stuck.until_closed("p")
    else:
        assert reply["error"]["code"] == -32603
    await stuck.close()
    await other.close()


async def test_what_is_about_a_process_waits_for_its_start(host: RunningServer, program: Hung, hung: Path) -> None:
    starter = await WireClient.connect(host.url)
    start = {"processId": "p", "argv": ["sleep", "1000"], "cwd": "file:///tmp", "tty": False}
    start |= {"env": {"PATH": f"{hung}/bin:/usr/bin:/bin"}, "holdfast": {"persistent": True}}
    started = starter.request("process/start", start)
    # Somebody needs this host.
    assert not (await starter.result("host/stop", {"ifIdle": True}))["stopping"]
    other = await WireClient.connect(host.url)
    about = [
        other.request("process/status", {"processId": "p"}),
        other.request("process/start", start),
        other.request("process/read", {"processId": "p", "waitMs": 0}),
        other.request("process/forget", {"processId": "p"}),
        other.request("process/terminate", {"processId": "p"}),
    ]
    assert await other.result("process/list") == {"processes": []}
    assert await other.result("process/terminate", {"processId": "q"}) == {"running": False}
    assert started not in starter.replies and not set(about) & set(other.replies)
    program.end()
    pid = (await starter.reply(started))["result"]["status"]["pid"]
    replies = [await other.reply(identity) for identity in about]
    assert replies[0]["result"]["status"]["pid"] == replies[1]["result"]["status"]["pid"] == pid
    assert not replies[2]["result"]["exited"]
    assert replies[3]["error"]["message"] == "process p is not closed"
    assert replies[4]["result"] == {"running": True}
    await starter.close()
    await other.close()


async def test_the_end_of_a_subscription_does_not_overtake_it(host: RunningServer, program: Hung, hung: Path) -> None:
    client = await WireClient.connect(host.url)
    await client.start("other", "sleep", "1000", holdfast={"persistent": True})
    start = {"processId": "p", "argv": ["echo", "hello"], "cwd": "file:///tmp", "tty": False}
    start |= {"env": {"PATH": f"{hung}/bin:/usr/bin:/bin"}, "holdfast": {"persistent": True}}
    about = [
        client.request("process/start", start),
        client.request("process/subscribe", {"processId": "p", "subscriptionId": 1}),
        client.request("process/unsubscribe", {"subscriptionId": 1}),
        client.request("process/subscribe", {"processId": "other", "subscriptionId": 1, "follow": False}),
    ]
    # Another one waits for nothing.
    assert await client.result("process/unsubscribe", {"subscriptionId": 2}) == {}
    assert not set(about) & set(client.replies)
    program.end()
    replies = [await client.reply(identity) for identity in about]
    assert [reply["result"]["status"]["processId"] for reply in (replies[0], replies[1], replies[3])] == [
        "p",
        "p",
        "other",
    ]
    reading = {"processId": "p", "waitMs": 10_000}
    while not (await client.result("process/read", reading))["closed"]:
        pass
    await client.until(lambda: client.notifications)
    await client.result("environment/status")
    assert [told["params"]["records"] for told in client.notifications] == [[]]
    await client.close()


@pytest.mark.parametrize("resumed", [False, True], ids=["closed", "resumed"])
async def test_a_start_whose_connection_is_lost_before_it_is_decided_does_not_happen(
    host: RunningServer, program: Hung, hung: Path, tmp_path: Path, resumed: bool
) -> None:
    lost = await WireClient.connect(host.url)
    start = {"processId": "p", "cwd": "file:///tmp", "tty": False}
    hanging = {"argv": ["touch", f"{tmp_path}/ran"], "env": {"PATH": f"{hung}/bin:/usr/bin:/bin"}}
    lost.request("process/start", {**start, **hanging})
    lost.request("process/start", {**start, "argv": ["touch", f"{tmp_path}/ran"], "env": {"PATH": "/usr/bin:/bin"}})
    await lost.result("environment/status")
    if not resumed:
        await lost.close()
    client = await WireClient.connect(host.url, resume=lost.session)
    assert await client.result("process/terminate", {"processId": "p"}) == {"running": False}
    await client.start("p", "echo", "hello")
    await client.until_closed("p")
    program.end()
    await client.start("q", "echo", "hello")
    await client.until_closed("q")
    assert client.output("p") == b"hello\n" and not (tmp_path / "ran").exists()
    await client.close()


@pytest.mark.parametrize("way", ["cwd", "program", pytest.param("managed", marks=bubblewrap)])
async def test_a_start_with_a_sandbox_hangs_alone(
    host: RunningServer, program: Hung, hung: Path, workspace: Path, way: str
) -> None:
    stuck, other = await WireClient.connect(host.url), await WireClient.connect(host.url)
    none = {"permissions": {"type": "disabled"}, "windowsSandboxLevel": "disabled"}
    start = {"processId": "p", "argv": ["/bin/cat"], "cwd": hung.as_uri(), "env": {}, "tty": False, "sandbox": none}
    more = {
        "cwd": {},
        "program": {"argv": [f"{hung}/program"], "cwd": "file:///tmp"},
        "managed": {"sandbox": sandbox(workspace)},
    }
    waiting = stuck.request("process/start", {**start, **more[way]})
    # By then the thread that reads the sandbox is done.
    await asyncio.sleep(0.3)
    await other.start("p", "/bin/echo", "hello")
    await other.until_output("p", b"hello")
    assert waiting not in stuck.replies
    program.end()
    assert (await stuck.reply(waiting))["error"]["code"] == -32603
    await stuck.close()
    await other.close()


@pytest.mark.parametrize("method", ["fs/watchMissing", "capabilityRoots/discoverV1", "capabilities/discoverV2"])
async def test_a_sandbox_that_hangs_hangs_alone(
    host: RunningServer, program: Hung, hung: Path, workspace: Path, method: str
) -> None:
    stuck, other = await WireClient.connect(host.url), await WireClient.connect(host.url)
    place = {"path": {"type": "path", "path": f"{hung}/x"}, "access": "write"}
    inside = {"sandbox": sandbox(workspace, special("root", "read"), place)}
    params = {
        "fs/watchMissing": {"watchId": 1, "missing": [f"file://{workspace}/x"], **inside},
        "capabilityRoots/discoverV1": {"roots": [{"id": "a", "path": f"file://{workspace}", **inside}]},
        "capabilities/discoverV2": {"cwd": f"file://{workspace}", **inside},
    }
    waiting = stuck.request(method, params[method])
    assert await stuck.result("environment/status") == {"status": "ready"}
    assert await other.result("environment/status") == {"status": "ready"}
    assert waiting not in stuck.replies
    program.end()
    assert waiting == (await stuck.reply(waiting))["id"]
    await stuck.close()
    await other.close()


def test_what_may_hang_is_known_without_a_look_at_it(program: Hung, hung: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there/..")
    (tmp_path / "there").symlink_to(hung.name)
    (tmp_path / "loop").symlink_to("loop")
    mounts = HangingMounts()
    assert mounts.any()
    for path in (hung, hung / "a/../b", f"{hung}/", tmp_path / "there", f"/../{tmp_path}/./link"):
        assert mounts.lead(str(path)), path
    for path in (
        tmp_path,
        f"{hung}2",
        tmp_path / "loop" / hung.name,
        tmp_path / "no" / hung.name,
        "/",
        "/proc/self/cwd",
    ):
        assert not mounts.lead(str(path)), path
    # What is mounted later counts from then on, what is not any more does not.
    program.unmount()
    mounts.any()
    assert not mounts.lead(str(hung))
    mounts.close()


async def test_a_large_answer_does_not_wait_for_ever_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LARGE_PATIENCE", 0.01)
    async with service.large_turn():
        async with asyncio.timeout(30):
            async with service.large_turn():
                pass
    # And who waited in vain has let go of nothing that was not theirs.
    async with service.large_turn():
        pass
    assert not service._large_turn().locked()
