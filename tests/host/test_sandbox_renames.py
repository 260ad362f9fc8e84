"""What a sandbox protects cannot be moved away with a directory above it, so the next sandbox protects it as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .harness import RunningServer, WireClient
from .sandboxes import bubblewrap, plain, run_in, sandbox, special

#: Not ``mv``, which makes a copy of what it cannot move.
MOVE = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.rename(path, path + "-moved")
        print("moved", path)
    except OSError:
        pass
print("tried")
"""


def moving(*paths: Path) -> list[str]:
    return [sys.executable, "-c", MOVE, *map(str, paths)]


@bubblewrap
@pytest.mark.parametrize("access", ["deny", "read"])
async def test_no_directory_above_what_is_protected_can_be_moved(
    host: RunningServer, workspace: Path, access: str
) -> None:
    client = await WireClient.connect(host.url)
    protected = workspace / "a" / "b" / "protected"
    protected.mkdir(parents=True)
    (protected / "key").write_text("hidden")
    beside = workspace / "a" / "beside"
    beside.touch()
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), plain(protected, access))
    above = (workspace / "a", workspace / "a" / "b", protected)
    assert await run_in(client, workspace, moving(*above, beside), asked) == f"moved {beside}\ntried\n"
    await run_in(client, workspace, "rmdir a/b/protected a/b a; touch a/new a/b/protected/new", asked)
    output = await run_in(client, workspace, "cat */*/*/key", asked)
    assert ("hidden" in output) is (access == "read")
    assert sorted(os.listdir(workspace / "a")) == ["b", "beside-moved", "new"]
    assert os.listdir(protected) == ["key"]
    await client.close()


@bubblewrap
async def test_a_workspace_in_a_writable_directory_stays_where_it_is(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    (workspace / ".git").mkdir()
    above = plain(workspace.parent, "write")
    asked = sandbox(workspace, special("root", "read"), above, special("project_roots", "write"))
    assert await run_in(client, workspace.parent, moving(workspace / ".git", workspace), asked) == "tried\n"
    await run_in(client, workspace, "touch .git/made made", asked)
    assert sorted(os.listdir(workspace)) == [".git", "made"]
    assert os.listdir(workspace / ".git") == []
    await client.close()


@bubblewrap
async def test_the_hosts_own_directory_stays_where_it_is(host: RunningServer, state: Path, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    asked = sandbox(workspace, special("root", "write"))
    assert await run_in(client, workspace, moving(state, state.parent), asked) == "tried\n"
    assert await run_in(client, workspace, f"ls {state} 2>/dev/null; echo tried", asked) == "tried\n"
    await client.close()
