"""What needs no turn is asked of the real server directly."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from holdfast.drivers.app_server import calls
from tests.drivers.app_server.rig import Rig

pytestmark = pytest.mark.real_agent


def transcript(directory: Path, cwd: Path) -> Path:
    """A conversation with Claude Code, as it writes it down."""
    session = str(uuid.uuid4())
    common = {"parentUuid": None, "sessionId": session, "cwd": str(cwd), "timestamp": "2026-11-21T10:00:00.000Z"}
    said = [("user", "Hello, you."), ("assistant", [{"type": "text", "text": "Hello."}])]
    rows = [
        {**common, "type": role, "uuid": str(uuid.uuid4()), "message": {"role": role, "content": content}}
        for role, content in said
    ]
    path = directory / f"{session}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_account_and_import(rig: Rig, tmp_path: Path) -> None:
    projects = tmp_path / ".claude" / "projects" / "-workspace"
    projects.mkdir(parents=True)
    launch = rig.launch()
    assert launch.server is not None
    socket = launch.server.socket
    async with rig.serving(launch):

        def ask() -> None:
            account = calls.read_account(socket)
            assert (account.kind, account.requires_openai_auth) == (None, False)
            with pytest.raises(calls.CallRefused, match="authentication"):
                calls.read_rate_limits(socket)
            thread_id = calls.import_transcript(socket, transcript(projects, rig.workspace), cwd=str(rig.workspace))
            thread = calls.call(socket, "thread/read", {"threadId": thread_id})["thread"]
            assert (thread["preview"], thread["cwd"]) == ("Hello, you.", str(rig.workspace))
            with pytest.raises(calls.CallRefused):
                calls.call(socket, "thread/read", {"threadId": str(uuid.uuid4())})

        await asyncio.to_thread(ask)
    with pytest.raises(calls.ServerUnreachable):
        await asyncio.to_thread(calls.read_account, socket)
