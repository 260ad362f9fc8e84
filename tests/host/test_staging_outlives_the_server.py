"""What was taken out of a pipe and is not in its file yet reaches it, at whatever moment the server dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.host.log import ProcessLog
from holdfast.host.log_format import CHUNK, EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.staging import CAPACITY, Staging

_F_SETPIPE_SZ = 1031


class Killed(BaseException):
    """Stands for kill -9: nothing of the server runs after it."""


class Rig:
    """A process with its pipe, and what the keeper holds of it."""

    def __init__(self, directory: Path) -> None:
        self.processes = directory
        self.held: dict[str, int] = {}
        (directory / "key").mkdir(parents=True)
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        from fcntl import fcntl

        fcntl(self.write_end, _F_SETPIPE_SZ, CAPACITY)
        self.staging = Staging(self.held.update)
        self.log = ProcessLog.create(directory / "key")

    def say(self, data: bytes) -> None:
        assert os.write(self.write_end, data) == len(data)

    def pour(self) -> int:
        return self.log.pour(EntryKind.STDOUT, self.read_end, self.staging)

    def next_server(self) -> None:
        """What the next server does first, with what the keeper hands over."""
        self.staging = Staging.recover(self.held.update, self.held) if self.held else Staging(self.held.update)
        self.log = ProcessLog.recover(self.processes / "key", self.staging)

    def output(self) -> bytes:
        return b"".join(bytes(data) for data in self.log.data_of(self.log.entries(0, 10_000)))

    def close(self) -> None:
        self.log.close()
        for descriptor in (self.read_end, self.write_end, *self.held.values()):
            os.close(descriptor)


@pytest.fixture
def rig(tmp_path: Path):
    made = Rig(tmp_path)
    yield made
    made.close()


def pattern(size: int, seed: int = 1) -> bytes:
    return bytes((seed + index * 31 + index // 256 * 7) & 255 for index in range(4096)) * (size // 4096 + 1)


def test_what_pours_is_indexed_in_chunks_and_served_from_memory_and_from_the_file(rig: Rig) -> None:
    first, second = pattern(100_000)[:100_000], pattern(CAPACITY, 9)[:CAPACITY]
    rig.say(first)
    assert rig.log.splice(EntryKind.STDOUT, rig.read_end) == len(first)
    rig.say(second)
    assert rig.pour() == len(second)
    assert [entry.length for entry in rig.log.entries(0, 10)] == [len(first), CHUNK, CAPACITY - CHUNK]
    # Once where it was taken, once when that memory is used for something else.
    assert rig.output() == first + second
    rig.say(b"more")
    assert rig.pour() == 4
    assert rig.output() == first + second + b"more"
    with pytest.raises(BlockingIOError):
        rig.pour()
    assert rig.output() == first + second + b"more"


def test_a_stream_at_its_end_says_so(rig: Rig) -> None:
    rig.say(b"x")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    os.close(rig.write_end)
    assert rig.pour() == 0
    rig.write_end = os.dup(rig.read_end)
    assert rig.output() == b"x"


def test_what_was_reserved_is_given_back(rig: Rig) -> None:
    file = rig.processes / "key" / "stdout"

    def pour() -> None:
        rig.say(b"y" * 50_000)
        rig.pour()
        if file.stat().st_blocks * 512 < CAPACITY:
            pytest.skip("this file system reserves nothing")

    rig.say(b"x" * 70_000)
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    pour()
    # Not more than what was said makes likely.
    assert file.stat().st_blocks * 512 < 2 * CAPACITY
    rig.log.close()
    assert file.stat().st_size == 120_000
    assert file.stat().st_blocks * 512 < CAPACITY
    rig.next_server()
    pour()
    for _ in range(2):
        rig.say(b"z" * CAPACITY)
        rig.pour()
    assert file.stat().st_blocks * 512 > file.stat().st_size + 70_000
    # An earlier server was killed, and did not give it back.
    rig.next_server()
    assert file.stat().st_blocks * 512 < file.stat().st_size + 70_000


def test_what_is_of_a_process_that_cannot_be_read_waits_for_a_server_that_can_read_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.say(b"x" * 70_000)
    assert rig.log.splice(EntryKind.STDOUT, rig.read_end) == 70_000
    rig.say(pattern(CAPACITY)[:CAPACITY])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", dying(0, os.pwritev, after=False))
        with pytest.raises(Killed):
            rig.pour()
    rig.staging = Staging.recover(rig.held.update, rig.held)
    rig.staging.reserve({"key"})
    (rig.processes / "other").mkdir()
    other = ProcessLog.create(rig.processes / "other")
    rig.say(b"y" * 70_000)
    assert other.pour(EntryKind.STDOUT, rig.read_end, rig.staging) == 70_000
    other.close()
    rig.next_server()
    assert rig.output() == b"x" * 70_000 + pattern(CAPACITY)[:CAPACITY]


def dying(number: int, call: Callable[..., int], *, after: bool) -> Callable[..., int]:
    """*call*, until the *number*-th time: then the server is killed, before or after the kernel has done it."""
    left = [number]

    def wrapped(*arguments: object, **more: object) -> int:
        left[0] -= 1
        if left[0] < 0 and not after:
            raise Killed
        result = call(*arguments, **more)
        if left[0] < 0:
            raise Killed
        return result

    return wrapped


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["splice", "pwritev", "pwrite", "lseek"])
def test_killed_before_or_after_any_system_call_nothing_is_lost_or_doubled(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    said = b""

    def say(size: int, seed: int) -> None:
        nonlocal said
        data = pattern(size, seed)[:size]
        rig.say(data)
        said += data

    say(70_000, 1)
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    for number in range(4):
        say(300_000 + number, number)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, dying(number % 2, getattr(os, name), after=after))
            try:
                while rig.pour():
                    pass
            except (Killed, BlockingIOError):
                pass
        rig.next_server()
        # The next one may be killed while it is at that, and there is one after it.
        rig.next_server()
        try:
            while rig.pour():
                pass
        except BlockingIOError:
            pass
        assert rig.output() == said
        assert [entry.seq for entry in rig.log.entries(0, 1000)] == list(range(1, rig.log.last_seq + 1))


@given(
    portions=st.lists(st.integers(1, 200_000), min_size=1, max_size=6),
    landed=st.lists(st.integers(0, 200_000), min_size=6, max_size=6),
)
def test_any_part_of_it_may_have_reached_the_file(
    tmp_path_factory: pytest.TempPathFactory, portions: list[int], landed: list[int]
) -> None:
    rig = Rig(tmp_path_factory.mktemp("staging") / "processes")
    try:
        said = b"begin"
        rig.say(said)
        rig.log.splice(EntryKind.STDOUT, rig.read_end)
        for number, (size, done) in enumerate(zip(portions, landed, strict=False)):
            data = pattern(size, number)[:size]
            rig.say(data)
            taken = rig.staging.take(rig.read_end, "key", "stdout", len(said))
            assert taken == size
            with open(rig.processes / "key" / "stdout", "r+b") as file:
                file.seek(len(said))
                file.write(data[:done])
            said += data
            rig.next_server()
            assert rig.output() == said
    finally:
        rig.close()


def test_what_belongs_to_a_deleted_file_is_gone_with_it(rig: Rig) -> None:
    rig.say(b"first")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second")
    rig.pour()
    (rig.processes / "key" / "stdout").unlink()
    rig.next_server()
    assert not (rig.processes / "key" / "stdout").exists()
    assert rig.staging.free


def test_what_belongs_to_another_process_is_left_alone(rig: Rig) -> None:
    rig.say(b"first")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second")
    rig.staging.take(rig.read_end, "other", "stdout", 5)
    rig.next_server()
    assert rig.output() == b"first"
    rig.say(b"third")
    assert rig.pour() == 5
    assert rig.output() == b"firstthird"


def test_a_symlink_in_the_place_of_the_file_is_not_followed(rig: Rig) -> None:
    rig.say(b"first")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second")
    rig.staging.take(rig.read_end, "key", "stdout", 5)
    victim = rig.processes / "victim"
    victim.write_bytes(b"other")
    (rig.processes / "key" / "stdout").unlink()
    (rig.processes / "key" / "stdout").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        rig.next_server()
    assert victim.read_bytes() == b"other"


@pytest.mark.parametrize("refusal", [errno.EFBIG, errno.EIO])
def test_a_disk_that_refuses_at_the_recovery_is_asked_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    genuine = os.pwritev

    def pwritev(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        raise OSError(refusal, os.strerror(refusal))

    rig.say(b"first ")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second ")
    monkeypatch.setattr(os, "pwritev", pwritev)
    with pytest.raises(LogFull, match=os.strerror(refusal)):
        rig.pour()
    for _ in range(2):
        rig.next_server()
        assert rig.output() == b"first "
        with pytest.raises(LogFull):
            rig.log.flush()
    # Its end is on record all the same.
    with pytest.raises(LogFull):
        rig.log.append_end(exit_code=3, exited=True, closed=False)
    assert [entry.kind for entry in rig.log.entries(0, 10)] == [EntryKind.STDOUT, EntryKind.EXITED]
    monkeypatch.setattr(os, "pwritev", genuine)
    rig.log.flush()
    assert rig.output() == b"first second "
    rig.next_server()
    assert rig.output() == b"first second "


def test_without_memory_it_takes_the_slower_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse)
    rig.say(b"first")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second")
    assert rig.pour() == 6
    assert rig.output() == b"firstsecond"


def test_a_disk_that_refuses_keeps_it_in_memory_and_the_order_of_everything(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.say(b"first ")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    genuine = os.pwritev
    halves = [3]

    def pwritev(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        if halves:
            return genuine(descriptor, [buffers[0][: halves.pop()]], offset, flags)
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "pwritev", pwritev)
    rig.say(b"second ")
    with pytest.raises(LogFull):
        rig.pour()
    rig.say(b"third ")
    for again in (rig.pour, lambda: rig.log.splice(EntryKind.STDOUT, rig.read_end), rig.log.flush):
        with pytest.raises(LogFull):
            again()
    with pytest.raises(LogFull):
        rig.log.append_end(exit_code=0, exited=True, closed=False)
    assert rig.log.last(EntryKind.EXITED) is not None
    assert rig.output() == b"first "
    # Meanwhile others take the other way.
    other = Rig(rig.processes / "other")
    other.staging = rig.staging
    other.say(b"x")
    other.log.splice(EntryKind.STDOUT, other.read_end)
    other.say(b"y")
    assert other.pour() == 1
    assert other.output() == b"xy"
    other.close()
    monkeypatch.setattr(os, "pwritev", genuine)
    assert rig.pour() == 6
    assert rig.output() == b"first second third "
    assert [entry.kind for entry in rig.log.entries(0, 10)] == [
        EntryKind.STDOUT,
        EntryKind.EXITED,
        EntryKind.STDOUT,
        EntryKind.STDOUT,
    ]


def test_without_reserved_room_it_takes_the_slower_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.host.pouring.reserve", lambda descriptor, offset, size: False)
    rig.say(b"first")
    rig.log.splice(EntryKind.STDOUT, rig.read_end)
    rig.say(b"second")
    assert rig.pour() == 6
    assert not rig.held
    assert rig.output() == b"firstsecond"


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_cannot_forget_by_itself_is_not_asked_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    genuine = os.pwritev
    flags_seen: list[int] = []

    def pwritev(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        flags_seen.append(flags)
        if flags:
            raise OSError(refusal, os.strerror(refusal))
        return genuine(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", pwritev)
    file = os.open(rig.processes / "key" / "stdout", os.O_RDWR | os.O_CREAT, 0o600)
    for number in range(2):
        rig.say(b"abc")
        rig.staging.take(rig.read_end, "key", "stdout", number * 3)
        assert rig.staging.land(file, number * 3, forget=True) is False
    assert os.pread(file, 10, 0) == b"abcabc"
    assert flags_seen[0] != 0
    assert flags_seen[1:] == [0, 0]
    os.close(file)


def test_what_another_process_pours_is_not_served_in_its_place(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ProcessLog.create(tmp_path / "other")
    mine, theirs = pattern(50_000, 1)[:50_000], pattern(50_000, 2)[:50_000]
    rig.say(mine)
    assert rig.pour() == len(mine)
    rig.say(theirs)
    assert other.pour(EntryKind.STDOUT, rig.read_end, rig.staging) == len(theirs)
    # Both lie at the same place of their files, and had the same memory.
    assert rig.output() == mine
    assert b"".join(bytes(data) for data in other.data_of(other.entries(0, 10))) == theirs
    other.close()


def test_a_disk_that_keeps_the_loop_waiting_is_left_alone_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    takes = 0.0
    flags_seen: list[int] = []
    genuine = os.pwritev

    def pwritev(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        nonlocal now
        flags_seen.append(flags)
        now += takes
        return genuine(descriptor, buffers, offset, 0)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr("holdfast.host.staging.monotonic", lambda: now)
    file = os.open(rig.processes / "key" / "stdout", os.O_RDWR | os.O_CREAT, 0o600)

    def land() -> bool:
        rig.say(b"abc")
        rig.staging.take(rig.read_end, "key", "stdout", 0)
        return rig.staging.land(file, 0, forget=True)

    assert land()
    takes = 1.0
    assert land()
    takes = 0.0
    assert not land()
    now += 60
    assert land()
    assert [bool(flags) for flags in flags_seen] == [True, True, False, True]
    os.close(file)


def test_what_pours_without_a_descriptor_for_its_file_stays_in_the_pipe(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    rig.say(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(LogFull):
            rig.pour()
    assert rig.pour() == 5
    assert rig.output() == b"first"
