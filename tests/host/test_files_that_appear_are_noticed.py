"""``fs/watchMissing`` of our host and of the real ``codex exec-server``: what is watched is told, nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import RunningServer, WireClient

Change = Callable[[Path], object]


class Watcher:
    """The watch of one connection, below one directory."""

    def __init__(self, client: WireClient, top: Path) -> None:
        self.client = client
        self.top = top
        self._told = 0

    def uri(self, name: str) -> str:
        return f"file://{self.top}/{name}"

    async def watch(self, number: int, *missing: str, present: str | None = None, **params: Any) -> bool:
        if present is not None:
            params["present"] = self.uri(present)
        params |= {"watchId": number, "missing": [self.uri(name) for name in missing]}
        return (await self.client.result("fs/watchMissing", params))["watching"]

    async def until_told(self, number: int) -> None:
        """Wait for the next notification, which must be that of the watch *number*."""
        self._told += 1
        notifications = await self.client.until(lambda: self.client.notifications[self._told - 1 :])
        assert notifications == [{"method": "fs/missingChanged", "params": {"watchId": number}}]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with a little of everything, and no symlink on the way to it."""
    top = tmp_path.resolve() / "files"
    for name in ("d/e", "o/e"):
        (top / name).mkdir(parents=True)
    for name in ("f", "d/x", "d/e/y"):
        (top / name).write_text(name)
    for name, target in (("l", "f"), ("dl", "d"), ("broken", "nowhere")):
        (top / name).symlink_to(target)
    return top


@pytest.fixture
async def watcher(either: RunningServer, top: Path) -> AsyncIterator[Watcher]:
    client = await WireClient.connect(either.url)
    yield Watcher(client, top)
    await client.close()


async def test_the_appearance_of_something_missing_is_told_once(watcher: Watcher) -> None:
    top = watcher.top
    assert await watcher.watch(1, "q/r/s", "other")
    (top / "q").mkdir()
    await watcher.until_told(1)
    assert not await watcher.watch(1, "z")
    assert await watcher.watch(2, "z", present="f")
    (top / "f").write_text("changed")
    await watcher.until_told(2)
    assert await watcher.watch(3, "z", present="f")
    os.replace(top / "d" / "x", top / "f")
    await watcher.until_told(3)
    assert await watcher.watch(4, "z")
    assert await watcher.watch(5, "zz", present="d")
    (top / "z").write_text("no longer watched")
    (top / "d" / "unrelated").write_text("")
    (top / "zz").symlink_to("nowhere")
    await watcher.until_told(5)


def _exchange(top: Path) -> None:
    """Put another directory in the place of ``d``."""
    (top / "d").rename(top / "away")
    (top / "o").rename(top / "d")


def _exchange_full(top: Path) -> None:
    (top / "o" / "e" / "zz").write_text("")
    _exchange(top)


def _exchange_and_fill(top: Path) -> None:
    _exchange(top)
    (top / "d" / "e" / "zz").write_text("")


@pytest.mark.parametrize(
    ("missing", "present", "change"),
    [
        pytest.param("d/e/zz", None, _exchange_full, id="one-that-has-it"),
        pytest.param("d/e/zz", None, _exchange_and_fill, id="one-that-gets-it"),
        pytest.param("d/e/zz", None, _exchange, id="one-without-it"),
        pytest.param("zz", "d/e/y", _exchange, id="one-without-what-was-there"),
        pytest.param("d/e/zz", None, lambda top: (top / "d").rename(top / "away"), id="nothing"),
        pytest.param("d/e/zz", None, lambda top: top.rename(top.with_name("moved")), id="far-above"),
        pytest.param("d/e/zz", None, lambda top: (top / "d").chmod(0o711), id="other-rights"),
    ],
)
async def test_another_directory_on_the_way_is_noticed(
    watcher: Watcher, missing: str, present: str | None, change: Change
) -> None:
    assert await watcher.watch(1, missing, present=present)
    change(watcher.top)
    await watcher.until_told(1)


async def test_changes_beside_the_way_are_not_told(watcher: Watcher) -> None:
    assert await watcher.watch(1, "d/e/zz")
    for name in ("beside", "d/beside", "d/e/beside"):
        (watcher.top / name).write_text("")
    assert await watcher.watch(2, "d/e/zz")
    (watcher.top / "d" / "e" / "zz").write_text("")
    await watcher.until_told(2)


async def test_what_cannot_be_watched_is_said_to_be_unwatched(watcher: Watcher) -> None:
    unwatched: list[tuple[tuple[str, ...], str | None]] = [
        ((), None),
        (("f",), None),
        (("broken",), None),
        (("f/x",), None),
        (("z",), "missing"),
        # Where a symlink leads may change anywhere.
        (("dl/zz",), None),
        (("dl/q/zz",), None),
        (("broken/zz",), None),
        (("z",), "l"),
        (("z",), "dl"),
        (("z",), "dl/x"),
        # The kernel makes these up and tells of nothing.
        (("../" * 30 + "proc/zz",), None),
        (("../" * 30 + "sys/kernel/zz",), None),
        (tuple(f"m{number}" for number in range(65)), None),
        (("/".join("a" * 65),), None),
        (tuple(f"m{number}/a/b/c" for number in range(30)), None),
    ]
    for number, (missing, present) in enumerate(unwatched, 1):
        assert not await watcher.watch(number, *missing, present=present), (missing, present)
    assert not await watcher.watch(len(unwatched), "z")
    assert await watcher.watch(100, *(f"m{number}" for number in range(64)))


async def test_numbers_of_watches_begin_above_zero(watcher: Watcher) -> None:
    assert not await watcher.watch(0, "z")
    assert await watcher.watch(1, "z")
