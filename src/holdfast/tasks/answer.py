"""The agent's answer: its bytes in a file of their own, and in the result as far as they fit."""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast.drivers.one_shot import OutputGone, whole_stdout
from holdfast.host.port import HostUnavailable, UnknownProcess
from holdfast.tasks.acceptance import Draft, TaskFiles
from holdfast.tasks.ports import Hosts
from holdfast.tasks.queries import Queries
from holdfast.tasks.result import MessagePart
from holdfast.tasks.rows import AttemptRow

#: An answer up to this size is in the result document itself; a longer one is cut there and whole in its file.
INLINE_BYTES: Final = 1 << 20


async def keep_answer(
    attempt: AttemptRow,
    plain_text: bool,
    queries: Queries,
    hosts: Hosts,
    files: TaskFiles,
    unknowns: dict[str, str],
) -> MessagePart:
    """Write the answer of *attempt* to its file and describe it.

    It is the last message, or (*plain_text*) everything on standard output.  What is not there any more is said in
    *unknowns*.
    """
    part = MessagePart(segments=attempt.facts.messages)
    with Draft(files.message) as draft:
        if plain_text:
            try:
                async for chunk in whole_stdout(await hosts.host(), attempt.process_id):
                    await asyncio.to_thread(draft.write, chunk)
            except (HostUnavailable, OutputGone, UnknownProcess) as error:
                unknowns["message.text"] = error.message
                return part
        else:
            text = await queries.message(attempt.task_id, attempt.number)
            if text is None:
                return part
            # A lone surrogate is legal in JSON and has no UTF-8 form of its own.
            await asyncio.to_thread(draft.write, text.encode("utf-8", "surrogatepass"))
        await asyncio.to_thread(draft.publish)
    part.bytes, part.sha256 = draft.size, draft.sha256
    part.path = str(files.message)
    part.inline_truncated = draft.size > INLINE_BYTES
    with files.message.open("rb") as file:
        start = file.read(INLINE_BYTES)
    part.text = start.decode(errors="ignore" if part.inline_truncated else "replace")
    return part
