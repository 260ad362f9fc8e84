"""The marker is appended as the last line, once, and no byte of the answer is changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tasks.marker import with_marker

MARKER = "FINDINGS_ONLY"


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        (b"", b"FINDINGS_ONLY\n"),
        (b"text", b"text\nFINDINGS_ONLY\n"),
        (b"text\n", b"text\nFINDINGS_ONLY\n"),
        (b"text\n\n", b"text\n\nFINDINGS_ONLY\n"),
        (b"text\nFINDINGS_ONLY\n", b"text\nFINDINGS_ONLY\n"),
        (b"text\nFINDINGS_ONLY", b"text\nFINDINGS_ONLY\n"),
        (b"FINDINGS_ONLY", b"FINDINGS_ONLY\n"),
        (b"no FINDINGS_ONLY\n", b"no FINDINGS_ONLY\nFINDINGS_ONLY\n"),
        (b"text\nPATCH_APPLIED\n", b"text\nPATCH_APPLIED\nFINDINGS_ONLY\n"),
        (b"text\nFINDINGS_ONLY\n\n", b"text\nFINDINGS_ONLY\n\nFINDINGS_ONLY\n"),
        (b"\xff\x00", b"\xff\x00\nFINDINGS_ONLY\n"),
    ],
)
def test_r22_one_line_at_the_end(answer: bytes, marked: bytes) -> None:
    assert b"".join(with_marker([answer], MARKER)) == marked


@given(st.lists(st.one_of(st.binary(max_size=6), st.sampled_from([b"FINDINGS", b"_ONLY", b"\n"])), max_size=12))
def test_r22_in_whatever_pieces_it_comes(chunks: list[bytes]) -> None:
    marked = b"".join(with_marker(chunks, MARKER))
    assert marked.startswith(b"".join(chunks))
    assert (b"\n" + marked).endswith(b"\nFINDINGS_ONLY\n")
    assert b"".join(with_marker([marked], MARKER)) == marked
