"""A wrong command line costs one sentence, one hint and exit status 2; nothing is asked of any daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .fake_daemon import FakeDaemon


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["rum", "codex"], "There is no command 'rum'.", "Did you mean 'holdfast run'?"),
        (["run"], "AGENT is missing.", "See: holdfast run --help"),
        (["run", "codex", "x", "--modell", "y"], "There is no option '--modell'.", "Did you mean --model?"),
        (["run", "codex", "x", "--fresh", "--resume", "abcdefgh"], "--fresh and --resume contradict", "Leave one"),
        (["run", "codex", "x", "--write", "--sandbox", "read-only"], "--write and --sandbox read-only", "Leave one"),
        (["run", "codex", "x", "--cwd", "/nonexistent"], "The directory /nonexistent does not exist.", "--cwd"),
        (["run", "codex", "x", "--cwd", "/etc/passwd"], "/etc/passwd is not a directory.", "--cwd"),
        (["run", "codex", "x", "--output-file", "/nonexistent/f"], "The directory /nonexistent does not", "Make it"),
        (["run", "codex", "x", "--output-file", "/etc/passwd"], "/etc/passwd exists already.", "--overwrite"),
        (["run", "codex", "x", "--output-file", "/dev/stdout"], "/dev/stdout is not a regular file.", "another name"),
        (["run", "codex", "x", "--timeout", "soon"], "'soon' is not a length of time", "See: "),
        (["run", "codex", "x", "--timeout", "0"], "'0' is not a length of time", "See: "),
        (["run", "codex", "x", "--max-tool-uses", "0"], "A limit of 0 tool uses", "positive"),
        (["run", "codex", "x", "--model", "a b"], "'a b' cannot be the name of a model.", "one word"),
        (["run", "codex", "x", "--resume", "--last"], "'--last' is neither", "holdfast list"),
        (["run", "codex", "x", "--env", "1x"], "'1x' cannot be a variable.", "--env NAME"),
        (["run", "codex", "x", "--env", "HOLDFAST_TEST_UNSET"], "HOLDFAST_TEST_UNSET is not set.", "NAME=VALUE"),
        (["run", "codex", "x", "--task-id", "UPPER"], "'UPPER' cannot be a task id.", "leave the id out"),
        (["run", "codex", "x", "--json", "--format", "text"], "--json and --format text contradict", "Leave one"),
        (["wait", "--any", "--all", "x"], "--any and --all contradict", "Leave one"),
        (["wait"], "ID is missing.", "See: holdfast wait --help"),
        (["run", "--timeout"], "'--timeout' requires an argument", "See: holdfast run --help"),
        (["host", "stop", "x", "--grace"], "'--grace' requires an argument", "See: holdfast host stop --help"),
        (["logs", "--raw", "--json", "x"], "--raw and --json contradict", "Leave one"),
        (["result", "x", "--field", "status", "--offset", "1"], "are about the answer", "--field message"),
        (["up", "--foreground", "--detach"], "--foreground and --detach contradict", "Leave one"),
    ],
)
def test_one_sentence_and_one_hint(cli, state: Path, arguments: list[str], sentence: str, hint: str) -> None:
    outcome = cli(*arguments)
    assert outcome.status == 2
    complaint, advice = outcome.err.splitlines()
    assert complaint.startswith("error: ")
    assert sentence in complaint
    assert advice.startswith("hint: ")
    assert hint in advice
    assert not list(state.iterdir()), "something was started"


@pytest.mark.parametrize("arguments", [["list"], ["run", "rehearsal", "x"], ["up"], ["up", "--foreground"], ["gc"]])
def test_a_state_directory_that_cannot_be_made(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(file / "state"))
    outcome = cli(*arguments)
    assert (outcome.status, outcome.err) == (
        2,
        f"error: {file}/state cannot be made: {file} is not a directory.\n"
        f"hint: Move {file} away, or set HOLDFAST_STATE_DIR to a directory of your own.\n",
    )


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("HOLDFAST_STATE_DIR", ["list"]),
        ("HOLDFAST_STATE_DIR", ["run", "rehearsal", "x"]),
        ("HOLDFAST_STATE_DIR", ["doctor"]),
        ("HOLDFAST_CONFIG", ["agents"]),
    ],
)
def test_a_home_directory_that_nobody_has(
    cli, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: list[str]
) -> None:
    monkeypatch.setenv(variable, "~nobody-of-that-name/x")
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert outcome.err == (
        f"error: The home directory in {variable}=~nobody-of-that-name/x is not known.\n"
        f"hint: Set {variable} to an absolute path.\n"
    )


@pytest.mark.parametrize("arguments", [["list"], ["host", "status"], ["service", "systemd", "exec-server"], ["agents"]])
def test_who_has_no_home_directory_gets_none_in_the_current_one(
    cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    for variable in ("HOME", "HOLDFAST_STATE_DIR", "HOLDFAST_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    # As in a container that runs under any number.
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith("error: Your home directory is not known.\nhint: Set HOLDFAST_")


@pytest.mark.parametrize(
    ("lock", "arguments"), [("start.lock", ["list"]), ("start.lock", ["up"]), ("daemon.lock", ["up", "--foreground"])]
)
def test_a_lock_that_cannot_be_opened(cli, state: Path, lock: str, arguments: list[str]) -> None:
    (state / lock).mkdir()
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {state}/{lock} cannot be opened: Is a directory.\nhint: ")


def test_json_callers_get_the_same_as_an_object(cli, state: Path) -> None:
    outcome = cli("run", "codex", "two", "words", "--json")
    error = json.loads(outcome.out)["error"]
    assert outcome.status == error["exit_code"] == 2
    assert error["code"] == "usage"
    assert error["message"] in outcome.err
    assert error["hint"] in outcome.err


def test_a_directory_that_may_not_be_written(cli, state: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    outcome = cli("run", "codex", "x", "--output-file", str(tmp_path / "f"))
    assert outcome.status == 2
    assert "may not write" in outcome.err


def test_an_output_file_is_never_a_link(cli, state: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    outcome = cli("run", "codex", "x", "--output-file", str(tmp_path / "link"), "--overwrite")
    assert outcome.status == 2
    assert "is not a regular file" in outcome.err


@pytest.mark.parametrize("command", [["wait"], ["status"], ["result"], ["logs"], ["cancel"], ["wait", "task00000000"]])
def test_an_unknown_id(cli, daemon: FakeDaemon, command: list[str]) -> None:
    daemon.add()
    outcome = cli(*command, "nothere")
    assert outcome.status == 2
    assert outcome.err == "error: There is no task nothere.\nhint: See 'holdfast list'.\n"


def test_with_one_id_wrong_nothing_is_cancelled(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    assert cli("cancel", task.id, "nothere").status == 2
    assert task.cancels == 0


def test_the_whole_request_is_handed_over(
    cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    outcome = cli(
        *["start", "claude", "do it", "--write", "--cwd", "work", "--add-dir", "/usr", "--model", "opus[1m]"],
        *["--effort", "high", "--resume", "abcdefgh", "--timeout", "1h30m", "--idle-timeout", "none"],
        *["--start-timeout", "45", "--max-tool-uses", "30", "--retries", "2", "--label", "a b", "--overwrite"],
        *["--output-file", "out.md", "--allow-output-root", "/var", "--env", "MY_TOKEN", "--env", "EXTRA=1=2"],
        *["--task-id", "chosen-by-me"],
    )
    assert outcome.out == b"chosen-by-me\n"
    task = daemon.next_task()
    request = task.request
    assert (request.agent, request.cwd, request.add_dirs) == ("claude", str(tmp_path / "work"), ["/usr"])
    assert (request.sandbox, request.model, request.effort) == ("workspace-write", "opus[1m]", "high")
    assert (request.resume, request.label, request.retries) == ("abcdefgh", "a b", 2)
    limits = request.limits
    assert (limits.total_s, limits.idle_s, limits.start_s, limits.max_tool_uses) == (5400.0, None, 45.0, 30)
    assert (request.output_file, request.overwrite) == (str(tmp_path / "out.md"), True)
    assert request.output_roots == ["/var"]
    assert request.pass_env == ["MY_TOKEN", "EXTRA"]
    assert task.environment["MY_TOKEN"] == "secret"
    assert task.environment["EXTRA"] == "1=2"
    assert task.environment["PATH"] == os.environ["PATH"]
