"""Columns for people: aligned by terminal cells, the last one cut to the width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from holdfast.cli import terminal
from holdfast.cli.progress_display import cells, fit

_GAP = "  "
#: Cells that a column may be wide; what is longer moves its own line.
_WIDEST = 60


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out *rows* under *header*; text for programs is not cut."""
    style = terminal.Style(sys.stdout)
    columns = terminal.columns(sys.stdout) if terminal.is_terminal(sys.stdout) else None
    shown = [[terminal.printable(cell) for cell in row] for row in rows]
    *aligned, _ = zip(header, *shown, strict=True)
    # A single long one would move all the others out of sight.
    widths = [max(width for width in map(cells, column) if width <= _WIDEST) for column in aligned]

    def line(row: Sequence[str]) -> str:
        *first, last = row
        padded = (cell + " " * (width - cells(cell)) + _GAP for cell, width in zip(first, widths, strict=True))
        before = "".join(padded)
        if columns is not None:
            last = fit(last, max(10, columns - cells(before)))
        return (before + last).rstrip()

    return "\n".join([style("dim", line(header)), *map(line, shown)])


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """One ``name: value`` a line, values aligned."""
    width = max(len(name) for name, _ in rows) + 1
    return "\n".join(f"{name + ':':<{width}} {terminal.printable(value)}".rstrip() for name, value in rows)
