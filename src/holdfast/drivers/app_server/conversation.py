"""Requests, answers, notifications and the server's own requests, over any :class:`.connection.Connection`.

Facts of the protocol (codex 0.142 to 0.169): JSON-RPC without its ``jsonrpc`` member; ``initialize`` comes first; the
server numbers its requests apart from ours; an unknown method is answered with code -32600, so codes tell little.
"""

from __future__ import annotations

import json
import os
import select
import time

from holdfast.drivers.app_server.connection import Connection, Dropped, Overlong, left, milliseconds
from holdfast.drivers.app_server.payload import is_object, member, text, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.drivers.app_server.payload import Json

    #: Gets every message that is no answer to a request of ours, and its bytes.
    Listener = Callable[[Json, bytes], None]

#: For an answer to a request that needs no model, seconds.  Measured: 1-15 ms, a thread's start up to 150 ms; a cold
#: or loaded machine takes longer, and a server that is silent for this long is taken for dead.
ANSWER_WITHIN = 20.0

#: Notifications that come often and say nothing that a later one does not say too.
OPTED_OUT = (
    "item/agentMessage/delta",
    "item/plan/delta",
    "item/commandExecution/outputDelta",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/textDelta",
    "item/mcpToolCall/progress",
    "command/exec/outputDelta",
    "process/outputDelta",
    "turn/diff/updated",
    "account/rateLimits/updated",
    "remoteControl/status/changed",
    "thread/readState/changed",
    "mcpServer/startupStatus/updated",
    "app/list/updated",
    "skills/changed",
)


class RpcError(Exception):
    """The server refused a request."""

    def __init__(self, method: str, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.method = method
        self.code = code
        self.message = message
        self.data = data or {}


class Unanswered(Dropped):
    """A request was not answered in time, although the connection stands."""


class Conversation:
    """One client's talk with a server."""

    def __init__(
        self,
        connection: Connection,
        listener: Listener,
        *,
        wakeup: int | None = None,
        answer_within: float = ANSWER_WITHIN,
    ) -> None:
        self._connection = connection
        self._listener = listener
        self._wakeup = wakeup
        self._answer_within = answer_within
        self._next_id = 1
        self._answers: dict[int, Json] = {}
        #: Requests whose answers nobody waits for.
        self._unawaited: set[int] = set()
        #: Those whose answers somebody takes when they come.
        self._takers: dict[int, Callable[[Json], None]] = {}
        #: Wait for no answer beyond this time on the monotonic clock: somebody wants us to come to an end.
        self.hurry: float | None = None
        #: When something was last heard, on the monotonic clock.
        self.heard_at = time.monotonic()
        self.user_agent = ""
        #: The server's home directory.
        self.home: str | None = None

    @property
    def connection(self) -> Connection:
        """What carries it."""
        return self._connection

    def open(self, version: str) -> None:
        """Introduce ourselves.

        :raises Dropped: there was no answer in time
        :raises RpcError: the server does not want us
        """
        answer = self.request(
            "initialize",
            {
                "clientInfo": {"name": "holdfast", "title": "Holdfast", "version": version},
                "capabilities": {"experimentalApi": True, "optOutNotificationMethods": list(OPTED_OUT)},
            },
        )
        self.user_agent = text(answer, "userAgent") or ""
        self.home = text(answer, "codexHome")
        self._send({"method": "initialized"})

    def request(self, method: str, params: Json, *, within: float | None = None) -> Json:
        """Ask, and wait for the answer; what else arrives meanwhile goes to the listener in its order.

        :raises RpcError: the server refused
        :raises Dropped: the connection was lost, or there was no answer within *within* seconds (as given at the start)
        """
        return self.answer_to(self.post(method, params, awaited=True), method, within=within)

    def answer_to(self, number: int, method: str, *, within: float | None = None) -> Json:
        """The answer to a request of this *number* and *method*, as :meth:`request` gives it.

        :raises RpcError: the server refused
        :raises Dropped: the connection was lost, or there was no answer within *within* seconds
        """
        deadline = time.monotonic() + (self._answer_within if within is None else within)
        while number not in self._answers:
            if self.hurry is not None:
                deadline = min(deadline, self.hurry)
            if left(deadline) == 0.0:
                raise Unanswered(f"the server did not answer {method} in time")
            self.wait(left(deadline))
        answer = self._answers.pop(number)
        if "error" in answer:
            error = member(answer, "error")
            said = text(error, "message") or "it gave no reason"
            raise RpcError(method, whole(error, "code"), said, member(error, "data"))
        return member(answer, "result")

    def post(self, method: str, params: Json, *, awaited: bool = False) -> int:
        """Send a request; unless *awaited*, its answer is thrown away when it comes."""
        number = self._next_id
        self._next_id += 1
        if not awaited:
            self._unawaited.add(number)
        self._send({"id": number, "method": method, "params": params})
        return number

    def ask(self, method: str, params: Json, taker: Callable[[Json], None]) -> None:
        """Send a request, and go on; *taker* gets the whole answer, or refusal, when it comes."""
        self._takers[self.post(method, params, awaited=True)] = taker

    def answer(self, request_id: object, result: Json) -> None:
        """Answer a request of the server."""
        self._send({"id": request_id, "result": result})

    def refuse(self, request_id: object, message: str) -> None:
        """Refuse a request of the server."""
        self._send({"id": request_id, "error": {"code": -32601, "message": message}})

    def wait(self, seconds: float, *, also: int | None = None) -> None:
        """Hear what there is; wait for it at most *seconds*, or until a signal came or *also* can be read.

        :raises Dropped: the connection was lost
        """
        poll = select.poll()
        for descriptor in (self._connection.fileno(), self._wakeup, also):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(milliseconds(seconds))}
        if self._wakeup is not None and self._wakeup in ready:
            os.read(self._wakeup, 64)
        if self._connection.fileno() in ready:
            self.hear()

    def hear(self) -> None:
        """Take in what has arrived; does not wait.

        :raises Dropped: the connection was lost
        """
        for raw in self._connection.receive():
            self.heard_at = time.monotonic()
            if isinstance(raw, Overlong):
                beginning = raw.beginning[:200].decode("utf-8", "replace")
                overlong = {"method": "holdfast/overlong", "params": {"beginning": beginning, "bytes": raw.length}}
                self._listener(overlong, b"")
                continue
            try:
                message: object = json.loads(raw)
            except ValueError:
                raise Dropped("the server sent something that is no JSON") from None
            if not is_object(message):
                raise Dropped("the server sent something that is no message")
            if "method" in message:
                self._listener(message, raw)
            elif (number := whole(message, "id")) in self._unawaited:
                self._unawaited.discard(number)
            elif (taker := self._takers.pop(number, None)) is not None:
                taker(message)
            else:
                self._answers[number] = message

    def close(self) -> None:
        """Leave; never fails."""
        self._connection.close()

    def _send(self, message: Json) -> None:
        self._connection.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
