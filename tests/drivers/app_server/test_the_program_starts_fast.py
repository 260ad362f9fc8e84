"""Every turn waits for the turn program, so that imports what it needs and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import holdfast

#: Each takes a tenth or more of what the program's whole start takes.
NEEDLESS = {
    "asyncio",
    "base64",
    "contextlib",
    "dataclasses",
    "hashlib",
    "msgspec",
    "pathlib",
    "ssl",
    "subprocess",
    "typing",
}

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import holdfast.drivers.app_server.main, json
print(json.dumps(sorted(sys.modules)))
"""


def test_nothing_needless_is_imported() -> None:
    source = Path(holdfast.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, str(source)]
    modules = set(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout))
    assert not modules & NEEDLESS
