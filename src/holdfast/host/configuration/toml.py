"""TOML as text: read into tables, and written as the reference implementation (Codex CLI 0.169) writes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeGuard

from holdfast.errors import InvalidRequest

Table = dict[str, Any]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
#: What a TOML text has to escape everywhere; a tab or a newline only in some places.
_CONTROL: Final = re.compile("[\0-\x08\x0b-\x1f\x7f]")
_ESCAPES: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
#: How tomllib says where it stopped; without it, that was the end of the text.
_POSITION: Final = re.compile(r"\(at line (\d+), column (\d+)\)$")
#: Parts of a dotted key: the parser takes the square of their number in time and memory.
_PARTS: Final = 16
_TOKEN: Final = re.compile(r"""(?P<part>[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')|(?P<dot>\.)|[ \t]+|(?P<other>.)""")


class InvalidToml(InvalidRequest):
    """The text is not TOML 1.0; says where (``LINE:COLUMN``) and nothing of what is there, which may be a secret."""

    code = "invalid_toml"


def parse(data: bytes) -> Table:
    """The table that a text describes.

    :raises InvalidToml: it describes none, or one that is nested too deeply
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidToml(f"{_place(data, error.start)}: invalid UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") >= _PARTS and _has_long_key(line):
            raise InvalidToml(f"{number}:1: a key of more than {_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InvalidToml("1:1: nested too deeply") from None
    except ValueError as error:
        found = _POSITION.search(str(error))
        place = f"{found[1]}:{found[2]}" if found else _place(data, len(data))
        raise InvalidToml(f"{place}: invalid TOML") from None


def _has_long_key(line: str) -> bool:
    """Whether there is anything in a line that could be a key of too many parts."""
    dots = 0
    after_dot = False
    for token in _TOKEN.finditer(line):
        if token["dot"]:
            dots += 1
            after_dot = True
        elif token["other"] or (token["part"] and not after_dot):
            dots = 0
            after_dot = False
        elif token["part"]:
            after_dot = False
        if dots >= _PARTS:
            return True
    return False


def _place(data: bytes, offset: int) -> str:
    before = data[:offset]
    return f"{before.count(10) + 1}:{offset - (before.rfind(10) + 1) + 1}"


def render(table: Table) -> str:
    """The text of a table: values first, then tables in their order.

    :raises InvalidToml: it is nested too deeply, or has a number that 64 bits cannot hold
    """
    try:
        return "\n".join("".join(lines) for lines in _sections(table, (), "") if lines)
    except RecursionError:
        raise InvalidToml("1:1: nested too deeply") from None


def _sections(table: Table, path: tuple[str, ...], header: str) -> Iterator[list[str]]:
    """The lines of each section, which a blank line separates."""
    plain = {key: value for key, value in table.items() if not is_table(value) and not _is_array(value)}
    lines = [f"{_key(key)} = {_value(value)}\n" for key, value in plain.items()]
    # A table that only holds others is known by their headers.
    if header and (lines or not table or header.startswith("[[")):
        lines.insert(0, header + "\n")
    yield lines
    for key, value in table.items():
        if key in plain:
            continue
        below = (*path, _key(key))
        name = ".".join(below)
        if is_table(value):
            yield from _sections(value, below, f"[{name}]")
        else:
            for element in value:
                yield from _sections(element, below, f"[[{name}]]")


def is_table(value: object) -> TypeGuard[Table]:
    """Whether a value is a table."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a value is an array."""
    return isinstance(value, list)


def _is_array(value: object) -> bool:
    """Whether it is written as an array of tables."""
    return is_list(value) and bool(value) and all(map(is_table, value))


def _value(value: Any) -> str:
    if is_list(value):
        return f"[{', '.join(map(_value, value))}]"
    if is_table(value):
        inner = ", ".join(f"{_key(key)} = {_value(element)}" for key, element in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return _scalar(value)


def _scalar(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise InvalidToml("1:1: a number is too large")
            return str(value)
        case float():
            return _float(value)
        case datetime():
            return f"{value.date().isoformat()}T{_time(value.time())}{_zone(value)}"
        case date():
            return value.isoformat()
        case time():
            return _time(value)
        case _:
            raise TypeError(type(value))


def _float(value: float) -> str:
    if value != value:
        return "nan"
    text = format(Decimal(repr(value)), "f") if abs(value) != float("inf") else str(value)
    return text if "." in text or "inf" in text else text + ".0"


def _time(value: time) -> str:
    fraction = f".{value.microsecond:06}".rstrip("0") if value.microsecond else ""
    return f"{value.hour:02}:{value.minute:02}:{value.second:02}{fraction}"


def _zone(value: datetime) -> str:
    zone = value.isoformat()[19:].lstrip(".0123456789") if value.tzinfo else ""
    return "Z" if zone == "+00:00" else zone


def _key(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    if _CONTROL.search(key) or "\n" in key:
        return _basic(key)
    if '"' not in key and "\\" not in key:
        return _basic(key)
    return _basic(key) if "'" in key else f"'{key}'"


def _string(text: str) -> str:
    """The first spelling that needs no escapes: "basic", 'literal', over several lines; else a basic one with them."""
    control, lines = bool(_CONTROL.search(text)), "\n" in text
    newline = "\n" if lines else ""
    if not control and not lines and '"' not in text and "\\" not in text:
        return _basic(text)
    if not control and not lines and "'" not in text:
        return f"'{text}'"
    if not control and "\\" not in text and '"""' not in text:
        return _basic_lines(text)
    if not control and "'''" not in text:
        return f"'''{newline}{text}'''"
    return _basic_lines(text) if lines else _basic(text)


def _escaped(sign: str) -> str:
    if sign in _ESCAPES:
        return _ESCAPES[sign]
    return f"\\u{ord(sign):04X}" if sign < " " or sign == "\x7f" else sign


def _basic(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _basic_lines(text: str) -> str:
    """A multi-line basic string, in which two quotes in a row need no escape and a third one does."""
    signs: list[str] = []
    quotes = 0
    for sign in text:
        quotes = quotes + 1 if sign == '"' and quotes < 2 else 0
        signs.append(sign if quotes or sign == "\n" else _escaped(sign))
    return '"""' + ("\n" if "\n" in text else "") + "".join(signs) + '"""'
