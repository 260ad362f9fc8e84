"""Standard output and standard error of a command, as callers of the companion read them."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from holdfast.companion.daemon import Document
from holdfast.errors import HoldfastError


def put(payload: object, text: str, *, as_json: bool) -> None:
    """Print *payload* as JSON, or *text* as it is."""
    write(json.dumps(payload, indent=2, ensure_ascii=False) + "\n" if as_json else text)


def write(text: str) -> None:
    """Write *text* to standard output, whole.

    A reader that has gone away ends the command quietly with status 141, as SIGPIPE would; what cannot be written at
    all ends it with status 74.
    """
    if sys.stdout is None:
        # What was opened since may have its number.
        note("Standard output is closed.")
        raise SystemExit(74)
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        sys.stdout.flush()
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise SystemExit(141) from None
    except OSError as error:
        note(f"Standard output cannot be written: {error.strerror}.")
        raise SystemExit(74) from None


def note(text: str) -> None:
    """Write a line to standard error, if anybody reads it."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def complain(error: HoldfastError, *, as_json: bool) -> int:
    """Say why the command failed, with JSON on standard output if that was asked for, and return its exit status."""
    note(error.message)
    if error.hint:
        note(error.hint)
    status = exit_status(error)
    if as_json:
        put({"error": describe(error)}, "", as_json=True)
    return status


def describe(error: HoldfastError) -> Document:
    """*error* for programs."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": exit_status(error)}


def exit_status(error: HoldfastError) -> int:
    """1, as callers expect it, but for what the original did not tell apart (docs/companion.md)."""
    from holdfast.companion.refusal import Refused

    return error.exit_code if isinstance(error, Refused) else 1
