"""The last line that some callers wait for: ``PATCH_APPLIED`` or ``FINDINGS_ONLY``, from what was observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def with_marker(chunks: Iterable[bytes], marker: str) -> Iterator[bytes]:
    """Yield *chunks*, and after them *marker* as a line of its own, unless it stands there already.

    No byte of *chunks* is changed: a line feed is added before the marker if the text lacks one at its end.
    """
    line = marker.encode()
    tail = b"\n"
    for chunk in chunks:
        tail = (tail + chunk)[-len(line) - 2 :]
        yield chunk
    if tail.endswith(b"\n" + line):
        yield b"\n"
    elif not tail.endswith(b"\n" + line + b"\n"):
        yield (b"" if tail.endswith(b"\n") else b"\n") + line + b"\n"
