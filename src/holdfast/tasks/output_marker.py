"""``[output-file: /absolute/path]`` in a prompt: a place for the answer that whoever wrote the prompt asks for.

It is looked for on request only, because the author of a prompt need not be who runs it.  It is a line of its own in
the prompt's own words, once, and exactly so spelled; what only looks like it is an error and never overlooked.  The
prompt itself stays as it is.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.errors import InvalidRequest
from holdfast.tasks.output_file import check_spelling
from holdfast.tasks.prose import own_lines

_MENTION: Final = re.compile(r"\[\s*output-file\b", re.IGNORECASE)
_MARKER: Final = re.compile(r"\[output-file:[ \t]*([^\[\]]*?)[ \t]*\]", re.IGNORECASE)

_HINT: Final = "Write [output-file: /absolute/path] alone on one line, or use --output-file instead."


class OutputMarkerRefused(InvalidRequest):
    """The prompt has something like a marker for an output file, and it cannot be taken for one."""

    code = "output_marker"


def find(prompt: bytes) -> str | None:
    """The path that the marker in *prompt* names; ``None`` if there is nothing like a marker in it.

    :raises OutputMarkerRefused: there are several, or one that is malformed, quoted, or part of a sentence
    :raises OutputPathRefused: the path cannot be that of any output file
    """
    text = prompt.decode("utf-8", "surrogateescape")
    if not _MENTION.search(text):
        return None
    markers = [line for _, line in own_lines(text) if _MENTION.match(line)]
    if not markers:
        raise OutputMarkerRefused("The prompt speaks of an output file, but no line is a marker for one.", hint=_HINT)
    if len(markers) > 1:
        raise OutputMarkerRefused(f"The prompt has {len(markers)} markers for an output file.", hint=_HINT)
    match = _MARKER.fullmatch(markers[0])
    if match is None or not match[1]:
        raise OutputMarkerRefused(f"{markers[0][:200]!r} is not a marker for an output file.", hint=_HINT)
    check_spelling(match[1])
    return match[1]
