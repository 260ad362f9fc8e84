"""The local HTTP API (docs/http-api.md) from the client's side: synchronous, typed, over the daemon's Unix socket.

Each call is a connection of its own, so a call that was interrupted leaves nothing behind, and every call but
:meth:`DaemonClient.shutdown` may be sent again after a lost answer.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from holdfast.daemon.documents import SOCKET_NAME, task_path
from holdfast.daemon.refusal import rebuild_typed
from holdfast.daemon.transport import ANSWER_TIMEOUT, STREAM_SILENCE, Transport
from holdfast.directories import socket_path
from holdfast.errors import InternalError
from holdfast.tasks.collected import Collected, CollectionRequest
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import Result
from holdfast.tasks.view import Progress, TaskView

#: Seconds in which every active task has been ended, results and all.
CANCEL_TIMEOUT: Final = 300.0
#: Seconds in which everything has been deleted that may go.
COLLECT_TIMEOUT: Final = 900.0
#: Seconds in which an agent has confirmed what was said to it, or the daemon says that it has not.
COMMAND_TIMEOUT: Final = 60.0
#: Seconds in which an agent's server is started, if need be, and has answered.
ACCOUNT_TIMEOUT: Final = 180.0
#: Seconds that one ``wait`` call asks for at most (the daemon's own bound).
WAIT_BOUND: Final = 60.0

if TYPE_CHECKING:
    # Named in annotations alone: every command pays for what is imported here.
    from holdfast.tasks.account_report import Transferred, UsageReport

_T = TypeVar("_T")


def daemon_socket(directory: Path) -> Path:
    """Where the daemon of the state directory *directory* listens."""
    return socket_path(directory, SOCKET_NAME)


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon says of itself (``GET /v1/status``)."""

    version: str
    pid: int
    started: str
    state_directory: str
    #: ``url`` and ``processes``.
    host: dict[str, Any]
    #: ``total`` and ``active``.
    tasks: dict[str, int]
    in_process: bool = False


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a task's log stream: a record, or (``gap``) a range of records that is no longer there."""

    attempt: int
    gap: tuple[int, int] | None = None
    seq: int = 0
    kind: str = ""
    #: UTC seconds since the epoch.
    time: float = 0.0
    data_base64: str = ""
    exit_code: int | None = None
    signal: int | None = None

    @property
    def data(self) -> bytes:
        """The bytes of the record."""
        return base64.b64decode(self.data_base64)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the change feed."""

    seq: int
    table: str
    #: The primary key of the row.
    key: list[str | int]
    operation: str
    #: UTC seconds since the epoch.
    at: float


class HostError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a host cannot be asked, and what to do about it."""

    message: str
    hint: str | None


class Stopping(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``shutdown``: how many tasks were active (they go on in their hosts unless cancelled)."""

    stopping: bool
    active: int
    #: Why the host cannot be asked; whether anything runs there is not known then.
    host_error: HostError | None = None


class _Creation(msgspec.Struct, frozen=True, kw_only=True):
    request: TaskRequest
    prompt_base64: str
    environment: dict[str, str]


class _Shutdown(msgspec.Struct, frozen=True, kw_only=True):
    cancel: bool


class _Steering(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    command_id: str


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    decision: str
    request_id: str | None
    command_id: str


class _TaskList(msgspec.Struct, frozen=True, kw_only=True):
    tasks: list[TaskView]


class DaemonClient:
    """A client of the daemon that listens on *socket_path*.

    :ivar in_process: the daemon is a part of this very process, because none could be started
    :ivar notice: a sentence about that for the person at the terminal
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        in_process: bool = False,
        notice: str | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.socket_path = socket_path
        self.in_process = in_process
        self.notice = notice
        self._on_close = on_close
        self._transport = Transport(socket_path, rebuild_typed)

    def interrupt(self) -> None:
        """End every call that waits for an answer in another thread, and every later one, with :exc:`DaemonGone`."""
        self._transport.interrupt()

    def close(self) -> None:
        """Let go of the daemon; one that is a part of this process is stopped."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    # --- asking and answering -------------------------------------------------------------------------------------

    def status(self, *, timeout: float = ANSWER_TIMEOUT) -> DaemonStatus:
        """What the daemon says of itself."""
        return self._ask("GET", "/v1/status", DaemonStatus, timeout=timeout)

    def create(self, request: TaskRequest, prompt: bytes, environment: Mapping[str, str]) -> TaskView:
        """Hand over a task; sending the same one twice is the same as sending it once.

        :raises InvalidRequest: it was refused, and nothing was started
        """
        body = _Creation(
            request=request, prompt_base64=base64.b64encode(prompt).decode("ascii"), environment=dict(environment)
        )
        return self._ask("POST", "/v1/tasks", TaskView, body)

    def tasks(
        self, *, active: bool = False, limit: int | None = None, timeout: float = ANSWER_TIMEOUT
    ) -> list[TaskView]:
        """Tasks, newest first."""
        query = {"active": "1" if active else None, "limit": limit}
        return self._ask("GET", _target("/v1/tasks", query), _TaskList, timeout=timeout).tasks

    def task(self, task_id: str) -> TaskView:
        """One task; *task_id* may be any unique prefix of an id, here and everywhere else.

        :raises NotFound: there is none
        """
        return self._ask("GET", task_path(task_id), TaskView)

    def wait(self, task_id: str, timeout: float = WAIT_BOUND) -> TaskView:
        """The task as soon as it is finished, or as it is after *timeout* seconds."""
        target = _target(task_path(task_id, "wait"), {"timeout_s": f"{min(timeout, WAIT_BOUND):g}"})
        return self._ask("GET", target, TaskView, timeout=timeout + ANSWER_TIMEOUT)

    def result(self, task_id: str) -> Result:
        """How the task ended.

        :raises NotFinished: it has not
        """
        return self.decode_result(self.result_document(task_id))

    def result_document(self, task_id: str) -> bytes:
        """The result as the daemon encodes it: one JSON document on one line, whatever version wrote it."""
        return self._transport.call("GET", task_path(task_id, "result"))

    @staticmethod
    def decode_result(document: bytes) -> Result:
        """Read what :meth:`result_document` gave."""
        return decode(document, Result)

    def cancel(self, task_id: str, *, timeout: float = ANSWER_TIMEOUT) -> TaskView:
        """Ask for the end of a task; a finished one stays as it is."""
        return self._ask("POST", task_path(task_id, "cancel"), TaskView, timeout=timeout)

    def usage(self, seconds: float, agents: list[str], environment: Mapping[str, str]) -> UsageReport:
        """What tasks used within the last *seconds*, and what *agents* say of their allowance."""
        from holdfast.tasks.account_report import UsageReport, UsageRequest

        body = UsageRequest(seconds=seconds, agents=agents, environment=dict(environment))
        return self._ask("POST", "/v1/usage", UsageReport, body, timeout=ACCOUNT_TIMEOUT)

    def transfer(self, source: str, cwd: str, environment: Mapping[str, str]) -> Transferred:
        """Make a Codex thread of a transcript of Claude Code's; asked again, it is made again.

        :raises InvalidRequest: it is no transcript, or Codex cannot be asked
        """
        from holdfast.tasks.account_report import Transferred, TransferRequest

        body = TransferRequest(source=source, cwd=cwd, environment=dict(environment))
        return self._ask("POST", "/v1/transfer", Transferred, body, timeout=ACCOUNT_TIMEOUT)

    def collect(self, request: CollectionRequest) -> Collected:
        """Delete finished tasks that *request* lets go, with all that was kept for them; repeating it is harmless."""
        return self._ask("POST", "/v1/gc", Collected, request, timeout=COLLECT_TIMEOUT)

    def steer(self, task_id: str, text: str) -> TaskView:
        """Say *text* to a task at work; returns when its agent has accepted it.

        :raises InvalidRequest: the task is not at work, its agent takes nothing, or it refused
        :raises HoldfastError: (``command_uncertain``) it was sent, and no confirmation came
        """
        # Named here, so that a lost answer is asked for again and nothing is said twice.
        body = _Steering(text=text, command_id=os.urandom(8).hex())
        return self._ask("POST", task_path(task_id, "steer"), TaskView, body, timeout=COMMAND_TIMEOUT)

    def decide(self, task_id: str, decision: str, request_id: str | None = None) -> TaskView:
        """Answer what a task's agent asks: ``accept``, ``accept_for_session``, ``decline`` or ``cancel``."""
        body = _Decision(decision=decision, request_id=request_id, command_id=os.urandom(8).hex())
        return self._ask("POST", task_path(task_id, "decide"), TaskView, body, timeout=COMMAND_TIMEOUT)

    def shutdown(self, *, cancel: bool = False) -> Stopping:
        """Stop the daemon; with *cancel* the active tasks are ended first, and the answer comes when they have."""
        timeout = CANCEL_TIMEOUT if cancel else ANSWER_TIMEOUT
        return self._ask("POST", "/v1/shutdown", Stopping, _Shutdown(cancel=cancel), timeout=timeout)

    # --- streams --------------------------------------------------------------------------------------------------

    def message(self, task_id: str, *, offset: int | None = None, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of the answer, or of the range of it that is asked for, in chunks."""
        query = {"offset": offset, "limit": limit}
        with self._transport.response("GET", _target(task_path(task_id, "message"), query)) as response:
            while chunk := response.read_some():
                yield chunk

    def progress(
        self, task_id: str, *, after: str | None = None, follow: bool = True, silence: float = STREAM_SILENCE
    ) -> Iterator[Progress]:
        """What the task did behind the cursor *after*; with *follow* until it is finished.

        :raises StreamSilent: nothing came for *silence* seconds
        """
        query = {"after": after, "follow": "1" if follow else None}
        target = _target(task_path(task_id, "progress"), query)
        return self._lines(target, Progress, silence if follow else ANSWER_TIMEOUT)

    def log(
        self,
        task_id: str,
        *,
        after: int = 0,
        attempt: int | None = None,
        follow: bool = False,
    ) -> Iterator[LogEntry]:
        """The records of the log of the task's process behind sequence number *after*."""
        query = {"after": after or None, "attempt": attempt, "follow": "1" if follow else None}
        return self._lines(_target(task_path(task_id, "log"), query), LogEntry, _silence(follow))

    def changes(self, *, after: int = 0, follow: bool = False) -> Iterator[Change]:
        """The change feed behind *after*."""
        query = {"after": after, "follow": "1" if follow else None}
        return self._lines(_target("/v1/changes", query), Change, _silence(follow))

    # --- the wire -------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        target: str,
        kind: type[_T],
        body: msgspec.Struct | None = None,
        *,
        timeout: float = ANSWER_TIMEOUT,
    ) -> _T:
        encoded = None if body is None else msgspec.json.encode(body)
        return decode(self._transport.call(method, target, encoded, timeout=timeout), kind)

    def _lines(self, target: str, kind: type[_T], timeout: float) -> Iterator[_T]:
        for line in self._transport.lines(target, timeout=timeout):
            yield decode(line, kind)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read an answer.

    :raises InternalError: it is not of this shape
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(
            f"The daemon's answer cannot be read as a {kind.__name__} ({error}): {data[:200]!r}",
            hint="If it is of another version, restart it: holdfast down && holdfast up",
        ) from error


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _silence(follow: bool) -> float:
    return STREAM_SILENCE if follow else ANSWER_TIMEOUT
