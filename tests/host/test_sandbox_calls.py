"""A sandboxed process cannot leave its sandbox by a system call, nor through a socket of this machine."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

import pytest

from holdfast.host.sandbox.seccomp import is_known, program

from .harness import RunningServer, WireClient, start_host
from .sandboxes import bubblewrap, run_in, sandbox, special

#: Tries each call and prints its name with the name of the error.
PROBE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def tried(name, function):
    try:
        function()
    except OSError as error:
        print(name, errno.errorcode[error.errno])
    else:
        print(name, "done")

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK"):
    kind = socket.SOCK_RAW if family == "AF_NETLINK" else socket.SOCK_STREAM
    tried(family, lambda: socket.socket(getattr(socket, family), kind))
ends = socket.socketpair()
for end in ends:
    end.setblocking(False)
tried("send", lambda: ends[0].send(b"x"))
tried("recv", lambda: ends[1].recv(1))
tried("sendmsg", lambda: ends[0].sendmsg([b"x"]))
tried("sendto", lambda: ends[0].sendto(b"x", sys.argv[1]))
tried("datagram pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC):
    socket.socket(socket.AF_UNIX, kind).close()
unix = socket.socket(socket.AF_UNIX)
unix.setblocking(False)
tried("connect", lambda: unix.connect(sys.argv[1]))
tried("bind", lambda: unix.bind("socket"))
tried("listen", lambda: unix.listen())
tried("accept", lambda: unix.accept())
tried("ptrace", lambda: call(PTRACE, 16, 999999, 0, 0))
for name, number in (("read memory", READV), ("write memory", READV + 1)):
    tried(name, lambda: call(number, os.getpid(), 0, 0, 0, 0, 0))
for number in (425, 426, 427):
    tried(f"ring {number}", lambda: call(number, -1, 0, 0, 0, 0, 0))
tried("add_key", lambda: call(KEYS, b"no-such-type", b"x", b"x", 1, -3))
tried("request_key", lambda: call(KEYS + 1, b"no-such-type", b"x", 0, 0))
tried("keyctl", lambda: call(KEYS + 2, 0, -3, 0))
print(*(line for line in open("/proc/self/status") if line.startswith("Seccomp:")))
"""
NUMBERS = {"x86_64": (101, 310, 248), "aarch64": (117, 270, 217)}.get(os.uname().machine, (-1, -1, -1))
KEYS = ("add_key", "request_key", "keyctl")


async def probe(client: WireClient, workspace: Path, network: str) -> dict[str, str]:
    """What became of each call, by its name; outside of the sandbox there is somebody to connect to."""
    asked = sandbox(workspace, special("root", "read"), special("project_roots", "write"), network=network)
    script = PROBE.replace("PTRACE", str(NUMBERS[0])).replace("READV", str(NUMBERS[1]))
    script = script.replace("KEYS", str(NUMBERS[2]))
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(workspace.parent / "listener")
        listener.bind(path)
        listener.listen()
        output = await run_in(client, workspace, [sys.executable, "-c", script, path], asked)
    lines = [line.strip().replace("\t", " ") for line in output.splitlines() if line.strip()]
    return {name: result for name, _, result in (line.rpartition(" ") for line in lines)}


@bubblewrap
async def test_without_network_nothing_outside_can_be_talked_to(client: WireClient, workspace: Path) -> None:
    found = await probe(client, workspace, "restricted")
    refused = ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK", "sendto", "connect", "bind", "listen", "accept")
    others = ("ptrace", "read memory", "write memory", "ring 425", "ring 426", "ring 427")
    assert {name: found[name] for name in (*refused, *others)} == dict.fromkeys((*refused, *others), "EPERM")
    assert (found["sendmsg"], found["Seccomp:"]) == ("done", "2")


@bubblewrap
async def test_with_network_only_rings_are_refused(client: WireClient, workspace: Path) -> None:
    found = await probe(client, workspace, "enabled")
    assert [found[f"ring {number}"] for number in (425, 426, 427)] == ["EPERM"] * 3
    assert [found[name] for name in ("AF_INET", "connect", "datagram pair", "send", "AF_VSOCK")] == [
        *["done"] * 4,
        "EPERM",
    ]
    assert found["Seccomp:"] == "2"


@bubblewrap
@pytest.mark.parametrize("network", ["restricted", "enabled"])
async def test_the_keys_of_the_host_are_not_there(host: RunningServer, workspace: Path, network: str) -> None:
    client = await WireClient.connect(host.url)
    found = await probe(client, workspace, network)
    assert [found[name] for name in KEYS] == ["EPERM"] * 3
    await client.close()


@bubblewrap
async def test_a_pair_of_sockets_works_without_network(host: RunningServer, workspace: Path) -> None:
    client = await WireClient.connect(host.url)
    found = await probe(client, workspace, "restricted")
    # A datagram could be sent to an address that no filter sees.
    assert [found[name] for name in ("send", "recv", "sendmsg", "datagram pair")] == ["done", "done", "done", "EPERM"]
    await client.close()


REACH = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connected")
    except OSError:
        pass
    try:
        print("seen", os.listdir(os.path.dirname(path) + "/processes"))
    except OSError:
        pass
print("tried")
"""


@bubblewrap
@pytest.mark.parametrize("network", ["restricted", "enabled"])
@pytest.mark.parametrize("listen", ["unix://", "unix://{}/elsewhere.sock"])
async def test_the_host_itself_cannot_be_reached(
    state: Path, workspace: Path, tmp_path: Path, network: str, listen: str
) -> None:
    server = start_host(state, listen.format(tmp_path))
    try:
        client = await WireClient.connect(server.url)
        paths = [server.url.removeprefix("unix://"), str(state / "host.sock")]
        entries = [special("root", "read"), special("root", "write"), special("slash_tmp", "write")]
        for asked in (
            sandbox(workspace, entries[0], network=network),
            sandbox(workspace, entries[1], network=network),
            sandbox(workspace, entries[0], entries[2], network=network),
        ):
            output = await run_in(client, workspace, [sys.executable, "-c", REACH, *paths], asked)
            assert output == "tried\n"
        await client.close()
    finally:
        server.stop()


@bubblewrap
async def test_all_files_without_network_are_not_those_of_the_host(
    host: RunningServer, state: Path, workspace: Path
) -> None:
    client = await WireClient.connect(host.url)
    asked = sandbox(workspace)
    asked["permissions"]["file_system"] = {"type": "unrestricted"}
    output = await run_in(client, workspace, ["/bin/sh", "-c", f"touch new; ls {state}/processes; echo tried"], asked)
    assert (workspace / "new").exists()
    assert output.endswith("tried\n") and "denied" in output
    listing = {"path": f"file://{state}", "sandbox": asked}
    assert (await client.error("fs/readDirectory", listing))[0] == -32600
    await client.close()


async def test_a_sandbox_in_the_hosts_own_directory_is_refused(host: RunningServer, state: Path) -> None:
    client = await WireClient.connect(host.url)
    params = {"processId": "p", "argv": ["/bin/true"], "cwd": "file:///tmp", "env": {}, "tty": False}
    for inside in (state, state / "processes"):
        assert (await client.error("process/start", {**params, "sandbox": sandbox(inside)}))[0] == -32602
    await client.close()


def decided(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a filter returns for a call."""
    data = struct.pack("=iIQ6Q", number if number < 1 << 31 else number - (1 << 32), architecture, 0, *arguments)
    data = data.ljust(64, b"\0")
    at = value = 0
    while True:
        operation, yes, no, operand = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x54:
            value &= operand
        elif operation == 0x06:
            return operand
        else:
            at += yes if (value == operand if operation == 0x15 else value >= operand) else no


def full(*arguments: int) -> tuple[int, ...]:
    return (*arguments, *[0] * (6 - len(arguments)))


@pytest.mark.parametrize(
    ("machine", "architecture", "connect", "socket_call", "sendto", "write", "keyctl"),
    [("x86_64", 0xC000003E, 42, 41, 44, 1, 250), ("aarch64", 0xC00000B7, 203, 198, 206, 64, 219)],
)
def test_the_filter_decides_by_architecture_number_and_arguments(
    machine: str, architecture: int, connect: int, socket_call: int, sendto: int, write: int, keyctl: int
) -> None:
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    for network in (False, True):
        code = program(machine, network=network)
        other = allow if network else refuse
        assert decided(code, architecture, write, *full()) == allow
        assert decided(code, architecture, connect, *full()) == other
        assert decided(code, 0x40000003, connect, *full()) == kill
        assert decided(code, architecture, 0x40000000 + write, *full()) == refuse
        assert decided(code, architecture, 425, *full()) == refuse
        assert decided(code, architecture, keyctl, *full()) == refuse
        assert decided(code, architecture, socket_call, *full(2, 1)) == other
        assert decided(code, architecture, socket_call, *full(1, 1 | 0o2000000)) == allow
        assert decided(code, architecture, socket_call, *full(1, 2)) == other
        assert decided(code, architecture, socket_call, *full(40, 1)) == refuse
        assert decided(code, architecture, sendto, *full(3, 1, 1, 0, 0)) == allow
        assert decided(code, architecture, sendto, *full(3, 1, 1, 0, 1 << 40)) == other
    assert not is_known("another machine")
