"""A person at a terminal sees one line that is kept up to date; a program sees nothing of it."""

from __future__ import annotations

import os
import pty
import re
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.cli.progress_display import cells, fit

from .fake_daemon import PATIENCE, FakeDaemon


class Terminal:
    """A pseudo-terminal of 60 columns, and everything that was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (20, 60))
        self.seen = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 4096)

    def read_to_the_end(self) -> None:
        os.close(self.slave)
        self.slave = -1
        try:
            while chunk := os.read(self.master, 4096):
                self.seen += chunk
        except OSError:
            pass

    def lines(self) -> list[str]:
        """Every state that the line was in, colours taken off."""
        text = re.sub(r"\x1b\[\d*m", "", self.seen.decode())
        return [line.strip("\r\n") for line in re.split(r"\x1b\[2K", text)]

    def close(self) -> None:
        os.close(self.master)
        if self.slave >= 0:
            os.close(self.slave)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    opened = Terminal()
    yield opened
    opened.close()


def test_one_line_shows_what_the_agent_does(spawn: Callable[..., Any], daemon: FakeDaemon, terminal: Terminal) -> None:
    process = spawn("run", "codex", "go", stderr=terminal.slave)
    task = daemon.next_task()
    task.say("tool", "Bash: npm test \x1b]0;evil\x07", tool_uses=1)
    terminal.read_until(b"1 tool use")
    task.say("tool", "Read: " + "a very long name " * 10, tool_uses=2)
    terminal.read_until(b"2 tool uses")
    task.finish(b"the answer")
    out, _ = process.communicate(timeout=PATIENCE)
    terminal.read_to_the_end()
    assert out == b"the answer"
    shown = terminal.lines()
    assert any(re.fullmatch(r"codex Bash: npm test  \]0;evil  · 0:0\d · 1 tool use\r?", line) for line in shown), shown
    assert all(cells(line) <= 59 for line in shown[:-1]), shown
    assert re.fullmatch(r"codex completed in 1.5s · 2 tool uses · 1,200 tokens in, 34 out · task \w+", shown[-1])
    assert b"\x1b[1mcodex" in terminal.seen


def test_no_colour_when_none_is_wanted(
    spawn: Callable[..., Any], daemon: FakeDaemon, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    daemon.on_create = lambda task: task.fail()
    spawn("run", "codex", "go", stderr=terminal.slave).communicate(timeout=PATIENCE)
    terminal.read_to_the_end()
    assert not re.search(rb"\x1b\[\d*m", terminal.seen)


@pytest.mark.parametrize("arguments", [["--quiet"], ["--progress", "none"]])
def test_nothing_moves_when_nothing_is_wanted(
    spawn: Callable[..., Any], daemon: FakeDaemon, terminal: Terminal, arguments: list[str]
) -> None:
    daemon.on_create = lambda task: task.finish(b"done")
    spawn("run", "codex", "go", *arguments, stderr=terminal.slave).communicate(timeout=PATIENCE)
    terminal.read_to_the_end()
    assert b"\x1b[2K" not in terminal.seen
    if arguments == ["--quiet"]:
        assert terminal.seen == b""


def test_a_terminal_that_cannot_rewrite_gets_nothing_unless_asked(
    spawn: Callable[..., Any], daemon: FakeDaemon, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    daemon.on_create = lambda task: task.finish(b"done")
    spawn("run", "codex", "go", stderr=terminal.slave).communicate(timeout=PATIENCE)
    terminal.read_to_the_end()
    assert b"\x1b" not in terminal.seen


def test_plain_lines_for_logs(cli: Callable[..., Any], daemon: FakeDaemon) -> None:
    def work(task: Any) -> None:
        task.say("tool", "Bash: ls")
        task.finish(b"done")

    daemon.on_create = work
    outcome = cli("run", "codex", "go", "--progress", "plain")
    assert outcome.out == b"done"
    assert outcome.err.splitlines() == ["   0:01  tool         Bash: ls", "   0:01  finished     completed"]


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("short", 10, "short"),
        ("exactly", 7, "exactly"),
        ("too long", 7, "too lo…"),
        ("日本語テキスト", 8, "日本語…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("anything", 0, ""),
    ],
)
def test_a_line_is_cut_by_what_it_takes_on_the_screen(text: str, room: int, shown: str) -> None:
    assert fit(text, room) == shown
    assert cells(shown) <= room
