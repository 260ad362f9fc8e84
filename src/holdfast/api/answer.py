"""The answer of a finished task, whole or not at all, whatever happens to the daemon meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from holdfast.api.daemon_access import Daemon
from holdfast.daemon.transport import DaemonGone
from holdfast.errors import InternalError, InvalidRequest
from holdfast.tasks.result import Result


def answer_bytes(daemon: Daemon, result: Result, *, offset: int = 0, limit: int | None = None) -> Iterator[bytes]:
    """Yield the answer that *result* tells of, or at most *limit* bytes of it from *offset* on, as it comes.

    One that breaks off is read on behind what was seen of it: it does not change any more.

    :raises InvalidRequest: *offset* or *limit* is negative
    :raises InternalError: what arrived is not the answer; raised at its end
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise InvalidRequest("An answer has no bytes before its first.", hint="Give offset and limit of 0 or more.")
    end = result.message.bytes if limit is None else min(result.message.bytes, offset + limit)
    start = position = min(offset, end)
    whole = (offset, end) == (0, result.message.bytes)
    digest = hashlib.sha256() if whole else None
    while position < end:
        client = daemon.client
        try:
            # The whole is asked for as such: it can be sent without being looked at.
            part = {} if whole and position == 0 else {"offset": position, "limit": end - position}
            for chunk in client.message(result.task_id, **part):
                position += len(chunk)
                if digest is not None:
                    digest.update(chunk)
                daemon.found()
                yield chunk
            break
        except DaemonGone as error:
            daemon.lost(client, error)
    expected = result.message.sha256
    if position != end or (digest is not None and expected not in (None, digest.hexdigest())):
        raise InternalError(
            f"The {position - start} bytes that arrived are not the {end - start} bytes of the answer.",
            hint=f"Read it again with 'holdfast result {result.task_id}', or from {result.message.path}.",
        )
