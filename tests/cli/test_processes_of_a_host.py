"""``holdfast host list``, ``logs``, ``stop``, ``forget``: what an operator does to processes, with a real host."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from holdfast.cli import completion_values, host_processes
from holdfast.directories import socket_path, state_directory
from holdfast.host.client import HostClient
from holdfast.host.port import HostUnavailable, ProcessSpec, ProcessState

from .conftest import Outcome
from .fake_daemon import PATIENCE
from .test_shells_complete import complete, completed_by_bash, offered

Start = Callable[..., None]


def running(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "holdfast.host", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def host(state: Path) -> Iterator[str]:
    """A real host of the state directory; its URL."""
    yield from running("--listen", "unix://", "--state-dir", str(state / "host"))


@contextlib.contextmanager
def answering(path: Path, result: object) -> Iterator[str]:
    """Somebody at *path* who answers every request with *result*; the URL."""

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as lines:
                for line in lines:
                    request = json.loads(line)
                    if "id" in request:
                        lines.write(json.dumps({"id": request["id"], "result": result}).encode() + b"\n")
                        lines.flush()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def asked(url: str, question: Callable[[HostClient], Awaitable[Any]]) -> Any:
    async def ask() -> Any:
        client = await HostClient.connect(url)
        try:
            return await question(client)
        finally:
            await client.aclose()

    return asyncio.run(asyncio.wait_for(ask(), PATIENCE))


@pytest.fixture
def start(host: str) -> Start:
    """Start a shell script as a process of the host; it returns when that has ended, or said its first word."""

    def begin(process_id: str, script: str, *, until_closed: bool = True) -> None:
        async def started(client: HostClient) -> None:
            argv = ["sh", "-c", script]
            await client.start(ProcessSpec(process_id=process_id, argv=argv, cwd=Path("/"), env=dict(os.environ)))
            async for _ in client.records(process_id):
                if not until_closed:
                    break

        asked(host, started)

    return begin


def test_they_are_listed_with_state_age_and_command(host: str, start: Start, cli: Callable[..., Outcome]) -> None:
    nothing = "The host keeps no process of its own. Those of clients' sessions: holdfast host status\n"
    assert cli("host", "list").err == nothing
    start("done", "exit 3")
    start("runs", "echo up; exec sleep 1000", until_closed=False)
    outcome = cli("host", "list")
    assert outcome.status == 0
    header, *rows = outcome.out.decode().splitlines()
    assert header.split() == ["ID", "PID", "STATE", "AGE", "COMMAND"]
    found = {row.split()[0]: row for row in rows}
    assert "closed (3)" in found["done"]
    assert "sh -c exit 3" in found["done"]
    assert "running" in found["runs"]
    told = json.loads(cli("host", "list", "--json", "--url", host).out)
    assert told["running"] is True
    assert [one["process_id"] for one in told["processes"]] == ["done", "runs"]
    assert all(0 <= one["age"] < PATIENCE * 10 for one in told["processes"])
    assert told["processes"][1]["command"] == "sh -c echo up; exec sleep 1000"
    assert complete("host", "logs", "ru") == {"runs"}


def test_shells_are_offered_what_is_on_one_line(start: Start) -> None:
    for process_id in ("plain", "pla\nplain,forged", "pla\x1b[2J", "pla in", "pla,in"):
        start(process_id, "echo one\necho two")
    assert completed_by_bash("host", "logs", "pla") == {"plain", r"pla\ in"}
    about = "sh -c echo one echo two"
    assert offered("zsh", "host", "logs", "plai") == ["plain", "plain", about]
    assert offered("fish", "host", "logs", "plai") == [f"plain,plain\t{about}"]


def test_bash_gets_ids_as_they_are_typed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain,p-file").touch()
    (tmp_path / "p-file").touch()
    monkeypatch.chdir(tmp_path)
    ids = ["p-*", "p-?ile", r"p-\\back", "p-$HOME", "p-'\"", "p-a b", "p-;#~", "p-[f]ile", "p-\u00e9=/@%+."]
    for process_id in ids:
        start(process_id, "true")
    typed = completed_by_bash("host", "logs", "p-")
    assert {word for line in typed for word in shlex.split(line)} == set(ids)
    assert len(typed) == len(ids)
    assert completed_by_bash("host", "logs", r"p-a\ ") == {r"p-a\ b"}


def test_a_long_command_is_cut(host: str, cli: Callable[..., Outcome]) -> None:
    long = ProcessSpec(process_id="long", argv=["true", "x" * 100_000, "y"], cwd=Path("/"), env={"PATH": "/bin"})
    asked(host, lambda client: client.start(long))
    (told,) = json.loads(cli("host", "list", "--json").out)["processes"]
    assert told["command"] == "true " + "x" * 195


def test_a_long_id_moves_only_its_own_line(start: Start, cli: Callable[..., Outcome]) -> None:
    long = "x" * 200
    for process_id in ("short", "longer", long):
        start(process_id, "exit 3")
    lines = cli("host", "list").out.decode().splitlines()
    pids = {words[0]: line.index(words[1]) for line in lines if (words := line.split())}
    assert pids == {"ID": 8, "short": 8, "longer": 8, long: 202}


def test_what_one_wrote_is_printed_as_it_is(start: Start, cli: Callable[..., Outcome]) -> None:
    start("p", r"printf 'out\000\377'; printf err >&2; exit 4")
    outcome = cli("host", "logs", "p")
    assert (outcome.status, outcome.out, outcome.err) == (0, b"out\x00\xff", "err")
    records = [json.loads(line) for line in cli("host", "logs", "p", "--json").out.splitlines()]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert {record["kind"]: base64.b64decode(record["data_base64"]) for record in records} == {
        "stdout": b"out\x00\xff",
        "stderr": b"err",
        "exited": b"",
        "closed": b"",
    }
    assert [record["exit_code"] for record in records if record["kind"] == "exited"] == [4]


def test_what_one_wrote_to_stderr_cannot_be_lost_in_silence(start: Start) -> None:
    start("speaks", "echo failed >&2")
    command = [sys.executable, "-m", "holdfast", "host", "logs", "speaks"]
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, stderr=full, timeout=PATIENCE, check=False).returncode == 74
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run(command, stderr=writer, timeout=PATIENCE, check=False).returncode == 141
    os.close(writer)


def test_one_that_runs_is_followed_to_its_end_or_not(
    state: Path, start: Start, cli: Callable[..., Outcome], spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    start("p", f"echo one; until [ -e {state}/go ]; do sleep 0.05; done; echo two", until_closed=False)
    assert cli("host", "logs", "p").out == b"one\n"
    following = spawn("host", "logs", "-f", "p")
    assert following.stdout is not None
    assert following.stdout.readline() == b"one\n"
    (state / "go").touch()
    out, err = following.communicate(timeout=PATIENCE)
    assert (following.returncode, out, err) == (0, b"two\n", b"")


def test_one_is_stopped_with_all_that_it_started_and_that_is_shown(
    host: str, start: Start, cli: Callable[..., Outcome]
) -> None:
    start("p", "setsid sleep 1000 & trap '' TERM; echo up; while :; do sleep 0.05; done", until_closed=False)
    outcome = cli("host", "stop", "p", "--grace", "0.3s")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].split() == [b"ENDED", b"COMMAND"]
    assert {b"sh", b"sleep"} <= {line.split()[1] for line in outcome.out.splitlines()[1:]}
    assert cli("host", "stop", "p").out == b"Nothing of it was alive.\n"
    state = asked(host, lambda client: client.status("p"))
    assert (state.state, state.signal) == (ProcessState.CLOSED, signal.SIGKILL)


def test_programs_are_told_what_was_ended(start: Start, cli: Callable[..., Outcome]) -> None:
    start("p", "echo up; exec sleep 1000", until_closed=False)
    told = json.loads(cli("host", "stop", "p", "--now", "--json").out)
    assert (told["process_id"], told["was_running"], told["survivors"]) == ("p", True, [])
    assert [member["command"] for member in told["ended"]] == ["sleep"]


def test_one_that_has_ended_is_forgotten_and_one_that_runs_is_not(start: Start, cli: Callable[..., Outcome]) -> None:
    start("done", "echo x")
    start("runs", "echo up; exec sleep 1000", until_closed=False)
    would = json.loads(cli("host", "forget", "done", "--dry-run", "--json").out)
    assert would["bytes"] > 0
    assert cli("host", "logs", "done").out == b"x\n"
    outcome = cli("host", "forget", "done")
    assert outcome.status == 0
    assert outcome.out.endswith(b" freed\n")
    for also in ([], ["--dry-run"]):
        refused = cli("host", "forget", "runs", *also)
        assert refused.status == 2
        assert refused.err == "error: Process 'runs' is not closed.\nhint: End it first: holdfast host stop runs\n"
    assert [one["process_id"] for one in json.loads(cli("host", "list", "--json").out)["processes"]] == ["runs"]


@pytest.mark.parametrize("verb", ["logs", "stop", "forget"])
def test_who_is_not_known_is_said_to_be_so(host: str, cli: Callable[..., Outcome], verb: str) -> None:
    outcome = cli("host", verb, "nobody", "--json")
    assert outcome.status == 1
    assert json.loads(outcome.out)["error"]["code"] == "unknown_process"
    assert outcome.err.endswith("hint: See: holdfast host list\n")


@pytest.mark.parametrize("verb", ["logs", "stop", "forget"])
def test_what_is_no_text_is_nobody(host: str, cli: Callable[..., Outcome], verb: str) -> None:
    assert cli("host", verb, "\udcff").err.startswith("error: The host has no process '\\udcff'.\n")


@pytest.mark.parametrize("told", [{}, {"sessionId": 5}, {"sessionId": "s", "holdfast": {"version": "odd"}}])
def test_who_speaks_another_protocol_is_no_host(tmp_path: Path, cli: Callable[..., Outcome], told: object) -> None:
    with answering(tmp_path / "x.sock", told) as url:
        outcome = cli("host", "status", "--url", url)
    assert outcome.status == 127
    assert outcome.err.startswith(f"error: The exec-server at {url} is not a Holdfast host.\n")


def test_a_host_of_another_version_is_said_to_be_one(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    extension = {"version": 1, "instanceId": "i", "stateDirectory": "/"}
    with answering(tmp_path / "x.sock", {"sessionId": "s", "holdfast": extension, "processes": [{}]}) as url:
        for command in ("status", "list"):
            outcome = cli("host", command, "--url", url)
            assert outcome.status == 127
            assert outcome.err.startswith("error: The host is of another version than this client; its answer to ")
            assert outcome.err.endswith(
                "\nhint: Stop it when nothing runs there that you need; a new one starts by itself.\n"
            )


def test_a_hint_names_the_host_that_was_asked(host: str, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    token = tmp_path / "a token"
    token.write_text("x")
    options = ["--url", host, "--token-file", str(token)]
    assert cli("host", "logs", "nobody", "--url", host).err.endswith(f"hint: See: holdfast host list --url {host}\n")
    assert cli("host", "logs", "nobody", *options).err.endswith(f" --url {host} --token-file '{token}'\n")
    assert cli("host", "list", "--url", host).err.endswith(f": holdfast host status --url {host}\n")


def test_none_is_started_for_it(state: Path, cli: Callable[..., Outcome]) -> None:
    assert cli("host", "list").status == 0
    assert json.loads(cli("host", "list", "--json").out) == {"running": False, "processes": []}
    for verb in ("logs", "stop", "forget"):
        assert cli("host", verb, "p").status == 127
    assert complete("host", "stop", "x") == set()
    assert list(state.iterdir()) == []


def test_looking_makes_no_directory_for_a_socket(
    tmp_path: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / ("long" * 50)))
    assert cli("host", "status").status == 0
    assert not socket_path(state_directory() / "host", "host.sock", make=False).parent.exists()


def test_a_wrong_token_is_told_as_such(state: Path, cli: Callable[..., Outcome]) -> None:
    for name, text in (("right", "ri\tght\n"), ("wrong", "wrong\n"), ("empty", "\n"), ("odd", "\u00e9\n")):
        (state / name).write_text(text)
    auth = ["--ws-auth", "capability-token", "--ws-token-file", str(state / "right")]
    hosts = running("--listen", "ws://127.0.0.1:0", *auth)
    url = next(hosts)
    try:
        assert "asks for a token" in cli("host", "list", "--url", url).err
        outcome = cli("host", "status", "--url", url, "--token-file", str(state / "wrong"))
        assert outcome.status == 127
        assert "does not accept this token" in outcome.err
        assert cli("host", "list", "--url", url, "--token-file", str(state / "right")).status == 0
        for name in ("empty", "odd"):
            refused = cli("host", "list", "--url", url, "--token-file", str(state / name))
            assert refused.status == 2
            assert "There is no token in" in refused.err
    finally:
        assert next(hosts, None) is None


def test_a_host_that_one_may_not_ask_is_not_called_absent(state: Path, cli: Callable[..., Outcome]) -> None:
    (state / "host").write_text("a file")
    for command in ("status", "list"):
        outcome = cli("host", command)
        assert outcome.status == 127
        assert "No host is running" not in outcome.err


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:99999", "ws://127.0.0.1:abc", "ws://[::1:4", "http://x", "nonsense", "", "unix://", "ws://"]
)
def test_what_is_no_url_is_said_to_be_none(url: str, host: str, cli: Callable[..., Outcome]) -> None:
    for command in ("status", "list"):
        outcome = cli("host", command, "--url", url)
        assert outcome.status == 2
        assert f"{url!r} is not the URL of a host." in outcome.err
        assert "Traceback" not in outcome.err


def test_a_host_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.host.connection._ANSWERS_WITHIN", 0.1)
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(os.fspath(path))
        mute.listen()

        async def ask() -> None:
            await HostClient.connect(f"unix://{path}", reconnect_for=0.1)

        with pytest.raises(HostUnavailable, match="does not answer") as caught:
            asyncio.run(asyncio.wait_for(ask(), PATIENCE))
        assert "has to be ended before another one" in str(caught.value.hint)


def test_a_shell_does_not_wait_for_a_host_that_says_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.host.connection._ANSWERS_WITHIN", 10 * PATIENCE)
    monkeypatch.setattr("holdfast.cli.completion_values._PATIENCE", 0.1)
    (state / "host").mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(os.fspath(state / "host" / "host.sock"))
        mute.listen()
        assert completion_values.processes(click.Context(host_processes.stop), host_processes.stop.params[0], "") == []


def test_a_grace_that_no_host_grants_is_refused(host: str, cli: Callable[..., Outcome]) -> None:
    outcome = cli("host", "stop", "p", "--grace", "11m")
    assert outcome.status == 2
    assert "--grace is 10m at most" in outcome.err


def test_at_once_and_with_a_grace_contradict_each_other(host: str, cli: Callable[..., Outcome]) -> None:
    outcome = cli("host", "stop", "p", "--now", "--grace", "2s")
    assert outcome.status == 2
    assert "--now and --grace contradict each other" in outcome.err
