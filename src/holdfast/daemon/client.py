"""The local HTTP API (docs/http-api.md) from the client's side: synchronous, typed, over the daemon's Unix socket.

Each call is a connection of its own, so a call that was interrupted leaves nothing behind, and every call but
:meth:`DaemonClient.shutdown` may be sent again after a lost answer.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from holdfast.directories import socket_path
from holdfast.errors import HoldfastError, InternalError, InvalidRequest, NotFound, Unavailable
from holdfast.tasks.collected import Collected, CollectionRequest
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import Result
from holdfast.tasks.view import NotFinished, Progress, TaskView

#: Seconds in which a daemon answers anything that does not wait by design.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds of silence on a followed stream after which the reader looks whether the daemon still answers.
STREAM_SILENCE: Final = 60.0
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

_CHUNK: Final = 65_536
_SOCKET_NAME: Final = "daemon.sock"
_T = TypeVar("_T")


def daemon_socket(directory: Path) -> Path:
    """Where the daemon of the state directory *directory* listens."""
    return socket_path(directory, _SOCKET_NAME)


class DaemonGone(Unavailable):
    """The daemon does not answer, or went away in the middle of an answer; the task itself is not affected."""

    code = "daemon_gone"


class StreamSilent(DaemonGone):
    """A followed stream said nothing for :data:`STREAM_SILENCE` seconds; ask again behind the last cursor."""

    code = "stream_silent"


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


class Stopping(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``shutdown``: how many tasks were active (they go on in their hosts unless cancelled)."""

    stopping: bool
    active: int


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


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    hint: str | None = None
    exit_code: int | None = None


class _ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    error: _ErrorBody


def _known_errors() -> dict[str, type[HoldfastError]]:
    # Imported here: only a mistake needs them, and every command pays for what is imported above.
    from holdfast.agents.adapter import AgentMissing, UnknownAgent, UnsupportedOption
    from holdfast.host.port import HostUnavailable, StartRefused

    errors = (
        AgentMissing,
        HostUnavailable,
        InternalError,
        InvalidRequest,
        NotFinished,
        NotFound,
        StartRefused,
        Unavailable,
        UnknownAgent,
        UnsupportedOption,
    )
    return {error.code: error for error in errors}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket whose other end runs as the same user (or as root)."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("holdfast", timeout=timeout)
        self._path = path
        #: Ours to keep: a response that ends with the connection takes ``sock`` over.
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(self._path))
            _check_peer(connection, self._path)
        except BaseException:
            connection.close()
            raise
        self.sock = self._socket = connection

    def interrupt(self) -> None:
        """Let whoever reads here see the end of the stream; closing would not wake them."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


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
        self._interrupted = False
        self._open: set[_UnixConnection] = set()

    def interrupt(self) -> None:
        """End every call that waits for an answer in another thread, and every later one, with :exc:`DaemonGone`."""
        self._interrupted = True
        for connection in self._open.copy():
            connection.interrupt()

    def close(self) -> None:
        """Let go of the daemon; one that is a part of this process is stopped."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    # --- asking and answering -------------------------------------------------------------------------------------

    def status(self, *, timeout: float = ANSWER_TIMEOUT) -> DaemonStatus:
        """What the daemon says of itself."""
        return self._decode(self._call("GET", "/v1/status", timeout=timeout), DaemonStatus)

    def create(self, request: TaskRequest, prompt: bytes, environment: Mapping[str, str]) -> TaskView:
        """Hand over a task; sending the same one twice is the same as sending it once.

        :raises InvalidRequest: it was refused, and nothing was started
        """
        body = _Creation(
            request=request, prompt_base64=base64.b64encode(prompt).decode("ascii"), environment=dict(environment)
        )
        return self._decode(self._call("POST", "/v1/tasks", body), TaskView)

    def tasks(
        self, *, active: bool = False, limit: int | None = None, timeout: float = ANSWER_TIMEOUT
    ) -> list[TaskView]:
        """Tasks, newest first."""
        query = {"active": "1" if active else None, "limit": limit}
        return self._decode(self._call("GET", "/v1/tasks", query=query, timeout=timeout), _TaskList).tasks

    def task(self, task_id: str) -> TaskView:
        """One task; *task_id* may be any unique prefix of an id, here and everywhere else.

        :raises NotFound: there is none
        """
        return self._decode(self._call("GET", _task_path(task_id)), TaskView)

    def wait(self, task_id: str, timeout: float = WAIT_BOUND) -> TaskView:
        """The task as soon as it is finished, or as it is after *timeout* seconds."""
        answer = self._call(
            "GET",
            _task_path(task_id, "wait"),
            query={"timeout_s": f"{min(timeout, WAIT_BOUND):g}"},
            timeout=timeout + ANSWER_TIMEOUT,
        )
        return self._decode(answer, TaskView)

    def result(self, task_id: str) -> Result:
        """How the task ended.

        :raises NotFinished: it has not
        """
        return self.decode_result(self.result_document(task_id))

    def result_document(self, task_id: str) -> bytes:
        """The result as the daemon encodes it: one JSON document on one line, whatever version wrote it."""
        return self._call("GET", _task_path(task_id, "result"))

    @classmethod
    def decode_result(cls, document: bytes) -> Result:
        """Read what :meth:`result_document` gave."""
        return cls._decode(document, Result)

    def cancel(self, task_id: str, *, timeout: float = ANSWER_TIMEOUT) -> TaskView:
        """Ask for the end of a task; a finished one stays as it is."""
        return self._decode(self._call("POST", _task_path(task_id, "cancel"), timeout=timeout), TaskView)

    def usage(self, seconds: float, agents: list[str], environment: Mapping[str, str]) -> UsageReport:
        """What tasks used within the last *seconds*, and what *agents* say of their allowance."""
        from holdfast.tasks.account_report import UsageReport, UsageRequest

        body = UsageRequest(seconds=seconds, agents=agents, environment=dict(environment))
        return self._decode(self._call("POST", "/v1/usage", body, timeout=ACCOUNT_TIMEOUT), UsageReport)

    def transfer(self, source: str, cwd: str, environment: Mapping[str, str]) -> Transferred:
        """Make a Codex thread of a transcript of Claude Code's; asked again, it is made again.

        :raises InvalidRequest: it is no transcript, or Codex cannot be asked
        """
        from holdfast.tasks.account_report import Transferred, TransferRequest

        body = TransferRequest(source=source, cwd=cwd, environment=dict(environment))
        return self._decode(self._call("POST", "/v1/transfer", body, timeout=ACCOUNT_TIMEOUT), Transferred)

    def collect(self, request: CollectionRequest) -> Collected:
        """Delete finished tasks that *request* lets go, with all that was kept for them; repeating it is harmless."""
        return self._decode(self._call("POST", "/v1/gc", request, timeout=COLLECT_TIMEOUT), Collected)

    def steer(self, task_id: str, text: str) -> TaskView:
        """Say *text* to a task at work; returns when its agent has accepted it.

        :raises InvalidRequest: the task is not at work, its agent takes nothing, or it refused
        :raises HoldfastError: (``command_uncertain``) it was sent, and no confirmation came
        """
        # Named here, so that a lost answer is asked for again and nothing is said twice.
        body = _Steering(text=text, command_id=os.urandom(8).hex())
        return self._decode(self._call("POST", _task_path(task_id, "steer"), body, timeout=COMMAND_TIMEOUT), TaskView)

    def decide(self, task_id: str, decision: str, request_id: str | None = None) -> TaskView:
        """Answer what a task's agent asks: ``accept``, ``accept_for_session``, ``decline`` or ``cancel``."""
        body = _Decision(decision=decision, request_id=request_id, command_id=os.urandom(8).hex())
        return self._decode(self._call("POST", _task_path(task_id, "decide"), body, timeout=COMMAND_TIMEOUT), TaskView)

    def shutdown(self, *, cancel: bool = False) -> Stopping:
        """Stop the daemon; with *cancel* the active tasks are ended first, and the answer comes when they have."""
        timeout = CANCEL_TIMEOUT if cancel else ANSWER_TIMEOUT
        return self._decode(self._call("POST", "/v1/shutdown", _Shutdown(cancel=cancel), timeout=timeout), Stopping)

    # --- streams --------------------------------------------------------------------------------------------------

    def message(self, task_id: str, *, offset: int | None = None, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of the answer, or of the range of it that is asked for, in chunks."""
        path = _target(_task_path(task_id, "message"), {"offset": offset, "limit": limit})
        with self._response("GET", path, timeout=ANSWER_TIMEOUT) as response:
            while chunk := response.read(_CHUNK):
                yield chunk

    def progress(
        self, task_id: str, *, after: str | None = None, follow: bool = True, silence: float = STREAM_SILENCE
    ) -> Iterator[Progress]:
        """What the task did behind the cursor *after*; with *follow* until it is finished.

        :raises StreamSilent: nothing came for *silence* seconds
        """
        query = {"after": after, "follow": "1" if follow else None}
        return self._lines(_task_path(task_id, "progress"), query, Progress, silence if follow else ANSWER_TIMEOUT)

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
        return self._lines(_task_path(task_id, "log"), query, LogEntry, _silence(follow))

    def changes(self, *, after: int = 0, follow: bool = False) -> Iterator[Change]:
        """The change feed behind *after*."""
        return self._lines("/v1/changes", {"after": after, "follow": "1" if follow else None}, Change, _silence(follow))

    # --- the wire -------------------------------------------------------------------------------------------------

    def _lines(self, path: str, query: Mapping[str, object], kind: type[_T], timeout: float) -> Iterator[_T]:
        with self._response("GET", _target(path, query), timeout=timeout) as response:
            rest = b""
            while chunk := response.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(_ERROR_LINE):
                        raise _rebuild(response.status, line)
                    if line:
                        yield self._decode(line, kind)
            if rest:
                raise DaemonGone("The daemon went away in the middle of a line.", hint=_HINT_DOCTOR)

    def _call(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | None = None,
        *,
        query: Mapping[str, object] | None = None,
        timeout: float = ANSWER_TIMEOUT,
    ) -> bytes:
        with self._response(method, _target(path, query or {}), body, timeout=timeout) as response:
            return response.read()

    @contextlib.contextmanager
    def _response(
        self, method: str, target: str, body: msgspec.Struct | None = None, *, timeout: float
    ) -> Generator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.socket_path, timeout)
        answering = False
        try:
            headers = {"Connection": "close"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, target, None if body is None else msgspec.json.encode(body), headers)
            self._open.add(connection)
            if self._interrupted:
                raise ConnectionAbortedError("interrupted")
            response = connection.getresponse()
            if response.status >= 400:
                raise _rebuild(response.status, response.read())
            answering = True
            yield response
        except TimeoutError as error:
            if answering:
                raise StreamSilent(f"The daemon said nothing for {timeout:g} seconds.", hint=_HINT_DOCTOR) from error
            raise DaemonGone(f"The daemon did not answer within {timeout:g} seconds.", hint=_HINT_DOCTOR) from error
        except (http.client.HTTPException, OSError) as error:
            raise DaemonGone(
                f"The daemon at {self.socket_path} does not answer ({_reason(error)}).", hint=_HINT_DOCTOR
            ) from error
        finally:
            self._open.discard(connection)
            connection.close()

    @staticmethod
    def _decode(data: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InternalError(
                f"The daemon's answer cannot be read as a {kind.__name__} ({error}): {data[:200]!r}",
                hint="If it is of another version, restart it: holdfast down && holdfast up",
            ) from error


#: A stream that fails on the way says so in its last line.
_ERROR_LINE: Final = b'{"error":'
_HINT_DOCTOR: Final = "Try again; if that does not help, run: holdfast doctor"


def _task_path(task_id: str, verb: str | None = None) -> str:
    path = f"/v1/tasks/{quote(task_id, safe='')}"
    return path if verb is None else f"{path}/{verb}"


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _silence(follow: bool) -> float:
    return STREAM_SILENCE if follow else ANSWER_TIMEOUT


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _rebuild(status: int, body: bytes) -> HoldfastError:
    """Make the error that the daemon raised from its error object; unknown codes keep their name."""
    try:
        error = msgspec.json.decode(body, type=_ErrorAnswer).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return InternalError(f"The daemon answered {status}: {body[:200]!r}", hint=_HINT_DOCTOR)
    kind = _known_errors().get(error.code)
    if kind is None:
        base = Unavailable if status == 503 else InvalidRequest if 400 <= status < 500 else InternalError
        exit_code = base.exit_code if error.exit_code is None else error.exit_code
        kind = type(base.__name__, (base,), {"code": error.code, "exit_code": exit_code, "__doc__": base.__doc__})
    return kind(error.message, hint=error.hint)


def _check_peer(connection: socket.socket, path: Path) -> None:
    """Refuse a socket that another user answers on: prompts and environments are not for them."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid()):
        raise InvalidRequest(
            f"The daemon at {path} belongs to user {uid}, not to you.",
            hint="Set HOLDFAST_STATE_DIR to a directory of your own.",
        )
