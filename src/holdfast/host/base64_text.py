"""Base64 as clients have to send it: the standard alphabet, padded, and only one text for the same bytes."""

from __future__ import annotations

from typing import Final

from pybase64 import b64decode

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def decode_base64(text: str) -> bytes:
    """The bytes that *text* stands for.

    :raises ValueError: it is not base64, or has bits that belong to no byte
    """
    data = b64decode(text, validate=True)
    if text.endswith("="):
        unused = 0b1111 if text.endswith("==") else 0b11
        if _ALPHABET.index(text.rstrip("=")[-1]) & unused:
            raise ValueError("Invalid last symbol.")
    return data
