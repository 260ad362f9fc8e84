"""A command of the companion imports its own module and little else: it is called many times in a session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import PATIENCE

#: Each of them takes longer than everything that a command needs.
HEAVY = {"click", "msgspec", "http.client", "ssl", "email", "asyncio", "subprocess", "inspect", "typing_extensions"}

SCRIPT = """
import json, os, sys
sys.argv = ["holdfast", "companion", *sys.argv[1:]]
from holdfast.cli.entry import main
os._exit = sys.exit
try:
    main()
except SystemExit:
    sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status"], ["result"], ["cancel"], ["task"], ["task-resume-candidate"], ["stop-hook"]],
)
def test_nothing_heavy_is_imported(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path,
        env={"HOLDFAST_STATE_DIR": str(tmp_path / "state"), "CLAUDE_PLUGIN_DATA": str(tmp_path / "data")},
        timeout=PATIENCE,
        check=True,
    )
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith(("holdfast.tasks", "holdfast.agents", "holdfast.store"))}


def test_the_command_line_knows_it_too(tmp_path: Path) -> None:
    script = "import sys; from holdfast.cli.main import execute; sys.exit(execute(['companion', '--help']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE, check=True)
    assert done.stdout.startswith(b"Usage:\n")
