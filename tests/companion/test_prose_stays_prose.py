"""What a person typed reaches Codex as it is, and no word of it is an option unless it stands where options stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.companion.arguments import Syntax, split
from holdfast.companion.inspection import STATUS_SYNTAX
from holdfast.companion.refusal import Refused, UnknownOption
from holdfast.companion.task import SYNTAX

BYTES = "Fix 'it', \"please\":\n\tthe \\n in C:\\new  stays,   and so does `$(this)` --write  "


@pytest.mark.parametrize(
    ("arguments", "options", "prose"),
    [
        (["explain what the --write flag does"], {}, "explain what the --write flag does"),
        (["--write explain the --model X flag"], {"write": True}, "explain the --model X flag"),
        (["--background --write fix the tests"], {"background": True, "write": True}, "fix the tests"),
        (["  --model=a=b  -C 'my dir' fix it"], {"model": "a=b", "cwd": "my dir"}, "fix it"),
        (["-m spark --effort high go"], {"model": "spark", "effort": "high"}, "go"),
        (["--write=false --json go"], {"write": False, "json": True}, "go"),
        (["--json -- --write is a flag"], {"json": True}, "--write is a flag"),
        ([BYTES], {}, BYTES),
        (["--json " + BYTES], {"json": True}, BYTES),
        (['"--write" is quoted, so it is prose'], {}, '"--write" is quoted, so it is prose'),
        (["don't"], {}, "don't"),
        (["--write"], {"write": True}, ""),
        ([""], {}, ""),
        ([], {}, ""),
        (["--write", "fix", "the", "tests"], {"write": True}, "fix the tests"),
        (["explain", "what", "the", "--write", "flag", "does"], {}, "explain what the --write flag does"),
        (["--", "--write", "x"], {}, "--write x"),
        (["--", BYTES], {}, BYTES),
        (["--json", BYTES], {"json": True}, BYTES),
        (["-", "x"], {}, "- x"),
    ],
)
def test_options_stand_before_the_prompt(arguments: list[str], options: dict[str, object], prose: str) -> None:
    read = SYNTAX.read(arguments)
    assert (read.options, read.prose) == (options, prose)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--frobnicate go"],
        ["--frobnicate", "go"],
        ["-1 is returned where None is expected"],
        ["--write", "-x", "go"],
        ["fix the tests", "--write"],
        ["fix the tests", "--write", "--json"],
        ["fix", "--model=x"],
        ["--writ", "go"],
    ],
)
def test_what_looks_like_an_option_and_is_none_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UnknownOption) as refused:
        SYNTAX.read(arguments)
    assert refused.value.exit_code == 2
    assert refused.value.hint


@pytest.mark.parametrize("arguments", [["--model"], ["--json --model"], ["--json", "--model"]])
def test_an_option_lacks_its_value(arguments: list[str]) -> None:
    with pytest.raises(Refused, match="Missing value for --model"):
        SYNTAX.read(arguments)


def test_a_command_without_prose_has_its_options_anywhere() -> None:
    for arguments in (["task-1", "--wait", "--timeout-ms", "25", "--json"], ["--json --timeout-ms 25 task-1 --wait"]):
        read = STATUS_SYNTAX.read(arguments)
        assert read.words == ["task-1"]
        assert read.options == {"wait": True, "timeout-ms": "25", "json": True}


@given(st.text())
def test_a_text_without_options_before_it_raises_nothing(text: str) -> None:
    read = SYNTAX.read([f"x{text}"])
    assert (read.options, read.prose) == ({}, f"x{text}")
    read = SYNTAX.read(["--", text, "y"])
    assert (read.options, read.words) == ({}, [text, "y"])


@given(st.lists(st.text()))
def test_words_are_split_as_they_were_quoted(words: list[str]) -> None:
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    assert split(quoted) == words


def test_syntax_knows_only_its_own_options() -> None:
    with pytest.raises(UnknownOption, match="--write"):
        Syntax(switches=("json",)).read(["--write", "x"])
