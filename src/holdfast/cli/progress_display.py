"""What a person sees while a task runs: one line that is updated, plain lines, or nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from holdfast.cli import duration, terminal
from holdfast.clock import monotonic

if TYPE_CHECKING:
    # Named in annotations alone: tables are laid out with what is here, and are to be there at once.
    from holdfast.tasks.view import Progress


class Display(Protocol):
    """Shows the progress of one task."""

    def show(self, progress: Progress) -> None:
        """Show that something happened."""
        ...

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        ...

    def close(self) -> None:
        """Leave the screen as it was found."""
        ...


class Silent:
    """Shows nothing but notes."""

    def show(self, progress: Progress) -> None:
        pass

    def note(self, text: str) -> None:
        terminal.tell(text)

    def close(self) -> None:
        pass


class PlainLines(Silent):
    """One line for each event, on standard error: for logs and for terminals that cannot rewrite a line."""

    def show(self, progress: Progress) -> None:
        text = terminal.printable(progress.text)
        terminal.tell(f"{duration.clock(progress.elapsed_s):>7}  {progress.kind:<11}  {text}".rstrip())


class JsonLines(Silent):
    """One JSON object for each event, on standard output."""

    def show(self, progress: Progress) -> None:
        import msgspec

        terminal.write([msgspec.json.encode(progress) + b"\n"])


class StatusLine:
    """One line at the bottom: agent, what it does, how long, how many tool uses.  A thread keeps the clock going."""

    def __init__(self, agent: str, stream: TextIO) -> None:
        self._agent = terminal.printable(agent)
        self._stream = stream
        self._style = terminal.Style(stream)
        self._activity = "starting"
        self._tool_uses = 0
        self._started = monotonic()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="status line", daemon=True)
        self._ticker.start()

    def show(self, progress: Progress) -> None:
        with self._lock:
            self._activity = terminal.printable(progress.text) or progress.kind
            self._tool_uses = progress.tool_uses
            self._started = monotonic() - progress.elapsed_s
            self._paint()

    def note(self, text: str) -> None:
        with self._lock:
            self._write(f"\r\x1b[2K{text}\n")
            self._paint()

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._ticker.join()
            self._write("\r\x1b[2K")

    def _tick(self) -> None:
        while not self._closed.wait(1.0):
            with self._lock:
                self._paint()

    def _paint(self) -> None:
        tools = "" if not self._tool_uses else f" · {self._tool_uses} tool use{'s' * (self._tool_uses != 1)}"
        tail = f" · {duration.clock(monotonic() - self._started)}{tools}"
        # The last column stays free: writing into it makes some terminals wrap.
        room = terminal.columns(self._stream) - 1 - cells(self._agent) - 1 - len(tail)
        activity = fit(self._activity, max(room, 0))
        self._write(f"\r\x1b[2K{self._style('bold', self._agent)} {activity}{self._style('dim', tail)}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # The terminal is gone; the task and its result do not depend on it.
            self._closed.set()


def cells(text: str) -> int:
    """How many terminal cells *text* takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(mark) else 2 if east_asian_width(mark) in "WF" else 1 for mark in text)


def fit(text: str, room: int) -> str:
    """*text* shortened to *room* terminal cells."""
    if cells(text) <= room:
        return text
    end = min(len(text), max(0, room - 1))
    while end and cells(text[:end]) > room - 1:
        end -= 1
    return text[:end] + "…" if room > 0 else ""


def choose(mode: str, agent: str, *, quiet: bool) -> Display:
    """The display for ``--progress`` *mode*: ``auto`` is a status line for a person, nothing for a program."""
    if quiet or mode == "none":
        return Silent()
    capable = terminal.Style(sys.stderr).can_rewrite
    makers: dict[str, Callable[[], Display]] = {
        "line": lambda: StatusLine(agent, sys.stderr),
        "plain": PlainLines,
        "auto": lambda: StatusLine(agent, sys.stderr) if capable else Silent(),
    }
    return makers[mode]()
