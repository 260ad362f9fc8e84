"""Whatever the prompt contains, the agent gets its bytes, and none of them becomes an option."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from holdfast.agents.adapter import Sandbox

from .fake_daemon import PATIENCE, FakeDaemon

AWKWARD = [
    "say 'hello' \"there\" \\n $(touch /tmp/x) `id`",
    "line one\r\nline two\n\n",
    "  blanks on both sides\t ",
    "Explain what --write does, and --model gpt-5 too",
    "--",
    "日本語 ∑ \U0001f9ea",
]


@pytest.fixture(autouse=True)
def answers(daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"done")


@pytest.mark.parametrize("prompt", AWKWARD)
def test_as_one_argument(cli, daemon: FakeDaemon, prompt: str) -> None:
    assert cli("run", "codex", "--", prompt).status == 0
    task = daemon.next_task()
    assert task.prompt == prompt.encode()
    assert task.request.sandbox is Sandbox.READ_ONLY
    assert task.request.model is None


@pytest.mark.parametrize("prompt", [*(text.encode() for text in AWKWARD), b"\xff\xfe not UTF-8 \x01", b"x" * (1 << 20)])
@pytest.mark.parametrize("way", ["file", "stdin", "dash", "piped"])
def test_as_bytes(cli, daemon: FakeDaemon, tmp_path: Path, prompt: bytes, way: str) -> None:
    file = tmp_path / "prompt"
    file.write_bytes(prompt)
    arguments = {"file": ["--prompt-file", str(file)], "stdin": ["--prompt-file", "-"], "dash": ["-"], "piped": []}
    outcome = cli("run", "codex", *arguments[way], stdin=None if way == "file" else prompt)
    assert outcome.status == 0
    assert hashlib.sha256(daemon.next_task().prompt).digest() == hashlib.sha256(prompt).digest()


def test_an_argument_need_not_be_utf_8(spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "codex", os.fsdecode(b"caf\xe9"))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert daemon.next_task().prompt == b"caf\xe9"


def test_options_may_follow_the_prompt(cli, daemon: FakeDaemon) -> None:
    assert cli("run", "codex", "fix it", "--write").status == 0
    assert daemon.next_task().request.sandbox is Sandbox.WORKSPACE_WRITE


def test_standard_input_is_left_alone_when_there_is_a_prompt(cli, daemon: FakeDaemon) -> None:
    assert cli("run", "codex", "the prompt", stdin=b"something else").status == 0
    assert daemon.next_task().prompt == b"the prompt"


@pytest.mark.parametrize("prompt", ["-x marks the spot", "--modell is misspelt", "-model what is it", "-q", "-h ello"])
def test_prose_never_becomes_an_option(cli, daemon: FakeDaemon, prompt: str) -> None:
    outcome = cli("run", "codex", prompt)
    assert outcome.status == 2
    assert "behind '--'" in outcome.err
    assert not daemon.tasks


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        (["fix", "the", "bug"], None, "must be one argument, but there are 3"),
        (["fix", "the", "--write", "flag"], None, "must be one argument, but there are 3"),
        (["fix it", "--prompt-file", "-"], b"x", "given twice"),
        ([], None, "There is no prompt"),
        ([], b"", "The prompt is empty"),
        ([" \n"], None, "The prompt is empty"),
        (["--prompt-file", "/nonexistent/file"], None, "cannot be read: No such file or directory"),
        (["--prompt-file", "/"], None, "cannot be read: Is a directory"),
        (["--write"], b"", "The prompt is empty"),
    ],
)
def test_what_is_no_prompt_is_refused(
    cli, daemon: FakeDaemon, arguments: list[str], stdin: bytes | None, sentence: str
) -> None:
    outcome = cli("run", "codex", *arguments, stdin=stdin)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert "\nhint: " in outcome.err
    assert not daemon.requests
