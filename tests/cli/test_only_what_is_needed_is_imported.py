"""A command starts fast because it imports its own module and the client, and nothing that only the daemon needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .fake_daemon import PATIENCE, FakeDaemon

HEAVY = {"alembic", "psutil", "pydantic", "rich", "sqlalchemy", "starlette", "uvicorn", "websockets", "asyncio"}

SCRIPT = """
import json, sys
from holdfast.cli.main import execute
status = execute(sys.argv[1:])
sys.stderr.write("\\n" + json.dumps([status, sorted(sys.modules)]))
"""


def imported_by(*arguments: str) -> tuple[int, set[str]]:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    status, modules = json.loads(finished.stderr.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize(
    "arguments",
    [["run", "codex", "go"], ["start", "codex", "go"], ["list"], ["status"], ["wait", "--help"], ["status", "task0"]],
)
def test_a_client_imports_nothing_of_the_daemon(daemon: FakeDaemon, arguments: list[str]) -> None:
    daemon.add()
    daemon.on_create = lambda task: task.finish(b"done")
    status, modules = imported_by(*arguments)
    assert status == 0
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith(("holdfast.store", "holdfast.drivers", "holdfast.doctor"))}


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["status"], ["status", "task0", "--json"]])
def test_what_is_only_shown_needs_no_types(daemon: FakeDaemon, arguments: list[str]) -> None:
    daemon.add()
    status, modules = imported_by(*arguments)
    assert status == 0
    assert not modules & (HEAVY | {"http.client", "ssl", "email", "msgspec"})
    assert not {name for name in modules if name.startswith(("holdfast.tasks", "holdfast.agents"))}


def test_help_imports_no_command(state: Path) -> None:
    status, modules = imported_by("--help")
    assert status == 0
    assert not modules & (HEAVY | {"http.client", "msgspec"})
    assert "holdfast.cli.run" not in modules
