"""Registers ``http/request``.

Whoever can connect to the host can make it send requests anywhere, as with the reference implementation: a client may
also start any process, so this gives nothing away that is not given already.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pybase64 import b64encode

from holdfast.host.dispatch import ClientConnection
from holdfast.host.http.exchange import Answer, ExchangeFailed, exchange
from holdfast.host.http.request import HttpRequest, RedirectPolicy, Request, prepare
from holdfast.host.http.resolving import Resolver
from holdfast.host.methods import method
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_PARAMS, RpcError, encode_json

#: Redirects that are followed (the reference implementation's number).
REDIRECT_LIMIT: Final = 10
#: Bytes of a body that is not streamed; a larger one has to be.
BODY_LIMIT: Final = 32 * 1024 * 1024
#: Requests of one connection that may be under way at the same time.
ACTIVE_LIMIT: Final = 128

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class HttpRequests:
    """The requests of one connection that are under way."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.resolver = Resolver()
        #: The ids of those whose body is streamed; that of any other means nothing, and Codex's client may give several
        #: of them the same one (``buffered-request``).
        self._streams: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, params: HttpRequest) -> None:
        """Let *params* be one more.

        :raises RpcError: there are enough, or its body could be taken for that of another one
        """
        if params.stream_response and params.request_id in self._streams:
            problem = f"requestId `{params.request_id}` is already active"
            raise RpcError(INVALID_PARAMS, f"http/request streamResponse {problem}")
        if len(self._tasks) >= ACTIVE_LIMIT:
            raise RpcError(INVALID_PARAMS, f"at most {ACTIVE_LIMIT} http requests may be active per connection")

    def carry_on(self, params: HttpRequest, task: asyncio.Task[None]) -> None:
        """Keep a request going, also after its head was answered."""
        self._tasks.add(task)
        if params.stream_response:
            self._streams.add(params.request_id)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if params.stream_response:
                self._streams.discard(params.request_id)

        task.add_done_callback(ended)

    def close(self) -> None:
        """End everything that is under way."""
        for task in self._tasks:
            task.cancel()


@method("http/request", HttpRequest, "http")
async def http_request(client: ClientConnection, params: HttpRequest) -> bytes:
    """Send a request; answer with its head, and with its body or by notifications as it arrives."""
    request = prepare(params)
    requests = client.resource(HttpRequests, HttpRequests)
    requests.admit(params)
    head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    deltas = _Deltas(client, params.request_id)
    task = asyncio.create_task(_run(params, request, requests.resolver, head, deltas))
    requests.carry_on(params, task)
    try:
        # Ends with the task when that ends before there is an answer.
        await asyncio.wait((head, task), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not head.done():
        task.result()
    answer = await head
    # Whoever waits for this goes on after the present step, in which the reply is sent.
    deltas.replied.set()
    return answer


async def _run(
    params: HttpRequest, request: Request, resolver: Resolver, head: asyncio.Future[bytes], deltas: _Deltas
) -> None:
    """Everything of one request, within its time; a failure goes to whoever is waiting for it."""
    try:
        async with asyncio.timeout(None if params.timeout_ms is None else max(0, params.timeout_ms) / 1000):
            await _answer(params, request, resolver, head, deltas)
    except (ExchangeFailed, TimeoutError, RpcError) as error:
        text = "the time allowed is over" if isinstance(error, TimeoutError) else str(error)
        if head.done():
            await deltas.send(b"", done=True, error=text)
        else:
            kept = isinstance(error, RpcError)
            head.set_exception(error if kept else RpcError(INTERNAL_ERROR, f"http/request failed: {text}"))


async def _answer(
    params: HttpRequest, request: Request, resolver: Resolver, head: asyncio.Future[bytes], deltas: _Deltas
) -> None:
    for _ in range(REDIRECT_LIMIT + 1):
        async with exchange(request, resolver) as answer:
            location = answer.header("location")
            follow = params.redirect_policy is RedirectPolicy.FOLLOW and answer.status in _REDIRECTS
            following = request.redirected(answer.status, location) if follow and location is not None else None
            if following is None:
                await _deliver(answer, params, head, deltas)
                return
        request = following
    raise ExchangeFailed("too many redirects")


async def _deliver(answer: Answer, params: HttpRequest, head: asyncio.Future[bytes], deltas: _Deltas) -> None:
    if params.stream_response:
        head.set_result(_head(answer, b""))
        async for piece in answer.pieces():
            await deltas.send(piece)
        await deltas.send(b"", done=True)
        return
    body = bytearray()
    try:
        async for piece in answer.pieces():
            body += piece
            if len(body) > BODY_LIMIT:
                raise ExchangeFailed(f"the body is larger than {BODY_LIMIT} bytes; use streamResponse")
    except ExchangeFailed as error:
        raise RpcError(INTERNAL_ERROR, f"failed to read http/request response body: {error.message}") from error
    head.set_result(_head(answer, bytes(body)))


def _head(answer: Answer, body: bytes) -> bytes:
    """The result of the request; header values that are not ASCII are left out."""
    headers = [{"name": name, "value": value.decode()} for name, value in answer.headers if value.isascii()]
    return encode_json({"status": answer.status, "headers": headers, "bodyBase64": b64encode(body).decode()})


class _Deltas:
    """The body of one answer on its way to the client, no faster than the client reads."""

    def __init__(self, client: ClientConnection, request_id: str) -> None:
        self._client = client
        self._request_id = request_id
        self._seq = 0
        #: Set when the head has been answered: no part of the body goes before it.
        self.replied = asyncio.Event()

    async def send(self, data: bytes, *, done: bool = False, error: str | None = None) -> None:
        """Send the next notification."""
        await self.replied.wait()
        await self._client.room()
        self._seq += 1
        params: dict[str, Any] = {
            "requestId": self._request_id,
            "seq": self._seq,
            "deltaBase64": b64encode(data).decode(),
            "done": done,
            "error": error,
        }
        self._client.connection.send(encode_json({"method": "http/request/bodyDelta", "params": params}))
