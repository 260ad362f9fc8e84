"""``plugin.json``: what a plugin says of itself, as far as it is told."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn, TypeGuard

import msgspec

from holdfast.jsonrpc.messages import encode_json

#: Where the JSON of Codex CLI 0.169 spells an exponent in another way.
_EXPONENT: Final = re.compile(r"[eE]\+?(?=\d)")


class InvalidManifest(ValueError):
    """The text is no manifest."""


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, of which several may have the same name."""


class Manifest(msgspec.Struct):
    """What a manifest says; names without anything in them are None."""

    name: str | None
    display_name: str | None
    #: The MCP servers, if they are in the manifest itself, as JSON.
    mcp_servers: str | None
    #: Whether it names a file that has them, or one that has its apps.
    names_mcp_file: bool
    names_apps_file: bool


def read_name(text: str) -> str | None:
    """The name that a manifest gives its plugin.

    :raises InvalidManifest: it is none
    """
    return _text(parse_object(text, "name"), "name")


def read_manifest(text: str) -> Manifest:
    """What a manifest says.

    :raises InvalidManifest: it is none
    """
    said = parse_object(text, "name", "interface", "apps", "mcpServers")
    interface = said.get("interface")
    display = None if interface is None else _text(_members(interface, "displayName"), "displayName", null=True)
    servers = said.get("mcpServers")
    if isinstance(servers, str):
        _text(said, "mcpServers")
    _text(said, "apps", null=True)
    return Manifest(
        name=_text(said, "name"),
        display_name=None if display is None else display.strip(),
        mcp_servers=_encoded(servers) if _is_object(servers) else None,
        names_mcp_file=isinstance(servers, str),
        names_apps_file=said.get("apps") is not None,
    )


def parse_object(text: str, *names: str) -> dict[str, Any]:
    """Some members of the JSON object in a text; none may be there twice.

    :raises InvalidManifest: there is none
    """
    return _members(_parse(text), *names)


def _parse(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_Pairs, parse_float=_number, parse_int=_number, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(str(error)) from None


def _number(text: str) -> msgspec.Raw:
    """A number as it is, whatever its size."""
    return msgspec.Raw(b"0" if text == "-0" else _EXPONENT.sub("e+", text).encode())


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_object(value: object) -> TypeGuard[_Pairs]:
    return isinstance(value, _Pairs)


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _members(value: object, *names: str) -> dict[str, Any]:
    if not _is_object(value):
        raise InvalidManifest("not an object")
    found: dict[str, Any] = {}
    for name, member in value:
        if name in found:
            raise InvalidManifest(f"{name} twice")
        if name in names:
            found[name] = member
    return found


def _text(said: dict[str, Any], name: str, *, null: bool = False) -> str | None:
    text = said.get(name)
    if text is None and (null or name not in said):
        return None
    if not isinstance(text, str) or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidManifest(f"{name} must be a text")
    return text if text.strip() else None


def _encoded(pairs: _Pairs) -> str:
    try:
        return encode_json(_plain(pairs)).decode()
    except (UnicodeError, RecursionError) as error:
        raise InvalidManifest(str(error)) from None


def _plain(value: Any) -> Any:
    """The value with objects as the dictionaries that they are to those who read them."""
    if _is_object(value):
        return {name: _plain(member) for name, member in value}
    return [_plain(element) for element in value] if _is_array(value) else value
