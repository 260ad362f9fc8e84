"""What server and keeper tell each other: words to a packet, and descriptors beside them.

The words are separated by NUL: the keeper has no use for the modules that JSON takes.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

# Not from typing: the keeper is as small as it can be.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Descriptors that a keeper holds, by process directory and name.
Held = dict[str, dict[str, int]]

#: The largest packet, in bytes, and the most descriptors in one.
PACKET = 65536
DESCRIPTORS = 8
#: The most pids in one packet.
_PIDS = 1000
#: Seconds for which packets are left to gather before they are read, and until one for which there was no room is sent
#: again.
LEISURE = 0.02
#: Why a packet cannot be sent at the moment, which says nothing of who would read it: there is no memory, or this user
#: has more descriptors on their way, to whomever, than one may have.
NO_ROOM = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


def pack(words: Iterable[str]) -> bytes:
    """*words*, which contain no NUL, as one message."""
    return "\0".join(words).encode("utf-8", "surrogateescape")


def unpack(message: bytes) -> list[str]:
    """The words of a message."""
    return message.decode("utf-8", "surrogateescape").split("\0")


def hand_out(held: Held) -> tuple[list[str], list[int]]:
    """Words and descriptors for a packet: each word is the key and the name of one, with a slash between them.

    A key of which there is none stands alone: a process may have closed its streams and live.
    """
    words: list[str] = []
    numbers: list[int] = []
    for key, descriptors in held.items():
        words += [f"{key}/{name}" for name in descriptors] or [key]
        numbers += descriptors.values()
    return words, numbers


def take_in(held: Held, words: list[str], descriptors: list[int]) -> bool:
    """Add to *held* what :func:`hand_out` made a packet of.

    False if not all descriptors have come, because there are no free numbers for them here: then none of them is kept.
    """
    if sum("/" in word for word in words) != len(descriptors):
        for descriptor in descriptors:
            os.close(descriptor)
        return False
    arrived = iter(descriptors)
    for word in words:
        key, slash, name = word.partition("/")
        known = held.setdefault(key, {})
        if slash:
            known[name] = next(arrived)
    return True


def pid_packets(operation: str, pids: Iterable[int]) -> list[list[str]]:
    """The words of as many packets as *pids* take."""
    words = [str(pid) for pid in pids]
    return [[operation, *words[begin : begin + _PIDS]] for begin in range(0, len(words), _PIDS)]


def receive(channel: socket.socket, flags: int = 0) -> tuple[list[str], list[int]]:
    """The words and descriptors of the next packet; no words if the other end is closed.

    :raises OSError: there is none, or the channel is broken
    """
    data, ancillary, _, _ = channel.recvmsg(PACKET, socket.CMSG_SPACE(DESCRIPTORS * 4), flags | socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for _, _, rights in ancillary:
        descriptors += memoryview(rights).cast("i")
    return unpack(data) if data else [], descriptors


def send(channel: socket.socket, words: Iterable[str], descriptors: Iterable[int] = ()) -> None:
    """Send a packet.

    :raises BlockingIOError: as much as the channel holds is unread
    :raises ConnectionError: there is nobody to read it
    :raises OSError: there is no room (:data:`NO_ROOM`)
    """
    rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in descriptors)
    if rights:
        channel.sendmsg([pack(words)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    else:
        channel.send(pack(words))
