"""Holding an answer against a pattern or a schema of the caller's, in a process of its own that is bound to end.

Regular expressions can need longer than the age of the universe, and in the daemon they would hold up every task.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.errors import InternalError

#: Seconds until the program is killed; it ends itself after 10 of processor time.
_PATIENCE: Final = 60.0
#: A longer answer is held against nothing, bytes.
ANSWER_BYTES: Final = 8 << 20


class CheckFailed(InternalError):
    """The check did not come to an end: nothing can be said about the answer, and so nothing good."""

    code = "check_failed"


class _Found(msgspec.Struct):
    matches: list[tuple[int, str]] = []
    document: Any = msgspec.UNSET
    unmet: list[str] = []


async def match_lines(pattern: str, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Which of the numbered *lines* match *pattern* as a whole, and the value of each.

    The value is the group ``verdict`` if the pattern has one, else the line.

    :raises CheckFailed: the pattern took too long
    """
    return (await _ask({"pattern": pattern, "lines": lines})).matches


async def fit_schema(schema: dict[str, Any], answer: str) -> tuple[Any, list[str]]:
    """The JSON document that *answer* is, and why it does not fit *schema* (then it is ``None``).

    :raises CheckFailed: it could not be found out
    """
    found = await _ask({"schema": schema, "answer": answer})
    if found.document is msgspec.UNSET:
        return None, found.unmet or ["it could not be read"]
    return found.document, []


async def _ask(question: dict[str, Any]) -> _Found:
    program = Path(__file__).with_name("checker_program.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            out, err = await process.communicate(msgspec.json.encode(question))
    except TimeoutError:
        raise CheckFailed("The check took too long.", hint="Use a simpler pattern or schema.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    status = process.returncode
    if status is None or status < 0:
        raise CheckFailed("The check took too long, or too much memory.", hint="Use a simpler pattern or schema.")
    if status != 0:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckFailed(f"The check failed: {last[:300]}", hint="Use a simpler pattern or schema.")
    return msgspec.json.decode(out, type=_Found)
