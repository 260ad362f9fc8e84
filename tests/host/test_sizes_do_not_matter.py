"""Much output, many processes, many connections: nothing grows, nothing is mixed up, nothing stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import promises


@pytest.mark.parametrize(("size", "tty"), [(200_000_000, False), (30_000_000, True)])
async def test_output_of_all_byte_values_is_exact_and_costs_no_memory(state: Path, size: int, tty: bool) -> None:
    await promises.binary_output_is_exact(state, size=size, tty=tty)


async def test_two_thousand_starts_leave_nothing_behind(state: Path) -> None:
    await promises.starts_leave_nothing(state, count=2000)


async def test_two_hundred_starts_at_once_are_two_hundred_processes(state: Path) -> None:
    await promises.parallel_starts(state, count=200)


async def test_many_live_processes_and_connections(state: Path) -> None:
    await promises.many_at_once(state, processes=300, connections=100)
