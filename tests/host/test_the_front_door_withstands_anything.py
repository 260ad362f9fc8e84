"""Whatever arrives, the host answers or closes the connection, and goes on serving others."""

from __future__ import annotations

import base64
import json
import os
import socket
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from holdfast.host.methods import METHOD_MODULES, METHODS

from .harness import BOUND, RunningServer, start_host

for module in METHOD_MODULES.values():
    import_module(module)

#: Every method but the one that is meant to end the host.
FUZZED = sorted(set(METHODS) - {"host/stop"})

PROBE = b'{"id":"probe","method":"environment/status"}\n'
HELLO = b'{"id":"hello","method":"initialize","params":{"clientName":"fuzz"}}\n{"method":"initialized"}\n'

fuzzing = settings(
    max_examples=int(os.environ.get("HOLDFAST_FUZZ_EXAMPLES", "150")),
    deadline=None,
    derandomize=True,
    # A failure may take the whole bound of a wait, and so would every attempt to simplify it.
    phases=[Phase.explicit, Phase.generate],
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

#: Where the paths of the examples lead; they remove and replace it.
SCRATCH = "scratch"
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
numbers = st.sampled_from([0, 1, 2, 7, 2**20, 2**31, 2**63 - 1, 2**63, 2**64, -1])


def likely(top: Path) -> dict[str, st.SearchStrategy[Any]]:
    """Values that get further than random ones, by the name of the parameter; paths stay in *top*."""
    path = st.sampled_from(
        ["", "/f", "/d", "/l", "/out", "/fifo", "/no/thing", "/d/..", "/%FF", "/%00", "/" + "n" * 300]
    )
    uri = path.map(lambda name: f"file://{top}{name}")
    identity = st.sampled_from(["a", "b", "", "ä" * 40])
    data = st.binary(max_size=50).map(lambda data: base64.b64encode(data).decode()) | st.sampled_from(["!", "eA", "é"])
    header = st.fixed_dictionaries({"name": st.sampled_from(["a", "", "b c"]), "value": st.text(max_size=5)})
    return {
        "path": uri,
        "sourcePath": uri,
        "destinationPath": uri,
        "present": uri,
        "missing": st.lists(uri, max_size=5),
        "cwd": uri,
        "dataBase64": data,
        "chunk": data,
        "bodyBase64": data,
        "handleId": identity,
        "processId": identity,
        "writeId": identity,
        "requestId": identity,
        "resumeSessionId": identity,
        "argv": st.lists(st.sampled_from(["/bin/true", "/bin/echo", "missing", "", "a\0b"]), max_size=3),
        "env": st.dictionaries(st.sampled_from(["A", "", "B=C", "D\0"]), st.sampled_from(["", "x", "\0"]), max_size=3),
        "arg0": st.sampled_from(["x", ""]),
        "offset": numbers,
        "len": numbers,
        "watchId": numbers,
        "afterSeq": numbers,
        "maxBytes": numbers,
        "waitMs": st.sampled_from([0, 1, 20]),
        "graceMs": st.sampled_from([0, 1]),
        "timeoutMs": st.sampled_from([0, 1, 1000, -1]),
        "signal": st.sampled_from(["interrupt", "x", 0, 15, 99]),
        "subscriptionId": numbers,
        "window": numbers,
        "method": st.sampled_from(["GET", "", "a b"]),
        "url": st.sampled_from(["http://127.0.0.1:1/", "http://", "http://[::1", "x:y", "http://127.0.0.1:99999/"]),
        "headers": st.lists(header, max_size=2),
        "mode": st.sampled_from(["read", "replace", "x"]),
        "tty": st.booleans(),
    }


def parameters_of(name: str, top: Path) -> st.SearchStrategy[Any]:
    """Parameters of a method: sometimes sensible, sometimes wrong in places, sometimes anything at all."""
    kind = typing.cast(Any, METHODS[name].decoder).type
    if not isinstance(kind, type):
        # It takes nothing.
        return st.none() | json_values
    known = likely(top)
    fields = msgspec.structs.fields(kind)
    sensible = {field.encode_name: known.get(field.encode_name, json_values) for field in fields}
    required = {field.encode_name for field in fields if field.required}
    wrong = {field: strategy | json_values for field, strategy in sensible.items() if field not in ("argv", "url")}
    return (
        st.fixed_dictionaries(
            {field: sensible[field] for field in required},
            optional={field: strategy for field, strategy in sensible.items() if field not in required},
        )
        | st.fixed_dictionaries({}, optional=wrong)
        | json_values
    )


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def _furnish(scratch: Path) -> None:
    """What the last example left of the directory is made whole; whatever it is, it may go."""
    if not scratch.is_dir():
        scratch.unlink(missing_ok=True)
        scratch.mkdir()
    for name, make in (
        ("d", Path.mkdir),
        ("f", Path.touch),
        ("fifo", os.mkfifo),
        ("l", lambda path: path.symlink_to("f")),
    ):
        if not os.path.lexists(scratch / name):
            make(scratch / name)


@pytest.fixture(scope="module", params=["unix://", "ws://127.0.0.1:0"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    state = tmp_path_factory.mktemp("host") / "state"
    state.mkdir(mode=0o700)
    server = start_host(state, request.param)
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0
    assert "Traceback" not in (server.stderr.read_text() if server.stderr else "")


@pytest.fixture(scope="module")
def unix_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    state = tmp_path_factory.mktemp("host") / "state"
    state.mkdir(mode=0o700)
    server = start_host(state)
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0
    assert "Traceback" not in (server.stderr.read_text() if server.stderr else "")


def connect(url: str) -> socket.socket:
    if url.startswith("unix://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(BOUND)
        connection.connect(url.removeprefix("unix://"))
        return connection
    host, port = url.removeprefix("ws://").split(":")
    return socket.create_connection((host, int(port)), timeout=BOUND)


def exchange(url: str, data: bytes, *awaited: Any) -> set[Any]:
    """Send *data* on a new connection; read until the *awaited* ids are answered or it is closed (times out else)."""
    answered: set[Any] = set()
    with connect(url) as connection:
        try:
            connection.sendall(data)
            with connection.makefile("rb") as lines:
                for line in lines:
                    identity = json.loads(line).get("id")
                    if isinstance(identity, (str, int)):
                        answered.add(identity)
                    if answered >= set(awaited):
                        break
        except ConnectionError:
            # Closed with something of ours unread: an answer as well.
            pass
    return answered


def still_serves(url: str) -> None:
    """The host answers somebody else."""
    if url.startswith("unix://"):
        assert exchange(url, HELLO + PROBE, "hello", "probe") == {"hello", "probe"}
        return
    with connect(url) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@fuzzing
@given(data=st.binary(max_size=400), upgraded=st.booleans())
def test_any_bytes(door: RunningServer, data: bytes, upgraded: bool) -> None:
    with connect(door.url) as connection:
        try:
            if upgraded and door.url.startswith("ws://"):
                connection.sendall(UPGRADE)
                assert connection.recv(1000).startswith(b"HTTP/1.1 101")
            connection.sendall(data + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
    still_serves(door.url)


@fuzzing
@given(values=st.lists(json_values, min_size=1, max_size=5), initialized=st.booleans())
def test_any_json(unix_door: RunningServer, values: list[Any], initialized: bool) -> None:
    lines = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    # None of them can be an id, so each of them is answered as one that could not be parsed: or closes.
    assert -1 in exchange(unix_door.url, (HELLO if initialized else b"") + lines, -1)
    still_serves(unix_door.url)


envelopes = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "method": st.sampled_from([*FUZZED, "fs/nothing", "nothing", ""]) | json_values,
        "params": json_values,
        "result": json_values,
        "error": json_values,
        "trace": json_values,
        "jsonrpc": st.just("2.0"),
    },
)


@fuzzing
@given(envelope=envelopes)
def test_any_envelope(unix_door: RunningServer, envelope: dict[str, Any]) -> None:
    line = json.dumps(envelope).encode() + b"\n"
    exchange(unix_door.url, HELLO + line + PROBE, "probe")
    still_serves(unix_door.url)


@pytest.mark.parametrize("name", FUZZED)
@settings(fuzzing, max_examples=int(os.environ.get("HOLDFAST_FUZZ_EXAMPLES", "40")))
@given(data=st.data())
def test_any_parameters(unix_door: RunningServer, top: Path, name: str, data: st.DataObject) -> None:
    _furnish(top / SCRATCH)
    calls = data.draw(st.lists(parameters_of(name, top / SCRATCH), min_size=1, max_size=4))
    lines = [
        json.dumps({"id": number, "method": name, "params": params}).encode() + b"\n"
        for number, params in enumerate(calls)
    ]
    expected = {"hello", "probe", *range(len(calls))}
    assert exchange(unix_door.url, HELLO + b"".join(lines) + PROBE, *expected) >= expected
    still_serves(unix_door.url)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"id":1,"method":"fs/readFile","params":' + b'{"path":' * 5000 + b"1" + b"}" * 5001,
        b'{"id":' + b"9" * 5000 + b',"method":"environment/status"}',
        b'{"id":1,"method":"' + b"x" * 1_000_000 + b'"}',
        b'{"id":1e999,"method":"environment/status"}',
        b"\xff\xfe\x00",
    ],
)
def test_abuse(unix_door: RunningServer, line: bytes) -> None:
    answered = exchange(unix_door.url, HELLO + line + b"\n" + PROBE, "probe")
    assert "probe" in answered
    still_serves(unix_door.url)
