"""Every example in docs/python.md is run, in order, as one program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .conftest import PATIENCE, Installation

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_every_example(installation: Installation) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) == 10
    completed = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert "completed" in completed.stdout
    assert "The directory /nowhere does not exist. Check cwd." in completed.stdout
