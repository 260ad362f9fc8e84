"""A sandbox that a client asks for holds, or the request is refused: it is never ignored."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import PATH, RunningServer, WireClient, kill_server, start_host, write_params
from .sandboxes import bubblewrap, plain, sandbox, special


@pytest.fixture
async def client(host: RunningServer) -> AsyncIterator[WireClient]:
    connected = await WireClient.connect(host.url)
    yield connected
    await connected.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    (directory / ".git").mkdir(parents=True)
    (directory / ".git" / "config").write_text("protected")
    (tmp_path / "outside").write_text("outside")
    return directory


async def run(client: WireClient, workspace: Path, script: str, **params: Any) -> tuple[int, str]:
    """Run a script in the usual sandbox; returns exit code and output."""
    given = {"cwd": f"file://{workspace}", "sandbox": sandbox(workspace), **params}
    name = f"p{len(client.replies)}"
    started = await client.start(name, "/bin/sh", "-c", script, **given)
    assert started["sandboxType"] == "linuxSeccomp"
    await client.until_closed(name)
    exited = next(n for n in client.of(name) if n["method"] == "process/exited")
    return exited["params"]["exitCode"], client.output(name).decode()


@bubblewrap
async def test_a_process_writes_in_its_workspace_only(client: WireClient, workspace: Path) -> None:
    script = "echo a > in; cat ../outside; echo b > ../outside; echo c > .git/config; mv .git moved; pwd; exit 7"
    code, output = await run(client, workspace, script)
    assert code == 7
    # What it says on its two streams is in no order between them.
    assert "outside" in output
    assert f"{workspace}\n" in output
    assert (workspace / "in").read_text() == "a\n"
    assert (workspace.parent / "outside").read_text() == "outside"
    assert (workspace / ".git" / "config").read_text() == "protected"


@bubblewrap
async def test_a_sandboxed_process_has_no_privileges_and_no_network(client: WireClient, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]}"
        _, output = await run(client, workspace, f"grep CapEff /proc/self/status; bash -c '{connect}' || echo cut off")
        assert "CapEff:\t0000000000000000" in output
        assert "cut off" in output
        open_network = sandbox(workspace, special("root", "read"), network="enabled")
        code, _ = await run(client, workspace, f"bash -c '{connect}'", sandbox=open_network)
        assert code == 0


@bubblewrap
async def test_a_sandboxed_process_cannot_take_its_mounts_apart_or_turn_the_machine(
    client: WireClient, workspace: Path
) -> None:
    writable = sandbox(workspace, special("root", "write"))
    for asked in (sandbox(workspace), writable):
        script = "unshare -U true && echo namespace; test -w /proc/sys/kernel/core_pattern && echo machine; echo end"
        _, output = await run(client, workspace, script, sandbox=asked)
        assert "end" in output
        assert "namespace" not in output
        assert "machine" not in output
    environment = {"path": "file:///proc/self/environ", "sandbox": writable}
    assert (await client.error("fs/readFile", environment))[0] == -32600


@bubblewrap
@pytest.mark.parametrize("access", ["read", "write"])
async def test_what_the_machine_has_in_proc_cannot_be_written(client: WireClient, workspace: Path, access: str) -> None:
    entries = "$(ls -d /proc/* | grep -v '/proc/[0-9]' | grep -v self)"
    _, output = await run(
        client,
        workspace,
        f"test -d /proc/sys && find {entries} -type f -writable; echo x >/proc/self/comm && echo end",
        sandbox=sandbox(workspace, special("root", access)),
    )
    assert [line for line in output.splitlines() if not line.startswith("find: ")] == ["end"]


@bubblewrap
async def test_what_is_denied_cannot_be_read(client: WireClient, workspace: Path) -> None:
    secret = workspace / "secret"
    secret.mkdir()
    (secret / "key").write_text("hidden")
    (workspace / "file").write_text("hidden")
    denied = [{"path": {"type": "path", "path": str(path)}, "access": "deny"} for path in (secret, workspace / "file")]
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), *denied)
    _, output = await run(client, workspace, "cat secret/key file; ls secret; echo x > secret/new", sandbox=asked)
    assert "hidden" not in output
    assert sorted(os.listdir(secret)) == ["key"]


@bubblewrap
async def test_only_what_is_listed_is_there(client: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("minimal", "read"), special("project_roots", "read"))
    _, output = await run(client, workspace, "cat ../outside .git/config; echo x > new; ls /", sandbox=asked)
    assert "outside\n" not in output.replace("../outside", "")
    assert "protected" in output
    assert not (workspace / "new").exists()


@bubblewrap
async def test_terminals_input_and_signals_work_in_a_sandbox(client: WireClient, workspace: Path) -> None:
    params = {"cwd": f"file://{workspace}", "sandbox": sandbox(workspace)}
    script = "trap 'echo interrupted; exit 5' INT; test -t 0 && echo terminal; while :; do sleep 0.05; done"
    await client.start("t", "/bin/sh", "-c", script, tty=True, **params)
    await client.until_output("t", b"terminal")
    await client.result("process/write", write_params("t", b"\x03", "1"))
    await client.until_closed("t")
    assert b"interrupted" in client.output("t")
    assert client.exit_code("t") == 5
    await client.start("s", "/bin/sh", "-c", script.replace("test -t 0 &&", ""), **params)
    await client.until_output("s", b"terminal")
    await client.result("process/signal", {"processId": "s", "signal": "interrupt"})
    await client.until_closed("s")
    assert client.exit_code("s") == 5
    await client.start("c", "/bin/cat", pipeStdin=True, **params)
    await client.result("process/write", write_params("c", b"echo\n", "1"))
    await client.until_output("c", b"echo\n")
    assert await client.result("process/terminate", {"processId": "c"}) == {"running": True}
    await client.until_closed("c")
    code, message = await client.error(
        "process/start", {"processId": "m", "argv": ["missing"], "env": {"PATH": PATH}, "tty": False, **params}
    )
    assert (code, message) == (-32603, "No such file or directory (os error 2)")


@bubblewrap
async def test_requests_do_not_overtake_a_start_with_a_sandbox(either: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(either.url)
    start = {"processId": "p", "argv": ["/bin/cat"], "cwd": f"file://{workspace}", "env": {}, "tty": False}
    start |= {"pipeStdin": True, "sandbox": sandbox(workspace)}
    asked = [
        client.request("process/start", start),
        client.request("process/write", write_params("p", b"x", "1")),
        client.request("process/read", {"processId": "p", "waitMs": 0}),
        client.request("process/start", {**start, "sandbox": None}),
        client.request("process/terminate", {"processId": "p"}),
        # One that is refused, and after it one that is not.
        client.request("process/start", {**start, "processId": "q", "sandbox": {}}),
        client.request("process/start", {**start, "processId": "q"}),
        client.request("process/terminate", {"processId": "q"}),
    ]
    started, written, read, again, ended, failed, *last = [await client.reply(identity) for identity in asked]
    assert started["result"]["sandboxType"] == "linuxSeccomp"
    assert written["result"] == {"status": "accepted"}
    assert not read["result"]["exited"]
    assert again["error"] == {"code": -32600, "message": "process p already exists"}
    assert ended["result"] == {"running": True}
    assert "error" in failed
    assert last[1]["result"] == {"running": True}
    await client.until_closed("p")
    await client.close()


@bubblewrap
async def test_a_sandboxed_process_goes_on_when_the_server_is_killed(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    gate = workspace / "gate"
    os.mkfifo(gate)
    reading = sandbox(workspace, special("root", "read"))
    for name, asked in (("reads", reading), ("writes", sandbox(workspace))):
        script = f"echo ready; read x <{gate}; exit 6"
        await client.start(name, "/bin/sh", "-c", script, cwd=f"file://{workspace}", sandbox=asked)
        await client.until_output(name, b"ready")
    await kill_server(host)
    again = await WireClient.connect(host.url, resume=client.session)
    descriptor = os.open(gate, os.O_RDWR)
    os.write(descriptor, b"\n\n")
    for name in ("reads", "writes"):
        told: dict[str, Any] = {}
        while not told.get("closed"):
            after = told.get("nextSeq", 1) - 1
            told = await again.result("process/read", {"processId": name, "afterSeq": after, "waitMs": 60_000})
        assert told["exitCode"] == 6
    os.close(descriptor)
    await again.close()


@bubblewrap
async def test_a_write_outside_of_a_sandbox_leaves_what_is_protected_in_it(client: WireClient, workspace: Path) -> None:
    source, denied, fixed, gate = (workspace / name for name in ("source", "denied", "fixed", "gate"))
    for path in (source, denied, fixed):
        path.write_text("old")
    os.mkfifo(gate)
    limits = [
        {"path": {"type": "path", "path": str(path)}, "access": how}
        for path, how in ((denied, "deny"), (fixed, "read"))
    ]
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), *limits)
    script = "echo ready; read x <gate; cat denied; echo broken >fixed; echo end"
    await client.start("p", "/bin/sh", "-c", script, cwd=f"file://{workspace}", sandbox=asked)
    await client.until_output("p", b"ready")
    await client.result("fs/writeFile", {"path": f"file://{denied}", "dataBase64": "aGlkZGVu"})
    copied = {"sourcePath": f"file://{source}", "destinationPath": f"file://{fixed}", "recursive": False}
    await client.result("fs/copy", copied)
    descriptor = os.open(gate, os.O_RDWR)
    os.write(descriptor, b"\n")
    await client.until_closed("p")
    os.close(descriptor)
    assert b"end" in client.output("p")
    assert b"hidden" not in client.output("p")
    assert (denied.read_text(), fixed.read_text()) == ("hidden", "old")


async def test_no_sandbox_is_no_sandbox(client: WireClient, workspace: Path) -> None:
    for permissions in ({"type": "disabled"}, {"type": "external", "network": "restricted"}):
        asked = {**sandbox(workspace), "permissions": permissions}
        started = await client.start(f"n{permissions['type']}", "/bin/true", sandbox=asked)
        assert started["sandboxType"] == "none"
        name = f"a{permissions['type']}"
        await client.start(name, "/bin/cat", "/proc/self/cmdline", arg0="renamed", sandbox=asked)
        await client.until_closed(name)
        assert client.output(name) == b"renamed\0/proc/self/cmdline\0"


@pytest.mark.parametrize(
    "entry",
    [
        {"path": {"type": "glob_pattern", "pattern": "**/*.key"}, "access": "deny"},
        {"path": {"type": "special", "value": {"kind": "elsewhere"}}, "access": "read"},
        special("project_roots", "read", "../outside"),
        special("project_roots", "read", "not-there-yet"),
    ],
)
async def test_what_cannot_be_enforced_is_refused(client: WireClient, workspace: Path, entry: dict[str, Any]) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), entry)
    params = {"processId": "x", "argv": ["/bin/true"], "cwd": "file:///tmp", "env": {}, "tty": False, "sandbox": asked}
    code, message = await client.error("process/start", params)
    assert code == -32602
    assert message.startswith("this exec-server cannot honour `sandbox` and will not ignore it: ")


@bubblewrap
async def test_what_is_opened_outside_of_a_sandbox_is_refused(client: WireClient, workspace: Path) -> None:
    narrow = sandbox(workspace, special("minimal", "read"), special("project_roots", "write"))
    params = {"processId": "x", "argv": ["/bin/cat"], "cwd": f"file://{workspace}", "env": {}, "tty": False}
    given = {"holdfast": {"stdinFile": f"{workspace.parent}/outside"}}
    code, message = await client.error("process/start", {**params, **given, "sandbox": narrow})
    assert (code, "stdinFile" in message) == (-32602, True)
    reading = {"path": f"file://{workspace.parent}/outside", "sandbox": narrow}
    assert (await client.error("fs/readFile", reading))[0] == -32004


@pytest.mark.parametrize(
    ("permissions", "fault"),
    [
        ({}, "missing field `type`"),
        ({"file_system": {"type": "restricted", "entries": [{"access": "read"}]}}, "missing field `path`"),
        ({"file_system": {"type": "restricted", "entries": [special("root", "read", missing_path_behavior="x")]}}, ""),
    ],
)
async def test_a_sandbox_that_is_not_understood_is_refused_in_the_same_way(
    either: RunningServer, workspace: Path, permissions: dict[str, Any], fault: str
) -> None:
    client = await WireClient.connect(either.url)
    asked = sandbox(workspace)
    asked["permissions"] = {**asked["permissions"], **permissions} if permissions else {}
    start = {"processId": "p", "argv": ["true"], "cwd": "file:///", "env": {}, "tty": False, "sandbox": asked}
    files = {"path": f"file://{workspace}", "sandbox": asked}
    for method, params in (("process/start", start), ("fs/getMetadata", files)):
        code, message = await client.error(method, params)
        assert code == -32602
        assert message == fault or not fault
    await client.close()


async def test_a_malformed_sandbox_is_refused(client: WireClient, workspace: Path) -> None:
    params = {"processId": "x", "argv": ["/bin/true"], "cwd": "file:///tmp", "env": {}, "tty": False}
    for malformed in ({}, 3, "x", {"permissions": {"type": "managed"}}, {"permissions": {"type": "new"}}):
        assert (await client.error("process/start", {**params, "sandbox": malformed}))[0] == -32602
        reading = {"path": "file:///etc/hostname", "sandbox": malformed}
        assert (await client.error("fs/readFile", reading))[0] == -32602


@pytest.fixture
def host_without_bubblewrap(state: Path, tmp_path: Path) -> Iterator[RunningServer]:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    server = start_host(state, env={**os.environ, "PATH": str(programs)})
    yield server
    server.stop()


async def test_without_bubblewrap_a_sandboxed_start_is_refused(
    host_without_bubblewrap: RunningServer, workspace: Path
) -> None:
    client = await WireClient.connect(host_without_bubblewrap.url)
    script = {"processId": "x", "argv": ["/bin/touch", str(workspace / "ran")], "cwd": "file:///tmp", "env": {}}
    asked = {**script, "tty": False, "sandbox": sandbox(workspace)}
    code, message = await client.error("process/start", asked)
    assert code == -32602
    assert message.endswith("bubblewrap (bwrap) is not installed")
    assert not (workspace / "ran").exists()
    await client.close()


async def test_files_obey_the_sandbox_with_or_without_bubblewrap(
    host_without_bubblewrap: RunningServer, workspace: Path
) -> None:
    client = await WireClient.connect(host_without_bubblewrap.url)
    asked = sandbox(workspace)
    outside = workspace.parent / "outside"
    (workspace / "way-out").symlink_to(outside)
    (workspace / "way-in").symlink_to(".git")

    async def write(path: Path) -> dict[str, Any]:
        return await client.call("fs/writeFile", {"path": f"file://{path}", "dataBase64": "eA==", "sandbox": asked})

    assert "result" in await write(workspace / "new")
    for path in (outside, workspace / "way-out", workspace / ".git" / "config", workspace / "way-in" / "config"):
        assert (await write(path))["error"]["code"] == -32600
    for path in (workspace, workspace / ".git"):
        assert (await client.error("fs/remove", {"path": f"file://{path}", "sandbox": asked}))[0] == -32600
    copying = {"sourcePath": f"file://{workspace}/new", "recursive": False, "sandbox": asked}
    assert (await client.error("fs/copy", {**copying, "destinationPath": f"file://{outside}"}))[0] == -32600
    opening = {"handleId": "h", "path": f"file://{outside}", "sandbox": asked}
    assert (await client.error("fs/open", {**opening, "mode": "replace"}))[0] == -32600
    assert await client.result("fs/open", opening) == {"handleId": "h"}
    assert outside.read_text() == "outside"
    narrow = sandbox(workspace, special("project_roots", "read"))
    for name in ("outside", "workspace/way-out"):
        reading = {"path": f"file://{workspace.parent}/{name}", "sandbox": narrow}
        assert (await client.error("fs/readFile", reading))[0] == -32004
    await client.close()


@bubblewrap
async def test_a_directory_is_copied_beside_what_is_protected(either: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(either.url)
    asked = sandbox(workspace)
    for directory, name in (("plain", "a"), ("plain/sub", "b"), ("hostile", "c"), ("hostile/.git", "config")):
        (workspace / directory).mkdir(exist_ok=True)
        (workspace / directory / name).write_text(name)

    async def copy(source: str) -> dict[str, Any]:
        paths = {"sourcePath": f"file://{workspace}/{source}", "destinationPath": f"file://{workspace}"}
        return await client.call("fs/copy", {**paths, "recursive": True, "sandbox": asked})

    assert (await copy("plain"))["result"] == {}
    assert ((workspace / "a").read_text(), (workspace / "sub" / "b").read_text()) == ("a", "b")
    assert "error" in await copy("hostile")
    assert (workspace / ".git" / "config").read_text() == "protected"
    await client.close()


@bubblewrap
async def test_what_is_not_there_needs_no_permission_to_be_removed(either: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(either.url)
    missing = {"path": f"file://{workspace.parent}/missing", "sandbox": sandbox(workspace)}
    for recursive in (True, False):
        assert await client.result("fs/remove", {**missing, "recursive": recursive}) == {}
        refusal = await client.error("fs/remove", {**missing, "recursive": recursive, "force": False})
        assert refusal == (-32004, "No such file or directory (os error 2)")
    await client.close()


@bubblewrap
@pytest.mark.parametrize("way_in", [False, True], ids=["no way in", "a way in"])
async def test_nothing_is_told_of_what_is_in_a_denied_directory(
    either: RunningServer, workspace: Path, way_in: bool
) -> None:
    client = await WireClient.connect(either.url)
    for directory in ("secret/there", "secret/shown"):
        (workspace / directory).mkdir(parents=True)
        (workspace / directory / "f").write_text("content")
    (workspace / "secret" / "link").symlink_to("../in")
    (workspace / "secret" / "loop").symlink_to("loop")
    (workspace / "in").write_text("content")
    (workspace / "way").symlink_to("secret")
    entries = [special("root", "read"), plain(workspace / "secret", "deny")]
    if way_in:
        entries.append(plain(workspace / "secret" / "shown", "write"))
    asked = sandbox(workspace, *entries)
    for method in ("fs/getMetadata", "fs/readFile", "fs/canonicalize", "fs/readDirectory", "fs/remove"):
        more = {"recursive": False, "force": False} if method == "fs/remove" else {}
        for name in ("there/f", "missing/f", "link", "link/f", "there/f/f", "loop", "missing", "loop/f"):
            for top in ("secret", "way"):
                params = {"path": f"file://{workspace}/{top}/{name}", "sandbox": asked, **more}
                code, message = await client.error(method, params)
                # With a way through it, what is not on that way is not there.
                assert code == (-32004 if way_in else -32600), (method, top, name, message)
                assert name not in message
    reading = {"path": f"file://{workspace}/way/shown/f", "sandbox": asked}
    if way_in:
        assert await client.result("fs/readFile", reading) == {"dataBase64": "Y29udGVudA=="}
    else:
        assert (await client.error("fs/readFile", reading))[0] == -32600
    assert (workspace / "secret" / "link").is_symlink() and (workspace / "secret" / "there" / "f").exists()
    await client.close()


@bubblewrap
async def test_what_is_not_shown_is_not_there(either: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(either.url)
    (workspace / "shown" / "deep").mkdir(parents=True)
    (workspace / "shown" / "deep" / "f").write_text("content")
    (workspace / "hidden").mkdir()
    (workspace / "hidden" / "f").write_text("content")
    (workspace / "link").symlink_to("shown/deep/f")
    (workspace / "shown" / "deep" / "out").symlink_to("../../hidden")
    asked = sandbox(workspace, special("minimal", "read"), plain(workspace / "shown" / "deep", "read"))
    for method in ("fs/getMetadata", "fs/readFile", "fs/canonicalize", "fs/readDirectory"):
        for name in ("hidden", "hidden/f", "link", "none", "none/f", "shown/none", "shown/deep/out", "shown/deep/none"):
            params = {"path": f"file://{workspace}/{name}", "sandbox": asked}
            assert (await client.error(method, params))[0] == -32004, (method, name)
    params = {"path": f"file://{workspace}/shown/deep", "sandbox": asked}
    assert [entry["fileName"] for entry in (await client.result("fs/readDirectory", params))["entries"]] == ["f"]
    assert "result" in await client.call("fs/readFile", {**params, "path": f"file://{workspace}/shown/deep/f"})
    await client.close()


async def test_where_nothing_is_shown_nothing_can_be_made(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    asked = sandbox(workspace, plain(workspace / "denied", "deny"))
    for path in (workspace / "new" / "deep", workspace, Path("/")):
        params = {"path": f"file://{path}", "sandbox": asked}
        assert (await client.error("fs/createDirectory", params))[0] == -32600
        assert (await client.error("fs/writeFile", {**params, "dataBase64": ""}))[0] in (-32600, -32603, -32004)
        assert (await client.error("fs/readDirectory", params))[0] in (-32600, -32004)
    assert os.listdir(workspace) == [".git"]
    await client.close()


@bubblewrap
async def test_what_looks_denied_is_told_as_the_reference_tells_it(either: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(either.url)
    far = "head -c 1500000 /dev/zero"
    cases = (
        ("echo x > /usr/denied-by-the-sandbox", True),
        ("echo x > /usr/denied-by-the-sandbox; exit 0", False),
        ("exit 1", False),
        ("exit 126", False),
        ("no-such-program", False),
        ("echo PERMISSION Denied; exit 2", True),
        ("echo operation not permitted >&2; exit 127", True),
        ("echo access denied; exit 3", False),
        ("printf 'read-only '; sleep 0.1; echo file system; exit 3", True),
        (f"echo landlock; {far}; exit 3", False),
        (f"{far}; echo landlock; exit 3", True),
        ("exit 159", True),
        ("exit 137", False),
    )
    asked = {"cwd": f"file://{workspace}", "sandbox": sandbox(workspace)}
    for number, (script, denied) in enumerate(cases):
        for name, params in ((f"in {number}", asked), (f"out {number}", {})):
            if not params and "/usr" in script:
                continue
            await client.start(name, "/bin/sh", "-c", script, **params)
            await client.until_closed(name)
            (exited,) = [n["params"] for n in client.of(name) if n["method"] == "process/exited"]
            read = await client.result("process/read", {"processId": name, "maxBytes": 1})
            assert exited["sandboxDenied"] is read["sandboxDenied"] is (denied and bool(params)), (name, script, exited)
    await client.close()


@bubblewrap
async def test_what_looked_denied_still_does_after_a_kill(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    await client.start("p", "/bin/sh", "-c", "echo x > /usr/no", cwd=f"file://{workspace}", sandbox=sandbox(workspace))
    await client.until_closed("p")
    await kill_server(host)
    again = await WireClient.connect(host.url, resume=client.session)
    assert (await again.result("process/read", {"processId": "p"}))["sandboxDenied"] is True
    await again.close()
