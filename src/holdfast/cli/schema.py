"""``holdfast schema``: the JSON Schemas of the documents that Holdfast reads and writes."""

from __future__ import annotations

from importlib import import_module, resources
from typing import Any, Final, NamedTuple, cast

import click
import msgspec

from holdfast.cli import terminal


class Published(NamedTuple):
    """A kind of document whose schema is part of what Holdfast promises."""

    #: What the documents call themselves, with the version; an incompatible change makes a new one.
    name: str
    #: Where its type is: module and class.
    module: str
    type_name: str
    #: Written by Holdfast, which leaves no field out.
    complete: bool

    @property
    def file_name(self) -> str:
        """The file in ``holdfast/schemas``: ``result-1.json`` for ``holdfast.result/1``."""
        return self.name.removeprefix("holdfast.").replace("/", "-") + ".json"


#: Kind of document to its schema; ``scripts/schemas`` writes the files anew.
KINDS: Final[dict[str, Published]] = {
    "result": Published("holdfast.result/1", "holdfast.tasks.result", "Result", complete=True),
    "review": Published("holdfast.review/1", "holdfast.tasks.review.rendering", "Review", complete=True),
    "fanout": Published("holdfast.fanout/1", "holdfast.tasks.fanout", "Specification", complete=False),
    "notification": Published("holdfast.notification/1", "holdfast.tasks.notification", "Digest", complete=True),
}


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
def schema(*, kind: str) -> int:
    """Print the JSON Schema of a KIND of document: of the 'result' of a task, of a 'review', of the specification of a
    'fanout', or of the digest that a 'notification' carries.
    """
    terminal.write([resources.files("holdfast").joinpath("schemas", KINDS[kind].file_name).read_bytes()])
    return 0


def generate(kind: str) -> bytes:
    """The schema of *kind* as its type has it now; the published file is the same, byte for byte."""
    published = KINDS[kind]
    generated = msgspec.json.schema(getattr(import_module(published.module), published.type_name))
    if published.complete:
        for definition in cast("dict[str, dict[str, Any]]", generated["$defs"]).values():
            if "properties" in definition:
                definition["required"] = list(definition["properties"])
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{published.name.replace('.', ':').replace('/', ':')}",
        **generated,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
