"""The messages of the exec-server protocol: JSON-RPC 2.0 without the ``jsonrpc`` member.

A request has ``id`` and ``method``, a notification has ``method`` alone, a response has ``id`` and ``result`` or
``error``.  Unknown members are ignored, as the reference implementation (Codex CLI 0.169) does.  Params and results
stay undecoded (:class:`msgspec.Raw`) until somebody knows their type.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from holdfast.errors import HoldfastError

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: Of our own: the server is about to end; what was asked for was not done, and may be asked of its successor.
STOPPING: Final = -32001
#: ``fs/*`` only: the named file does not exist.
NOT_FOUND: Final = -32004

#: The largest message that is accepted, in bytes; what the reference implementation accepts.
MESSAGE_LIMIT: Final = 64 * 1024 * 1024

#: Ids are signed 64-bit numbers or strings.
RequestId = int | str


class RpcError(HoldfastError):
    """A request was answered with an error; ``rpc_code`` is the protocol's number for it."""

    code = "rpc_error"

    def __init__(self, rpc_code: int, message: str) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code


class MalformedMessage(HoldfastError):
    """Bytes that are not a message of the protocol."""

    code = "malformed_message"


#: Stands for an absent member that would otherwise hold raw JSON.
ABSENT: Final = msgspec.Raw()


class ErrorBody(msgspec.Struct, frozen=True):
    """The ``error`` member of a response."""

    code: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    message: str
    # Not "or None": where nothing else is said, raw JSON is any JSON.
    data: msgspec.Raw = ABSENT


class Trace(msgspec.Struct, frozen=True):
    """W3C trace context; accepted and not used.  It may also be an array of the two in this order, or of fewer."""

    traceparent: str | None = None
    tracestate: str | None = None


class Message(msgspec.Struct, frozen=True):
    """Any message, as decoded; :func:`decode` has checked that its members make one of the four shapes."""

    id: RequestId | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = ABSENT
    result: msgspec.Raw = ABSENT
    # These mean something in a response and in a request only; in other messages they may be anything.
    error: msgspec.Raw = ABSENT
    trace: msgspec.Raw = ABSENT

    def failure(self) -> ErrorBody | None:
        """Of a response: the error that it tells."""
        return None if self.error is ABSENT else _decode_error(self.error)


_decoder = msgspec.json.Decoder(Message)
_decode_error = msgspec.json.Decoder(ErrorBody | None).decode
_TraceArray = Annotated[list[str | None], msgspec.Meta(max_length=2)]
_decode_trace = msgspec.json.Decoder(Trace | _TraceArray | None).decode
_encoder = msgspec.json.Encoder()
encode_json = _encoder.encode


def decode(data: bytes | bytearray | memoryview | str) -> Message:
    """Decode one message.

    :raises MalformedMessage: not JSON, not an object, or none of the four shapes
    """
    try:
        message = _decoder.decode(data)
        if message.method is msgspec.UNSET:
            if message.failure() is None and message.result is ABSENT:
                raise MalformedMessage("missing field `error`")
        elif message.id is not msgspec.UNSET and message.trace is not ABSENT:
            _decode_trace(message.trace)
    except msgspec.ValidationError as error:
        if str(error).startswith("Expected `object`"):
            raise MalformedMessage("expected a JSON-RPC object") from None
        raise MalformedMessage(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None
    identity = message.id
    if message.method is msgspec.UNSET and identity is msgspec.UNSET:
        raise MalformedMessage("missing field `id`")
    if identity is None:
        raise MalformedMessage("data did not match any variant of untagged enum RequestId")
    if isinstance(identity, int) and not -(2**63) <= identity < 2**63:
        raise MalformedMessage("data did not match any variant of untagged enum RequestId")
    return message


def encode_result(identity: RequestId, result: bytes) -> bytes:
    """A response; *result* is JSON already."""
    return b'{"id":%b,"result":%b}' % (b"%d" % identity if isinstance(identity, int) else encode_json(identity), result)


def encode_error(identity: RequestId, code: int, message: str) -> bytes:
    """An error response.  A message that could not be parsed is answered with id -1."""
    return encode_json({"error": {"code": code, "message": message}, "id": identity})


def encode_request(identity: RequestId, method: str, params: Any) -> bytes:
    """A request; *params* is anything that msgspec can encode."""
    return encode_json({"id": identity, "method": method, "params": params})


def encode_notification(method: str, params: Any) -> bytes:
    """A notification; *params* is anything that msgspec can encode."""
    return encode_json({"method": method, "params": params})
