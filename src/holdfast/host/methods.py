"""The table of methods: what each is called, what its params are, and who answers it."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from holdfast.jsonrpc.messages import ABSENT, INVALID_PARAMS, RpcError

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection


_T = TypeVar("_T")


class Deferred(abc.ABC):
    """A reply that comes with an event: what only waits needs no task."""

    @abc.abstractmethod
    def begin(self, answer: Callable[[Callable[[], bytes]], None]) -> None:
        """Give *answer*, once and some time, what makes the result."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Nobody waits for it any more."""


#: JSON, or what will be JSON.
Reply = bytes | Awaitable[bytes] | Deferred


class Method(NamedTuple):
    """An entry of the method table."""

    #: How state errors name the group of methods that this one belongs to.
    group: str
    decoder: msgspec.json.Decoder[Any]
    call: Callable[[ClientConnection, Any], Reply]


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand in the place of no params; no handler looks at it."""


METHODS: Final[dict[str, Method]] = {}
#: Where the other methods are, by the first part of their names: imported when the first of them is called.
METHOD_MODULES: Final = {
    "capabilities": "holdfast.host.capabilities.methods",
    "capabilityRoots": "holdfast.host.discovery",
    "environmentConfig": "holdfast.host.configuration.methods",
    "fs": "holdfast.host.files.methods",
    "host": "holdfast.host.administration",
    "http": "holdfast.host.http.methods",
    "process": "holdfast.host.resizing",
}


def method(
    name: str, params: type[Any] | None, group: str = "exec"
) -> Callable[[Callable[[ClientConnection, Any], Reply]], Callable[[ClientConnection, Any], Reply]]:
    def register(call: Callable[[ClientConnection, Any], Reply]) -> Callable[[ClientConnection, Any], Reply]:
        METHODS[name] = Method(group, msgspec.json.Decoder(_Nothing | None if params is None else params), call)
        return call

    return register


def find_method(name: str) -> Method | None:
    """The method of that name, None if there is none."""
    found = METHODS.get(name)
    if found is None:
        module = METHOD_MODULES.get(name.partition("/")[0])
        if module is not None:
            import_module(module)
            found = METHODS.get(name)
    return found


def decode_params(decoder: msgspec.json.Decoder[_T], params: msgspec.Raw) -> _T:
    """The params of a request, or a part of them that was left as JSON.

    :raises RpcError: they are not what *decoder* takes
    """
    try:
        return decoder.decode(params if params is not ABSENT else b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RpcError(INVALID_PARAMS, _explain(str(error))) from None


def _explain(text: str) -> str:
    """A decoding error in the words of the reference implementation, where a client might look for them."""
    if text.startswith("Object missing required field"):
        return "missing field " + text.split("field ", 1)[1].split(" - at")[0]
    if text.startswith("Expected `object`, got `null`"):
        return "invalid type: null, expected struct"
    return text
