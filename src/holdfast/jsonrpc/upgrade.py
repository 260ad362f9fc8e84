"""The opening handshake of WebSocket (RFC 6455, section 4), and the few other requests that its server answers.

A head is read whole, bounded in size and time, before anything is decided on it; what is not understood is refused.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, cast

#: Bytes of a head without its end, and seconds that a client has to send it.
HEAD_LIMIT: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
HEAD_WITHIN: Final = 10.0
#: Clients of one server that may be at it at the same time: who is not admitted yet must not use up the descriptors of
#: those who are.
UNFINISHED: Final = 256
_VERSION: Final = "13"
_KEY_SIZE: Final = 16
#: Names of methods and headers; and a whole header, whose value has no control characters but tabs.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER: Final = re.compile(rf"({_TOKEN.pattern}):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: What can be said of where the body of a request ends.
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_CHUNKED: Final = re.compile(r"(^|,)[ \t]*chunked$", re.IGNORECASE)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """The other side's half of the handshake is not acceptable."""


class Unauthorized(Refused):
    """It wants to know who asks: there was no token, or not the right one."""


class Answer(NamedTuple):
    """An answer that ends the connection."""

    status: HTTPStatus
    body: str = ""
    #: A header that belongs to it, and the end of its line.
    header: str = ""

    def encode(self) -> bytes:
        """As it goes over the wire."""
        body = self.body.encode()
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{self.header}"
            f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + body


#: Decides on the headers (names in lower case) of a request for an upgrade: a protocol that takes over, or an answer.
Admit = Callable[[Mapping[str, str]], asyncio.Protocol | Answer]
#: Decides on path and headers: who admits to an upgrade there, or an answer.
Decide = Callable[[str, Mapping[str, str]], Admit | Answer]


class _Handshake(asyncio.Protocol):
    """Reads the other side's head, and lets another protocol take over what comes after it."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._head_size = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._received += data
        end = self._received.find(_END, 0, HEAD_LIMIT + len(_END))
        if end >= 0:
            self._head_size = end + len(_END)
            self._head_received(transport, bytes(self._received[:end]))
        elif len(self._received) >= HEAD_LIMIT + len(_END):
            self._head_too_long(transport)

    def _head_received(self, transport: asyncio.Transport, head: bytes) -> None:
        """It is complete, but for the empty line at its end."""
        raise NotImplementedError

    def _head_too_long(self, transport: asyncio.Transport) -> None:
        raise NotImplementedError

    def _hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest := bytes(self._received[self._head_size :]):
            protocol.data_received(rest)


class UpgradeServer(_Handshake):
    """Reads one request, and hands the connection over or answers it and hangs up."""

    def __init__(self, decide: Decide, unfinished: dict[UpgradeServer, None]) -> None:
        """:param unfinished: all of one listener that are at it, the oldest first"""
        super().__init__()
        self._decide = decide
        self._unfinished = unfinished
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = asyncio.get_running_loop().call_later(HEAD_WITHIN, self._give_up)
        self._unfinished[self] = None
        if len(self._unfinished) > UNFINISHED:
            # Not this one: it may be somebody who knows what to say.
            next(iter(self._unfinished))._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _give_up(self) -> None:
        self._finish()
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        self._unfinished.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def _head_received(self, transport: asyncio.Transport, head: bytes) -> None:
        self._finish()
        outcome = self._judge(head)
        if isinstance(outcome, Answer):
            self._answer(transport, outcome)
            return
        protocol, switch = outcome
        transport.write(switch)
        self._hand_over(transport, protocol)

    def _head_too_long(self, transport: asyncio.Transport) -> None:
        self._answer(transport, Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))

    def _answer(self, transport: asyncio.Transport, answer: Answer) -> None:
        transport.write(answer.encode())
        transport.close()

    def _judge(self, head: bytes) -> Answer | tuple[asyncio.Protocol, bytes]:
        try:
            method, target, headers = _parse_request(head)
        except ValueError:
            return Answer(HTTPStatus.BAD_REQUEST)
        admit = self._decide(target.split("?", 1)[0], headers)
        if isinstance(admit, Answer):
            # What can be had is there to be read; what cannot, is not there for any method.
            outcome = _ONLY_READ if admit.status is HTTPStatus.OK and method not in ("GET", "HEAD") else admit
        else:
            outcome = _refusal(method, headers) or admit(headers)
        if isinstance(outcome, Answer):
            return outcome._replace(body="") if method == "HEAD" else outcome
        switch = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {_accept(headers['sec-websocket-key'])}\r\n\r\n"
        )
        return outcome, switch.encode("ascii")


_ONLY_READ: Final = Answer(HTTPStatus.METHOD_NOT_ALLOWED, header="Allow: GET,HEAD\r\n")


def _refusal(method: str, headers: Mapping[str, str]) -> Answer | None:
    """Why a request is none for an upgrade, in the words of the reference implementation; None if it is one."""
    if method != "GET":
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "Request method must be `GET`", "Allow: GET\r\n")
    if not _has(headers, "connection", "upgrade"):
        return Answer(HTTPStatus.BAD_REQUEST, "Connection header did not include 'upgrade'")
    if not _has(headers, "upgrade", "websocket"):
        return Answer(HTTPStatus.BAD_REQUEST, "`Upgrade` header did not include 'websocket'")
    if headers.get("sec-websocket-version") != _VERSION:
        return Answer(
            HTTPStatus.UPGRADE_REQUIRED,
            f"`Sec-WebSocket-Version` header did not include '{_VERSION}'",
            f"Sec-WebSocket-Version: {_VERSION}\r\n",
        )
    key = headers.get("sec-websocket-key")
    if key is None:
        return Answer(HTTPStatus.BAD_REQUEST, "`Sec-WebSocket-Key` header missing")
    try:
        size = len(binascii.a2b_base64(key, strict_mode=True))
    except ValueError:
        size = 0
    if size != _KEY_SIZE:
        return Answer(HTTPStatus.BAD_REQUEST, f"`Sec-WebSocket-Key` header is not {_KEY_SIZE} bytes in base64")
    return None


class UpgradeClient(_Handshake):
    """The other half: asks, and hands the connection over to *protocol* if the answer is the right one."""

    def __init__(self, host: str, target: str, protocol: asyncio.Protocol, *, token: str | None) -> None:
        super().__init__()
        self._key = b64encode(os.urandom(_KEY_SIZE)).decode()
        self._protocol = protocol
        authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self._key}\r\nSec-WebSocket-Version: {_VERSION}\r\n{authorization}\r\n"
        )
        self._request = request.encode("ascii")
        #: Done when the protocol has taken over; or :exc:`Refused`.
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(Refused(f"it hung up: {exc}" if exc else "it hung up"))

    def _head_received(self, transport: asyncio.Transport, head: bytes) -> None:
        if self.done.done():
            return
        try:
            self._check(head)
        except Refused as refusal:
            self.done.set_exception(refusal)
            return
        self.done.set_result(None)
        self._hand_over(transport, self._protocol)

    def _head_too_long(self, transport: asyncio.Transport) -> None:
        if not self.done.done():
            self.done.set_exception(Refused("its answer is too long"))

    def _check(self, head: bytes) -> None:
        status, _, rest = head.partition(b"\r\n")
        words = status.decode("latin-1").split(" ", 2)
        if len(words) < 2 or words[0] != "HTTP/1.1":
            raise Refused("what answers there does not speak HTTP/1.1")
        if words[1] != "101":
            raise (Unauthorized if words[1] == "401" else Refused)(f"HTTP status {' '.join(words[1:])}")
        try:
            headers = _parse_headers(rest)
        except ValueError:
            raise Refused("its headers are malformed") from None
        if (
            not _has(headers, "upgrade", "websocket")
            or not _has(headers, "connection", "upgrade")
            or headers.get("sec-websocket-accept") != _accept(self._key)
        ):
            raise Refused("its half of the handshake is wrong")


def _accept(key: str) -> str:
    import hashlib

    return b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode()


def _has(headers: Mapping[str, str], name: str, word: str) -> bool:
    return word in (part.strip() for part in headers.get(name, "").lower().split(","))


def _parse_request(head: bytes) -> tuple[str, str, dict[str, str]]:
    line, _, rest = head.partition(b"\r\n")
    method, target, version = line.decode("ascii").split(" ")
    if version != "HTTP/1.1" or not target.startswith("/") or not _TOKEN.fullmatch(method):
        raise ValueError("not an HTTP/1.1 request")
    headers = _parse_headers(rest)
    if "host" not in headers:
        raise ValueError("HTTP/1.1 wants a Host")
    if not _LENGTH.fullmatch(headers.get("content-length", "0")) or not _CHUNKED.search(
        headers.get("transfer-encoding", "chunked")
    ):
        raise ValueError("nobody knows where the request ends")
    return method, target, headers


def _parse_headers(lines: bytes) -> dict[str, str]:
    """The headers by their names in lower case; the values of one that comes twice are joined, as HTTP has it."""
    headers: dict[str, str] = {}
    for line in lines.split(b"\r\n") if lines else ():
        found = _HEADER.fullmatch(line.decode("latin-1"))
        if found is None:
            raise ValueError("malformed header")
        name, value = found[1].lower(), found[2].strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
