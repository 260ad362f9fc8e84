"""A JSON Schema for the answer: looked at before anything starts, and held against the answer afterwards.

Agents are told the schema where they can be; whether the answer fits is decided here.  Codex and Claude Code both
report success for answers that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

from holdfast.errors import InvalidRequest

#: Claude Code takes the schema as one argument, and Linux lets none be longer than 128 KiB.
_SCHEMA_BYTES: Final = 96 << 10
_DEPTH: Final = 64
#: What stands below these keywords is data and not schema.
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
#: What stands below these is schemas by name, and the names are anybody's.
_BY_NAME: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

_HINT: Final = 'Give a schema such as {"type": "object", "properties": {...}, "required": [...]}.'


class OutputSchemaRefused(InvalidRequest):
    """What was given as the schema of the answer is none, or none that can be held against anything."""

    code = "output_schema"


def parse_schema(text: bytes | str) -> dict[str, Any]:
    """The schema that *text* is.

    :raises OutputSchemaRefused: it is not a JSON object
    """
    try:
        schema: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise OutputSchemaRefused(f"The schema for the answer is not JSON: {error}.", hint=_HINT) from None
    if not isinstance(schema, dict):
        raise OutputSchemaRefused("The schema for the answer is not a JSON object.", hint=_HINT)
    return cast("dict[str, Any]", schema)


def check_shape(schema: dict[str, Any]) -> None:
    """What can be said about a schema quickly: its size, its depth, and that it describes an object.

    :raises OutputSchemaRefused: naming what is wrong with it
    """
    if schema.get("type") != "object":
        raise OutputSchemaRefused(
            'The schema for the answer does not say "type": "object" at its root, and models refuse any other.',
            hint=_HINT,
        )
    if _depth(schema) > _DEPTH:
        raise OutputSchemaRefused(
            f"The schema for the answer is nested more than {_DEPTH} levels deep.", hint="Use $defs."
        )
    size = len(msgspec.json.encode(schema))
    if size > _SCHEMA_BYTES:
        raise OutputSchemaRefused(
            f"The schema for the answer has {size} bytes; {_SCHEMA_BYTES} is the limit.", hint="Give a smaller one."
        )


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse a schema that is not valid, or that refers to anything outside of itself.

    :raises OutputSchemaRefused: naming the place
    """
    check_shape(schema)
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    dialect: Any = validator_for
    if "$schema" in schema and dialect(schema, default=None) is None:
        raise OutputSchemaRefused(
            f"The schema for the answer is in a dialect that is not known: {str(schema['$schema'])[:200]}.",
            hint="Leave $schema out for draft 2020-12.",
        )
    validator: Any = dialect(schema, default=Draft202012Validator)
    try:
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
    except SchemaError as error:
        place = error.json_path
        raise OutputSchemaRefused(
            f"The schema for the answer is not valid at {place}: {error.message[:300]}.", hint="Correct it there."
        ) from None
    make: Any = Registry
    resolver = make().resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _references(schema):
        try:
            if not reference.startswith("#"):
                raise Unresolvable(ref=reference)
            resolver.lookup(reference)
        except (Unresolvable, ValueError):
            raise OutputSchemaRefused(
                f"The schema for the answer refers to {reference[:200]!r}, which is not in it.",
                hint="Put what is referred to under $defs; nothing is fetched.",
            ) from None


def _depth(value: object) -> int:
    level: list[object] = [value]
    depth = 0
    while level and depth <= _DEPTH:
        depth += 1
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += cast("dict[str, object]", item).values()
            elif isinstance(item, list):
                below += cast("list[object]", item)
        level = below
    return depth


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, list):
        for item in cast("list[object]", schema):
            yield from _references(item)
    if not isinstance(schema, dict):
        return
    for key, value in cast("dict[str, object]", schema).items():
        if key in _REFERENCES and isinstance(value, str):
            yield value
        elif key in _BY_NAME and isinstance(value, dict):
            for named in cast("dict[str, object]", value).values():
                yield from _references(named)
        elif key not in _DATA:
            yield from _references(value)
