"""The Python example in docs/exec-server.md is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .harness import BOUND

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "exec-server.md"


def test_the_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "hosts").mkdir()
    # It leaves a host behind for a minute.
    example = example.replace("idle_exit=60", "idle_exit=0.1")
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", example], env=environment, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["1 stdout b'hello\\n'", "exit code 3", "3 closed b''"]
