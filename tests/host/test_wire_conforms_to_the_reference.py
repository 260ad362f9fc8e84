"""The same conversations with our host and with the real ``codex exec-server``; what they answer must agree."""

from __future__ import annotations

import base64
import os
import pwd
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.host import environment
from holdfast.host.configuration.layers import user_home
from holdfast.host.environment import child_environment, environment_info

from .harness import (
    BOUND,
    PATH,
    RunningServer,
    WireClient,
    server_command,
    start_host,
    until_dead,
    within,
    write_params,
)


async def test_initialize_describes_the_environment(either: RunningServer) -> None:
    client = await WireClient.connect(either.url, initialize=False)
    result = await client.result("initialize", {"clientName": ""})
    info = result["environmentInfo"]
    assert set(info) >= {"shell", "executorVersion", "providerId", "cwd", "userHomeDir", "platformOs", "capabilities"}
    assert info["platformOs"] == "linux"
    assert info["cwd"].startswith("file:///")
    assert set(info["shell"]) == {"name", "path"}
    client.notify("initialized")
    assert await client.result("environment/info") == info
    assert await client.result("environment/info", {}) == info
    for nothing in (None, {}):
        assert await client.result("environment/status", nothing) == {"status": "ready"}
    for something in ([], [None], "", 0, False, {"": None}):
        assert (await client.error("environment/status", something))[0] == -32602


def test_an_account_that_nobody_wrote_down_has_a_shell_and_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    for name in ("SHELL", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "_SHELL_DIRECTORIES", ())
    info = environment_info()
    assert (info["shell"], info["userHomeDir"]) == ({"name": "sh", "path": "/bin/sh"}, "file:///")
    assert child_environment({}, None, terminal=True) == {"SHELL": "/bin/sh"}
    assert user_home() == "/"


@pytest.mark.real_agent
@pytest.mark.parametrize(
    "changed",
    [
        {"SHELL": "/usr/bin/fish"},
        {"SHELL": "/nonexistent/sh"},
        {"SHELL": "sh"},
        {"HOME": "relative"},
        {"HOME": ""},
        {"HOME": "/tmp/../var//x/"},
        {"TMPDIR": "relative"},
        {"TMPDIR": ""},
        {"TMPDIR": "/tmp/../var/tmp/"},
        {"TMPDIR": "/nonexistent"},
    ],
    ids=str,
)
async def test_the_environment_is_told_as_the_reference_tells_it(
    state: Path, codex_home: Path, changed: dict[str, str]
) -> None:
    env = {**os.environ, "CODEX_HOME": str(codex_home), **changed}
    told: list[dict[str, Any]] = []
    for which in ("holdfast", "codex"):
        server = RunningServer(server_command(which, state), env=env)
        client = await WireClient.connect(server.url)
        info = await client.result("environment/info")
        told.append(
            {name: info.get(name) for name in ("shell", "cwd", "userHomeDir", "temporaryDirectories", "tempDir")}
        )
        await client.close()
        server.stop()
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("own", "there", "used"),
    [
        ("bin/bash", ["bin/bash", "usr/bin/bash"], "bin/bash"),
        ("bin/sh", ["bin/sh", "usr/bin/bash"], "bin/sh"),
        ("opt/zsh", ["usr/bin/zsh", "bin/bash"], "usr/bin/zsh"),
        ("sbin/nologin", ["sbin/nologin", "usr/bin/bash", "bin/bash"], "usr/bin/bash"),
        ("bin/fish", ["bin/fish", "bin/zsh", "bin/sh"], "bin/zsh"),
        ("", ["bin/bash"], "bin/bash"),
    ],
)
def test_the_shell_is_one_that_clients_know_and_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, there: list[str], used: str
) -> None:
    for path in there:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    monkeypatch.setattr(environment, "shell_and_home", lambda: (f"{tmp_path}/{own}", "/"))
    monkeypatch.setattr(environment, "_SHELL_DIRECTORIES", (f"{tmp_path}/usr/bin", f"{tmp_path}/bin"))
    assert environment_info()["shell"] == {"name": used.rpartition("/")[2], "path": f"{tmp_path}/{used}"}


async def test_a_host_whose_directory_was_deleted_is_still_one(
    state: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    host = start_host(state)
    monkeypatch.undo()
    os.rmdir(workspace)
    client = await WireClient.connect(host.url, initialize=False)
    assert (await client.result("initialize", {"clientName": ""}))["environmentInfo"]["cwd"] == "file:///"
    client.notify("initialized")
    await client.start("p", "/bin/echo", "hello")
    await client.until_output("p", b"hello")
    await client.close()
    host.stop()


async def test_requests_before_the_handshake_are_refused(either: RunningServer) -> None:
    client = await WireClient.connect(either.url, initialize=False)
    read = {"processId": "x"}
    assert await client.error("process/read", read) == (-32600, "client must call initialize before using exec methods")
    assert await client.error("environment/info") == (
        -32600,
        "client must call initialize before using environment info methods",
    )
    assert await client.error("process/read", {}) == (-32602, "missing field `processId`")
    assert await client.error("nope/nope", {}) == (-32601, "exec-server stub does not implement `nope/nope` yet")
    no_uri = {"cwd": "/", "configPaths": [], "requirementsPaths": []}
    for method in ("environmentConfig/read", "capabilities/discoverV2"):
        assert await client.error(method, no_uri) == (-32602, "invalid URI: relative URL without a base")
    await client.result("initialize", {"clientName": "x"})
    assert await client.error("process/read", read) == (
        -32600,
        "client must send initialized before using exec methods",
    )
    client.notify("initialized")
    assert await client.error("process/read", read) == (-32600, "unknown process id x")
    assert (await client.error("initialize", {"clientName": "x"}))[0] == -32600


@pytest.mark.parametrize(
    "text",
    ["{", "not json", "[]", "1", "null", "{}", '{"id":51}', '{"id":52,"method":5}', '{"id":null,"method":"x"}',
     '{"result":1}', '{"error":{"code":1,"message":"x"}}', '{"id":null,"result":1}',
     '{"id":1.5,"method":"x"}', '{"id":9223372036854775808,"method":"x"}', '{"id":1,"method":"x","trace":5}',
     '{"id":1,"method":"x","trace":[1]}', '{"id":1,"method":"x","trace":["x","y","z"]}',
     '{"id":1,"error":null}', '{"id":1,"error":{"code":1e0,"message":"x"}}',
     '{"id":1,"error":{"code":9223372036854775808,"message":"x"}}'],
)  # fmt: skip
async def test_malformed_messages_are_answered_and_the_connection_stays(client: WireClient, text: str) -> None:
    client.send(text)
    reply = await client.reply(-1)
    assert reply["error"]["code"] == -32600
    assert reply["error"]["message"].startswith(
        "failed to parse websocket JSON-RPC message from exec-server websocket 127.0.0.1:"
    )
    assert await client.result("environment/status") == {"status": "ready"}


async def test_ids_may_be_strings_and_any_signed_64_bit_number(client: WireClient) -> None:
    for text, identity in (("-7", -7), ("9223372036854775807", 2**63 - 1), ('"s"', "s")):
        client.send(f'{{"jsonrpc":"2.0","id":{text},"method":"environment/status","extra":true}}')
        assert (await client.reply(identity))["result"] == {"status": "ready"}


@pytest.mark.parametrize(
    "members",
    [
        '"params": { \n}',
        '"params":\tnull ',
        '"result":5',
        '"error":null',
        '"error":5',
        '"error":{"code":"x"}',
        '"trace":null',
        '"trace":{}',
        '"trace":{"traceparent":"x","tracestate":null}',
        '"trace":[]',
        '"trace":["x"]',
        '"trace":[null,"x"]',
    ],
)
async def test_what_means_nothing_in_a_request_changes_nothing(client: WireClient, members: str) -> None:
    client.send(f'{{"id":1000,"method":"environment/status",{members}}}')
    assert (await client.reply(1000))["result"] == {"status": "ready"}
    client.send('{"method":"initialized","error":5,"trace":5}')
    assert await client.result("environment/status") == {"status": "ready"}


@pytest.mark.parametrize("message", ['{"method":"nope"}', '{"id":77,"result":{}}', '{"id":77,"result":{},"trace":5}'])
async def test_what_nobody_asked_for_ends_the_connection(client: WireClient, message: str) -> None:
    client.send(message)
    await client.until_lost()


async def test_a_pipe_process_from_start_to_closed(client: WireClient) -> None:
    script = "echo hi; read x; echo err >&2; read x; exit 3"
    started = await client.start("p", "/bin/sh", "-c", script, pipeStdin=True)
    assert started == {"processId": "p", "sandboxType": "none"}
    # Step by step: what comes close together has no promised order in the reference.
    for step, wanted in enumerate((b"hi", b"err")):
        await client.until_output("p", wanted)
        await client.result("process/write", write_params("p", b"go\n", str(step)))
    await client.until_closed("p")
    told = [(n["method"], {k: v for k, v in n["params"].items() if k != "processId"}) for n in client.of("p")]
    assert told == [
        ("process/output", {"seq": 1, "stream": "stdout", "chunk": "aGkK"}),
        ("process/output", {"seq": 2, "stream": "stderr", "chunk": "ZXJyCg=="}),
        ("process/exited", {"seq": 3, "exitCode": 3, "sandboxDenied": False}),
        ("process/closed", {"seq": 4}),
    ]
    whole = {
        "chunks": [
            {"seq": 1, "stream": "stdout", "chunk": "aGkK"},
            {"seq": 2, "stream": "stderr", "chunk": "ZXJyCg=="},
        ],
        "nextSeq": 5,
        "exited": True,
        "exitCode": 3,
        "closed": True,
        "failure": None,
        "sandboxDenied": False,
    }
    assert await client.result("process/read", {"processId": "p"}) == whole
    assert await client.result("process/read", {"processId": "p", "afterSeq": None, "maxBytes": None}) == whole
    later = await client.result("process/read", {"processId": "p", "afterSeq": 1})
    assert [chunk["seq"] for chunk in later["chunks"]] == [2]
    for after in (2, 4, 1000):
        end = await client.result("process/read", {"processId": "p", "afterSeq": after, "waitMs": 2**64 - 1})
        assert end == {**whole, "chunks": []}


async def test_reads_are_cut_by_size_but_never_to_nothing(client: WireClient) -> None:
    script = "for i in 1 2 3; do printf 'line%s.\\n' $i; read x; done"
    await client.start("r", "/bin/sh", "-c", script, pipeStdin=True)
    for number in (1, 2, 3):
        await client.until_output("r", b"line%d.\n" % number)
        await client.result("process/write", write_params("r", b"go\n", str(number)))
    await client.until_closed("r")
    assert client.methods("r")[:3] == ["output"] * 3
    for size, count, next_seq in (
        (0, 1, 2),
        (1, 1, 2),
        (7, 1, 2),
        (13, 1, 2),
        (14, 2, 3),
        (20, 2, 3),
        (21, 3, 4),
        (22, 3, 4),
        (None, 3, 6),
    ):
        read = await client.result("process/read", {"processId": "r", "maxBytes": size})
        assert len(read["chunks"]) == count, size
        assert read["nextSeq"] == next_seq, size


async def test_a_long_poll_ends_with_output_exit_close_or_time(client: WireClient) -> None:
    await client.start("l", "/bin/sh", "-c", "read x; echo $x; read y; exit 7", pipeStdin=True)
    empty = await client.result("process/read", {"processId": "l", "waitMs": 20})
    assert (empty["chunks"], empty["nextSeq"], empty["exited"]) == ([], 1, False)
    await client.result("process/write", write_params("l", b"one\n", "1"))
    read = await client.result("process/read", {"processId": "l", "waitMs": 10000})
    assert read["chunks"] == [{"seq": 1, "stream": "stdout", "chunk": "b25lCg=="}]
    await client.result("process/write", write_params("l", b"two\n", "2"))
    read = await client.result("process/read", {"processId": "l", "afterSeq": 1, "waitMs": 10000})
    assert (read["exited"], read["exitCode"]) == (True, 7)
    read = await client.result("process/read", {"processId": "l", "afterSeq": 2, "waitMs": 10000})
    assert (read["closed"], read["nextSeq"]) == (True, 4)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("process/read", {"processId": "n", "afterSeq": None}),
        ("process/read", {"processId": "n", "maxBytes": None}),
        ("process/read", {"processId": "n", "waitMs": None}),
        ("fs/readBlock", {"handleId": "n", "len": 1, "offset": None}),
        ("fs/readBlock", {"handleId": "n", "offset": 0, "len": None}),
        ("fs/writeBlock", {"handleId": "n", "chunk": "", "offset": None}),
        ("fs/watchMissing", {"missing": ["file:///nowhere"], "watchId": None}),
        ("http/request", {"method": "GET", "url": "http://127.0.0.1:1/", "requestId": "r", "timeoutMs": None}),
    ],
)
async def test_numbers_have_64_bits_and_no_sign(client: WireClient, method: str, params: dict[str, Any]) -> None:
    await client.start("n", "/bin/sh", "-c", "echo there is something to read; read x", pipeStdin=True)
    await client.until_output("n", b"\n")
    (name,) = (name for name, value in params.items() if value is None)
    for number in (-1, 2**64, 10**30, 1.0, 1e300, True, "1", [], {}):
        assert (await client.error(method, {**params, name: number}))[0] == -32602, number
    for number in (-0, 2**31, 2**53 + 1, 2**63, 2**64 - 1):
        reply = await client.call(method, {**params, name: number})
        assert reply.get("error", {"code": 0})["code"] != -32602, number
    await client.result("process/terminate", {"processId": "n"})


async def test_writes_are_in_order_and_once_for_each_id(client: WireClient) -> None:
    await client.start("w", "/bin/cat", pipeStdin=True)
    for data, identity in ((b"one\n", "1"), (b"again\n", "1"), (b"", "2"), (b"two\n", "3")):
        assert await client.result("process/write", write_params("w", data, identity)) == {"status": "accepted"}
    await client.until_output("w", b"two\n")
    assert client.output("w") == b"one\ntwo\n"
    bad = {"processId": "w", "chunk": "eA=="}
    assert await client.error("process/write", bad) == (-32602, "missing field `writeId`")
    assert await client.error("process/write", {**bad, "writeId": ""}) == (-32602, "writeId must not be empty")
    for chunk, fault in (
        ("!!!", "Invalid symbol 33, offset 0."),
        ("é", "Invalid symbol 195, offset 0."),
        ("aGk", "Invalid padding"),
        ("aGk=\n", "Invalid symbol 10, offset 4."),
        ("_-8=", "Invalid symbol 95, offset 0."),
        ("AR==", "Invalid last symbol 82, offset 1."),
        ("AAAAA", "Invalid input length: 5"),
    ):
        for write_id in ("x", ""):
            write = {**bad, "chunk": chunk, "writeId": write_id}
            assert await client.error("process/write", write) == (-32602, fault)
    assert await client.result("process/terminate", {"processId": "w"}) == {"running": True}
    await client.until_closed("w")
    assert client.exit_code("w") == 137


async def test_stdin_is_empty_unless_asked_for(client: WireClient) -> None:
    await client.start("n", "/bin/sh", "-c", "cat; readlink /proc/self/fd/0; sleep 1000")
    answer = await client.result("process/write", write_params("n", b"x", "1"))
    assert answer == {"status": "stdinClosed"}
    await client.until_output("n", b"\n")
    await client.result("process/terminate", {"processId": "n"})
    await client.until_closed("n")
    assert client.output("n") == b"/dev/null\n"


async def test_unknown_processes(client: WireClient) -> None:
    assert await client.error("process/read", {"processId": "nope", "waitMs": 10}) == (
        -32600,
        "unknown process id nope",
    )
    assert await client.result("process/write", write_params("nope", b"x", "1")) == {"status": "unknownProcess"}
    assert await client.result("process/signal", {"processId": "nope", "signal": "interrupt"}) == {}
    assert await client.result("process/terminate", {"processId": "nope"}) == {"running": False}


async def test_a_process_id_is_taken_until_it_is_forgotten(client: WireClient) -> None:
    start = {"processId": "d", "argv": ["/bin/sleep", "0.1"], "cwd": "file:///tmp", "env": {}, "tty": False}
    await client.result("process/start", start)
    assert await client.error("process/start", start) == (-32600, "process d already exists")
    await client.until_closed("d")
    assert await client.error("process/start", start) == (-32600, "process d already exists")
    for odd in ("", "ü/☃ " * 50):
        assert (await client.start(odd, "/bin/echo", "x"))["processId"] == odd
        await client.until_closed(odd)


async def test_refused_starts(client: WireClient, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no shebang")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    start: dict[str, Any] = {"argv": ["/bin/true"], "cwd": "file:///tmp", "env": {"PATH": PATH}, "tty": False}
    enoent = (-32603, "No such file or directory (os error 2)")
    cases: list[tuple[dict[str, Any], tuple[int, str]]] = [
        ({"argv": []}, (-32602, "argv must not be empty")),
        ({"argv": [""]}, (-32603, "missing program for pipe spawn")),
        ({"argv": [""], "tty": True}, (-32603, "missing program for PTY spawn")),
        ({"argv": ["/no/such/binary"]}, enoent),
        ({"argv": ["no-such-binary-xyz"]}, enoent),
        ({"cwd": "file:///nonexistent/dir"}, enoent),
        ({"argv": ["/tmp"]}, (-32603, "Permission denied (os error 13)")),
        ({"argv": [str(plain)]}, (-32603, "Permission denied (os error 13)")),
        ({"cwd": f"file://{plain}"}, (-32603, "Not a directory (os error 20)")),
        ({"cwd": "/tmp"}, (-32602, "invalid URI: relative URL without a base")),
        ({"cwd": "http://x/tmp"}, (-32602, "unsupported path URI scheme `http`")),
        ({"cwd": "file:///tmp?x=1"}, (-32602, "query parameters are not allowed in path URIs")),
        ({"cwd": "file:///tmp#f"}, (-32602, "fragments are not allowed in path URIs")),
        ({"argv": ["/bin/sh/"]}, (-32603, "Not a directory (os error 20)")),
        ({"argv": [f"/{'x' * 300}"]}, (-32603, "Filename too long (os error 36)")),
        ({"argv": [str(loop)]}, (-32603, "Symbolic link loop (os error 40)")),
        ({"argv": [str(loop)], "tty": True}, (-32603, "Symbolic link loop (os error 40)")),
        ({"cwd": f"file://{loop}"}, (-32603, "Symbolic link loop (os error 40)")),
        ({"argv": ["/bin/echo", "x" * 200_000]}, (-32603, "Argument list too long (os error 7)")),
        ({"argv": ["/bin/echo", "a\0b"]}, (-32603, "nul byte found in provided data")),
        ({"argv": ["/bin/echo", "a\0b"], "env": {"A": "\0"}}, (-32603, "nul byte found in provided data")),
        ({"env": {"A": "a\0b"}}, (-32603, "data provided contains a nul byte")),
        ({"env": {"A\0": "b"}, "tty": True}, (-32603, "data provided contains a nul byte")),
    ]
    for number, (changes, expected) in enumerate(cases):
        assert await client.error("process/start", {"processId": f"s{number}", **start, **changes}) == expected, changes
    for missing in ("argv", "cwd", "env", "tty"):
        params = {"processId": "m", **{name: value for name, value in start.items() if name != missing}}
        assert await client.error("process/start", params) == (-32602, f"missing field `{missing}`")
    plain.chmod(0o755)
    params = {"processId": "e", **start, "argv": [str(plain)]}
    assert await client.error("process/start", params) == (-32603, "Exec format error (os error 8)")


async def test_what_cannot_be_started_at_a_terminal_is_looked_for(client: WireClient, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh")
    (tmp_path / "place" / "name").mkdir(parents=True)
    (tmp_path / "place" / "plain").write_text("#!/bin/sh")
    (tmp_path / "dangling").symlink_to("nowhere")
    path = f"{tmp_path}/nowhere:place:{tmp_path}"
    end = f'No viable candidates found in PATH "{path}"'
    for number, (program, reason) in enumerate(
        {
            "none": f"none because:\n{end}",
            "name": f"name because:\n{tmp_path}/place/name exists but is a directory.\n{end}",
            "plain": f"plain because:\n{tmp_path}/place/plain exists but is not executable.\n"
            f"{tmp_path}/plain exists but is not executable.\n{end}",
            "./none": f"{tmp_path}/./none because it does not exist",
            "../none": f"{tmp_path}/../none because it does not exist",
            "./plain": f"{tmp_path}/./plain because it is not executable",
            "./place": f"{tmp_path}/./place because it is a directory",
            ".": f"{tmp_path}/. because it is a directory",
            "./dangling": f"{tmp_path}/./dangling because it does not exist",
        }.items()
    ):
        start = {"processId": f"t{number}", "argv": [program], "env": {"PATH": path}, "tty": True}
        answer = await client.error("process/start", {**start, "cwd": f"file://{tmp_path}"})
        assert answer == (-32603, f"Unable to spawn {reason}")
    absolute = {"processId": "a", "argv": ["/no/such/program"], "env": {"PATH": path}, "tty": True, "cwd": "file:///"}
    assert await client.error("process/start", absolute) == (-32603, "No such file or directory (os error 2)")


async def test_working_directories_are_file_uris(client: WireClient, tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    spaced.mkdir()
    for number, uri in enumerate((f"FILE://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b/../a%20b")):
        await client.start(f"c{number}", "/bin/pwd", cwd=uri)
        await client.until_closed(f"c{number}")
        assert client.output(f"c{number}").decode().strip() == str(spaced)


async def test_the_environment_is_exactly_what_was_given(client: WireClient) -> None:
    await client.start("e", "/usr/bin/env", env={"A": "1", "B": "x y"})
    await client.until_closed("e")
    assert sorted(client.output("e").decode().split("\n")) == ["", "A=1", "B=x y"]


@pytest.mark.parametrize("tty", [False, True])
async def test_secrets_of_the_orchestrator_reach_no_child(client: WireClient, tty: bool) -> None:
    names = ["NODE_REPL_AUTH_TOKEN", "codex_exec_server_noise_auth_token", "OPENAI_Federation_RULE_ID", "SHELL"]
    policy = {"inherit": "none", "ignoreDefaultExcludes": True, "exclude": [], "includeOnly": []}
    for number, envs in enumerate(
        (
            {"env": dict.fromkeys(names, "1")},
            {"env": dict.fromkeys(names, "1"), "envPolicy": {**policy, "set": {}}},
            {"env": {}, "envPolicy": {**policy, "set": dict.fromkeys([*names, "NOTIFY_SOCKET"], "1")}},
        )
    ):
        await client.start(f"e{number}", "/usr/bin/env", tty=tty, **envs)
        await client.until_closed(f"e{number}")
        wanted = [b"NOTIFY_SOCKET=1", b"SHELL=1"] if number == 2 else [b"SHELL=1"]
        assert sorted(client.output(f"e{number}").split()) == wanted


@pytest.mark.parametrize("inherit", ["ALL", "None", ""])
async def test_a_policy_that_is_none_starts_nothing(client: WireClient, inherit: str) -> None:
    policy = {"inherit": inherit, "ignoreDefaultExcludes": True, "exclude": [], "set": {}, "includeOnly": []}
    params = {"processId": "p", "argv": ["/usr/bin/env"], "cwd": "file:///", "env": {}, "tty": False}
    assert (await client.error("process/start", {**params, "envPolicy": policy}))[0] == -32602
    assert (await client.error("process/read", {"processId": "p"}))[0] == -32600


@pytest.mark.parametrize(("env", "shell"), [({}, pwd.getpwuid(os.getuid()).pw_shell), ({"SHELL": "/x"}, "/x")])
async def test_at_a_terminal_there_is_a_shell(client: WireClient, env: dict[str, str], shell: str) -> None:
    await client.start("p", "/usr/bin/env", env=env, tty=True)
    await client.until_closed("p")
    assert client.output("p", "pty").split() == [f"SHELL={shell}".encode()]


async def test_a_working_directory_is_the_one_that_its_url_means(client: WireClient, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    os.mkdir(os.fsencode(tmp_path) + b"/no\xfftext")
    for number, (place, wanted) in enumerate(
        {
            "link/..": tmp_path,
            "link/%2e%2e": tmp_path,
            "missing/../far": tmp_path / "far",
            "no%FFtext": tmp_path / os.fsdecode(b"no\xfftext"),
        }.items()
    ):
        await client.start(f"p{number}", "/bin/pwd", cwd=f"file://{tmp_path}/{place}")
        await client.until_closed(f"p{number}")
        assert client.output(f"p{number}") == os.fsencode(wanted) + b"\n"


@pytest.mark.parametrize("chunk", ["YR==", "YWF=", "YQ", "Y!==", "=", "===="])
async def test_what_is_no_base64_is_not_written(client: WireClient, chunk: str) -> None:
    await client.start("c", "/bin/cat", pipeStdin=True)
    params = {"processId": "c", "chunk": chunk, "writeId": "1"}
    assert (await client.error("process/write", params))[0] == -32602
    await client.result("process/write", write_params("c", b"ok\n", "1"))
    await client.until_output("c", b"\n")
    assert client.output("c") == b"ok\n"
    await client.result("process/terminate", {"processId": "c"})


async def test_a_policy_says_what_is_inherited(client: WireClient) -> None:
    policy = {
        "inherit": "core",
        "ignoreDefaultExcludes": True,
        "exclude": ["l*"],
        "set": {"NEW": "n"},
        "includeOnly": [],
    }
    await client.start("e", "/usr/bin/env", env={"HOME": "/over"}, envPolicy=policy)
    await client.until_closed("e")
    got = dict(line.split("=", 1) for line in client.output("e").decode().splitlines())
    assert got["HOME"] == "/over"
    assert got["NEW"] == "n"
    assert not [name for name in got if name.startswith("L")]
    assert "PATH" in got


#: Names that tell the meanings of a pattern apart: case beyond ASCII, what matters to a shell or a regular expression.
NAMES = ["ab", "AB", "a[b", "a*b", "a\nb", "aXYZb", "s", "ſ", "É", "İ", "i", "I", "Σ", "ς", "σ", "ß", "SS"]
#: Which of them the reference implementation takes for matched.
MATCHED = {
    "a*b": {"ab", "AB", "a[b", "a*b", "a\nb", "aXYZb"},
    "A?B": {"a[b", "a*b", "a\nb"},
    "*a*b*": {"ab", "AB", "a[b", "a*b", "a\nb", "aXYZb"},
    "a[b]": set[str](),
    "a[b": {"a[b"},
    "a\\*b": set[str](),
    "s": {"s"},
    "é": {"É"},
    "İ": {"İ"},
    "i": {"i", "I"},
    "σ": {"Σ", "σ"},
    "ß": {"ß"},
    "??": {"ab", "AB", "SS"},
    "**": set(NAMES),
    "": set[str](),
}


async def test_a_pattern_of_a_policy_means_the_same(client: WireClient) -> None:
    policy = {"inherit": "none", "ignoreDefaultExcludes": True, "exclude": [], "set": dict.fromkeys(NAMES, "1")}
    for pattern, matched in MATCHED.items():
        await client.start(pattern, "/usr/bin/env", "-0", env={}, envPolicy={**policy, "includeOnly": [pattern]})
        await client.until_closed(pattern)
        got = {variable.removesuffix("=1") for variable in client.output(pattern).decode().split("\0")[:-1]}
        assert got == matched, pattern


async def test_programs_are_found_in_the_path_of_the_child(client: WireClient, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_text("#!/bin/sh\necho hello from $0\n")
    program.chmod(0o755)
    await client.start("a", "hello", env={"PATH": f"/nonexistent:{tmp_path}"})
    await client.start("b", "./hello", cwd=f"file://{tmp_path}")
    await client.start("c", "echo", "no PATH", env={})
    await client.start("d", "/bin/sh", "-c", "echo $0", arg0="renamed")
    for process_id, wanted in (("a", b"hello"), ("b", b"hello"), ("c", b"no PATH\n"), ("d", b"renamed\n")):
        await client.until_closed(process_id)
        assert client.output(process_id).startswith(wanted)


async def test_a_terminal_is_the_controlling_one(client: WireClient) -> None:
    script = 'tty; stty size; echo "TERM=$TERM"; echo e >&2; exec 3</dev/tty && echo controlling; exit 255'
    await client.start("t", "/bin/sh", "-c", script, tty=True)
    await client.until_closed("t")
    lines = client.output("t", "pty").decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:] == ["24 80", "TERM=", "e", "controlling", ""]
    assert client.exit_code("t") == 255


async def test_a_terminal_echoes_interrupts_and_ends(client: WireClient) -> None:
    await client.start("t", "/bin/cat", tty=True, pipeStdin=True)
    await client.result("process/write", write_params("t", b"abc\n", "1"))
    await client.until_output("t", b"abc\r\nabc\r\n")
    await client.result("process/write", write_params("t", b"\x04", "2"))
    await client.until_closed("t")
    assert client.exit_code("t") == 0
    await client.start("i", "/bin/cat", tty=True)
    await client.result("process/write", write_params("i", b"\x03", "1"))
    await client.until_closed("i")
    assert client.exit_code("i") != 0


async def test_an_interrupt_reaches_the_group(client: WireClient) -> None:
    await client.start("s", "/bin/sh", "-c", "trap 'echo got; exit 5' INT; echo up; while :; do sleep 0.05; done")
    await client.until_output("s", b"up")
    assert await client.result("process/signal", {"processId": "s", "signal": "interrupt"}) == {}
    await client.until_closed("s")
    assert client.output("s") == b"up\ngot\n"
    assert client.exit_code("s") == 5


@pytest.mark.parametrize(("script", "code"), [("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255)])
async def test_exit_codes(client: WireClient, script: str, code: int) -> None:
    await client.start("k", "/bin/sh", "-c", script)
    await client.until_closed("k")
    assert client.exit_code("k") == code


async def test_terminate_kills_the_group_at_once(client: WireClient) -> None:
    script = "trap '' TERM INT; sleep 1000 & echo $!; wait; wait; sleep 1000"
    await client.start("x", "/bin/bash", "-c", script)
    await client.until_output("x", b"\n")
    child = int(client.output("x"))
    assert await client.result("process/terminate", {"processId": "x"}) == {"running": True}
    await client.until_closed("x")
    await until_dead(child)
    assert client.exit_code("x") == 137
    assert await client.result("process/terminate", {"processId": "x"}) == {"running": False}


async def test_exit_is_not_close(client: WireClient, tmp_path: Path) -> None:
    late = "until [ -e 1 ]; do sleep 0.02; done; echo late1; until [ -e 2 ]; do sleep 0.02; done; echo late2"
    await client.start("g", "/bin/sh", "-c", f"({late}) & echo early; exit 5", cwd=f"file://{tmp_path}")
    await client.until_output("g", b"early")
    await client.until(lambda: "exited" in client.methods("g"))
    read = await client.result("process/read", {"processId": "g"})
    assert (read["exited"], read["exitCode"], read["closed"]) == (True, 5, False)
    assert await client.result("process/terminate", {"processId": "g"}) == {"running": False}
    for number in (1, 2):
        (tmp_path / str(number)).touch()
        await client.until_output("g", b"late%d" % number)
    await client.until_closed("g")
    assert client.output("g") == b"early\nlate1\nlate2\n"
    assert sorted(client.methods("g")[:2]) == ["exited", "output"]
    assert client.methods("g")[2:] == ["output", "output", "closed"]


async def test_a_session_is_resumed_after_a_drop(either: RunningServer) -> None:
    first = await WireClient.connect(either.url)
    await first.start("p", "/bin/sh", "-c", "echo one; read x; echo two; read y; exit 4", pipeStdin=True)
    await first.until_output("p", b"one")
    await first.result("process/write", write_params("p", b"go\n", "1"))
    await first.until_output("p", b"two")
    await first.close()
    stranger = await WireClient.connect(either.url)
    assert (await stranger.error("process/read", {"processId": "p"}))[0] == -32600
    # The server may notice the loss of the first connection a moment later than its client.
    deadline = time.monotonic() + BOUND
    while True:
        second = await WireClient.connect(either.url, initialize=False)
        reply = await second.call("initialize", {"clientName": "again", "resumeSessionId": first.session})
        if "result" in reply:
            break
        assert reply["error"]["code"] == -32010
        await second.close()
        assert time.monotonic() < deadline, "the loss of a connection is not noticed"
    assert reply["result"]["sessionId"] == first.session
    second.notify("initialized")
    read = await second.result("process/read", {"processId": "p", "afterSeq": 1})
    assert [base64.b64decode(chunk["chunk"]) for chunk in read["chunks"]] == [b"two\n"]
    await second.result("process/write", write_params("p", b"repeated\n", "1"))
    await second.result("process/write", write_params("p", b"end\n", "2"))
    await second.until_closed("p")
    assert second.methods("p") == ["exited", "closed"]
    assert second.exit_code("p") == 4
    assert await stranger.error("initialize", {"clientName": "x"}) != ()
    fresh = await WireClient.connect(either.url, initialize=False)
    code, message = await fresh.error("initialize", {"clientName": "x", "resumeSessionId": "no-such"})
    assert (code, message) == (-32600, "unknown session id no-such")
    for client in (second, stranger, fresh):
        await client.close()


async def test_bytes_pass_unchanged(client: WireClient) -> None:
    data = bytes(range(256)) * 1000 + b"\xff\xfe\x00" + os.urandom(10_000)
    await client.start("b", "/bin/cat", pipeStdin=True)
    for number in range(0, len(data), 50_000):
        await client.result("process/write", write_params("b", data[number : number + 50_000], str(number)))
    await client.until(lambda: len(client.output("b")) >= len(data))
    assert client.output("b") == data
    await client.result("process/terminate", {"processId": "b"})
    await within(client.until_closed("b"))


async def test_a_sigterm_ends_server_and_children(either: RunningServer) -> None:
    client = await WireClient.connect(either.url)
    await client.start("x", "/bin/sh", "-c", "trap '' TERM; echo $$; sleep 1000; sleep 1000")
    await client.until_output("x", b"\n")
    child = int(client.output("x"))
    assert either.stop() == 0
    await until_dead(child)
