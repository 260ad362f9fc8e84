"""What may run and cannot be read: the processes whose directories a server has to pass over when it takes over.

The keeper goes on holding their streams, for a server that can read them.  Which of its children they are is not known
either: none of those that nobody claims is reaped, and an orderly stop ends them all.  Where the description could be
read, its id stays taken; which ids the others have nobody knows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Coroutine, Iterable
from typing import Any

from holdfast.host.description import Description
from holdfast.host.os_process import start_time
from holdfast.host.packets import Held
from holdfast.host.tree import Ending, Tree, end_tree
from holdfast.jsonrpc.streams import EXHAUSTED

_log = logging.getLogger(__name__)


class PassedOver:
    """All of them, of one host."""

    def __init__(self) -> None:
        #: Their streams, by process directory and name.
        self.streams: Held = {}
        #: Why it cannot be read, by session (None for the namespace of the host) and process id.
        self.reasons: dict[tuple[str | None, str], OSError] = {}
        self._trees: list[Tree] = []

    def add(self, directory: str, description: Description | None, error: OSError, held: Held) -> None:
        """Pass over the process of *directory*, and take its streams out of *held*.

        :raises OSError: *error*, if it says that nothing can be read at the moment
        """
        if error.errno in EXHAUSTED:
            raise error
        _log.error("%s cannot be read: %s", directory, error)
        if description is not None:
            self.reasons[description.session_id, description.process_id] = error
        key = os.path.basename(directory)
        if key in held:
            self.streams[key] = held.pop(key)

    def claim(self, pids: Iterable[int]) -> list[int]:
        """Which of *pids*, children of the keeper that are nobody's, may be one of these."""
        if not self.streams:
            return []
        self._trees = [Tree(pid, start_time(pid)) for pid in pids]
        return [tree.pid for tree in self._trees]

    def endings(self, grace: float) -> list[Coroutine[Any, Any, Ending]]:
        """What ends all that is alive of them; see :func:`~holdfast.host.tree.end_tree`."""
        return [end_tree(tree, grace=grace) for tree in self._trees]
