"""Killed again and again at random moments, its own start included, the server loses no byte and no exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from . import promises
from .promises import Numbers


def directory(state: Path, number: int) -> Path:
    path = state / str(number)
    path.mkdir(mode=0o700)
    return path


async def all_of(*promised: Awaitable[Numbers]) -> list[Numbers]:
    return list(await asyncio.gather(*promised))


async def test_a_counter_is_whole_after_a_hundred_kills(state: Path) -> None:
    """Several hosts at once: one alone is given a pause when its server dies too often."""
    numbers = await all_of(
        *(
            promises.counting_survives_kills(directory(state, each), tty=each % 2 == 0, kills=14, seed=each)
            for each in range(8)
        )
    )
    assert sum(each["kills"] for each in numbers) == 112
    assert all(each["bytes"] for each in numbers)


async def test_output_is_whole_after_the_death_of_a_keeper_and_of_servers(state: Path) -> None:
    await all_of(
        *(
            promises.output_survives_a_keeper(
                directory(state, each), tty=each % 2 == 0, pours=each >= 4, kills=3, seed=each
            )
            for each in range(6)
        )
    )


async def test_what_pours_is_whole_after_dozens_of_kills(state: Path) -> None:
    numbers = await all_of(
        *(
            promises.pouring_survives_kills(directory(state, each), tty=each % 2 == 0, kills=12, seed=each)
            for each in range(4)
        )
    )
    assert sum(each["kills"] for each in numbers) == 48


async def test_starts_are_neither_doubled_nor_forgotten_by_a_hundred_kills(state: Path) -> None:
    numbers = await all_of(
        *(promises.starts_survive_kills(directory(state, each), kills=13, seed=each) for each in range(8))
    )
    assert sum(each["kills"] for each in numbers) == 104
