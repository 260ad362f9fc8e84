"""The places of a sandbox are those of its client and its process, and what is writable in what is denied is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .harness import PATH, RunningServer, WireClient
from .sandboxes import bubblewrap, plain, run_in, sandbox, special


@bubblewrap
@pytest.mark.parametrize("given", [{"workspaceRoots": []}, {}])
async def test_without_workspace_roots_there_is_no_workspace(
    client: WireClient, workspace: Path, given: dict[str, Any]
) -> None:
    asked = sandbox(workspace)
    del asked["workspaceRoots"]
    asked |= given
    await run_in(client, workspace, "touch by-a-command", asked)
    writing = {"path": f"file://{workspace}/by-a-request", "dataBase64": "", "sandbox": asked}
    assert "error" in await client.call("fs/writeFile", writing)
    assert os.listdir(workspace) == []


@bubblewrap
async def test_the_directory_for_temporary_files_is_that_of_the_process(client: WireClient, workspace: Path) -> None:
    temporary = workspace / "temporary"
    temporary.mkdir()
    asked = sandbox(workspace, special("root", "read"), special("tmpdir", "write"))
    await run_in(client, workspace, "touch temporary/x; touch y", asked, env={"PATH": PATH, "TMPDIR": str(temporary)})
    await run_in(client, workspace, "touch temporary/z", asked)
    # The reference keeps records of its own there.
    assert [name for name in os.listdir(temporary) if not name.startswith("codex-")] == ["x"]
    assert os.listdir(workspace) == ["temporary"]


@bubblewrap
@pytest.mark.parametrize("access", ["write", "read"])
async def test_only_what_is_writable_in_what_is_denied_is_there(
    client: WireClient, workspace: Path, access: str
) -> None:
    denied = workspace / "denied"
    inside = denied / "deep" / "inside"
    inside.mkdir(parents=True)
    (denied / "secret").write_text("hidden")
    (inside / "open").write_text("told")
    entries = [plain(denied, "deny"), plain(inside, access)]
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), *entries)
    script = "cat denied/secret denied/deep/inside/open; touch denied/x; touch denied/deep/inside/y; ls denied"
    output = await run_in(client, workspace, script, asked)
    assert ("told" in output) is (access == "write")
    assert "hidden" not in output
    reading = {"path": f"file://{inside}/open", "sandbox": asked}
    assert ("result" in await client.call("fs/readFile", reading)) is (access == "write")
    assert sorted(os.listdir(denied)) == ["deep", "secret"]
    assert sorted(os.listdir(inside)) == (["open", "y"] if access == "write" else ["open"])


@bubblewrap
@pytest.mark.parametrize(
    ("cwd", "entries", "begins"),
    [
        ("", [special("minimal", "read")], "/"),
        ("shown/deep", [special("minimal", "read"), special("project_roots", "read", "shown")], "shown/deep"),
        ("hidden", [special("minimal", "read"), special("project_roots", "read", "shown")], "/"),
        ("", [special("minimal", "read"), special("project_roots", "read", "shown")], ""),
        ("shown", [special("root", "read"), special("project_roots", "deny", "shown")], "/"),
        ("shown/deep", [special("root", "read"), special("project_roots", "deny", "shown")], "/"),
        ("link", [special("root", "read")], "shown"),
    ],
)
async def test_a_command_whose_directory_is_not_shown_begins_in_the_root(
    client: WireClient, workspace: Path, cwd: str, entries: list[dict[str, Any]], begins: str
) -> None:
    (workspace / "shown" / "deep").mkdir(parents=True)
    (workspace / "hidden").mkdir()
    (workspace / "link").symlink_to("shown")
    asked = sandbox(workspace, *entries)
    await client.start("p", "/bin/sh", "-c", "pwd; echo $PWD", cwd=f"file://{workspace / cwd}", sandbox=asked)
    await client.until_closed("p")
    assert client.output("p").decode().split() == [str(workspace / begins)] * 2


@bubblewrap
@pytest.mark.parametrize(("root", "access"), [("write", "read"), ("write", "write"), ("read", "write")])
async def test_what_programs_need_is_there_to_be_read_and_takes_nothing(
    client: WireClient, workspace: Path, root: str, access: str
) -> None:
    asked = sandbox(workspace, special("minimal", access), special("root", root))
    writable = "test -w /usr && echo yes; touch new"
    assert ("yes" in await run_in(client, workspace, writable, asked)) is (root == "write")
    assert (workspace / "new").exists() is (root == "write")


@bubblewrap
@pytest.mark.parametrize("access", ["read", "deny"])
async def test_what_is_said_of_a_symlink_is_said_of_what_it_leads_to(
    host: RunningServer, workspace: Path, access: str
) -> None:
    client = await WireClient.connect(host.url)
    (workspace / "target").mkdir()
    (workspace / "target" / "f").write_text("told")
    link = workspace.parent / "link"
    link.symlink_to(workspace / "target")
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), plain(link, access))
    for directory in (link, workspace / "target"):
        output = await run_in(
            client, workspace, f"touch {directory}/new; cat {directory}/f; touch in-the-workspace", asked
        )
        assert ("told" in output) is (access == "read")
        reading = {"path": f"file://{directory}/f", "sandbox": asked}
        assert ("result" in await client.call("fs/readFile", reading)) is (access == "read")
        writing = {"path": f"file://{directory}/new", "dataBase64": "", "sandbox": asked}
        assert "error" in await client.call("fs/writeFile", writing)
    assert os.listdir(workspace / "target") == ["f"]
    assert (workspace / "in-the-workspace").exists()
    await client.close()
