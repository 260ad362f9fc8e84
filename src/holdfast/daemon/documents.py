"""The daemon for a command that must be quick: answers are dictionaries, as they come.

:mod:`holdfast.daemon.client` is the client for everybody else.  It knows the type of every answer, and the types and
their decoder take longer to import than the daemon takes to answer.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from holdfast.daemon import refusal
from holdfast.daemon.transport import ANSWER_TIMEOUT, HINT, STREAM_SILENCE, DaemonGone, StreamSilent, Transport
from holdfast.directories import socket_path, state_directory
from holdfast.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from holdfast.daemon.client import DaemonClient
    from holdfast.errors import HoldfastError

#: An object of the API.
Document = dict[str, Any]

#: The daemon's socket, by its name in the state directory.
SOCKET_NAME: Final = "daemon.sock"
#: Seconds to wait before each further try in a row; a daemon that is not back after the last is given up.
PAUSES: Final = (0.0, 0.2, 1.0, 3.0)
#: The characters that ids of tasks are made of.
_OF_TASK_IDS: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyz-")
_T = TypeVar("_T")


def task_path(task_id: str, verb: str | None = None) -> str:
    """Where the task is, or *verb* of it, that *task_id* names, or the beginning of an id.

    :raises NotFound: no id begins so
    """
    if not task_id or not _OF_TASK_IDS.issuperset(task_id):
        # The path would be that of something else.
        raise NotFound(f"There is no task {task_id!r}.", hint="See 'holdfast list --all'.")
    path = f"/v1/tasks/{task_id}"
    return path if verb is None else f"{path}/{verb}"


class Documents:
    """The daemon of the state directory; started when there is none, and again when it died.

    Every call may be sent twice, so each is sent again when its answer was lost.

    :ivar may_start: whether a daemon that is not there may be started
    :ivar directory: the state directory
    """

    def __init__(self) -> None:
        self.may_start = True
        self.directory: Path = state_directory()
        self._transport = Transport(socket_path(self.directory, SOCKET_NAME), self._refusal)
        self._started: DaemonClient | None = None
        self._losses = 0

    @property
    def in_process(self) -> bool:
        """The daemon is a part of this very process, because none could be started: it ends when this ends."""
        return self._started is not None and self._started.in_process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the daemon; one that is a part of this process is stopped."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def get(self, path: str, *, timeout: float = ANSWER_TIMEOUT) -> Document:
        """The document at *path*, which may end with a query.

        :raises HoldfastError: the daemon refused; the code is the daemon's own
        :raises Unavailable: no daemon answers, and none can be started
        """
        return json.loads(self._insist(lambda: self._transport.call("GET", path, timeout=timeout)))

    def post(self, path: str, document: Mapping[str, object], *, timeout: float = ANSWER_TIMEOUT) -> Document:
        """What the daemon answers to *document*.

        :raises HoldfastError: the daemon refused, and nothing was changed
        :raises Unavailable: no daemon answers, and none can be started
        """
        body = json.dumps(document).encode()
        return json.loads(self._insist(lambda: self._transport.call("POST", path, body, timeout=timeout)))

    def read(self, path: str) -> bytes:
        """The bytes at *path*, whole.

        :raises HoldfastError: the daemon refused
        """
        return self._insist(lambda: self._transport.call("GET", path))

    def progress(self, task_id: str, after: str | None = None) -> Iterator[Document]:
        """What the task did behind the cursor *after*, and does, until it is finished (a line of kind ``finished``)."""
        while True:
            query = f"?follow=1&after={after}" if after else "?follow=1"
            try:
                for text in self._transport.lines(f"/v1/tasks/{task_id}/progress{query}", timeout=STREAM_SILENCE):
                    line = json.loads(text)
                    after = line["cursor"]
                    self._losses = 0
                    yield line
                    if line["kind"] == "finished":
                        return
                raise DaemonGone("The daemon ended the stream before the task was finished.", hint=HINT)
            except StreamSilent:
                self.get("/v1/status", timeout=10.0)
            except DaemonGone as error:
                self._lost(error)

    def status(self) -> Document | None:
        """What the daemon says of itself; ``None`` when none answers, and none is started for the question."""
        try:
            return json.loads(self._transport.call("GET", "/v1/status"))
        except DaemonGone:
            return None

    def answers(self) -> bool:
        """Whether a daemon answers; none is started for the question."""
        return self.status() is not None

    def _insist(self, ask: Callable[[], _T]) -> _T:
        while True:
            try:
                answer = ask()
            except DaemonGone as error:
                self._lost(error)
            else:
                self._losses = 0
                return answer

    def _lost(self, error: DaemonGone) -> None:
        if self._losses == len(PAUSES):
            raise error
        time.sleep(PAUSES[self._losses])
        self._losses += 1
        if self.in_process or not self.may_start:
            return
        # Imported here: only the first command of a day pays for it.
        from holdfast.daemon.lifecycle import connect

        self._started = connect(self.directory)
        if self._started.notice:
            self._tell(self._started.notice)

    def _tell(self, notice: str) -> None:
        """Pass on a sentence about the daemon that a person should know."""

    def _refusal(self, status: int, answer: bytes) -> HoldfastError:
        """The error that the daemon raised."""
        return refusal.rebuild(status, answer)
