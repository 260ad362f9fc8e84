"""YAML as the files of skills use it: texts, tables and lists, whose types the reader decides.

The parser is libyaml, as in Codex CLI 0.169; what a plain scalar means there (null, booleans, integers) is YAML 1.2
as its library has it, and was measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

#: Characters of the longest text that is parsed: the parser takes the square of how deep it is nested in time.
YAML_LIMIT: Final = 64 * 1024
_NULLS: Final = ("", "~", "null", "Null", "NULL")
_NULL_TAG: Final = "tag:yaml.org,2002:null"
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_UNSIGNED: Final = re.compile(r"\+?(0|[1-9][0-9]*|0x[0-9A-Fa-f]+|0o[0-7]+|0b[01]+)")


class InvalidYaml(ValueError):
    """The text is no YAML, or not of the form that is wanted."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text."""

    text: str
    #: Without quotes and not a block.
    plain: bool
    tag: str | None


@dataclass(slots=True)
class Mapping:
    """Pairs in their order; keys may occur more than once."""

    pairs: list[tuple[Node, Node]] = field(default_factory=list["tuple[Node, Node]"])


@dataclass(slots=True)
class Sequence:
    """Values in their order."""

    items: list[Node] = field(default_factory=list["Node"])


Node = Scalar | Mapping | Sequence
#: What stands for a document without a node.
NOTHING: Final = Scalar("", True, None)


def parse(text: str, limit: int = YAML_LIMIT) -> Node:
    """The one document in a text of *limit* characters at most.

    :raises InvalidYaml: it is none, there are several, or it is too long
    """
    # Both take time and memory, and most hosts are never asked for a skill.
    import yaml

    try:
        from yaml import CBaseLoader as Loader
    except ImportError:
        from yaml import BaseLoader as Loader
    if len(text) > limit:
        raise InvalidYaml(f"longer than {limit} characters")
    try:
        return _document(yaml.parse(text, Loader))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise InvalidYaml(str(error)) from None


def _document(events: Iterator[Any]) -> Node:
    """The node of a stream of parser events; without recursion, because nesting is the writer's choice."""
    from yaml import events as kinds

    documents: list[Node] = []
    anchors: dict[str, Node] = {}
    open_nodes: list[Mapping | Sequence] = []
    #: Keys that wait for their values, one for each open mapping.
    keys: list[Node | None] = []
    for event in events:
        node: Node
        match event:
            case kinds.ScalarEvent():
                node = Scalar(event.value, event.style in (None, ""), event.tag)
            case kinds.MappingStartEvent():
                node = Mapping()
            case kinds.SequenceStartEvent():
                node = Sequence()
            case kinds.AliasEvent():
                if event.anchor not in anchors:
                    raise InvalidYaml(f"unknown anchor {event.anchor}")
                node = anchors[event.anchor]
            case kinds.CollectionEndEvent():
                open_nodes.pop()
                keys.pop()
                continue
            case _:
                continue
        if not isinstance(event, kinds.AliasEvent) and event.anchor is not None:
            anchors[event.anchor] = node
        if not open_nodes:
            documents.append(node)
        elif isinstance(parent := open_nodes[-1], Sequence):
            parent.items.append(node)
        elif (key := keys[-1]) is None:
            keys[-1] = node
        else:
            parent.pairs.append((key, node))
            keys[-1] = None
        if isinstance(event, kinds.CollectionStartEvent) and not isinstance(node, Scalar):
            open_nodes.append(node)
            keys.append(None)
    if len(documents) > 1:
        raise InvalidYaml("more than one document")
    return documents[0] if documents else NOTHING


def present(node: Node | None) -> Node | None:
    """A value; None if it is missing or null.

    :raises InvalidYaml: it is said to be null, and is something
    """
    if not isinstance(node, Scalar):
        return node
    if node.tag == _NULL_TAG:
        if node.text not in _NULLS:
            raise InvalidYaml("not null")
        return None
    return None if node.plain and node.tag is None and node.text in _NULLS else node


def text_of(node: Node) -> str:
    """A text, which a number or a boolean is as well.

    :raises InvalidYaml: it is none
    """
    if not isinstance(node, Scalar):
        raise InvalidYaml("not a text")
    return node.text


def text_if_present(node: Node | None) -> str | None:
    """A text, or None.

    :raises InvalidYaml: it is something else
    """
    node = present(node)
    return None if node is None else text_of(node)


def boolean(node: Node) -> bool:
    """True or false.

    :raises InvalidYaml: it is something else
    """
    if not isinstance(node, Scalar) or not node.plain or node.text not in _BOOLEANS:
        raise InvalidYaml("not a boolean")
    return _BOOLEANS[node.text]


def unsigned(node: Node, largest: int) -> int:
    """A number from 0 up to *largest*.

    :raises InvalidYaml: it is something else
    """
    if not isinstance(node, Scalar) or not node.plain or not _UNSIGNED.fullmatch(node.text) or len(node.text) > 64:
        raise InvalidYaml("not a number")
    value = int(node.text, 0)
    if value > largest:
        raise InvalidYaml("too large a number")
    return value


def items(node: Node | None) -> list[Node]:
    """The values of a list, of which there are none where nothing is.

    :raises InvalidYaml: it is no list
    """
    if node is None or _is_nothing(node):
        return []
    if not isinstance(node, Sequence):
        raise InvalidYaml("not a list")
    return node.items


def members(node: Node | None, *names: str) -> dict[str, Node]:
    """The named members of a table, as far as it has them; where nothing is, it has none.

    :raises InvalidYaml: it is no table, one of its keys is no text, or it has a named member twice
    """
    if node is None or _is_nothing(node):
        return {}
    if not isinstance(node, Mapping):
        raise InvalidYaml("not a table")
    found: dict[str, Node] = {}
    for key, value in node.pairs:
        name = text_of(key)
        if name in found:
            raise InvalidYaml(f"{name} twice")
        if name in names:
            found[name] = value
    return found


def _is_nothing(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and not node.text
