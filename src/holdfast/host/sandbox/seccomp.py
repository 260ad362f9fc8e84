"""The system calls that a sandboxed process cannot make: a filter in classic BPF, as ``bwrap --seccomp`` reads it.

Without the network there is nobody to talk to but who a process has a pair of sockets with.  A network namespace alone
would leave the Unix sockets of this machine: a container engine's, a key agent's, the host's own.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from typing import Final, NamedTuple

# linux/bpf_common.h, linux/seccomp.h: load a word, jump if equal, jump if greater or equal, and with, return.
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_AND: Final = 0x54
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_EPERM: Final = 0x00050000 | 1

# struct seccomp_data: both architectures are little-endian, so the low half of an argument comes first.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

#: Numbers of the x32 calls, which the kernel takes for calls of x86-64.
_X32: Final = 0x40000000
#: What a socket's type is or-ed with: ``SOCK_NONBLOCK``, ``SOCK_CLOEXEC``.
_TYPE: Final = 0xF


class _Machine(NamedTuple):
    architecture: int
    #: Numbers of the calls that are refused without the network, whatever their arguments are.
    calls: dict[str, int]
    #: Numbers of ``add_key``, ``request_key``, ``keyctl``, refused with the network as well: the keyring of the session
    #: is that of the host, and no namespace has another one.
    keys: tuple[int, int, int]
    socket: int
    socketpair: int
    sendto: int


_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "connect": 42,
            "accept": 43,
            "accept4": 288,
            "bind": 49,
            "listen": 50,
            "sendmmsg": 307,
            "ptrace": 101,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
        },
        keys=(248, 249, 250),
        socket=41,
        socketpair=53,
        sendto=44,
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "connect": 203,
            "accept": 202,
            "accept4": 242,
            "bind": 200,
            "listen": 201,
            "sendmmsg": 269,
            "ptrace": 117,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
        },
        keys=(217, 218, 219),
        socket=198,
        socketpair=199,
        sendto=206,
    ),
}
#: Refused with the network as well: ``io_uring_setup``, ``io_uring_enter``, ``io_uring_register`` do what other calls
#: do, and no filter sees what.  The numbers are the same everywhere.
_RINGS: Final = (425, 426, 427)
#: ``pidfd_getfd``, the same everywhere: it takes sockets of others.
_TAKE_DESCRIPTOR: Final = 438


def is_known(machine: str) -> bool:
    """Whether there is a filter for the kind of *machine*, as ``uname -m`` names it."""
    return machine in _MACHINES


@cache
def program(machine: str, *, network: bool) -> bytes:
    """The filter for a sandbox on *machine* with or without *network*.

    :raises KeyError: a machine that is not known
    """
    known = _MACHINES[machine]
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, known.architecture, yes=1),
        # The numbers below would mean other calls.
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        *_refuse(_AT_LEAST, _X32),
    ]
    for number in (*_RINGS, *known.keys):
        code += _refuse(_EQUAL, number)
    if network:
        # The sockets of virtual machines are in no network namespace, and no network that was asked for.
        code += _only(known.socket, _but(socket.AF_VSOCK))
    else:
        for number in (*known.calls.values(), _TAKE_DESCRIPTOR):
            code += _refuse(_EQUAL, number)
        code += _only(known.socket, _connected_unix())
        code += _only(known.socketpair, _connected_unix())
        code += _only(known.sendto, _no_address())
    code.append(_step(_RETURN, _ALLOW))
    return b"".join(code)


def _step(operation: int, operand: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, operand)


def _refuse(comparison: int, operand: int) -> list[bytes]:
    """Refuse if what is loaded compares so."""
    return [_step(comparison, operand, no=1), _step(_RETURN, _EPERM)]


def _only(number: int, allowed: list[bytes]) -> list[bytes]:
    """Let *allowed*, which returns in every case, decide on the call *number*."""
    return [_step(_EQUAL, number, no=len(allowed)), *allowed]


def _but(family: int) -> list[bytes]:
    """Every socket except those of *family*."""
    return [_step(_LOAD, _ARGUMENTS), *_refuse(_EQUAL, family), _step(_RETURN, _ALLOW)]


def _connected_unix() -> list[bytes]:
    """Unix sockets that cannot send to an address.  A datagram socket could, by ``sendmsg``, whose address is in memory
    and out of a filter's sight."""
    return [
        _step(_LOAD, _ARGUMENTS),
        _step(_EQUAL, socket.AF_UNIX, no=4),
        _step(_LOAD, _ARGUMENTS + 8),
        _step(_AND, _TYPE),
        _step(_EQUAL, socket.SOCK_STREAM, yes=2),
        _step(_EQUAL, socket.SOCK_SEQPACKET, yes=1),
        _step(_RETURN, _EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _no_address() -> list[bytes]:
    """``send``: ``sendto`` without an address."""
    address = _ARGUMENTS + 4 * 8
    return [
        _step(_LOAD, address),
        _step(_EQUAL, 0, no=2),
        _step(_LOAD, address + 4),
        _step(_EQUAL, 0, yes=1),
        _step(_RETURN, _EPERM),
        _step(_RETURN, _ALLOW),
    ]
