"""A program that uses Holdfast: this process, with an installation of the test's own behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import PATIENCE, Installation

__all__ = ["PATIENCE", "Installation"]


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A fresh installation that ``import holdfast`` finds; afterwards neither process nor thread is left of it."""
    fresh = Installation(tmp_path)
    for name, value in fresh.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(fresh.workspace)
    before = set(threading.enumerate())
    yield fresh
    fresh.down()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


@pytest.fixture
def gate(installation: Installation) -> Callable[[], object]:
    """Opens what ``rehearse: wait-for gate`` waits for."""
    return (installation.workspace / "gate").touch


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
