"""Everything that is wrong with a specification is said at once, and lanes that could collide are seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.tasks.fanout import InvalidSpecification, Lane, Level, overlaps, parse, trespasses


def lanes(*entries: dict[str, Any], **defaults: Any) -> list[Lane]:
    common = {"agent": "codex", "prompt": "do it", "cwd": "/work", **defaults}
    return parse(json.dumps({"defaults": common, "lanes": list(entries)}).encode()).lanes


def problems(document: object) -> list[str]:
    with pytest.raises(InvalidSpecification) as caught:
        parse(json.dumps(document).encode())
    return caught.value.problems


def test_defaults_are_filled_in_and_the_lane_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"from a file\r\n")
    one, two = lanes(
        {"name": "one", "env": {"B": "2"}},
        {"name": "two", "prompt_file": str(tmp_path / "prompt"), "timeout": None, "agent": "claude"},
        timeout=60,
        env={"A": "1"},
    )
    assert (one.agent, one.prompt, one.options["timeout"], one.options["env"]) == (
        "codex",
        b"do it",
        60.0,
        {"A": "1", "B": "2"},
    )
    assert (two.agent, two.prompt, two.options["timeout"]) == ("claude", b"from a file\r\n", None)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert problems(
        {
            "lnes": [],
            "parallel": 0,
            "defaults": {"agent": "codex", "write": "yes"},
            "lanes": [
                {"name": "one", "prompt": "x", "modle": "m"},
                {"name": "Two!", "prompt": "x"},
                {"prompt": "x", "prompt_file": "/nonexistent"},
                {"name": "four", "owned_files": ["/etc/passwd", "src/*.py", "../up", "ok/**"]},
                {"name": "five", "prompt": "x", "owned_files": ["src/a"], "forbidden_files": ["src/**"]},
                7,
            ],
        }
    ) == [
        "The specification has no key 'lnes'; it has defaults, lanes, parallel and schema.",
        "parallel is 0; give a positive number.",
        "defaults: write is wrong: Expected `bool`, got `str`.",
        "lane 'one' has no key 'modle'; did you mean 'model'?",
        "lane 'Two!': a name is made of at most 40 small letters, digits and hyphens.",
        "lane 3 has no name.",
        "lane 3 has both a prompt and a prompt_file.",
        "lane 'four' has no prompt.",
        "lane 'four': owned_files: '/etc/passwd' is neither a relative path nor one that ends with '/**'.",
        "lane 'four': owned_files: 'src/*.py' is neither a relative path nor one that ends with '/**'.",
        "lane 'four': owned_files: '../up' is neither a relative path nor one that ends with '/**'.",
        "lane 'five': 'src/a' is both owned and forbidden.",
        "lane 6 is not an object.",
    ]


@pytest.mark.parametrize("document", [[], {}, {"lanes": []}, {"lanes": {}}, {"lanes": [{}]}, None, {"schema": "x/2"}])
def test_what_is_no_specification_at_all(document: object) -> None:
    assert problems(document)


def test_names_and_output_files_are_unique() -> None:
    entries = [{"name": "a", "output_file": "x"}, {"name": "a"}, {"name": "b", "output_file": "./x"}]
    with pytest.raises(InvalidSpecification) as caught:
        lanes(*entries)
    assert caught.value.problems == [
        "There is more than one lane 'a'.",
        "The lanes 'a' and 'b' have the same output_file.",
    ]


@pytest.mark.parametrize(
    ("first", "second", "level", "what"),
    [
        ({"owned_files": ["src/a.py"]}, {"owned_files": ["src/a.py"]}, Level.HIGH, "/work/src/a.py"),
        ({"owned_files": ["src/**"]}, {"owned_files": ["docs/x", "src/api/**"]}, Level.HIGH, "/work/src/api/**"),
        ({"owned_files": ["**"]}, {"owned_files": ["src/a.py"]}, Level.HIGH, "/work/src/a.py"),
        ({"owned_files": ["src/**"]}, {"owned_files": ["src2/**", "srcx"]}, None, None),
        ({"owned_files": ["src/**"], "forbidden_files": ["src/api/**"]}, {"owned_files": ["src/api/**"]}, None, None),
        ({}, {}, Level.MEDIUM, "/work"),
        ({}, {"owned_files": ["src/a.py"]}, Level.MEDIUM, "/work/src/a.py"),
        ({"forbidden_files": ["src/**"]}, {"owned_files": ["src/a.py"]}, None, None),
        ({"cwd": "/work/a"}, {"cwd": "/work/b"}, None, None),
        ({"cwd": "/work/a"}, {"cwd": "/work"}, Level.MEDIUM, "/work/a"),
        ({"cwd": "/work/a", "owned_files": ["x"]}, {"owned_files": ["a/x"]}, Level.HIGH, "/work/a/x"),
        ({"worktree": True, "owned_files": ["x"]}, {"owned_files": ["x"]}, None, None),
        ({"write": False, "owned_files": ["x"]}, {"owned_files": ["x"]}, None, None),
        ({"write": False, "sandbox": "danger-full-access"}, {}, Level.MEDIUM, "/work"),
    ],
)
def test_lanes_that_could_collide(
    first: dict[str, Any], second: dict[str, Any], level: Level | None, what: str | None
) -> None:
    pair = lanes({"name": "one", **first}, {"name": "two", **second}, write=True)
    found = [(overlap.level, overlap.what) for overlap in overlaps(pair)]
    assert found == ([] if level is None else [(level, what)])
    assert len(overlaps(pair[::-1])) == len(found)


def test_what_is_not_the_lanes_own() -> None:
    (lane,) = lanes({"name": "one", "owned_files": ["src/**", "README"], "forbidden_files": ["src/gen/**"]})
    assert trespasses(lane, ["src/a", "README", "src/gen/b", "docs/c", "src2/d"]) == ["src/gen/b", "docs/c", "src2/d"]
    (free,) = lanes({"name": "one", "forbidden_files": ["secret"]})
    assert trespasses(free, ["anything", "secret"]) == ["secret"]
