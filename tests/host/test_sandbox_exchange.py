"""What is put in the place of a directory while a sandbox is set up gets nothing of what the directory was meant to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.sandbox.metadata import METADATA

from .harness import RunningServer, WireClient
from .sandboxes import bubblewrap, plain, sandbox, special


async def run_around(
    client: WireClient, workspace: Path, script: str, asked: dict[str, Any], exchange: Callable[[], None]
) -> tuple[int, str]:
    """Run a script whose sandbox is set up only after *exchange*, which comes after all is looked at."""
    directory = os.open(workspace, os.O_RDONLY)
    # Who sets it up waits for the lock by which the mount points are made.
    fcntl.flock(directory, fcntl.LOCK_EX)
    await client.start("p", "/bin/sh", "-c", script, cwd="file:///", sandbox=asked)
    exchange()
    os.close(directory)
    await client.until_closed("p")
    return client.exit_code("p"), client.output("p").decode()


@bubblewrap
@pytest.mark.parametrize("access", ["write", "read"])
@pytest.mark.parametrize("kind", ["itself", "above"])
async def test_a_symlink_in_the_place_of_a_directory_is_not_followed(
    host: RunningServer, workspace: Path, access: str, kind: str
) -> None:
    client = await WireClient.connect(host.url)
    victim, given = workspace.parent / "victim", workspace.parent / "theirs" / "given"
    for path in (victim / "given", given):
        for name in METADATA:
            # Nothing is missing, so nothing has to be made there.
            (path / name).mkdir(parents=True)

    def exchange() -> None:
        path = given if kind == "itself" else given.parent
        path.rename(path.with_name("moved"))
        path.symlink_to(os.path.relpath(victim / "given" if kind == "itself" else victim, path.parent))

    above = special("root", "read") if access == "write" else plain(workspace.parent, "write")
    asked = sandbox(workspace, special("root", "read"), above, special("project_roots", "write"), plain(given, access))
    code, output = await run_around(client, workspace, f"echo ran; touch {victim}/given/x", asked, exchange)
    assert code != 0
    assert output.startswith(f"nothing was run: something else was put in the place of {given}")
    assert sorted(os.listdir(victim / "given")) == sorted(METADATA)
    await client.close()


@bubblewrap
async def test_what_is_denied_is_not_moved_out_of_the_way(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    secret = workspace / "deep" / "secret"
    secret.mkdir(parents=True)
    (workspace / "other" / "secret").mkdir(parents=True)

    def exchange() -> None:
        secret.parent.rename(workspace / "moved")
        secret.parent.symlink_to("other")

    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), plain(secret, "deny"))
    code, output = await run_around(client, workspace, "echo ran", asked, exchange)
    assert (code != 0, "ran\n" in output) == (True, False)
    await client.close()


@bubblewrap
async def test_no_mount_point_is_made_elsewhere(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    victim, given = workspace.parent / "victim", workspace.parent / "given"
    victim.mkdir()
    given.mkdir()

    def exchange() -> None:
        given.rename(given.with_name("moved"))
        given.symlink_to("victim")
        # The last command there would take them away again.
        watched.append(os.open(victim, os.O_RDONLY))
        fcntl.flock(watched[0], fcntl.LOCK_SH)

    watched: list[int] = []
    asked = sandbox(workspace, special("root", "read"), plain(given, "write"), special("project_roots", "write"))
    code, _ = await run_around(client, workspace, "echo ran", asked, exchange)
    os.close(watched[0])
    assert (code != 0, os.listdir(victim)) == (True, [])
    await client.close()


@bubblewrap
async def test_any_name_of_a_directory_is_one(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    for name in ("two words", "back\\slash", "a\ttab", "new\nline", "st*r?[x]", "\\040", "ü"):
        given = workspace / name
        (given / "denied").mkdir(parents=True)
        (given / "shown").mkdir()
        entries = [plain(given, "write"), plain(given / "denied", "deny"), plain(given / "shown", "read")]
        for entry in entries:
            # A native path, because a URI would have to be escaped.
            entry["path"]["path"] = entry["path"]["path"].removeprefix("file://")
        asked = sandbox(workspace, special("root", "read"), *entries)
        script = "touch x denied/x shown/x; echo ran"
        await client.start(name, "/bin/sh", "-c", script, cwd=given.as_uri(), sandbox=asked)
        await client.until_closed(name)
        assert b"ran\n" in client.output(name)
        assert sorted(os.listdir(given)) == ["denied", "shown", "x"]
        assert os.listdir(given / "denied") == os.listdir(given / "shown") == []
    await client.close()
