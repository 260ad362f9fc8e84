"""HTTP over the daemon's Unix socket: one connection for each request, and errors as the daemon raised them."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

from holdfast.errors import HoldfastError, InternalError, InvalidRequest, NotFound, Unavailable
from holdfast.tasks.view import NotFinished

#: Seconds in which a daemon answers anything that does not wait by design.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds of silence on a followed stream after which the reader looks whether the daemon still answers.
STREAM_SILENCE: Final = 60.0

_CHUNK: Final = 65_536
#: A stream that fails on the way says so in its last line.
_ERROR_LINE: Final = b'{"error":'
_HINT_DOCTOR: Final = "Try again; if that does not help, run: holdfast doctor"
_T = TypeVar("_T")


class DaemonGone(Unavailable):
    """The daemon does not answer, or went away in the middle of an answer; the task itself is not affected."""

    code = "daemon_gone"


class StreamSilent(DaemonGone):
    """A followed stream said nothing for :data:`STREAM_SILENCE` seconds; ask again behind the last cursor."""

    code = "stream_silent"


class Transport:
    """The way to the daemon that listens on *socket_path*; used from several threads at a time."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._interrupted = False
        self._open: set[_UnixConnection] = set()

    def interrupt(self) -> None:
        """End every call that waits for an answer in another thread, and every later one, with :exc:`DaemonGone`."""
        self._interrupted = True
        for connection in self._open.copy():
            connection.interrupt()

    def lines(self, path: str, query: Mapping[str, object], kind: type[_T], timeout: float) -> Iterator[_T]:
        """The lines of a stream, each read as a *kind*.

        :raises StreamSilent: nothing came for *timeout* seconds
        """
        with self.response("GET", path, query=query, timeout=timeout) as response:
            rest = b""
            while chunk := response.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(_ERROR_LINE):
                        raise _rebuild(response.status, line)
                    if line:
                        yield decode(line, kind)
            if rest:
                raise DaemonGone("The daemon went away in the middle of a line.", hint=_HINT_DOCTOR)

    def call(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | None = None,
        *,
        query: Mapping[str, object] | None = None,
        timeout: float = ANSWER_TIMEOUT,
    ) -> bytes:
        """The whole answer to a request.

        :raises DaemonGone: none came within *timeout* seconds
        :raises HoldfastError: what the daemon answered, as the error that it raised
        """
        with self.response(method, path, body, query=query, timeout=timeout) as response:
            return response.read()

    @contextlib.contextmanager
    def response(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | None = None,
        *,
        query: Mapping[str, object] | None = None,
        timeout: float = ANSWER_TIMEOUT,
    ) -> Generator[http.client.HTTPResponse]:
        """An answer that has begun, to be read; it raises as :meth:`call` does."""
        connection = _UnixConnection(self._socket_path, timeout)
        answering = False
        try:
            headers = {"Connection": "close"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(
                method, _target(path, query or {}), None if body is None else msgspec.json.encode(body), headers
            )
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
                f"The daemon at {self._socket_path} does not answer ({_reason(error)}).", hint=_HINT_DOCTOR
            ) from error
        finally:
            self._open.discard(connection)
            connection.close()


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


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


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
