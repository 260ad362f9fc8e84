"""The metadata of tools in a writable directory is read-only in a sandbox, whether it exists or not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import PATH, RunningServer, WireClient, write_params
from .sandboxes import bubblewrap, plain, run_in, sandbox, special

NAMES = (".git", ".codex", ".agents", ".aws")


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One of these tests at a time: where / is writable the reference makes and removes what is protected there."""
    with open(tmp_path_factory.getbasetemp().parent / "root.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
async def ours(host: RunningServer) -> AsyncIterator[WireClient]:
    connected = await WireClient.connect(host.url)
    yield connected
    await connected.close()


def make(directory: str = ".") -> str:
    """A script that tries to make and change everything, and tells what it could."""
    return f"cd {directory}; " + "".join(
        f"mkdir {name} && echo made {name}; touch {name}/x && echo changed {name}; mv {name} m && echo moved {name};"
        f"rm -r {name} && echo removed {name};"
        for name in NAMES
    )


@bubblewrap
@pytest.mark.parametrize("said", [False, True])
async def test_missing_metadata_cannot_be_made(client: WireClient, workspace: Path, said: bool) -> None:
    skipped = [special("project_roots", "read", name, missing_path_behavior="skip") for name in NAMES] if said else []
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), *skipped)
    output = await run_in(client, workspace, make() + "touch else && echo changed else", asked)
    assert [line for line in output.splitlines() if line.startswith(("made", "changed", "moved", "removed"))] == [
        "changed else"
    ]
    assert os.listdir(workspace) == ["else"]


@bubblewrap
async def test_existing_metadata_cannot_be_changed_or_moved(client: WireClient, workspace: Path) -> None:
    for name in NAMES:
        (workspace / name).mkdir()
        (workspace / name / "kept").touch()
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    output = await run_in(client, workspace, make(), asked)
    assert not any(word in output.split() for word in ("made", "changed", "moved"))
    assert sorted(os.listdir(workspace)) == sorted(NAMES)
    assert all(os.listdir(workspace / name) == ["kept"] for name in NAMES)


@bubblewrap
async def test_each_writable_directory_protects_its_metadata(client: WireClient, workspace: Path) -> None:
    given, temporary = workspace / "given", workspace / "temporary"
    given.mkdir()
    temporary.mkdir()
    asked = sandbox(workspace, special("root", "read"), plain(given, "write"), special("tmpdir", "write"))
    env = {"PATH": PATH, "TMPDIR": str(temporary)}
    output = await run_in(client, workspace, f"({make('given')}); ({make('temporary')}); touch given/x", asked, env=env)
    assert not any(word in output.split() for word in ("made", "changed", "moved"))
    assert os.listdir(given) == ["x"]
    # The reference keeps records of its own there.
    assert [name for name in os.listdir(temporary) if not name.startswith("codex-")] == []


@bubblewrap
async def test_metadata_that_is_asked_for_is_writable(client: WireClient, workspace: Path) -> None:
    asked = special("root", "read"), special("project_roots", "write"), special("project_roots", "write", ".git")
    await run_in(client, workspace, "for n in .git .codex; do mkdir $n; touch $n/x; done", sandbox(workspace, *asked))
    assert os.listdir(workspace) == [".git"]
    assert os.listdir(workspace / ".git") == ["x"]
    await run_in(client, workspace, "mkdir .codex", sandbox(workspace, special("root", "write")))
    assert sorted(os.listdir(workspace)) == [".codex", ".git"]


@bubblewrap
@pytest.mark.parametrize("less", ["a directory is read-only", "a file is denied", "missing", "no directory", "path"])
async def test_all_being_writable_but_something_leaves_metadata_protected(
    client: WireClient, workspace: Path, tmp_path: Path, less: str
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "file").touch()
    entries = {
        "a directory is read-only": [special("root", "write"), plain(tmp_path / "some", "read")],
        "a file is denied": [special("root", "write"), plain(tmp_path / "file", "deny")],
        "missing": [special("root", "write"), {**plain(tmp_path / "no", "deny"), "missing_path_behavior": "skip"}],
        "no directory": [special("root", "write"), special("tmpdir", "read")],
        "path": [plain(Path("/"), "write")],
    }
    asked = sandbox(workspace, *entries[less], special("project_roots", "write"))
    output = await run_in(client, workspace, make() + "touch else && echo changed else", asked)
    assert [line for line in output.splitlines() if line.startswith(("made", "changed", "moved"))] == ["changed else"]
    assert os.listdir(workspace) == ["else"]


@bubblewrap
async def test_a_workspace_that_is_not_there_has_no_metadata(ours: WireClient, workspace: Path) -> None:
    skipped = [special("project_roots", "read", name, missing_path_behavior="skip") for name in NAMES]
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), *skipped)
    (workspace / "file").touch()
    asked["workspaceRoots"] += [f"file://{workspace}/gone", f"file://{workspace}/file"]
    assert await run_in(ours, workspace, "echo runs", asked) == "runs\n"


@bubblewrap
async def test_metadata_that_is_named_is_protected_alone(client: WireClient, workspace: Path) -> None:
    named = special("project_roots", "read", ".git", missing_path_behavior="skip")
    await run_in(
        client, workspace, "mkdir .git .codex; mkdir .git/x", sandbox(workspace, special("root", "write"), named)
    )
    assert os.listdir(workspace) == [".codex"]


@bubblewrap
@pytest.mark.parametrize("access", ["read", "write"])
async def test_what_takes_nothing_from_all_being_writable_does_not_count(
    client: WireClient, workspace: Path, access: str
) -> None:
    # What is given twice is given.
    again = plain(workspace, "read"), special("root", access)
    asked = sandbox(workspace, special("root", "write"), special("project_roots", "write"), *again)
    await run_in(client, workspace, "mkdir .git", asked)
    assert os.listdir(workspace) == [".git"]


@bubblewrap
async def test_the_repository_of_a_worktree_is_protected(client: WireClient, workspace: Path) -> None:
    (workspace / "repository").mkdir()
    (workspace / ".git").write_text("gitdir: repository\n")
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    await run_in(client, workspace, "touch repository/x; echo > .git; mv .git y; mv repository z", asked)
    assert sorted(os.listdir(workspace)) == [".git", "repository"]
    assert os.listdir(workspace / "repository") == []
    assert (workspace / ".git").read_text() == "gitdir: repository\n"


@bubblewrap
async def test_metadata_behind_a_symlink_is_refused(ours: WireClient, workspace: Path) -> None:
    (workspace / "elsewhere").mkdir()
    (workspace / ".git").symlink_to("elsewhere")
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    params = {"processId": "p", "argv": ["/bin/true"], "cwd": "file:///tmp", "env": {}, "tty": False, "sandbox": asked}
    assert (await ours.error("process/start", params))[0] == -32602
    writing = {"path": f"file://{workspace}/elsewhere/x", "dataBase64": "", "sandbox": asked}
    assert (await ours.error("fs/writeFile", writing))[0] == -32600


@bubblewrap
async def test_commands_side_by_side_keep_each_others_protection(client: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    waiting = f"echo ready; read x; {make()}"
    await client.start("long", "/bin/sh", "-c", waiting, cwd=f"file://{workspace}", sandbox=asked, pipeStdin=True)
    await client.until_output("long", b"ready")
    for _ in range(3):
        assert "made" not in await run_in(client, workspace, make(), asked)
    await client.result("process/write", write_params("long", b"\n", "1"))
    await client.until_closed("long")
    assert not any(word in client.output("long").split() for word in (b"made", b"changed", b"moved"))
    assert os.listdir(workspace) == []


@bubblewrap
async def test_what_a_killed_command_left_is_removed_by_the_next(ours: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    params = {"cwd": f"file://{workspace}", "sandbox": asked}
    await ours.start("killed", "/bin/sh", "-c", "echo ready; sleep 1000", **params)
    await ours.until_output("killed", b"ready")
    await ours.result("process/terminate", {"processId": "killed"})
    await ours.until_closed("killed")
    assert "made" not in await run_in(ours, workspace, make(), asked)
    assert os.listdir(workspace) == []


@bubblewrap
async def test_the_lock_of_the_mount_points_is_no_way_out(ours: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    script = "ls -l /proc/self/fd /proc/1/fd | grep -e '->' | sed 's/.*-> //'"
    assert str(workspace) not in (await run_in(ours, workspace, script, asked)).split()


@bubblewrap
async def test_what_still_runs_when_a_command_ends_cannot_make_metadata(client: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    looping = "for j in 1 2 3 4; do (while :; do mkdir .git && echo made; done 2>/dev/null) & done; touch begun; exit 3"
    for number in range(5):
        await client.start(f"l{number}", "/bin/sh", "-c", looping, cwd=f"file://{workspace}", sandbox=asked)
        await client.until_closed(f"l{number}")
        assert (client.exit_code(f"l{number}"), client.output(f"l{number}")) == (3, b"")
        assert os.listdir(workspace) == ["begun"]


@bubblewrap
async def test_a_sandbox_cannot_change_what_waits_for_its_end(ours: WireClient, workspace: Path) -> None:
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))
    script = "for fd in /proc/1/fd/*; do [ -p $fd ] && echo 0 >$fd; done; exit 5"
    await ours.start("p", "/bin/sh", "-c", script, cwd=f"file://{workspace}", sandbox=asked)
    await ours.until_closed("p")
    assert ours.exit_code("p") == 5
    assert os.listdir(workspace) == []


async def test_files_below_metadata_cannot_be_written(ours: WireClient, workspace: Path) -> None:
    (workspace / ".git").mkdir()
    (workspace / ".git" / "config").touch()
    (workspace / "file").touch()
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"))

    async def refused(method: str, path: str, **more: Any) -> bool:
        where = {"destinationPath" if method == "fs/copy" else "path": f"file://{workspace}/{path}"}
        reply = await ours.call(method, {**where, **more, "sandbox": asked})
        return reply.get("error", {}).get("code") in (-32600, -32004)

    copied = {"sourcePath": f"file://{workspace}/file", "recursive": False}
    for path in (".git/config", ".git/new", ".codex", ".codex/new", ".aws"):
        assert await refused("fs/writeFile", path, dataBase64="eA==")
        assert await refused("fs/open", path, handleId=path, mode="replace")
        assert await refused("fs/copy", path, **copied)
    for path in (".codex", ".agents/deep"):
        assert await refused("fs/createDirectory", path, recursive=True)
    for path in (".git", ".git/config"):
        assert await refused("fs/remove", path, recursive=True, force=True)
    assert sorted(os.listdir(workspace)) == [".git", "file"]
    assert os.listdir(workspace / ".git") == ["config"]
