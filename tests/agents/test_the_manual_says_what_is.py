"""docs/agents.md lists what the neutral dialect and the rehearsal agent really understand."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.agents import neutral
from holdfast.agents.events import Malformed, Unrecognized
from holdfast.agents.rehearsal_program import Rehearsal

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "agents.md").read_text()


def test_every_direction_is_described_and_every_described_one_exists() -> None:
    section = MANUAL[MANUAL.index("## The rehearsal agent") : MANUAL.index("## Testing against")]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    described = {match for row in rows for match in re.findall(r"`([a-z0-9-]+)", row)}
    known = {name.removeprefix("do_").replace("_", "-") for name in vars(Rehearsal) if name.startswith("do_")}
    assert described == known | {"late", "silent-exit"}


def test_the_example_of_the_dialect_is_understood() -> None:
    lines = [line.encode() for line in MANUAL.splitlines() if line.startswith('{"event"')]
    events = [event for line in lines for event in neutral.interpret(line)]
    assert len(events) == len(lines) == 9
    assert not [event for event in events if isinstance(event, Malformed | Unrecognized)]


def test_every_event_has_a_row() -> None:
    section = MANUAL[MANUAL.index("## Wrapping any program") : MANUAL.index("## The rehearsal agent")]
    described = set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))
    assert described == neutral.NAMES - {"unrecognized", "malformed"}
