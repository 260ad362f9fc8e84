"""A program that uses Holdfast: this process, with an installation of the test's own behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import PATIENCE, Installation

__all__ = ["PATIENCE", "Installation"]


@contextlib.contextmanager
def found(installation: Installation, patch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Have ``import holdfast`` find *installation*; afterwards no thread is left."""
    for name, value in installation.environment.items():
        patch.setenv(name, value)
    patch.chdir(installation.workspace)
    before = set(threading.enumerate())
    yield installation
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A fresh installation that ``import holdfast`` finds; afterwards neither process nor thread is left of it."""
    with found(Installation(tmp_path), monkeypatch) as fresh:
        yield fresh
        fresh.down()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation whose daemon serves many tests."""
    installation = Installation(tmp_path_factory.mktemp("shared"))
    yield installation
    installation.down()


@pytest.fixture
def beside(shared: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A workspace of the test's own in an installation that others use too, for who minds only its own tasks."""
    with found(Installation(tmp_path, beside=shared), monkeypatch) as installation:
        yield installation


@pytest.fixture
def gate() -> Callable[[], object]:
    """Opens what ``rehearse: wait-for gate`` waits for in the workspace."""
    return lambda: Path("gate").touch()


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
