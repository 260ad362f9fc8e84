"""The environment of a sandboxed process is for it alone: nothing outside of the sandbox runs with it, or shows it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .harness import PATH, RunningServer, WireClient, write_params
from .sandboxes import bubblewrap, run_in, sandbox, special

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def command_lines() -> bytes:
    """Those of all processes."""
    shown = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown += path.read_bytes()
        except OSError:
            continue
    return shown


def open_files(pid: int) -> list[str]:
    return [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]


@bubblewrap
async def test_what_the_environment_does_it_does_inside(host: RunningServer, workspace: Path) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    client = await WireClient.connect(host.url)
    # The loader of every program writes what it does where these say.
    for asked in (sandbox(workspace), sandbox(workspace, special("root", "read"))):
        for place in (outside, workspace):
            env = {"PATH": PATH, "LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": f"{place}/trace"}
            assert (await run_in(client, workspace, "echo ran", asked, env=env)).endswith("ran\n")
    assert os.listdir(outside) == []
    # What runs inside has small numbers.
    assert {len(name) for name in os.listdir(workspace)} == {len("trace.1")}
    await client.close()


@bubblewrap
async def test_the_environment_arrives_as_it_was_given(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    odd = {"A": "", "B": "two\nlines", "C.D": "--bind", "BASH_FUNC_f%%": "() { :; }", "É": "ß", "LD_PRELOAD": ""}
    output = await run_in(client, workspace, [sys.executable, "-c", SHOW], sandbox(workspace), env=odd)
    # The interpreter may add a locale, and the sandbox says where it begins.
    assert {name: value for name, value in json.loads(output).items() if name not in ("LC_CTYPE", "PWD")} == odd
    await client.close()


@bubblewrap
async def test_the_environment_cannot_say_what_the_sandbox_is(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    params = {"processId": "p", "argv": ["/bin/true"], "cwd": "file:///tmp", "tty": False}
    words = "\0--bind\0/\0/"
    for env in ({"A": f"x{words}"}, {f"A{words}": "x"}):
        refusal = await client.error("process/start", {**params, "env": env, "sandbox": sandbox(workspace)})
        assert refusal == (-32603, "data provided contains a nul byte")
    many = {f"NAME{number}": "x" for number in range(4000)}
    code, message = await client.error("process/start", {**params, "env": many, "sandbox": sandbox(workspace)})
    assert (code, message.endswith("are more than 9000 words for bubblewrap")) == (-32602, True)
    await client.close()


@bubblewrap
async def test_no_command_line_shows_the_environment(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    params = {"cwd": f"file://{workspace}", "sandbox": sandbox(workspace), "pipeStdin": True}
    await client.start("p", "/bin/sh", "-c", "echo $HIDDEN; read x", env={"PATH": PATH, "HIDDEN": "a9f3"}, **params)
    await client.until_output("p", b"a9f3\n")
    shown = command_lines()
    assert b"echo $HIDDEN" in shown and b"a9f3" not in shown
    await client.result("process/write", write_params("p", b"\n", "1"))
    await client.until_closed("p")
    await client.close()


@bubblewrap
async def test_nothing_that_was_handed_over_stays_open(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    await run_in(client, workspace, "true", sandbox(workspace))
    output = await run_in(client, workspace, "ls -l /proc/self/fd /proc/1/fd", sandbox(workspace))
    assert "sandbox-" not in output
    assert not any("sandbox-" in name for name in open_files(host.server_pid))
    await client.close()
