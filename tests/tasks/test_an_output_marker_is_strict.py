"""A prompt may name the output file, on request, in one way only; whatever looks like it and is not, is an error."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidRequest
from holdfast.tasks.output_marker import find


@pytest.mark.parametrize(
    ("prompt", "path"),
    [
        ("[output-file: /tmp/a.txt]", "/tmp/a.txt"),
        ("Do it.\n[OUTPUT-FILE:/tmp/a]\r\n", "/tmp/a"),
        ("[Output-File: \t  /tmp/a b.txt \t ]\nDo it.", "/tmp/a b.txt"),
        ("Do it.\n  [output-file: /tmp/ä.txt]  ", "/tmp/ä.txt"),
        ("As in [output-file: /tmp/x].\n```\n[output-file: /tmp/y]\n```\n[output-file: /tmp/a]", "/tmp/a"),
    ],
)
def test_r23_a_marker_is_a_line_of_its_own(prompt: str, path: str) -> None:
    assert find(prompt.encode()) == path


@pytest.mark.parametrize("prompt", ["", "Do it.", "[output: /tmp/a]", "[output-files: /tmp/a]", "output-file: /tmp/a"])
def test_r32_no_marker_is_none(prompt: str) -> None:
    assert find(prompt.encode()) is None


@pytest.mark.parametrize(
    "prompt",
    [
        b"[output-file: /tmp/a.txt] and see also [1]",
        b"[output-file: /tmp/a]\n[output-file: /tmp/b]",
        b"[output-file: /tmp/a]\n[output-file: /tmp/a]",
        b"Write to [output-file: /tmp/a].",
        b"> [output-file: /tmp/a]",
        b"```\n[output-file: /tmp/a]\n```",
        b"    [output-file: /tmp/a]",
        b"[output-file : /tmp/a]",
        b"[ output-file: /tmp/a]",
        b"[output-file:]",
        b"[output-file:   ]",
        b"[output-file /tmp/a]",
        b"[output-file: /tmp/a",
        b"[output-file: /tmp/\na]",
        b"[output-file: /tmp/a]]",
        b"[output-file: /tmp/[a]",
        b"[output-file: /tmp/a\x07b]",
        "[output-file: /tmp/a\u202eb]".encode(),
        "[output-file: /tmp/a\u2028b]".encode(),
        b"[output-file: /tmp/a\xff]",
        b"[output-file: a.txt]",
        b"[output-file: ~/a.txt]",
        b"[output-file: $HOME/a.txt]",
        b"[output-file: /tmp/../etc/passwd]",
        b"[output-file: /tmp//a]",
        b"[output-file: /tmp/]",
        b"[output-file: /" + b"a" * 5000 + b"]",
    ],
)
def test_r23_r24_r25_anything_else_is_refused(prompt: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        find(prompt)
    assert refusal.value.hint
