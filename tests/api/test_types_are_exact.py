"""A type checker knows every verb and option: right programs pass, and wrong ones do not."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path


def test_a_typed_program() -> None:
    program = Path(__file__).with_name("typed_program.py")
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", str(program)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_types_are_shipped() -> None:
    assert files("holdfast").joinpath("py.typed").is_file()
