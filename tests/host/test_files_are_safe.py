"""Files through our host, where it does better than the reference: nothing lost, nothing blocked, no way out."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.files.place import locate, path_of
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import RpcError

from .harness import RunningServer, WireClient, start_host, within
from .sandboxes import sandbox

WALK = {"maxDepth": 64, "maxDirectories": 10_000, "maxEntries": 50_000, "followDirectorySymlinks": True}
# mount(2)
_MS_BIND = 4096
_MNT_DETACH = 2


@pytest.fixture
async def client(host: RunningServer) -> Any:
    connected = await WireClient.connect(host.url)
    yield connected
    await connected.close()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def write(client: WireClient, path: Path, data: bytes) -> None:
    assert await client.result("fs/writeFile", {"path": f"file://{path}", "dataBase64": encoded(data)}) == {}


def copying(source: Path, destination: Path) -> dict[str, Any]:
    return {"sourcePath": f"file://{source}", "destinationPath": f"file://{destination}", "recursive": False}


async def test_a_write_replaces_the_file_and_keeps_what_it_is(client: WireClient, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"kept")
    with path.open() as reader:
        await write(client, path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.getxattr(path, "user.note") == b"kept"
    assert os.listdir(tmp_path).count("f") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".holdfast")]


async def test_a_write_keeps_the_owner(client: WireClient, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    await write(client, path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)


async def test_a_write_keeps_hard_links_and_symlinks(client: WireClient, tmp_path: Path) -> None:
    path, hard, link = tmp_path / "f", tmp_path / "hard", tmp_path / "link"
    path.write_text("old")
    os.link(path, hard)
    link.symlink_to("f")
    await write(client, link, b"new")
    assert link.is_symlink()
    assert hard.read_text() == path.read_text() == "new"
    assert path.samefile(hard)


async def test_a_file_that_is_a_mount_point_can_be_written(client: WireClient, tmp_path: Path) -> None:
    path, mounted, source = tmp_path / "f", tmp_path / "mounted", tmp_path / "source"
    for file in (path, mounted, source):
        file.write_text(file.name)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(bytes(mounted), bytes(path), None, _MS_BIND, None) != 0:
        pytest.skip(f"this account can mount nothing: {os.strerror(ctypes.get_errno())}")
    try:
        await write(client, path, b"new")
        assert path.read_text() == mounted.read_text() == "new"
        assert await client.result("fs/copy", copying(source, path)) == {}
        assert path.read_text() == mounted.read_text() == "source"
    finally:
        libc.umount2(bytes(path), _MNT_DETACH)
    assert path.read_text() == "f"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".holdfast")]


async def test_a_write_that_fails_leaves_the_old_content(client: WireClient, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    assert (await client.error("fs/writeFile", {"path": f"file://{path}", "dataBase64": "%%%%"}))[0] == -32600
    assert path.read_text() == "old"


async def test_a_copy_onto_itself_loses_nothing(client: WireClient, tmp_path: Path) -> None:
    path, hard, link = tmp_path / "f", tmp_path / "hard", tmp_path / "link"
    path.write_text("precious")
    os.link(path, hard)
    link.symlink_to("f")
    for destination in (path, hard, link):
        assert await client.result("fs/copy", copying(path, destination)) == {}
        assert path.read_text() == "precious"


async def test_a_copy_of_a_file_without_size_is_whole(client: WireClient, tmp_path: Path) -> None:
    assert await client.result("fs/copy", copying(Path("/proc/version"), tmp_path / "v")) == {}
    assert (tmp_path / "v").read_text().startswith("Linux version")


@pytest.mark.parametrize("device", ["fifo", "/dev/zero", "/dev/tty"])
async def test_fifos_and_devices_are_neither_read_nor_written(client: WireClient, tmp_path: Path, device: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / device
    uri = f"file://{path}"
    refusal = (-32600, f"path `{path}` is not a file")
    assert await client.error("fs/readFile", {"path": uri}) == refusal
    assert await client.error("fs/writeFile", {"path": uri, "dataBase64": "eA=="}) == refusal
    for mode in ("read", "replace"):
        assert await client.error("fs/open", {"handleId": "h", "path": uri, "mode": mode}) == refusal
    (tmp_path / "f").write_text("x")
    assert await client.error("fs/copy", copying(tmp_path / "f", path)) == refusal


async def test_large_files_arrive_whole_while_the_host_goes_on(client: WireClient, tmp_path: Path) -> None:
    data = os.urandom(1024 * 1024) * 40
    (tmp_path / "large").write_bytes(data)
    identity = client.request("fs/readFile", {"path": f"file://{tmp_path}/large"})
    assert await client.result("environment/status") == {"status": "ready"}
    assert identity not in client.replies
    reply = await client.reply(identity)
    assert base64.b64decode(reply["result"]["dataBase64"]) == data


async def test_a_file_that_is_too_large_is_refused_unread(client: WireClient, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10 * 1024**3)
    code, message = await client.error("fs/readFile", {"path": f"file://{tmp_path}/huge"})
    assert (code, message) == (-32600, "file is too large to read: limit is 134217728 bytes")
    await client.result("fs/open", {"handleId": "h", "path": f"file://{tmp_path}/huge"})
    found = await client.result("fs/readBlock", {"handleId": "h", "offset": 10 * 1024**3 - 5, "len": 100})
    assert found == {"chunk": encoded(bytes(5)), "eof": True}


async def test_pipelined_changes_happen_in_order(client: WireClient, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/f"
    reads: list[int] = []
    for number in range(200):
        client.request("fs/writeFile", {"path": uri, "dataBase64": encoded(b"%d" % number)})
        reads.append(client.request("fs/readFile", {"path": uri}))
    for number, identity in enumerate(reads):
        reply = await client.reply(identity)
        assert base64.b64decode(reply["result"]["dataBase64"]) == b"%d" % number


async def test_deep_trees_are_removed_and_copied(client: WireClient, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(deep)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY))
    finally:
        os.fchdir(home)
        os.close(home)
    params = {"sourcePath": f"file://{deep}", "destinationPath": f"file://{tmp_path}/copy", "recursive": True}
    assert await client.result("fs/copy", params) == {}
    for name in ("deep", "copy"):
        assert await client.result("fs/remove", {"path": f"file://{tmp_path}/{name}"}) == {}
        assert not (tmp_path / name).exists()


async def test_a_wide_tree_is_copied_with_few_descriptors(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    for number in range(300):
        (wide / str(number)).mkdir(parents=True)
    host = start_host(tmp_path / "state")
    try:
        client = await WireClient.connect(host.url)
        resource.prlimit(host.server_pid, resource.RLIMIT_NOFILE, (200, 200))
        params = {"sourcePath": f"file://{wide}", "destinationPath": f"file://{tmp_path}/copy", "recursive": True}
        assert await client.result("fs/copy", params) == {}
        assert len(os.listdir(tmp_path / "copy")) == 300
        await client.close()
    finally:
        host.stop()


async def test_removal_never_follows_a_symlink(client: WireClient, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "way-out").symlink_to(outside)
    assert await client.result("fs/remove", {"path": f"file://{tree}"}) == {}
    assert (outside / "precious").exists()
    assert (await client.error("fs/remove", {"path": "file:///"}))[0] == -32600


async def test_a_copied_directory_never_writes_through_a_symlink(client: WireClient, tmp_path: Path) -> None:
    for name in ("source/sub", "file", "directory", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "source" / "sub" / "secret").write_text("new")
    (tmp_path / "outside" / "secret").write_text("old")
    (tmp_path / "directory" / "sub").symlink_to(tmp_path / "outside")
    (tmp_path / "file" / "sub").mkdir()
    (tmp_path / "file" / "sub" / "secret").symlink_to(tmp_path / "outside" / "secret")
    for name in ("directory", "file"):
        await client.error("fs/copy", {**copying(tmp_path / "source", tmp_path / name), "recursive": True})
    assert (tmp_path / "outside" / "secret").read_text() == "old"


async def test_a_directory_swapped_for_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root" / "d", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "f").write_text("inside")
    (outside / "f").write_text("outside")
    with locate(str(inside / "f"), Scope.below(str(tmp_path / "root"))) as place:
        inside.rename(tmp_path / "root" / "moved")
        inside.symlink_to(outside)
        descriptor = place.open(os.O_RDONLY)
        assert os.read(descriptor, 100) == b"inside"
        os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["../outside/f", "out/f", "out-file", "d/../../outside/f", "../root-not/f", "absolute/f", ".."]
)
async def test_nothing_leads_out_of_a_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    for directory in (root / "d", tmp_path / "outside", tmp_path / "root-not"):
        directory.mkdir(parents=True)
        (directory / "f").write_text("x")
    (root / "out").symlink_to("../outside")
    (root / "out-file").symlink_to("../outside/f")
    (root / "absolute").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to(root / "d")
    scope = Scope.below(str(root))
    with pytest.raises(RpcError, match="outside of"):
        locate(path_of(f"file://{root}/{path}"), scope)
    with locate(str(root / "in" / "f"), scope) as place:
        assert place.status().st_size == 1


@pytest.mark.parametrize("follow", [True, False])
async def test_what_is_missing_outside_of_a_root_looks_like_what_is_there(tmp_path: Path, follow: bool) -> None:
    root = tmp_path / "root"
    (tmp_path / "outside" / "d").mkdir(parents=True)
    (tmp_path / "outside" / "f").write_text("x")
    (tmp_path / "outside" / "loop").symlink_to("loop")
    (tmp_path / "outside" / "elsewhere").symlink_to("/usr/bin")
    root.mkdir()
    (root / "out").symlink_to("../outside")
    (root / "gone").symlink_to("../outside/no")
    (root / "loop").symlink_to("loop")
    (root / "f").write_text("x")
    scope = Scope.below(str(root))
    said: set[str] = set()
    beyond = ["d", "f", "no", "d/no", "no/no", "f/no", "loop", "loop/no", "elsewhere/env", "elsewhere/no", "n" * 300]
    for way in ("../outside", "out"):
        for name in beyond:
            with pytest.raises(RpcError) as refusal:
                locate(path_of(f"file://{root}/{way}/{name}"), scope, follow=follow)
            said.add(refusal.value.message)
    with pytest.raises(RpcError) as refusal:
        locate(path_of(f"file://{root}/gone/no"), scope, follow=follow)
    assert said == {refusal.value.message}
    # Inside everything is told as it is.
    for name, kind in (("no/no", FileNotFoundError), ("f/no", NotADirectoryError), ("loop/no", OSError)):
        with pytest.raises(kind):
            locate(path_of(f"file://{root}/{name}"), scope, follow=follow)


async def test_creation_times_are_told_where_they_are_known(client: WireClient, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "l").symlink_to("f")
    found = [
        (await client.result("fs/getMetadata", {"path": f"file://{tmp_path}/{name}", **params}))["createdAtMs"]
        for name, params in (("f", {}), ("f", {"followSymlinks": False}), ("l", {}))
    ]
    assert len(set(found)) == 1


async def test_names_that_are_no_text_are_walked(client: WireClient, tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/top/bad\xff")
    (tmp_path / "top" / os.fsdecode(b"bad\xff") / "f").write_text("x")
    found = await client.result("fs/walk", {"path": f"file://{tmp_path}/top", "options": WALK})
    assert [entry["path"].rpartition("/top/")[2] for entry in found["entries"]] == ["bad%FF", "bad%FF/f"]
    assert await client.result("fs/readFile", {"path": found["entries"][1]["path"]}) == {"dataBase64": "eA=="}


async def test_handles_and_watches_end_with_the_connection(host: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")

    def held() -> int:
        found = 0
        for process in (host.pid, *_children(host.pid)):
            for name in os.listdir(f"/proc/{process}/fd"):
                try:
                    target = os.readlink(f"/proc/{process}/fd/{name}")
                except FileNotFoundError:
                    continue
                found += target == str(tmp_path / "f") or "inotify" in target
        return found

    client = await WireClient.connect(host.url)
    for number in range(10):
        await client.result("fs/open", {"handleId": str(number), "path": f"file://{tmp_path}/f"})
    watch = {"watchId": 1, "missing": [f"file://{tmp_path}/missing"]}
    assert (await client.result("fs/watchMissing", watch))["watching"]
    assert held() == 11
    await client.close()

    async def until_released() -> None:
        while held():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await within(until_released())


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_host_with_a_root_serves_nothing_outside_of_it(tmp_path: Path, state: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "inside").write_text("inside")
    (tmp_path / "outside").write_text("outside")
    server = start_host(state, "unix://", "--root", str(root))
    client = await WireClient.connect(server.url)
    try:
        found = await client.result("fs/readFile", {"path": (root / "inside").as_uri()})
        assert base64.b64decode(found["dataBase64"]) == b"inside"
        code, message = await client.error("fs/readFile", {"path": (tmp_path / "outside").as_uri()})
        assert code == -32600, message
        for missing in ("missing", "missing/file"):
            assert await client.error("fs/readFile", {"path": (tmp_path / missing).as_uri()}) == (code, message)
        code, _ = await client.error("fs/writeFile", {"path": (tmp_path / "new").as_uri(), "dataBase64": ""})
        assert code == -32600
        assert not (tmp_path / "new").exists()
        code, _ = await client.error("fs/createDirectory", {"path": (tmp_path / "new" / "d").as_uri()})
        assert code == -32600
        assert not (tmp_path / "new").exists()
    finally:
        await client.close()
        server.stop()


async def test_a_host_with_a_root_tells_nothing_of_what_a_symlink_leads_to_outside(tmp_path: Path, state: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    (outside / "d").mkdir(parents=True)
    for file in (root / "f", outside / "f"):
        file.write_text("f")
    links = {"file": outside / "f", "directory": outside / "d", "nothing": outside / "no", "relative": "../outside"}
    links |= {"twice": "relative/d", "above": "..", "back": "../root/d", "in": "d", "in-file": "f"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    server = start_host(state, "unix://", "--root", str(root))
    client = await WireClient.connect(server.url)
    try:
        entries = (await client.result("fs/readDirectory", {"path": root.as_uri()}))["entries"]
        kinds = {entry["fileName"]: (entry["isDirectory"], entry["isFile"]) for entry in entries}
        directory, file = (True, False), (False, True)
        assert kinds == {"d": directory, "f": file, "in": directory, "back": directory, "in-file": file}
        options = {"maxDepth": 64, "maxDirectories": 100, "maxEntries": 100, "followDirectorySymlinks": True}
        walked = await client.result("fs/walk", {"path": root.as_uri(), "options": options})
        names = [entry["path"].removeprefix(root.as_uri() + "/") for entry in walked["entries"]]
        assert (names, walked["errors"]) == (["back", "d", "f", "in"], [])
        # Nor by what the walk counts: only the symlinks that lead to something inside are looked at, with the others.
        options |= {"maxEntries": 5}
        assert not (await client.result("fs/walk", {"path": root.as_uri(), "options": options}))["truncated"]
    finally:
        await client.close()
        server.stop()


async def test_a_sandbox_in_a_root_tells_nothing_of_what_it_does_not_show(tmp_path: Path, state: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root / "shown", root / "hidden", outside):
        directory.mkdir(parents=True)
    (root / "hidden" / "link").symlink_to(outside)
    for name, target in (("out", outside), ("gone", outside / "none"), ("way", "../hidden/link")):
        (root / "shown" / name).symlink_to(target)
    asked = sandbox(root, {"path": {"type": "path", "path": str(root / "shown")}, "access": "read"})
    server = start_host(state, "unix://", "--root", str(root))
    client = await WireClient.connect(server.url)

    async def error(path: Path) -> tuple[int, str]:
        return await client.error("fs/getMetadata", {"path": path.as_uri(), "sandbox": asked})

    try:
        not_there = (-32004, "No such file or directory (os error 2)")
        for name in ("hidden", "hidden/link", "hidden/link/f", "hidden/none/f", "none", "shown/way", "shown/way/f"):
            assert await error(root / name) == not_there, name
        refused = await error(outside)
        assert refused[0] == -32600
        for path in (outside / "none", root.parent / "none", root / "shown" / "out", root / "shown" / "gone" / "f"):
            assert await error(path) == refused, path
    finally:
        await client.close()
        server.stop()
