"""A real task in a worktree of its own, a real command that is told of its end, and a fan of several."""

from __future__ import annotations

import json
import subprocess
import time

from tests.system.conftest import PATIENCE, Installation


def test_a_worktree_and_a_word_at_the_end(installation: Installation) -> None:
    root = installation.workspace
    for command in (
        ["init", "--quiet", "-b", "main"],
        ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True, timeout=PATIENCE)
    told = installation.state.parent / "told"
    notify = json.dumps(["sh", "-c", f"cat > {told}.draft && mv {told}.draft {told}"])
    result = installation.json(
        "run", "--write", "--worktree", "--notify-command", notify, "rehearsal", "rehearse: edit new two\n"
    )
    assert result["backend"]["worktree_kept"] is True
    assert [file["path"] for file in result["files"]["changed"]] == ["new"]
    assert not (root / "new").exists()
    task_id = result["task_id"]
    deadline = time.monotonic() + PATIENCE
    while installation.json("status", task_id)["notifications"][0]["state"] == "pending":
        assert time.monotonic() < deadline
    assert json.loads(told.read_bytes())["task_id"] == task_id

    lanes = [{"name": name, "prompt": f"rehearse: edit {name} x\n", "owned_files": [name]} for name in ("one", "two")]
    specification = json.dumps({"defaults": {"agent": "rehearsal", "write": True}, "lanes": lanes})
    for repeated in (False, True):
        fan = installation.run("fanout", "-", "--json", input=specification.encode())
        assert fan.returncode == 0, fan.stderr.decode()
        *receipts, summary = map(json.loads, fan.stdout.splitlines())
        assert [receipt["repeated"] for receipt in receipts] == [repeated] * 2
        assert summary["summary"]["ok"] == 2
    assert {"one", "two"} <= {path.name for path in root.iterdir()}
