"""The local HTTP API (docs/http-api.md) for a command that must be quick.

:mod:`holdfast.daemon.client` is the client for everybody else.  It imports a typed decoder, ``http.client`` and with it
``ssl`` and ``email``: 80 of the 100 ms that a command would take before it has asked anything.  This one imports
``socket`` and ``json``, speaks HTTP/1.0 (an answer ends with its connection, so there is nothing to decode), and gives
answers as they are, as dictionaries.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from holdfast.companion.refusal import Refused
from holdfast.directories import socket_path, state_directory
from holdfast.errors import Unavailable

if TYPE_CHECKING:
    from holdfast.daemon.client import DaemonClient

#: An object of the API.
Document = dict[str, Any]

#: Seconds in which a daemon answers anything that does not wait by design.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds of silence on a followed stream after which the reader asks whether the daemon is still there.
STREAM_SILENCE: Final = 60.0
#: Seconds that one ``wait`` asks for at most (the daemon's own bound).
WAIT_BOUND: Final = 60.0
#: Seconds to wait before each further try in a row; a daemon that is not back after the last is given up.
_PAUSES: Final = (0.0, 0.2, 1.0, 3.0)
_CHUNK: Final = 65_536
_T = TypeVar("_T")


class Gone(Unavailable):
    """The daemon does not answer, or went away in the middle of an answer."""

    code = "daemon_gone"


class Silent(Gone):
    """A followed stream said nothing for a while."""

    code = "stream_silent"


class Daemon:
    """The daemon of the state directory; started when there is none, and again when it died.

    Every call may be sent twice, so each is sent again when its answer was lost.
    """

    def __init__(self) -> None:
        #: Whether a daemon that is not there may be started.
        self.may_start = True
        self.directory: Path = state_directory()
        self._address = str(socket_path(self.directory, "daemon.sock"))
        self._started: DaemonClient | None = None
        self._losses = 0

    @property
    def in_process(self) -> bool:
        """The daemon is a part of this very process, because none could be started: it ends when this ends."""
        return self._started is not None and self._started.in_process

    def close(self) -> None:
        """Let go of the daemon; one that is a part of this process is stopped."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def get(self, path: str, *, timeout: float = ANSWER_TIMEOUT) -> Document:
        """The document at *path*.

        :raises Refused: the daemon refused; the code is the daemon's own
        :raises Unavailable: no daemon answers, and none can be started
        """
        return json.loads(self._insist(lambda: self._ask("GET", path, None, timeout)))

    def post(self, path: str, document: Mapping[str, object], *, timeout: float = ANSWER_TIMEOUT) -> Document:
        """What the daemon answers to *document*.

        :raises Refused: the daemon refused, and nothing was changed
        :raises Unavailable: no daemon answers, and none can be started
        """
        body = json.dumps(document).encode()
        return json.loads(self._insist(lambda: self._ask("POST", path, body, timeout)))

    def read(self, path: str) -> bytes:
        """The bytes at *path*, whole.

        :raises Refused: the daemon refused
        """
        return self._insist(lambda: self._ask("GET", path, None, ANSWER_TIMEOUT))

    def progress(self, task_id: str, after: str | None = None) -> Iterator[Document]:
        """What the task did behind the cursor *after*, and does, until it is finished (a line of kind ``finished``)."""
        while True:
            query = f"?follow=1&after={after}" if after else "?follow=1"
            try:
                for line in self._lines(f"/v1/tasks/{task_id}/progress{query}"):
                    after = line["cursor"]
                    self._losses = 0
                    yield line
                    if line["kind"] == "finished":
                        return
                raise Gone("The daemon ended the stream before the task was finished.", hint=_HINT)
            except Silent:
                self.get("/v1/status", timeout=10.0)
            except Gone as error:
                self._lost(error)

    def answers(self) -> bool:
        """Whether a daemon answers; none is started for the question."""
        try:
            self._ask("GET", "/v1/status", None, ANSWER_TIMEOUT)
        except Gone:
            return False
        return True

    # --- the wire ---------------------------------------------------------------------------------------------------

    def _insist(self, ask: Callable[[], _T]) -> _T:
        while True:
            try:
                answer = ask()
            except Gone as error:
                self._lost(error)
            else:
                self._losses = 0
                return answer

    def _lost(self, error: Gone) -> None:
        if self._losses == len(_PAUSES):
            raise error
        time.sleep(_PAUSES[self._losses])
        self._losses += 1
        if self.in_process or not self.may_start:
            return
        # Imported here: only the first command of a day pays for it.
        from holdfast.daemon.lifecycle import connect

        self._started = connect(self.directory)
        if self._started.notice:
            sys.stderr.write(f"{self._started.notice}\n")

    def _ask(self, method: str, path: str, body: bytes | None, timeout: float) -> bytes:
        status, length, rest, connection = self._send(method, path, body, timeout)
        with connection:
            parts = [rest]
            try:
                while chunk := connection.recv(_CHUNK):
                    parts.append(chunk)
            except OSError as error:
                raise Gone(f"The daemon went away in the middle of an answer ({error}).", hint=_HINT) from error
        answer = b"".join(parts)
        if length is not None and len(answer) < length:
            raise Gone("The daemon went away in the middle of an answer.", hint=_HINT)
        if status >= 400:
            raise _refusal(status, answer)
        return answer

    def _lines(self, path: str) -> Iterator[Document]:
        status, _, rest, connection = self._send("GET", path, None, STREAM_SILENCE)
        with connection:
            while True:
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    if status >= 400 or line.startswith(b'{"error":'):
                        raise _refusal(status, line)
                    yield json.loads(line)
                try:
                    chunk = connection.recv(_CHUNK)
                except TimeoutError as error:
                    raise Silent(f"The daemon said nothing for {STREAM_SILENCE:g} seconds.", hint=_HINT) from error
                except OSError as error:
                    raise Gone(f"The daemon went away ({error}).", hint=_HINT) from error
                if not chunk:
                    break
                rest += chunk
        if status >= 400:
            raise _refusal(status, rest)
        if rest:
            raise Gone("The daemon went away in the middle of a line.", hint=_HINT)

    def _send(
        self, method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[int, int | None, bytes, socket.socket]:
        """Send a request; status, length of the answer if it was told, its first bytes, and where the rest comes."""
        head = f"{method} {path} HTTP/1.0\r\nHost: holdfast\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(self._address)
            _check_peer(connection, self._address)
            connection.sendall(head.encode("ascii") + b"\r\n" + (body or b""))
            answer = b""
            while b"\r\n\r\n" not in answer:
                chunk = connection.recv(_CHUNK)
                if not chunk:
                    raise ConnectionResetError("no answer")
                answer += chunk
        except OSError as error:
            connection.close()
            raise Gone(f"The daemon at {self._address} does not answer ({error}).", hint=_HINT) from error
        except BaseException:
            connection.close()
            raise
        header, _, rest = answer.partition(b"\r\n\r\n")
        first, *fields = header.split(b"\r\n")
        length = None
        for field in fields:
            name, _, value = field.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        return int(first.split()[1]), length, rest, connection


_HINT: Final = "Try again; if that does not help, run: holdfast doctor"


def _refusal(status: int, answer: bytes) -> Refused:
    try:
        error = json.loads(answer)["error"]
        code, message, hint = str(error["code"]), str(error["message"]), error.get("hint")
    except (ValueError, KeyError, TypeError):
        return Refused(f"The daemon answered {status}: {answer[:200]!r}", hint=_HINT)
    return type("Refused", (Refused,), {"code": code, "__doc__": Refused.__doc__})(message, hint=hint)


def _check_peer(connection: socket.socket, address: str) -> None:
    """Refuse a socket that another user answers on: prompts and environments are not for them."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    import os
    import struct

    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid()):
        raise Refused(
            f"The daemon at {address} belongs to user {uid}, not to you.",
            hint="Set HOLDFAST_STATE_DIR to a directory of your own.",
        )
