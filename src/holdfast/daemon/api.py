"""The HTTP API of the daemon (docs/http-api.md): a thin translation between requests and services."""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

import holdfast
from holdfast.clock import isoformat, monotonic
from holdfast.daemon.runtime import Runtime
from holdfast.errors import HoldfastError, InvalidRequest, NotFound, Unavailable
from holdfast.host.port import Gap, HostUnavailable, Record
from holdfast.tasks.account_report import TransferRequest, UsageRequest
from holdfast.tasks.collected import CollectionRequest
from holdfast.tasks.request import TaskRequest

logger: Final = logging.getLogger(__name__)

#: A request's body: the largest prompt in base64, an environment, and room.
MAX_BODY_BYTES: Final = 96 << 20
#: Longest time that one ``wait`` holds a connection, seconds.
MAX_WAIT: Final = 60.0
_CONFLICTS: Final = frozenset({"not_finished", "ambiguous", "conflict", "cursor_expired", "thread_busy", "not_at_work"})


class NewTask(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/tasks``."""

    request: TaskRequest
    prompt_base64: str
    environment: dict[str, str]


class Steering(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/tasks/{id}/steer``."""

    text: str
    #: Sent again under the same id it is not said again.
    command_id: str | None = None


class Decision(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/tasks/{id}/decide``."""

    #: ``accept``, ``accept_for_session``, ``decline`` or ``cancel``.
    decision: str
    request_id: str | None = None
    command_id: str | None = None


class Shutdown(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/shutdown``."""

    cancel: bool = False


_N = TypeVar("_N", int, float)
_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes over one runtime."""

    def __init__(self, runtime: Runtime, stop: Callable[[], None], *, in_process: bool) -> None:
        """*stop* makes the server end after the answer that is being given."""
        self._runtime = runtime
        self._stop = stop
        self._in_process = in_process

    def application(self) -> Starlette:
        """The ASGI application."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/status", self._status),
            ("POST", "/v1/tasks", self._accept),
            ("GET", "/v1/tasks", self._list),
            ("GET", "/v1/tasks/{id}", self._view),
            ("GET", "/v1/tasks/{id}/wait", self._wait),
            ("GET", "/v1/tasks/{id}/result", self._result),
            ("GET", "/v1/tasks/{id}/message", self._message),
            ("POST", "/v1/tasks/{id}/cancel", self._cancel),
            ("POST", "/v1/tasks/{id}/steer", self._steer),
            ("POST", "/v1/tasks/{id}/decide", self._decide),
            ("GET", "/v1/tasks/{id}/progress", self._progress),
            ("GET", "/v1/tasks/{id}/log", self._log),
            ("GET", "/v1/changes", self._changes),
            ("POST", "/v1/gc", self._collect),
            ("POST", "/v1/usage", self._usage),
            ("POST", "/v1/transfer", self._transfer),
            ("POST", "/v1/shutdown", self._shutdown),
        ]
        return Starlette(
            routes=[Route(path, self._guarded(handler), methods=[method]) for method, path, handler in routes]
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            self._runtime.last_asked = monotonic()
            try:
                return await handler(request)
            except HoldfastError as error:
                return _json(_status_of(error), {"error": _error(error)})
            except Exception as error:
                logger.exception("%s %s", request.method, request.url.path)
                message = f"The daemon failed: {type(error).__name__}: {error}"
                hint = f"The whole trace is in {self._runtime.directory / 'daemon.log'}."
                return _json(500, {"error": {"code": "internal", "message": message, "hint": hint}})

        return answer

    async def _status(self, request: Request) -> Response:
        total, active = await self._runtime.tasks.counts()
        host = {"url": self._runtime.local_host.url}
        return _json(
            200,
            {
                "version": holdfast.__version__,
                "pid": os.getpid(),
                "started": isoformat(self._runtime.started_at),
                "state_directory": str(self._runtime.directory),
                "host": host,
                "tasks": {"total": total, "active": active},
                "in_process": self._in_process,
            },
        )

    async def _accept(self, request: Request) -> Response:
        new = await _body(request, NewTask)
        try:
            prompt = base64.b64decode(new.prompt_base64, validate=True)
        except binascii.Error as error:
            raise InvalidRequest(f"prompt_base64 is not base64: {error}.", hint="Encode the prompt's bytes.") from error
        view, created = await self._runtime.tasks.accept(new.request, prompt, new.environment)
        return _json(201 if created else 200, view)

    async def _list(self, request: Request) -> Response:
        active_only, tags = _flag(request, "active"), _tags(request)
        limit = _number(request, "limit", 100, 1, 10_000)
        views = await self._runtime.tasks.list(active_only=active_only, limit=limit, tags=tags)
        answer: dict[str, object] = {"tasks": views}
        if not tags:
            total, active = await self._runtime.tasks.counts()
            answer["total"] = active if active_only else total
        return _json(200, answer)

    async def _view(self, request: Request) -> Response:
        return _json(200, await self._named(request, self._runtime.tasks.view))

    async def _wait(self, request: Request) -> Response:
        timeout = _number(request, "timeout_s", MAX_WAIT, 0.0, MAX_WAIT)
        return _json(200, await self._runtime.tasks.wait(await self._id(request), timeout))

    async def _result(self, request: Request) -> Response:
        return _json(200, await self._named(request, self._runtime.tasks.result))

    async def _message(self, request: Request) -> Response:
        path, result = await self._runtime.tasks.message(await self._id(request))
        headers = {"X-Holdfast-Sha256": result.message.sha256 or "", "X-Holdfast-Bytes": str(result.message.bytes)}
        if path is None:
            return Response(b"", media_type="application/octet-stream", headers=headers)
        if "offset" not in request.query_params and "limit" not in request.query_params:
            return FileResponse(path, media_type="application/octet-stream", headers=headers)
        offset = _number(request, "offset", 0, 0, 1 << 62)
        limit = _number(request, "limit", 1 << 62, 0, 1 << 62)
        return StreamingResponse(
            _slice(str(path), offset, limit), media_type="application/octet-stream", headers=headers
        )

    async def _cancel(self, request: Request) -> Response:
        return _json(200, await self._runtime.tasks.cancel(await self._id(request)))

    async def _steer(self, request: Request) -> Response:
        said, task_id = await _body(request, Steering), await self._id(request)
        await self._runtime.tasks.conversation.steer(task_id, said.text, said.command_id)
        return _json(200, await self._runtime.tasks.view(task_id))

    async def _decide(self, request: Request) -> Response:
        said, task_id = await _body(request, Decision), await self._id(request)
        await self._runtime.tasks.conversation.decide(task_id, said.decision, said.request_id, said.command_id)
        return _json(200, await self._runtime.tasks.view(task_id))

    async def _progress(self, request: Request) -> Response:
        after = request.query_params.get("after")
        lines = self._runtime.tasks.progress(await self._id(request), after, follow=_flag(request, "follow"))
        return await _stream(lines)

    async def _log(self, request: Request) -> Response:
        attempt = _number(request, "attempt", 0, 0, 1 << 30)
        records = self._runtime.tasks.log(
            await self._id(request),
            attempt=attempt or None,
            after=_number(request, "after", 0, 0, 1 << 62),
            follow=_flag(request, "follow"),
        )
        return await _stream(_log_lines(records))

    async def _changes(self, request: Request) -> Response:
        feed = self._runtime.store.feed
        after = _number(request, "after", 0, 0, 1 << 62)
        # An expired cursor is an error of the request, not of the stream.
        await feed.changes(after, 1)
        if _flag(request, "follow"):
            return await _stream(feed.follow(after))
        return await _stream(_all_changes(self._runtime, after))

    async def _usage(self, request: Request) -> Response:
        asked = await _body(request, UsageRequest)
        return _json(200, await self._runtime.tasks.accounts.usage(asked.seconds, asked.agents, asked.environment))

    async def _transfer(self, request: Request) -> Response:
        asked = await _body(request, TransferRequest)
        return _json(200, await self._runtime.tasks.accounts.transfer(asked.source, asked.cwd, asked.environment))

    async def _collect(self, request: Request) -> Response:
        return _json(200, await self._runtime.tasks.collect(await _body(request, CollectionRequest)))

    async def _shutdown(self, request: Request) -> Response:
        wanted = await _body(request, Shutdown)
        active = await self._runtime.tasks.list(active_only=True, limit=10_000)
        if wanted.cancel:
            for view in active:
                await self._runtime.tasks.cancel(view.id)
            for view in active:
                while (await self._runtime.tasks.wait(view.id, MAX_WAIT)).status is None:
                    pass
        host_error: dict[str, str | int | None] | None = None
        try:
            await self._runtime.local_host.host()
        except HostUnavailable as error:
            host_error = _error(error)
        self._stop()
        return _json(202, {"stopping": True, "active": 0 if wanted.cancel else len(active), "host_error": host_error})

    async def _named(self, request: Request, ask: Callable[[str], Awaitable[_T]]) -> _T:
        """What *ask* says of the task that the request names; most name it whole, which saves a question."""
        named: str = request.path_params["id"]
        try:
            return await ask(named)
        except NotFound:
            return await ask(await self._runtime.tasks.resolve(named))

    async def _id(self, request: Request) -> str:
        return await self._runtime.tasks.resolve(request.path_params["id"])


async def _body(request: Request, kind: type[Any]) -> Any:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise InvalidRequest(f"The request is larger than {MAX_BODY_BYTES} bytes.", hint="Send less at once.")
        parts.append(part)
    try:
        return msgspec.json.decode(b"".join(parts), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request cannot be read: {error}.", hint="See docs/http-api.md.") from error


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "0") not in ("0", "", "false")


def _tags(request: Request) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in request.query_params.getlist("tag"):
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"tag={text!r} is no NAME=VALUE.", hint="See docs/http-api.md.")
        tags[name] = value
    return tags


def _number(request: Request, name: str, default: _N, low: _N, high: _N) -> _N:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = type(default)(text)
    except ValueError:
        raise InvalidRequest(f"{name}={text!r} is not a number.", hint="See docs/http-api.md.") from None
    if not low <= value <= high:
        raise InvalidRequest(f"{name}={text} is not between {low} and {high}.", hint="See docs/http-api.md.")
    return value


def _json(status: int, document: object) -> Response:
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")


def _error(error: HoldfastError) -> dict[str, str | int | None]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _status_of(error: HoldfastError) -> int:
    if isinstance(error, NotFound):
        return 404
    if error.code in _CONFLICTS:
        return 409
    if isinstance(error, InvalidRequest):
        return 400
    if isinstance(error, Unavailable):
        return 503
    return 500


async def _stream(lines: AsyncGenerator[Any, None]) -> Response:
    """Answer with *lines* as newline-delimited JSON; an error on the way becomes the last line."""

    async def encode() -> AsyncIterator[bytes]:
        try:
            async for line in lines:
                yield msgspec.json.encode(line) + b"\n"
        except HoldfastError as error:
            yield msgspec.json.encode({"error": _error(error)}) + b"\n"
        finally:
            await lines.aclose()

    return StreamingResponse(encode(), media_type="application/x-ndjson")


async def _log_lines(records: AsyncGenerator[tuple[int, Record | Gap], None]) -> AsyncGenerator[dict[str, Any], None]:
    async for attempt, record in records:
        yield {"attempt": attempt, **record.document()}


async def _all_changes(runtime: Runtime, after: int) -> AsyncGenerator[Any, None]:
    while batch := await runtime.store.feed.changes(after):
        for change in batch:
            yield change
            after = change.seq


async def _slice(path: str, offset: int, limit: int) -> AsyncIterator[bytes]:
    with open(path, "rb") as file:  # noqa: ASYNC230 - a regular file of ours, read in bounded pieces
        file.seek(offset)
        while limit > 0 and (chunk := file.read(min(limit, 1 << 18))):
            limit -= len(chunk)
            yield chunk
