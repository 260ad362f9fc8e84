"""What a host has from its start on, and how it passes from one of its processes to the next.

The first server makes it; the keeper holds it for the servers after that one, and a server that becomes the keeper
takes it along across its ``exec``.  The keeper understands none of it but what it removes in the end.
"""

from __future__ import annotations

import os

from holdfast.host.packets import Held, pack, unpack


class Estate:
    """The listening socket, the lock of the state directory, and what was decided when the host was started."""

    __slots__ = ("directory", "listener", "lock", "own_directory", "settings", "url")

    def __init__(
        self, listener: int, lock: int, url: str, directory: str, own_directory: bool, settings: list[str]
    ) -> None:
        self.listener = listener
        self.lock = lock
        self.url = url
        #: The state directory.
        self.directory = directory
        #: Whether the directory is removed in the end.
        self.own_directory = own_directory
        #: Opaque to everybody but :mod:`holdfast.host.settings`.
        self.settings = settings

    def words(self) -> list[str]:
        """Everything but the descriptors."""
        return [self.url, self.directory, "own" if self.own_directory else "", *self.settings]

    @classmethod
    def from_words(cls, listener: int, lock: int, words: list[str]) -> Estate:
        """The other way round."""
        url, directory, own, *settings = words
        return cls(listener, lock, url, directory, bool(own), settings)

    def sign(self, pid: int) -> None:
        """Write into the lock whose it is, for people."""
        try:
            # Always as long, over what is there: on a full disk it needs no room.
            os.pwrite(self.lock, b"%-10d\n" % pid, 0)
        except OSError:
            # Only the number is missing, and nobody depends on it.
            pass

    def clean_up(self) -> None:
        """Remove what does not outlive the host."""
        if self.url.startswith("unix://"):
            # Not before it is needed: the keeper is as small as it can be.
            from holdfast.directories import give_up_socket_path

            path = self.url.removeprefix("unix://")
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            give_up_socket_path(path)
        if self.own_directory:
            import shutil

            shutil.rmtree(self.directory, ignore_errors=True)


def bequeath(estate: Estate, held: Held) -> int:
    """Write everything to an inheritable descriptor, and make inheritable what it names; returns it."""
    lines = [pack([str(estate.listener), str(estate.lock), *estate.words()])]
    for key, descriptors in held.items():
        lines.append(pack([key, *(f"{name}={descriptor}" for name, descriptor in descriptors.items())]))
    will = os.memfd_create("holdfast-keeper", 0)
    with open(will, "wb", closefd=False) as file:
        file.write(b"".join(len(line).to_bytes(4, "big") + line for line in lines))
    os.lseek(will, 0, os.SEEK_SET)
    os.set_inheritable(will, True)
    _let_inherit(estate, held, True)
    return will


def revoke(estate: Estate, held: Held, will: int) -> None:
    """Nobody inherits: :func:`bequeath` undone."""
    os.close(will)
    _let_inherit(estate, held, False)


def _let_inherit(estate: Estate, held: Held, heirs: bool) -> None:
    for descriptor in (estate.lock, estate.listener, *(d for ds in held.values() for d in ds.values())):
        os.set_inheritable(descriptor, heirs)


def inherit(will: int) -> tuple[Estate, Held]:
    """Read what :func:`bequeath` wrote."""
    lines: list[list[str]] = []
    with open(will, "rb") as file:
        while size := file.read(4):
            lines.append(unpack(file.read(int.from_bytes(size, "big"))))
    listener, lock, *words = lines[0]
    held: Held = {}
    for key, *entries in lines[1:]:
        descriptors = held[key] = {}
        for entry in entries:
            name, _, descriptor = entry.rpartition("=")
            descriptors[name] = int(descriptor)
    return Estate.from_words(int(listener), int(lock), words), held
