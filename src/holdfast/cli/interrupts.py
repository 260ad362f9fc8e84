"""Ctrl-C as something that is counted, and that interrupts nothing but waiting."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupts:
    """Counts SIGINT while the context lasts; raises :exc:`KeyboardInterrupt` inside :meth:`allowed` only.

    A shell that starts a command in the background has SIGINT ignored; then it stays ignored.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raised = 0
        self._allowed = False
        self._previous = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        if self._previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def allowed(self) -> Generator[None]:
        """Let Ctrl-C interrupt what is done here; one that came before interrupts it at once."""
        self._allowed = True
        try:
            self._raise_once()
            yield
        finally:
            self._allowed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._allowed:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._raised < self.count:
            # What unwinds is not interrupted a second time.
            self._allowed = False
            self._raised = self.count
            raise KeyboardInterrupt
