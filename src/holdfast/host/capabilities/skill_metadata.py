"""``agents/openai.yaml`` of a skill: what it depends on, and when it may be used."""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.host.capabilities.front_matter import words
from holdfast.host.capabilities.yaml_text import (
    InvalidYaml,
    Node,
    boolean,
    items,
    members,
    parse,
    present,
    text_if_present,
    text_of,
    unsigned,
)

#: Characters of what a tool is called by, and of what is said about it.
_SHORT: Final = 64
_LONG: Final = 1024
_PORTS: Final = 65535
_PRODUCTS: Final = ("codex", "chatgpt", "atlas")
#: Texts for people, which are not told; one that is no text makes all of the file invalid.
_INTERFACE: Final = (
    "display_name",
    "short_description",
    "icon_small",
    "icon_large",
    "brand_color",
    "default_prompt",
)


class Tool(msgspec.Struct, rename="camel"):
    """A tool that a skill depends on."""

    type: str
    value: str
    description: str | None
    transport: str | None
    command: str | None
    url: str | None
    oauth_callback_port: int | None


class Dependencies(msgspec.Struct):
    """What a skill depends on; at least one tool."""

    tools: list[Tool]


class Policy(msgspec.Struct, rename="camel"):
    """When a skill may be used."""

    allow_implicit_invocation: bool | None
    products: list[str]


class SkillMetadata(msgspec.Struct):
    """What the file says."""

    dependencies: Dependencies | None = None
    policy: Policy | None = None


def read_skill_metadata(contents: str) -> SkillMetadata:
    """What a file says; nothing if it cannot be understood, because a skill is one without it."""
    try:
        said = members(parse(contents.removeprefix("\ufeff")), "interface", "dependencies", "policy")
        _check_interface(said.get("interface"))
        return SkillMetadata(_dependencies(said.get("dependencies")), _policy(said.get("policy")))
    except InvalidYaml:
        return SkillMetadata()


def _check_interface(node: Node | None) -> None:
    for value in members(present(node), *_INTERFACE).values():
        text_if_present(value)


def _dependencies(node: Node | None) -> Dependencies | None:
    tools = [_tool(item) for item in items(members(present(node), "tools").get("tools"))]
    usable = [tool for tool in tools if tool is not None]
    return Dependencies(usable) if usable else None


def _tool(node: Node) -> Tool | None:
    """A tool; None if it does not say what it is."""
    said = members(node, "type", "value", "description", "transport", "command", "url", "oauth")
    texts = {
        name: _bounded(text_if_present(said.get(name)), _SHORT if name in ("type", "transport") else _LONG)
        for name in ("type", "value", "description", "transport", "command", "url")
    }
    port = _callback_port(said.get("oauth"))
    kind, value = texts.pop("type"), texts.pop("value")
    if kind is None or value is None:
        return None
    return Tool(kind, value, **texts, oauth_callback_port=port)


def _bounded(text: str | None, limit: int) -> str | None:
    text = words(text)
    return None if text is None or len(text) > limit else text


def _callback_port(node: Node | None) -> int | None:
    said = members(present(node), "callback_port", "callbackPort")
    if len(said) > 1:
        raise InvalidYaml("callback_port twice")
    port = present(next(iter(said.values()), None))
    return None if port is None else unsigned(port, _PORTS)


def _policy(node: Node | None) -> Policy | None:
    node = present(node)
    if node is None:
        return None
    said = members(node, "allow_implicit_invocation", "products")
    implicit = present(said.get("allow_implicit_invocation"))
    products = [_product(item) for item in items(said.get("products"))]
    return Policy(None if implicit is None else boolean(implicit), products)


def _product(node: Node) -> str:
    name = text_of(node)
    if name not in _PRODUCTS and name not in map(str.upper, _PRODUCTS):
        raise InvalidYaml(f"unknown product {name}")
    return name.lower()
