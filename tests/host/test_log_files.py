"""The files of a log: any cursor, any crash, a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.host.log import ProcessLog
from holdfast.host.log_format import CHUNK, RECORD, STREAM_FILES, EntryKind
from holdfast.host.log_index import LogFull
from holdfast.host.page_cache import STEP, WINDOW
from holdfast.host.writes import WriteLedger, WriteState

KINDS = st.sampled_from([EntryKind.STDOUT, EntryKind.STDERR, EntryKind.SIGNAL])
PIECES = st.lists(st.tuples(KINDS, st.binary(min_size=1, max_size=50)), max_size=150)


def contents(log: ProcessLog) -> list[tuple[int, int, bytes]]:
    return [(entry.seq, entry.kind, log.data(entry)) for entry in log.entries(0, 10_000)]


@given(pieces=PIECES, after=st.integers(0, 200), limit=st.integers(1, 200), finished=st.booleans())
def test_a_cursor_gives_what_follows_it_and_nothing_else(
    pieces: list[tuple[EntryKind, bytes]], after: int, limit: int, finished: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = ProcessLog.create(directory)
        for kind, data in pieces:
            log.append(kind, data)
        expected = [(seq, kind, data) for seq, (kind, data) in enumerate(pieces, 1)]
        if finished:
            log.close()
            log = ProcessLog.complete(directory)
        got = [(entry.seq, entry.kind, log.data(entry)) for entry in log.entries(after, limit)]
        assert got == expected[after : after + limit]
        together = log.data_of(log.entries(after, limit))
        assert [bytes(data) for data in together] == [data for _, _, data in got]
        log.close()


@given(pieces=PIECES, cut=st.integers(0, 150 * RECORD.size))
def test_whatever_part_of_the_index_a_crash_leaves_no_byte_is_lost(
    pieces: list[tuple[EntryKind, bytes]], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = ProcessLog.create(directory)
        for kind, data in pieces:
            log.append(kind, data)
        log.close()
        index = Path(directory) / "index"
        index.write_bytes(index.read_bytes()[:cut])
        log = ProcessLog.recover(directory)
        log.append_end(exit_code=None, exited=True, closed=True)
        found = contents(log)[:-2]
        assert [entry.kind for entry in log.entries(log.last_seq - 2, 2)] == [EntryKind.EXITED, EntryKind.CLOSED]
        kept = cut // RECORD.size
        # What is not indexed of the events is still in the drop.
        events = b"".join(data for kind, data in pieces[:kept] if kind == EntryKind.SIGNAL)
        assert b"".join(data for _, kind, data in found if kind == EntryKind.SIGNAL) == events
        for wanted in (EntryKind.STDOUT, EntryKind.STDERR):
            before = b"".join(data for kind, data in pieces if kind == wanted)
            assert b"".join(data for _, kind, data in found if kind == wanted) == before
        assert found[: min(kept, len(pieces))] == [
            (seq, kind, data) for seq, (kind, data) in enumerate(pieces[:kept], 1)
        ]
        assert [seq for seq, _, _ in found] == list(range(1, len(found) + 1))
        log.close()


@given(pieces=PIECES, data=st.data())
def test_whatever_part_of_a_log_the_medium_lost_what_is_told_is_true_and_the_rest_is_gone(
    pieces: list[tuple[EntryKind, bytes]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = ProcessLog.create(directory)
        for kind, piece in pieces:
            log.append(kind, piece)
        log.append_end(exit_code=3, exited=True, closed=True)
        before = contents(log)
        log.close()
        index = Path(directory) / "index"
        records = bytearray(index.read_bytes())
        for place in data.draw(st.sets(st.integers(0, len(before) - 1), max_size=5)):
            records[place * RECORD.size : (place + 1) * RECORD.size] = bytes(RECORD.size)
        records += data.draw(st.binary(max_size=3 * RECORD.size))
        index.write_bytes(records)
        for name in STREAM_FILES.values():
            path = Path(directory) / name
            if path.exists() and data.draw(st.booleans()):
                os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
        log = ProcessLog.complete(directory)
        found = contents(log)
        assert [seq for seq, _, _ in found] == list(range(1, log.last_seq + 1))
        assert all(this == that or this[1:] == (EntryKind.GONE, b"") for this, that in zip(found, before, strict=False))
        assert all(this[1:] == (EntryKind.GONE, b"") for this in found[len(before) :])
        log = ProcessLog.recover(directory)
        log.append_end(exit_code=None, exited=True, closed=True)
        log.close()
        for stream in (EntryKind.STDOUT, EntryKind.STDERR):
            # What is there is told, once, and in order.
            whole = b"".join(piece for kind, piece in pieces if kind == stream)
            told = [(seq, piece) for seq, kind, piece in contents(log) if kind == stream]
            assert is_subsequence(b"".join(piece for _, piece in told), whole)
            assert [seq for seq, _ in told] == sorted(seq for seq, _ in told)


def is_subsequence(part: bytes, whole: bytes) -> bool:
    rest = iter(whole)
    return all(byte in rest for byte in part)


def test_large_output_is_spliced_in_chunks(tmp_path: Path) -> None:
    log = ProcessLog.create(tmp_path)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, CHUNK)
    data = os.urandom(CHUNK)
    for _ in range(5):
        os.write(write_end, data)
        assert log.splice(EntryKind.STDOUT, read_end) == CHUNK
    with pytest.raises(BlockingIOError):
        log.splice(EntryKind.STDOUT, read_end)
    os.close(write_end)
    assert log.splice(EntryKind.STDOUT, read_end) == 0
    os.close(read_end)
    assert (tmp_path / "stdout").read_bytes() == data * 5
    assert [entry.length for entry in log.entries(0, 10)] == [CHUNK] * 5
    log.close()


def test_a_long_log_leaves_the_page_cache_behind_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[tuple[int, int, int]] = []
    called = threading.Event()
    advise = os.posix_fadvise

    def watch(descriptor: int, offset: int, length: int, advice: int) -> None:
        advise(descriptor, offset, length, advice)
        advised.append((offset, length, advice))
        called.set()
        # Whoever asks next must not be kept waiting by this.
        assert go_on.wait(30)

    go_on = threading.Event()
    monkeypatch.setattr(os, "posix_fadvise", watch)
    log = ProcessLog.create(tmp_path)
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, CHUNK)
    data = os.urandom(CHUNK)
    for _ in range((WINDOW + 2 * STEP) // CHUNK):
        os.write(write_end, data)
        assert log.splice(EntryKind.STDOUT, read_end) == CHUNK
    assert called.wait(30)
    assert advised == [(STEP, WINDOW, os.POSIX_FADV_DONTNEED)]
    go_on.set()
    entries = log.entries(0, 10_000)
    assert len(entries) == (WINDOW + 2 * STEP) // CHUNK
    assert all(log.data(entry) == data for entry in entries)
    log.close()
    for descriptor in (read_end, write_end):
        os.close(descriptor)


def test_files_are_private_and_only_those_that_are_needed(tmp_path: Path) -> None:
    log = ProcessLog.create(tmp_path)
    read_end, write_end = os.pipe()
    os.close(write_end)
    assert log.splice(EntryKind.STDERR, read_end) == 0
    os.close(read_end)
    log.append(EntryKind.STDOUT, b"x")
    log.close()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {"index": 0o600, "stdout": 0o600}


def test_a_stream_that_cannot_be_seen_takes_nothing(tmp_path: Path) -> None:
    log = ProcessLog.create(tmp_path)
    log.append(EntryKind.STDERR, b"four")
    (tmp_path / "stdout").symlink_to("stdout")
    assert log.stored_bytes() == 4
    log.close()


def test_a_symlink_in_the_place_of_a_stream_is_not_followed(tmp_path: Path) -> None:
    log = ProcessLog.create(tmp_path)
    victim = tmp_path.parent / "victim"
    victim.write_text("untouched")
    (tmp_path / "stdout").symlink_to(victim)
    with pytest.raises(LogFull, match="symbolic"):
        log.append(EntryKind.STDOUT, b"x")
    assert victim.read_text() == "untouched"
    log.close()


@pytest.mark.parametrize("failing", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_loses_nothing_and_shows_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each write of the sequence fails once; afterwards the log holds everything exactly once."""
    log = ProcessLog.create(tmp_path)
    log.append(EntryKind.STDOUT, b"first")
    genuine_write, genuine_splice = os.pwrite, os.splice
    room = True

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not room:
            raise OSError(failing, os.strerror(failing))
        return genuine_write(descriptor, data, offset)

    def splice(*args: int, **kwargs: int) -> int:
        if not room:
            raise OSError(failing, os.strerror(failing))
        return genuine_splice(*args, **kwargs)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "splice", splice)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, b"second")
    room = False
    with pytest.raises(LogFull):
        log.splice(EntryKind.STDOUT, read_end)
    with pytest.raises(LogFull):
        log.append_end(exit_code=7, exited=True, closed=False)
    assert log.last_seq == 1
    room = True
    assert log.splice(EntryKind.STDOUT, read_end) == 6
    log.append_end(exited=False, closed=True)
    assert contents(log)[:1] == [(1, EntryKind.STDOUT, b"first")]
    kinds = [entry.kind for entry in log.entries(0, 10)]
    assert kinds == [EntryKind.STDOUT, EntryKind.EXITED, EntryKind.STDOUT, EntryKind.CLOSED]
    assert log.entries(1, 1)[0].exit_code == 7
    os.close(read_end)
    os.close(write_end)
    log.close()


def ended_log(directory: Path) -> ProcessLog:
    """A log with one piece of output and both ends, as it is when nobody writes to it any more."""
    log = ProcessLog.create(directory)
    log.append(EntryKind.STDOUT, b"output")
    log.append_end(exit_code=0, exited=True, closed=True)
    log.close()
    return log


def test_output_that_cannot_be_deleted_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ended_log(tmp_path)
    genuine = os.open

    def read_only(path: str, flags: int = 0) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return genuine(path, flags)

    def refuse(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only"):
        log.drop_output()
    log.hold_index()
    for one in (log, ProcessLog.complete(tmp_path)):
        assert contents(one)[0] == (1, EntryKind.STDOUT, b"output")
    log.close()


def test_a_log_whose_directory_somebody_deleted_is_gone_as_a_whole(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    log = ended_log(directory)
    shutil.rmtree(directory)
    assert contents(log) == [(seq, EntryKind.GONE, b"") for seq in (1, 2, 3)]


def test_output_is_deleted_where_there_is_room_for_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ended_log(tmp_path)
    genuine = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return genuine(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    log.drop_output()
    assert log.stored_bytes() == 0
    for one in (log, ProcessLog.complete(tmp_path)):
        assert [entry.kind for entry in one.entries(0, 10)] == [EntryKind.GONE, EntryKind.EXITED, EntryKind.CLOSED]


def test_an_event_without_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ProcessLog.create(tmp_path)
    log.append(EntryKind.SIGNAL, b"first")
    pwrite = os.pwrite
    full = True

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if not full:
            return pwrite(descriptor, data, offset)
        if len(data) == RECORD.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(LogFull):
        log.append(EntryKind.SIGNAL, b"second")
    assert (tmp_path / "signals").read_bytes() == b"first"
    full = False
    log.append(EntryKind.SIGNAL, b"second")
    assert contents(log) == [(1, EntryKind.SIGNAL, b"first"), (2, EntryKind.SIGNAL, b"second")]
    log.close()
    # What a crash leaves without a record is still in the drop, and is not taken for an event by itself.
    with (tmp_path / "signals").open("ab") as file:
        file.write(b"hal")
    log = ProcessLog.recover(tmp_path)
    log.append(EntryKind.SIGNAL, b"third")
    assert [data for _, _, data in contents(log)] == [b"first", b"second", b"third"]
    log.close()


def test_a_signal_that_was_begun_and_not_noted_as_sent_is_uncertain_and_leaves_no_gap(tmp_path: Path) -> None:
    ledger = WriteLedger(str(tmp_path))
    for name in ("sent", "refused", "cut off"):
        ledger.begin_signal(name)
    ledger.signal_done("sent")
    ledger.signal_refused("refused")
    ledger.begin("cut off")
    before = [ledger.signal_state(name) for name in ("sent", "refused", "cut off", "new")]
    assert before == [WriteState.DONE, WriteState.NEW, WriteState.BEGUN, WriteState.NEW]
    ledger.close()
    again = WriteLedger(str(tmp_path))
    again.recover()
    after = [again.signal_state(name) for name in ("sent", "cut off", "new")]
    assert after == [WriteState.DONE, WriteState.UNCERTAIN, WriteState.NEW]
    assert again.tell_all() == 1, "the write; a signal is no input"


def test_half_of_a_note_does_not_shift_those_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = WriteLedger(str(tmp_path))
    ledger.begin("a")
    write = os.write

    def no_room_for_the_last_byte(descriptor: int, data: bytes) -> int:
        if len(data) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:16])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_room_for_the_last_byte)
        with pytest.raises(LogFull):
            ledger.begin("b")
    ledger.begin("c")
    ledger.done("c")
    ledger.close()
    again = WriteLedger(str(tmp_path))
    again.recover()
    states = [again.state(name) for name in ("a", "b", "c")]
    assert states == [WriteState.UNCERTAIN, WriteState.NEW, WriteState.DONE]
