"""Record docs/run.svg: a real shell, real commands, and what they really printed, as an animated picture.

    .venv/bin/python docs/record.py

The commands are typed into ``sh`` on a pseudo-terminal, with a state directory and a repository of their own.  Pauses
are shortened to about a second; nothing else is touched.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from html import escape
from pathlib import Path
from typing import NamedTuple

COLUMNS, ROWS = 92, 22
CELL_WIDTH, LINE_HEIGHT, MARGIN, BAR = 8.4, 19, 16, 34
LONGEST_PAUSE, LAST_PAUSE, PATIENCE = 1.1, 6.0, 60.0
PROMPT = b"$ "
#: Not every viewer keeps several blanks in a row; all keep this one.
BLANK = "\N{NO-BREAK SPACE}"

MEND = """\
The test fails.  Find the mistake, mend it, run the test, and say in one sentence what was wrong.
rehearse: sleep 0.7
rehearse: read test_total.py
rehearse: sleep 1
rehearse: edit total.py def total(prices, discount=0.0):\\n    return sum(prices) * (1 - discount)\\n
rehearse: sleep 0.7
rehearse: run python3 test_total.py
rehearse: sleep 0.7
rehearse: say total() multiplied by the discount itself, not by what it leaves; the test passes now.\\n
"""
REVIEW = """\
Review the last commit, and take your time.
rehearse: sleep 1
rehearse: read total.py
rehearse: sleep 4
rehearse: say The whole review, from an agent that never noticed that the daemon was gone.\\n
"""
STUCK = "Look into the queue.\nrehearse: stderr waiting for the queue\nrehearse: hang\n"


class Style(NamedTuple):
    """How a cell looks."""

    bold: bool = False
    dim: bool = False
    colour: int = 0


class Screen:
    """As much of a terminal as the commands use: text, carriage return, erase line, colours, scrolling."""

    def __init__(self) -> None:
        self.rows: list[dict[int, tuple[str, Style]]] = [{}]
        self.column = 0
        self.style = Style()

    def feed(self, text: str) -> None:
        for sequence, character in re.findall(r"(\x1b\[[?\d;]*[A-Za-z])|([\s\S])", text):
            if sequence:
                self._control(sequence)
            elif character == "\n":
                self.rows.append({})
            elif character == "\r":
                self.column = 0
            elif character == "\b":
                self.column = max(0, self.column - 1)
            elif character.isprintable():
                if self.column == COLUMNS:
                    self.rows.append({})
                    self.column = 0
                self.rows[-1][self.column] = (character, self.style)
                self.column += 1

    def _control(self, sequence: str) -> None:
        parameters, final = sequence[2:-1], sequence[-1]
        if final == "K":
            start = 0 if parameters == "2" else self.column
            self.rows[-1] = {column: cell for column, cell in self.rows[-1].items() if column < start}
        elif final == "m":
            for code in map(int, (parameters or "0").split(";")):
                if code == 0:
                    self.style = Style()
                elif code in (1, 2):
                    self.style = self.style._replace(bold=code == 1, dim=code == 2)
                elif 30 <= code <= 37:
                    self.style = self.style._replace(colour=code)

    def snapshot(self) -> list[str]:
        """The visible rows as SVG markup."""
        return [render(row) for row in self.rows[-ROWS:]]


def render(row: dict[int, tuple[str, Style]]) -> str:
    """One row as ``tspan`` elements, one for each run of cells that look the same."""
    runs: list[tuple[int, str, Style]] = []
    for column in sorted(row):
        character, style = row[column]
        if runs and runs[-1][2] == style and runs[-1][0] + len(runs[-1][1]) == column:
            runs[-1] = (runs[-1][0], runs[-1][1] + character, style)
        else:
            runs.append((column, character, style))
    parts: list[str] = []
    for column, text, style in runs:
        if not text.strip():
            continue
        # Leading blanks are a matter of position: not every viewer keeps them.
        column += len(text) - len(text.lstrip())
        text = text.strip()
        names = [
            *(["b"] if style.bold else []),
            *(["d"] if style.dim else []),
            *([f"c{style.colour}"] if style.colour else []),
        ]
        kind = f' class="{" ".join(names)}"' if names else ""
        parts.append(f'<tspan x="{MARGIN + column * CELL_WIDTH:.1f}"{kind}>{escape(text).replace(" ", BLANK)}</tspan>')
    return "".join(parts)


class Recording:
    """A shell on a pseudo-terminal, and every state that its screen was in."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.screen = Screen()
        #: Seconds until the next one, and the rows.
        self.frames: list[tuple[float, list[str]]] = []
        self._seen = b""
        self._last = time.monotonic()
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(directory)
            os.execvpe("sh", ["sh", "-i"], environment)
        termios.tcsetwinsize(self._terminal, (ROWS, COLUMNS))
        self._until(PROMPT)

    def type(self, command: str) -> str:
        """Type *command*, wait until it is over, and return what it printed."""
        for start in range(0, len(command), 3):
            os.write(self._terminal, command[start : start + 3].encode())
            time.sleep(0.06)
            self._read(0.05)
        time.sleep(0.4)
        os.write(self._terminal, b"\n")
        printed = self._until(b"\n" + PROMPT)
        return printed.partition("\r\n")[2].removesuffix("$ ").strip()

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._pid, 0)

    def _until(self, end: bytes) -> str:
        start = len(self._seen)
        deadline = time.monotonic() + PATIENCE
        while not (self._seen.endswith(end) or (end == PROMPT and self._seen.endswith(PROMPT))):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no prompt after {self._seen[-500:]!r}")
            self._read(1.0)
        return self._seen[start:].decode()

    def _read(self, patience: float) -> None:
        if not select.select([self._terminal], [], [], patience)[0]:
            return
        data = os.read(self._terminal, 65536)
        now = time.monotonic()
        if self.frames:
            self.frames[-1] = (now - self._last, self.frames[-1][1])
        self._last = now
        self._seen += data
        self.screen.feed(data.decode("utf-8", "replace"))
        self.frames.append((LAST_PAUSE, self.screen.snapshot()))


def write_svg(frames: list[tuple[float, list[str]]], path: Path) -> None:
    """Lay the frames out side by side; an animation steps from one to the next, and rests on the last."""
    width, height = MARGIN * 2 + COLUMNS * CELL_WIDTH, BAR + MARGIN + ROWS * LINE_HEIGHT + MARGIN / 2
    pauses = [min(pause, LONGEST_PAUSE) for pause, _ in frames[:-1]] + [LAST_PAUSE]
    total = sum(pauses)
    rows = sorted({row for _, snapshot in frames for row in snapshot if row})
    ids = {row: f"r{number}" for number, row in enumerate(rows)}
    steps: list[str] = []
    shown: list[str] = []
    at = 0.0
    for number, ((_, snapshot), pause) in enumerate(zip(frames, pauses, strict=True)):
        steps.append(f"{at / total * 100:.3f}%{{transform:translateX({-number * width:.1f}px)}}")
        at += pause
        lines = "".join(
            f'<use href="#{ids[row]}" y="{BAR + MARGIN + line * LINE_HEIGHT}"/>'
            for line, row in enumerate(snapshot)
            if row
        )
        shown.append(f'<g transform="translate({number * width:.1f})">{lines}</g>')
    definitions = "".join(f'<text id="{ids[row]}">{row}</text>' for row in rows)
    # As an attribute too: a viewer that knows no animation shows the last frame, not the empty first one.
    end = -(len(frames) - 1) * width
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14">'
        "<title>Holdfast at work: recorded by docs/record.py</title>"
        "<style>text{fill:#d5d8df;white-space:pre}.b{font-weight:600;fill:#fff}.d{fill:#8b93a3}"
        ".c31{fill:#ff7b72}.c32{fill:#7ee787}.c33{fill:#e3b341}"
        f"#film{{animation:film {total:.2f}s step-end infinite}}@keyframes film{{{''.join(steps)}}}"
        f"@media(prefers-reduced-motion:reduce){{#film{{animation:none;transform:translateX({end:.1f}px)}}}}</style>"
        f"<defs>{definitions}</defs>"
        f'<rect width="100%" height="100%" rx="9" fill="#14171f"/><g fill="#3b4252"><circle cx="20" cy="18" r="6"/>'
        '<circle cx="40" cy="18" r="6"/><circle cx="60" cy="18" r="6"/></g>'
        f'<svg width="{width:.0f}" height="{height:.0f}"><g id="film" transform="translate({end:.1f})">'
        f"{''.join(shown)}</g></svg></svg>\n"
    )


def main() -> None:
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-record-"))
    repository = scratch / "shop"
    repository.mkdir()
    (repository / "total.py").write_text("def total(prices, discount=0.0):\n    return sum(prices) * discount\n")
    (repository / "test_total.py").write_text("from total import total\n\nassert total([10, 20], 0.5) == 15\n")
    (repository / ".gitignore").write_text("__pycache__/\n")
    for name, text in (("mend.txt", MEND), ("review.txt", REVIEW), ("stuck.txt", STUCK)):
        (repository / name).write_text(text)
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=R", "-c", "user.email=r@x", "commit", "-qm", "Shop"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)
    programs = Path(sys.executable).parent
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "HOLDFAST_STATE_DIR": str(scratch / "state"),
        "TERM": "xterm-256color",
        "PS1": "$ ",
    }
    recording = Recording(repository, environment)
    try:
        recording.type("holdfast run rehearsal --write --prompt-file mend.txt")
        task = recording.type("holdfast start rehearsal --prompt-file review.txt")
        daemon = recording.type("cat $HOLDFAST_STATE_DIR/daemon.lock")
        recording.type(f"kill -9 {daemon}")
        recording.type(f"holdfast wait {task}")
        recording.type("holdfast run rehearsal --timeout 2s --prompt-file stuck.txt")
        recording.type("echo $?")
    finally:
        subprocess.run(["holdfast", "down", "--cancel"], env=environment, stdout=subprocess.DEVNULL, check=False)
        recording.close()
        shutil.rmtree(scratch, ignore_errors=True)
    target = Path(__file__).with_name("run.svg")
    write_svg(recording.frames, target)
    print(f"{target}: {len(recording.frames)} frames, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
