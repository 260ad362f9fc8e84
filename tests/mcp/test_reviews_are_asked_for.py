"""The tool ``review``: an id at once, then verdict and findings, marked as somebody else's words."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import Installation, answer, error
from .test_tools_do_what_they_say import client

REJECTION = '{"verdict":"needs-attention","summary":"Bad.","findings":[],"next_steps":["Repair it."]}'


@pytest.fixture
def repository(installation: Installation) -> Path:
    """Where the server works: a repository without any file."""
    subprocess.run(["git", "init", "-q"], cwd=installation.workspace, check=True)
    return installation.workspace


async def test_a_review(repository: Path) -> None:
    call = {"agent": "rehearsal", "focus": f"rehearse: say {REJECTION}"}
    async with client() as server:
        assert error(await server.call_tool("review", call))["code"] == "nothing_to_review"
        (repository / "new.txt").write_text("new\n")
        task = answer(await server.call_tool("review", call))
        assert task["review"] is None
        done = answer(await server.call_tool("wait", {"task_id": task["task_id"]}))
        found = done["review"]
        assert (found["verdict"], found["summary"], found["findings"]) == ("needs-attention", "Bad.", [])
        assert (found["next_steps"], found["schema_unmet"], found["untrusted"]) == (["Repair it."], None, True)
        assert (done["outcome"]["answer"]["text"], done["outcome"]["verdict"]) == (REJECTION, None)
        call = {"agent": "rehearsal", "focus": "rehearse: say Fine.", "wait_seconds": 45}
        other = answer(await server.call_tool("review", call))
    assert other["review"]["verdict"] is None
    assert other["review"]["schema_unmet"]
