"""Base64 as clients have to send it: the standard alphabet, padded, and only one text for the same bytes."""

from __future__ import annotations

from typing import Final

from pybase64 import b64decode

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def decode_base64(text: str) -> bytes:
    """The bytes that *text* stands for.

    :raises ValueError: it is not base64, or has bits that belong to no byte
    """
    data = b64decode(text, validate=True)
    if text.endswith("="):
        unused = 0b1111 if text.endswith("==") else 0b11
        if _ALPHABET.index(text.rstrip("=")[-1].encode()) & unused:
            raise ValueError("Invalid last symbol.")
    return data


def base64_fault(text: str) -> str:
    """What is wrong with base64 text that cannot be decoded, in the words of the reference implementation."""
    signs = text.encode()
    rest = len(signs) % 4
    if rest == 1 and signs[-1] not in _ALPHABET + b"=":
        return f"Invalid symbol {signs[-1]}, offset {len(signs) - 1}."
    body = signs.rstrip(b"=")
    # Only the last four may have padding, and not before their third.
    last = max(0, len(signs) - (rest or 4))
    for offset, sign in enumerate(signs):
        if sign not in _ALPHABET and (sign != ord("=") or offset < last + 2 or offset < len(body)):
            return f"Invalid symbol {sign}, offset {offset}."
    if len(body) % 4 == 1:
        return f"Invalid input length: {len(body)}"
    if rest:
        return "Invalid padding"
    return f"Invalid last symbol {body[-1]}, offset {len(body) - 1}."
