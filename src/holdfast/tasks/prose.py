"""The lines of an answer that the agent says itself: not in a code fence, not quoted, not indented as code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: Three or more backticks or tildes, indented by three blanks at most, begin a fence (CommonMark 4.5).
_FENCE: Final = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_CODE_OR_QUOTE: Final = re.compile(r" {4}| {0,3}\t| {0,3}[>＞]")


def own_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without surrounding blanks) of the lines that are the author's own words.

    A fence that is never closed reaches to the end, as Markdown has it.
    """
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        match = _FENCE.match(line)
        if fence is not None:
            if match is not None and match[1].startswith(fence) and not line[match.end() :].strip():
                fence = None
        elif match is not None:
            fence = match[1]
        elif not _CODE_OR_QUOTE.match(line):
            yield number, line.strip()
