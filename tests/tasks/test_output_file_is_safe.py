from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast.errors import InvalidRequest
from holdfast.tasks import output_file
from holdfast.tasks.output_file import OutputPathRefused, Published, Reservation, publish, reserve

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def stored(reservation: Reservation) -> Reservation:
    """A reservation lies in the database between the two calls, perhaps across a restart."""
    return msgspec.json.decode(msgspec.json.encode(reservation), type=Reservation)


def refused(path: Path | str, *roots: Path, overwrite: bool = False) -> OutputPathRefused:
    with pytest.raises(OutputPathRefused) as caught:
        reserve(str(path), roots, overwrite=overwrite)
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.code == "output_path"
    assert caught.value.hint
    return caught.value


def test_a_new_file_appears_whole_private_and_with_a_true_receipt(work: Path) -> None:
    reservation = reserve(str(work / "answer.md"), [work])
    assert os.listdir(work) == [], "nothing lies there while the agent works"
    published = publish(stored(reservation), [b"one ", b"", b"two"])
    assert published == Published(
        path=str(work / "answer.md"), bytes=7, sha256=hashlib.sha256(b"one two").hexdigest(), overwrote=False
    )
    assert (work / "answer.md").read_bytes() == b"one two"
    assert stat.S_IMODE((work / "answer.md").stat().st_mode) == 0o600
    assert os.listdir(work) == ["answer.md"]


def test_nothing_is_seen_under_the_name_before_all_is_written(work: Path) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            assert not (work / "answer").exists()
            yield b"x" * 100_000

    publish(reserve(str(work / "answer"), [work]), chunks())
    assert (work / "answer").stat().st_size == 300_000


@pytest.mark.parametrize(
    ("path", "reason", "hint"),
    [
        ("relative/x", "not absolute", "Begin"),
        ("", "not absolute", "Begin"),
        ("~/x", "not absolute", "expanded"),
        ("$HOME/x", "not absolute", "expanded"),
        ("{work}/../x", "'..'", "without"),
        ("{work}/sub/../../../etc/passwd", "'..'", "without"),
        ("{work}/./x", "'.'", "without"),
        ("{work}//x", "''", "without"),
        ("{work}/", "names a directory", "name of the file"),
        ("/", "names a directory", "name of the file"),
        ("{work}/..", "'..'", "without"),
        ("{work}/a\nOUTPUT_BYTES=9", "U+000A", "control"),
        ("{work}/a\0b", "U+0000", "control"),
        ("{work}/a\x1b[2Jb", "U+001B", "control"),
        ("{work}/a\x7fb", "U+007F", "control"),
        ("{work}/a\x9bb", "U+009B", "control"),
        ("{work}/txt.\u202eexe", "U+202E", "control"),
        ("{work}/a\u2066b", "U+2066", "control"),
        ("{work}/a\u200bb", "U+200B", "control"),
        ("{work}/a\u2028b", "U+2028", "control"),
        ("{work}/a\ud800b", "U+D800", "control"),
        ("{work}/" + "x" * 256, "longer than 255 bytes", "shorter"),
        ("{work}/" + "ü" * 128, "longer than 255 bytes", "shorter"),
        ("{work}" + "/y" * 2100, "longer than 4095 bytes", "shorter"),
        ("{work}/missing/x", "No such file", "Create"),
        ("{work}/file/x", "Not a directory", "Create"),
        ("{outside}/x", "outside", "allow"),
        ("{work}foo/x", "outside", "allow"),
        ("/etc/cron.d/x", "outside", "allow"),
        ("/dev/stdout", "outside", "allow"),
        ("/proc/self/fd/1", "outside", "allow"),
        ("{work}/link-out/x", "outside", "allow"),
        ("{work}/loop/x", "symbolic links", "Create"),
        ("{work}/file", "a file already", "overwriting"),
        ("{work}/link", "not a regular file", "another"),
        ("{work}/dangling", "not a regular file", "another"),
        ("{work}/fifo", "not a regular file", "another"),
        ("{work}/directory", "not a regular file", "another"),
    ],
)
def test_a_bad_path_is_refused_with_its_reason_before_anything_is_made(
    tmp_path: Path, work: Path, path: str, reason: str, hint: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "workfoo").mkdir()
    victim = outside / "victim"
    victim.write_text("victim")
    (work / "file").write_text("file")
    (work / "link").symlink_to(victim)
    (work / "dangling").symlink_to(outside / "nothing")
    (work / "link-out").symlink_to(outside)
    (work / "loop").symlink_to(work / "loop")
    (work / "directory").mkdir()
    os.mkfifo(work / "fifo")
    before = sorted(tmp_path.rglob("*"))
    for overwrite in (False, True):
        if overwrite and path == "{work}/file":
            continue
        if "\ud800" not in path and path == "/dev/stdout":
            # Not even when its directory is allowed.
            error = refused(path, work, Path("/dev"), overwrite=overwrite)
            assert "not a regular file" in error.message
        error = refused(path.format(work=work, outside=outside), work, overwrite=overwrite)
        assert reason in error.message
        assert hint in (error.hint or "")
        assert len(error.message) < 600
        assert error.message.isprintable()
    assert sorted(tmp_path.rglob("*")) == before
    assert victim.read_text() == "victim"


def test_a_symlinked_directory_that_leads_to_an_allowed_place_is_resolved(tmp_path: Path, work: Path) -> None:
    (work / "real").mkdir()
    (work / "alias").symlink_to(work / "real")
    (tmp_path / "root").symlink_to(work)
    reservation = reserve(str(tmp_path / "root" / "alias" / "x"), [tmp_path / "root"])
    assert reservation.path == str(work / "real" / "x")
    assert publish(reservation, [b"x"]).path == str(work / "real" / "x")


def test_every_allowed_root_is_allowed_and_a_missing_one_is_harmless(tmp_path: Path, work: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
    roots = [work, tmp_path / "one", tmp_path / "two", tmp_path / "missing"]
    for directory in roots[:3]:
        assert reserve(str(directory / "x"), roots).directory == str(directory)
    refused(work / "x")


def test_an_existing_file_is_replaced_only_if_that_was_asked_for(work: Path) -> None:
    target = work / "answer"
    target.write_text("old")
    other_name = work / "same-file"
    os.link(target, other_name)
    reservation = reserve(str(target), [work], overwrite=True)
    published = publish(stored(reservation), [b"new"])
    assert published.overwrote
    assert target.read_text() == "new"
    assert other_name.read_text() == "old", "replaced by name, never written through"
    assert publish(stored(reservation), [b"new"]).overwrote, "the same answer when it is done again"


def test_overwriting_what_is_not_there_is_not_called_overwriting(work: Path) -> None:
    reservation = reserve(str(work / "answer"), [work], overwrite=True)
    assert not publish(reservation, [b"new"]).overwrote
    assert not publish(reservation, [b"new"]).overwrote


@needs_root
def test_a_file_of_another_user_is_not_replaced(work: Path) -> None:
    (work / "theirs").write_text("theirs")
    os.chown(work / "theirs", 12345, 12345)
    assert "belongs to user 12345" in refused(work / "theirs", work, overwrite=True).message


def test_a_directory_where_everybody_may_replace_files_is_refused(work: Path) -> None:
    work.chmod(0o777)
    error = refused(work / "x", work)
    assert "everybody" in error.message
    assert "chmod o-w" in (error.hint or "")
    work.chmod(0o1777)
    reserve(str(work / "x"), [work])


def test_a_directory_in_which_nothing_can_be_made_fails_at_once(work: Path) -> None:
    if os.geteuid() == 0:
        directory = Path("/proc")  # not even root makes files there
    else:
        directory = work
        work.chmod(0o500)
    error = refused(directory / "x", directory)
    work.chmod(0o700)
    assert "no file can be created" in error.message


#: What can take the place of the directory, or of the file, while the agent works.
def swap_for_symlink(work: Path, outside: Path) -> None:
    work.rename(work.with_name("moved"))
    work.symlink_to(outside)


def swap_for_another_directory(work: Path, outside: Path) -> None:
    work.rename(work.with_name("moved"))
    work.mkdir()


def swap_parent_for_symlink(work: Path, outside: Path) -> None:
    (outside / "work").mkdir()
    work.parent.rename(work.parent.with_name("moved"))
    work.parent.symlink_to(outside)


def remove_directory(work: Path, outside: Path) -> None:
    work.rmdir()


@pytest.mark.parametrize(
    "swap", [swap_for_symlink, swap_for_another_directory, swap_parent_for_symlink, remove_directory]
)
def test_a_directory_that_was_swapped_leads_the_answer_nowhere(
    tmp_path: Path, swap: Callable[[Path, Path], None]
) -> None:
    work, outside = tmp_path / "parent" / "work", tmp_path / "outside"
    work.mkdir(parents=True)
    outside.mkdir()
    reservation = stored(reserve(str(work / "answer"), [work]))
    swap(work, outside)
    with pytest.raises(OutputPathRefused) as caught:
        publish(reservation, [b"secret"])
    assert caught.value.hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    reservation.abandon()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "fifo", "directory"])
def test_what_took_the_name_while_the_agent_worked_is_never_followed(
    tmp_path: Path, work: Path, kind: str, overwrite: bool
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("victim")
    target = work / "answer"
    reservation = stored(reserve(str(target), [work], overwrite=overwrite))
    match kind:
        case "file":
            target.write_text("somebody's")
        case "symlink":
            target.symlink_to(victim)
        case "dangling":
            target.symlink_to(tmp_path / "nothing")
        case "fifo":
            os.mkfifo(target)
        case _:
            target.mkdir()
    if overwrite and kind == "file":
        assert publish(reservation, [b"answer"]).overwrote
        assert target.read_text() == "answer"
    else:
        was = target.lstat()
        with pytest.raises(OutputPathRefused):
            publish(reservation, [b"answer"])
        assert (target.lstat().st_ino, target.lstat().st_mode) == (was.st_ino, was.st_mode)
    assert victim.read_text() == "victim"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["answer", "victim", "work"]


@pytest.mark.parametrize("kind", ["symlink", "file", "directory"])
def test_what_took_the_temporary_name_is_never_written_through(tmp_path: Path, work: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("victim")
    reservation = reserve(str(work / "answer"), [work])
    temporary = work / reservation.temporary_name
    match kind:
        case "symlink":
            temporary.symlink_to(victim)
        case "file":
            os.link(victim, temporary)
        case _:
            temporary.mkdir()
    if kind == "directory":
        with pytest.raises(OutputPathRefused):
            publish(reservation, [b"answer"])
    else:
        publish(reservation, [b"answer"])
        assert os.listdir(work) == ["answer"]
    assert victim.read_text() == "victim"


class Killed(BaseException):
    """Stands for the death of the process at this very point."""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("hard_links", [True, False])
def test_publishing_again_after_a_death_at_any_point_gives_the_same_file_and_receipt(
    work: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, existed: bool, hard_links: bool
) -> None:
    if existed and not overwrite:
        return
    calls = ("open", "fsync", "rename", "link", "unlink", "stat", "close")

    def run(die_at: int | None) -> int:
        """Publish, dying at the given system call; returns how many there were."""
        count = 0
        with pytest.MonkeyPatch.context() as patch:
            for name in calls:
                original = getattr(os, name)

                def call(*args: object, name: str = name, original: Callable[..., object] = original, **kw: object):
                    nonlocal count
                    count += 1
                    if die_at is not None and count >= die_at:
                        if name == "close":
                            original(*args, **kw)
                        raise Killed
                    if name == "link" and not hard_links:
                        raise OSError(errno.EPERM, "no links here")
                    return original(*args, **kw)

                patch.setattr(output_file.os, name, call)
            publish(reservation, [b"the ", b"answer"])
        return count

    target = work / "answer"

    def begin() -> Reservation:
        for entry in work.iterdir():
            entry.unlink()
        if existed:
            target.write_text("old")
        return stored(reserve(str(target), [work], overwrite=overwrite))

    reservation = begin()
    total = run(None)
    for die_at in range(1, total + 1):
        reservation = begin()
        with pytest.raises(Killed):
            run(die_at)
        seen = target.read_bytes() if target.exists() else None
        allowed: set[bytes | None] = {b"the answer", b"old" if existed else None}
        if not hard_links and not overwrite:
            allowed.add(b"")
        assert seen in allowed, "never a part of it"
        if seen == b"" and not hard_links:
            continue  # the one declared weakness of a file system without hard links
        again = publish(stored(reservation), [b"the ", b"answer"])
        assert target.read_bytes() == b"the answer"
        assert (again.bytes, again.overwrote) == (10, existed)
        assert os.listdir(work) == ["answer"]


def test_a_file_system_without_hard_links_is_served_and_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*args: object, **kw: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(output_file.os, "link", no_link)
    published = publish(reserve(str(work / "answer"), [work]), [b"x"])
    assert (published.atomic, (work / "answer").read_bytes(), os.listdir(work)) == (False, b"x", ["answer"])
    reservation = reserve(str(work / "second"), [work])
    (work / "second").write_text("taken")
    with pytest.raises(OutputPathRefused, match="took this name"):
        publish(reservation, [b"x"])
    assert (work / "second").read_text() == "taken"


def test_abandoning_removes_what_an_interruption_left_and_nothing_else(work: Path) -> None:
    reservation = reserve(str(work / "answer"), [work])
    (work / reservation.temporary_name).write_text("part")
    (work / "other").write_text("other")
    stored(reservation).abandon()
    stored(reservation).abandon()
    assert os.listdir(work) == ["other"]


def test_a_source_that_fails_leaves_nothing(work: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"part"
        raise ValueError("gone")

    reservation = reserve(str(work / "answer"), [work])
    with pytest.raises(ValueError, match="gone"):
        publish(reservation, chunks())
    assert os.listdir(work) == []


FULL = """
import resource, signal, sys
from pathlib import Path
from holdfast.tasks.output_file import OutputPathRefused, publish, reserve
reservation = reserve(sys.argv[1], [Path(sys.argv[1]).parent])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    publish(reservation, [b"x" * 10_000] * 10)
except OutputPathRefused as error:
    print(error, "|", error.hint)
"""


def test_a_disk_that_takes_no_more_leaves_nothing_and_says_so(work: Path) -> None:
    assert resource.RLIMIT_FSIZE is not None and signal.SIGXFSZ is not None
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(work / "answer")], capture_output=True, text=True, timeout=60
    )
    assert "could not be written: File too large" in done.stdout, done.stderr
    assert "take the answer from the task" in done.stdout
    assert os.listdir(work) == []


@needs_root
def test_a_full_file_system_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount here")
    try:
        reservation = reserve(str(small / "answer"), [small])
        with pytest.raises(OutputPathRefused, match="No space left on device"):
            publish(reservation, [b"x" * 10_000] * 10)
        assert os.listdir(small) == []
        (small / "filler").write_bytes(b"x" * 40_000)
        with pytest.raises(OutputPathRefused, match="No space left on device"):
            publish(reservation, [b"x" * 30_000])
        assert os.listdir(small) == ["filler"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
