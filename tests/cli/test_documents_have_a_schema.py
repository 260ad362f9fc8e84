"""What the documents look like is published as JSON Schema, and that is what they look like."""

from __future__ import annotations

import json
from importlib import resources

import msgspec
import pytest
from jsonschema.validators import Draft202012Validator

from holdfast.cli.schema import KINDS, generate
from holdfast.tasks.result import Result, Status

from .fake_daemon import FakeDaemon


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_published_schema_is_that_of_the_type(cli, kind: str) -> None:
    published = resources.files("holdfast").joinpath("schemas", KINDS[kind].file_name).read_bytes()
    assert published == generate(kind), "run: .venv/bin/python scripts/schemas"
    Draft202012Validator.check_schema(json.loads(published))
    outcome = cli("schema", kind)
    assert (outcome.status, outcome.out) == (0, published)


def test_an_unknown_kind_is_refused(cli) -> None:
    assert cli("schema", "nothing").status == 2


@pytest.mark.parametrize("status", list(Status))
def test_a_result_fits_its_schema(cli, daemon: FakeDaemon, status: Status) -> None:
    daemon.on_create = lambda task: task.finish(b"something", status)
    document = json.loads(cli("run", "codex", "go", "--json").out)
    validator = Draft202012Validator(json.loads(generate("result")))
    assert not list(validator.iter_errors(document))
    del document["verdict"]["approved"]
    assert list(validator.iter_errors(document)), "no field is left out, ever"


def test_a_reader_of_the_type_and_one_of_the_schema_agree_on_the_version() -> None:
    schema = json.loads(generate("result"))["$defs"]["Result"]
    assert schema["properties"]["schema"]["enum"] == [KINDS["result"].name]
    assert set(schema["properties"]) == {field.encode_name for field in msgspec.structs.fields(Result)}
