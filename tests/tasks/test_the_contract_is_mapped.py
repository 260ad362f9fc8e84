"""Every promise of docs/contract.md names a test, and the test exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| ([RB]\d+) \| (.*) \|$", (ROOT / "docs" / "contract.md").read_text(), re.MULTILINE)


def test_every_requirement_has_a_row() -> None:
    wanted = [f"R{number}" for number in range(1, 46)] + [f"B{number}" for number in range(1, 12)]
    assert [number for number, _ in ROWS] == wanted


def test_every_row_names_tests_that_exist() -> None:
    for number, row in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row.rpartition("|")[2])
        assert named, number
        for file, name in named:
            source = (ROOT / file).read_text()
            assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{number}: {file}::{name}"


def test_a_requirement_in_the_name_of_a_test_is_one_of_these() -> None:
    known = {number.lower() for number, _ in ROWS}
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^(?:async )?def test_((?:[rb]\d\d_)+)", file.read_text(), re.MULTILINE):
            for number in name.strip("_").split("_"):
                assert number[0] + str(int(number[1:])) in known, f"{file.name}: {number}"
