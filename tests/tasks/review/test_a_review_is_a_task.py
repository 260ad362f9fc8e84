"""``holdfast review`` from end to end: exit statuses, both forms, and the same again later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from holdfast.cli.schema import generate
from tests.system.conftest import Installation

from .conftest import new_project

APPROVAL = '{"verdict":"approve","summary":"Good.","findings":[],"next_steps":[]}'
FINDING = (
    '{"severity":"high","title":"Twice","body":"It runs twice.","file":"a.txt","line_start":2,"line_end":3,'
    '"confidence":0.9,"recommendation":"Once."}'
)
REJECTION = f'{{"verdict":"needs-attention","summary":"Bad.","findings":[{FINDING}],"next_steps":["Repair it."]}}'


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Installation]:
    """A user in a repository with one changed file."""
    installation = Installation(tmp_path)
    installation.workspace.rmdir()
    project = new_project(installation.workspace)
    project.commit("first", a_txt="one\n")
    project.write("a.txt", "one\ntwo\n")
    yield installation
    installation.down()


def review(user: Installation, answer: str, *options: str) -> tuple[int, str, str]:
    ended = user.run("review", "rehearsal", *options, "-", input=f"rehearse: say {answer}\n".encode())
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_verdict_and_findings_are_printed_and_stay(user: Installation) -> None:
    status, shown, _ = review(user, REJECTION, "--task-id", "review-1")
    assert status == 0
    assert shown == (
        "# Review\n\nTarget: uncommitted changes\nVerdict: needs-attention\n\nBad.\n\nFindings:\n"
        "- [high] Twice (a.txt:2-3)\n  It runs twice.\n  Recommendation: Once.\n\nNext steps:\n- Repair it.\n"
    )
    again = user.run("review", "--show", "review-1")
    assert (again.returncode, again.stdout.decode()) == (0, shown)
    document = user.json("review", "--show", "review-1", "--fail-on-reject", exit_code=5)
    assert not list(Draft202012Validator(json.loads(generate("review"))).iter_errors(document))
    assert document["target"]["kind"] == "uncommitted"
    assert document["findings"] == [json.loads(FINDING)]
    assert document["raw"] == REJECTION
    assert user.run("result", "review-1").stdout.decode() == REJECTION
    (view,) = user.json("list")["tasks"]
    assert (view["label"], view["sandbox"]) == ("review: uncommitted changes", "read-only")


def test_only_an_approval_passes(user: Installation) -> None:
    assert review(user, APPROVAL, "--fail-on-reject")[0] == 0
    status, shown, _ = review(user, REJECTION, "--fail-on-reject", "--adversarial")
    assert (status, shown.splitlines()[0]) == (5, "# Adversarial review")


def test_an_answer_that_is_no_review_is_shown_and_is_no_success(user: Installation) -> None:
    status, shown, said = review(user, "Looks good to me.", "--fail-on-reject")
    assert (status, shown) == (4, "Looks good to me.")
    assert "schema_unmet" in said
    ended = user.run("review", "rehearsal", "--json", "rehearse: say {}")
    document: Any = json.loads(ended.stdout)
    assert (ended.returncode, document["ok"], document["verdict"], document["raw"]) == (4, False, None, "{}")
    assert document["schema_unmet"]


def test_a_failure_is_a_failure(user: Installation) -> None:
    ended = user.run("review", "rehearsal", "--json", f"rehearse: say {APPROVAL}\nrehearse: http 401")
    document: Any = json.loads(ended.stdout)
    assert (ended.returncode, document["status"], document["verdict"]) == (1, "failed", None)
    assert document["error"]["class"] == "auth"


def test_without_waiting(user: Installation) -> None:
    ended = user.run("review", "rehearsal", "--start", f"rehearse: say {APPROVAL}")
    task_id = ended.stdout.decode().strip()
    assert user.run("wait", task_id).stdout.decode() == APPROVAL
    assert user.json("review", "--show", task_id)["verdict"] == "approve"


def test_mistakes_start_nothing(user: Installation) -> None:
    for words in (["--base", "x"], ["--pr", "1"], ["--uncommitted", "--commit", "HEAD"], ["--custom"], ["--native"]):
        ended = user.run("review", "rehearsal", *words)
        assert (ended.returncode, ended.stdout) == (2, b""), words
    assert user.run("review", "nobody").returncode == 2
    assert user.run("review", "rehearsal", "--cwd", "/nowhere").returncode == 2
    (user.workspace / "a.txt").write_text("one\n")
    ended = user.run("review", "rehearsal")
    assert (ended.returncode, b"hint:" in ended.stderr) == (2, True)
    assert user.json("list")["tasks"] == []
    done = user.run("run", "rehearsal", "Look.", "--task-id", "no-review")
    assert done.returncode == 0
    assert user.run("review", "--show", "no-review").returncode == 2
