"""The front matter of a ``SKILL.md``: YAML between two lines of three dashes, often written by hand and not quite YAML.

``description: Use it for: this`` is not YAML, and still what many write.  Codex CLI 0.169 reads it as it is meant, by
quoting the values of such lines after a first attempt has failed; which lines those are was measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.host.capabilities.yaml_text import YAML_LIMIT, InvalidYaml, Node, members, parse, text_if_present

#: What separates words (Python's own notion has four control characters more).
_BLANKS: Final = "".join(
    map(chr, (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000))
)
_WORD: Final = re.compile(f"[^{_BLANKS}]+")
_FENCE: Final = "---"
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*")
_COLON: Final = re.compile(r":[ \t]")


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """What a skill says of itself; texts are one line each, empty ones are None."""

    name: str | None
    description: str | None
    short_description: str | None


def words(text: str | None) -> str | None:
    """A text in one line with single blanks; None if nothing is left."""
    return " ".join(_WORD.findall(text or "")) or None


def read_front_matter(contents: str) -> FrontMatter:
    """What the front matter of a file says.

    :raises InvalidYaml: there is none, or it cannot be understood
    """
    text = _between_fences(contents)
    try:
        return _understand(parse(text))
    except InvalidYaml:
        if len(text) > YAML_LIMIT:
            raise
    # Quotes make it longer, by less than this.
    return _understand(parse("\n".join(_quoted(text.split("\n"))), 3 * YAML_LIMIT))


def _understand(node: Node) -> FrontMatter:
    said = members(node, "name", "description", "metadata")
    about = members(said.get("metadata"), "short-description")
    name, description, short = (
        words(text_if_present(value))
        for value in (said.get("name"), said.get("description"), about.get("short-description"))
    )
    return FrontMatter(name, description, short)


def _between_fences(contents: str) -> str:
    lines = (line.removesuffix("\r") for line in contents.split("\n"))
    if next(lines).strip(_BLANKS) != _FENCE:
        raise InvalidYaml("no front matter")
    found: list[str] = []
    for line in lines:
        if line.strip(_BLANKS) == _FENCE:
            return "\n".join(found)
        found.append(line)
    raise InvalidYaml("the front matter has no end")


def _quoted(lines: list[str]) -> Iterator[str]:
    """The lines, with quotes around values that cannot stand without them."""
    block: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if block is not None and (not line.strip() or indent > block):
            # A text over several lines is what it is.
            yield line
            continue
        block = None
        key, _, rest = line.partition(":")
        value = _COMMENT.sub("", rest).strip()
        if not key.strip() or not rest.startswith((" ", "\t")):
            # No key with a value.
            pass
        elif value.startswith(("|", ">")):
            block = indent
        elif _needs_quotes(value):
            doubled = value.replace("'", "''")
            line = f"{key}: '{doubled}'"
        yield line


def _needs_quotes(value: str) -> bool:
    if value.startswith(('"', "'")):
        return False
    if _COLON.search(value):
        return True
    if not value.startswith(("[", "{", "@", "`")):
        return False
    try:
        parse(value)
    except InvalidYaml:
        return True
    return False
