"""What a terminal holds is moved whole, however it comes, and its end is seen."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tty
from collections.abc import Iterator

import pytest

from holdfast.host import terminal

#: Sizes of single writes: below what makes it look for more, around it, a page, and more than the kernel holds.
SIZES = (1, 100, 2047, 2048, 2049, 4095, 4096, 8192)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A terminal that does not block, and its other side, which changes nothing on the way."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, slave
    os.close(master)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    source, sink = os.pipe2(os.O_NONBLOCK)
    yield source, sink
    os.close(source)
    os.close(sink)


def taken(source: int) -> bytes:
    try:
        return os.read(source, 1 << 20)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("alone", [False, True], ids=["processors", "one processor"])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_there_is_moved(ends: tuple[int, int], pipe: tuple[int, int], size: int, alone: bool) -> None:
    master, slave = ends
    data = random.Random(size).randbytes(size)
    os.write(slave, data)
    received = b""
    while len(received) < size:
        assert not terminal.drain(master, pipe[1], alone=alone)
        received += taken(pipe[0])
    assert received == data
    os.close(slave)
    assert terminal.drain(master, pipe[1], alone=alone)


@pytest.mark.parametrize("alone", [False, True], ids=["processors", "one processor"])
def test_nothing_is_lost_of_what_pours(ends: tuple[int, int], pipe: tuple[int, int], alone: bool) -> None:
    master, slave = ends
    source, sink = pipe
    numbers = "import sys\nfor n in range(300000): sys.stdout.write('%d\\n' % n)"
    with subprocess.Popen([sys.executable, "-c", numbers], stdout=slave):
        os.close(slave)
        received = bytearray()
        ended = False
        while not ended:
            ended = terminal.drain(master, sink, alone=alone)
            received += taken(source)
    assert received == b"".join(b"%d\n" % n for n in range(300_000))


def test_a_full_pipe_leaves_the_rest_where_it_is(ends: tuple[int, int], pipe: tuple[int, int]) -> None:
    master, slave = ends
    source, sink = pipe
    full = os.write(sink, bytes(1 << 20))
    os.write(slave, b"later")
    assert not terminal.drain(master, sink, alone=False)
    assert len(taken(source)) == full
    while not (received := taken(source)):
        assert not terminal.drain(master, sink, alone=False)
    assert received == b"later"
    os.close(slave)


def test_an_end_is_not_seen_before_what_came_before_it(ends: tuple[int, int], pipe: tuple[int, int]) -> None:
    master, slave = ends
    os.write(slave, b"last words")
    os.close(slave)
    received = b""
    while not terminal.drain(master, pipe[1], alone=False):
        received += taken(pipe[0])
    assert received + taken(pipe[0]) == b"last words"
