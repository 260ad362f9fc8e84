"""The program behind :mod:`holdfast.tasks.checker`: holds one answer against one pattern or one schema.

It is executed by path, so that a pattern that needs for ever, or a document that needs all memory, costs this process
and nothing else.  One JSON object comes on standard input, one goes to standard output.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import sys
from typing import Any

#: Seconds of processor time; the kernel ends the program then, whoever else is alive.
CPU_SECONDS = 10
MEMORY_BYTES = 4 << 30
_MOST_ERRORS = 5
_ERROR_LENGTH = 300
#: A document in nothing but one code fence is what models make of "answer in JSON".
_FENCED = re.compile(r"\s*(`{3,}|~{3,})(?:json)?[ \t]*\r?\n(.*)\n\1[ \t]*\s*", re.DOTALL | re.IGNORECASE)


class _NotJson(ValueError):
    pass


def match(pattern: str, lines: list[list[Any]]) -> dict[str, Any]:
    """The lines that *pattern* matches as a whole, each with its number and its value."""
    compiled = re.compile(pattern)
    group = "verdict" if "verdict" in compiled.groupindex else 0
    found: list[list[Any]] = []
    for number, line in lines:
        matched = compiled.fullmatch(line)
        if matched is not None and (matched[group] or "").strip():
            found.append([number, matched[group].strip()])
    return {"matches": found}


def fit(schema: dict[str, Any], answer: str) -> dict[str, Any]:
    """The document that *answer* is, or why it does not fit *schema*."""
    try:
        document = parse(answer)
    except (ValueError, RecursionError) as error:
        return {"unmet": [f"it is not one JSON document: {error}"]}
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    # A registry of its own, because the default one fetches what a schema refers to from the network.
    make: Any = Registry
    registry = make()
    validator: Any = validator_for(schema, default=Draft202012Validator)(schema, registry=registry)
    try:
        found: Any = validator.iter_errors(document)
        errors: list[Any] = list(itertools.islice(found, _MOST_ERRORS))
    except RecursionError:
        return {"unmet": ["it is nested too deeply"]}
    if errors:
        return {"unmet": [f"{error.json_path}: {error.message}"[:_ERROR_LENGTH] for error in errors]}
    return {"document": document}


def parse(answer: str) -> Any:
    """The one JSON document that *answer* consists of."""
    fenced = _FENCED.fullmatch(answer)
    return json.loads(
        fenced[2] if fenced else answer, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Readers differ in which of them they take.
        raise _NotJson("an object names the same member twice")
    return members


def _constant(name: str) -> Any:
    raise _NotJson(f"{name} is not a JSON value")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotJson(f"{text[:32]} is too large a number")
    return value


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked = json.loads(sys.stdin.buffer.read())
    found = match(asked["pattern"], asked["lines"]) if "pattern" in asked else fit(asked["schema"], asked["answer"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
