"""Whether the failure of a sandboxed command looks like the sandbox's doing.

Nobody can know: the kernel tells the command, not who started it.  The reference implementation (measured: Codex CLI
0.169) guesses from the exit status and the output that it still holds at the exit, and its client asks its user about
running the command again without a sandbox when the guess is yes.  So the guess here is the same one.
"""

from __future__ import annotations

import signal
from typing import Final

from holdfast.host.log import ProcessLog
from holdfast.host.log_format import EntryKind

#: What the words of a denial contain, in small letters.
_WORDS: Final = (
    b"operation not permitted",
    b"permission denied",
    b"read-only file system",
    b"seccomp",
    b"sandbox",
    b"landlock",
    b"failed to write file",
)
#: Bytes of output that are looked at, the last before the exit; what the reference retains.
_LOOKED_AT: Final = 1024 * 1024
_STREAMS: Final = (EntryKind.STDOUT, EntryKind.STDERR, EntryKind.PTY)
#: The exit status of who made a system call that a filter forbids.
_FORBIDDEN_CALL: Final = 128 + signal.SIGSYS


def looks_denied(log: ProcessLog, exit_code: int) -> bool:
    """Whether a sandboxed process that ended with *exit_code* looks denied; reads 1 MiB of its log at most."""
    if exit_code == 0:
        return False
    if exit_code == _FORBIDDEN_CALL:
        return True
    output = _last_output(log)
    return any(word in text for text in output for word in _WORDS)


def _last_output(log: ProcessLog) -> list[bytes]:
    """The end of each stream before the exit, in small letters."""
    exited = log.last(EntryKind.EXITED)
    end = log.last_seq if exited is None else exited.seq - 1
    chunks: dict[int, list[bytes]] = {kind: [] for kind in _STREAMS}
    left = _LOOKED_AT
    while end > 0 and left > 0:
        begin = max(0, end - 64)
        for entry in reversed(log.entries(begin, end - begin)):
            if entry.kind == EntryKind.GONE:
                # What is older is gone as well.
                left = 0
            elif entry.kind in chunks and left > 0:
                chunks[entry.kind].append(log.data(entry)[-left:])
                left -= entry.length
        end = begin
    return [b"".join(reversed(parts)).lower() for parts in chunks.values() if parts]
