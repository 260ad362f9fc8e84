"""Columns for people: aligned by terminal cells, the last one cut to the width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from holdfast.cli import terminal
from holdfast.cli.progress_display import cells, fit

_GAP = "  "


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out *rows* under *header*; text for programs is not cut."""
    style = terminal.Style(sys.stdout)
    shown = [[terminal.printable(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(header, *shown, strict=True)]
    if terminal.is_terminal(sys.stdout):
        before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        widths[-1] = max(10, min(widths[-1], terminal.columns(sys.stdout) - before))
        shown = [[*row[:-1], fit(row[-1], widths[-1])] for row in shown]

    def line(row: Sequence[str]) -> str:
        padded = (cell + " " * (width - cells(cell)) for cell, width in zip(row, widths, strict=True))
        return _GAP.join(padded).rstrip()

    return "\n".join([style("dim", line(header)), *map(line, shown)])


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """One ``name: value`` a line, values aligned."""
    width = max(len(name) for name, _ in rows) + 1
    return "\n".join(f"{name + ':':<{width}} {terminal.printable(value)}".rstrip() for name, value in rows)
