"""The durable log of one process: a raw file for each stream and an index of fixed-size records.

The directory of a process holds ``index`` and, once there is something in them, ``stdout``, ``stderr``, ``pty`` and
``signals`` (0600).  Bytes go to the stream's file first and are indexed second; nobody is told of them before both are
done.  What a crash leaves between the two is indexed by :meth:`ProcessLog.recover`.

Nothing is synced to the medium: the log outlives the death of any process, not the loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from pathlib import Path
from typing import Final

from holdfast.host.log_format import CHUNK, STREAM_FILES, UNKNOWN_EXIT, Entry, EntryKind, gone
from holdfast.host.log_index import LogFull, LogIndex, log_full
from holdfast.host.page_cache import STEP, WINDOW, drop_behind
from holdfast.host.pipe import holds_something
from holdfast.host.pouring import Pouring
from holdfast.host.preallocation import give_back
from holdfast.host.staging import Staging
from holdfast.host.whole import close_file, write_all_at

#: Bytes of a block as ``stat`` counts them, and how many bytes behind the end of a file are worth being given back.
_BLOCK: Final = 512
_SURPLUS: Final = 64 * 1024


class ProcessLog:
    """The log in one directory: a single writer, any number of readers, no memory that grows with it."""

    __slots__ = ("_directory", "_files", "_index", "_pending", "_pourings", "_sizes", "_written", "forgotten")

    def __init__(self, directory: str, index: LogIndex) -> None:
        self._directory = directory
        self._index = index
        self._files: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        #: The streams that pour, by kind, and the one whose output is not in its file yet.
        self._pourings: dict[int, Pouring] = {}
        self._pending: int | None = None
        #: Whether this log writes its files, and so knows that everything is in them.
        self._written = True
        #: Whether this was forgotten: what lies at its place is about to be deleted, or another process's.
        self.forgotten = False

    @classmethod
    def create(cls, directory: Path | str) -> ProcessLog:
        """Begin a log in an existing directory that has none, or one without records."""
        return cls(os.fspath(directory), LogIndex.writable(f"{directory}/index"))

    @classmethod
    def recover(cls, directory: Path | str, staging: Staging | None = None) -> ProcessLog:
        """Open a log for writing after a crash: index what was written but not indexed, or is left in *staging*.

        What the disk does not take now stays in memory for :meth:`flush`.

        :raises OSError: it cannot be read; nothing stays open
        """
        log = cls.create(directory)
        try:
            log._index_the_rest(staging)
        except BaseException:
            log.close()
            raise
        return log

    @classmethod
    def complete(cls, directory: Path | str) -> ProcessLog:
        """Open a log that nobody will write to any more; it holds no descriptor."""
        log = cls(os.fspath(directory), LogIndex.complete(f"{directory}/index"))
        log._written = False
        return log

    @property
    def last_seq(self) -> int:
        """The highest sequence number that readers may see."""
        return self._index.last_seq

    @property
    def _key(self) -> str:
        """The name of the process's directory."""
        return self._directory.rpartition("/")[2]

    def _index_the_rest(self, staging: Staging | None) -> None:
        ends = dict.fromkeys(STREAM_FILES, 0)
        for after in range(0, self.last_seq, 4096):
            for entry in self._there(self.entries(after, 4096)):
                if entry.kind in ends:
                    ends[EntryKind(entry.kind)] = entry.offset + entry.length
        left = None if staging is None else staging.claim(self._key)
        for kind, name in STREAM_FILES.items():
            try:
                status = os.stat(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue
            size = self._sizes[kind] = status.st_size
            if kind is EntryKind.SIGNAL:
                # An event is in its drop until its record is written.
                self._sizes[kind] = ends[kind]
                os.truncate(f"{self._directory}/{name}", ends[kind])
                continue
            if staging is not None and left is not None and left.name == name and size < left.offset + left.length:
                size = self._sizes[kind] = left.offset
                self._pending = kind
                self._pouring(kind, staging).resume(left)
            elif status.st_blocks * _BLOCK > size + _SURPLUS:
                # An earlier server reserved more than was needed.
                give_back(self._file(kind))
            for begin in range(ends[kind], size, CHUNK):
                self._index.waiting.append((time.time_ns(), begin, min(CHUNK, size - begin), 0, 0, kind))
        if staging is not None and left is not None and self._pending is None:
            # It had landed, whole; or its file is gone.
            staging.drop()
        with contextlib.suppress(LogFull):
            self.flush()

    def _file(self, kind: int) -> int:
        descriptor = self._files.get(kind)
        if descriptor is None:
            path = f"{self._directory}/{STREAM_FILES[EntryKind(kind)]}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._files[kind] = descriptor
            self._sizes.setdefault(kind, 0)
        return descriptor

    # Writing

    def splice(self, kind: int, source: int) -> int:
        """Move what is in the pipe *source*, up to a chunk, into the file of *kind* and index it.

        Returns the number of bytes moved, 0 at end of file.

        :raises BlockingIOError: the pipe is empty
        :raises LogFull: no room; the bytes are still in the pipe (or are safe and will be indexed by :meth:`flush`)
        """
        if kind not in self._files and not self._worth_a_file(source):
            return 0
        if self._index.waiting or self._pending is not None:
            self.flush()
        try:
            target = self._file(kind)
            offset = self._sizes[kind]
            moved = os.splice(source, target, CHUNK, offset_dst=offset, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            # Whatever the reason, it is still in the pipe, and the child waits.
            raise log_full(f"output in {self._directory}", error) from error
        if moved:
            end = self._sizes[kind] = offset + moved
            self._index.append((time.time_ns(), offset, moved, 0, 0, kind))
            if end > WINDOW:
                self._drop_behind(kind, offset, end)
        return moved

    def pour(self, kind: int, source: int, staging: Staging) -> int:
        """The same as :meth:`splice` for a stream that pours: larger portions, through *staging*, for less work.

        :raises BlockingIOError: the pipe is empty
        :raises LogFull: no room; the bytes are safe and will be indexed by :meth:`flush`
        """
        self.flush()
        try:
            pouring = self._pouring(kind, staging)
        except OSError as error:
            # It is still in the pipe.
            raise log_full(f"output in {self._directory}", error) from error
        offset = self._sizes[kind]
        if not pouring.possible(offset):
            return self.splice(kind, source)
        try:
            taken = pouring.take(source, offset)
        except BlockingIOError:
            raise
        except OSError:
            # There is no memory.
            return self.splice(kind, source)
        if taken:
            self._pending = kind
            self.flush()
        return taken

    def _pouring(self, kind: int, staging: Staging) -> Pouring:
        pouring = self._pourings.get(kind)
        if pouring is None:
            name = STREAM_FILES[EntryKind(kind)]
            pouring = self._pourings[kind] = Pouring(staging, self._key, name, self._file(kind))
        return pouring

    def _land(self, kind: int) -> None:
        """Write to its file what was taken, and put it on the list for the index."""
        pouring = self._pourings[kind]
        try:
            forgotten = pouring.land()
        except OSError as error:
            # It is out of the pipe: nothing but another try can save it, whatever the reason.
            raise LogFull(f"Output cannot be written in {self._directory}: {error.strerror}.") from error
        self._pending = None
        offset, now = pouring.offset, time.time_ns()
        end = self._sizes[kind] = offset + pouring.length
        for begin in range(offset, end, CHUNK):
            self._index.waiting.append((now, begin, min(CHUNK, end - begin), 0, 0, kind))
        if end > WINDOW and not forgotten:
            self._drop_behind(kind, offset, end)

    def _drop_behind(self, kind: int, offset: int, end: int) -> None:
        if end // STEP != offset // STEP:
            drop_behind(self._files[kind], end)

    @staticmethod
    def _worth_a_file(source: int) -> bool:
        """Whether *source* holds anything: a stream that never says anything gets no file.

        :raises BlockingIOError: not yet, but it may
        """
        poll = select.poll()
        poll.register(source, select.POLLIN)
        for _, events in poll.poll(0):
            return bool(events & select.POLLIN) or holds_something(source)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def append(self, kind: int, data: bytes) -> None:
        """Write *data* to the file of *kind* and index it as one record.

        :raises LogFull: no room, and nothing of it is there; the caller keeps the data and calls again
        """
        if self._index.waiting or self._pending is not None:
            self.flush()
        try:
            target = self._file(kind)
        except OSError as error:
            raise log_full(f"output in {self._directory}", error) from error
        offset = self._sizes[kind]
        try:
            write_all_at(target, data, offset)
            self._index.append((time.time_ns(), offset, len(data), 0, 0, kind))
        except (OSError, LogFull) as error:
            # Half of it, or all of it without its record, would be taken for something else after a crash.
            self._index.waiting.clear()
            os.ftruncate(target, offset)
            if isinstance(error, LogFull):
                raise
            raise log_full(f"output in {self._directory}", error) from error
        self._sizes[kind] = offset + len(data)

    def append_end(self, *, exit_code: int | None = None, signal: int = 0, exited: bool, closed: bool) -> None:
        """Record that the process exited, that its streams are closed, or both at once.

        :raises LogFull: no room in the index; :meth:`flush` brings the records in later
        """
        now = time.time_ns()
        if exited:
            code = UNKNOWN_EXIT if exit_code is None else exit_code
            self._index.waiting.append((now, 0, 0, code, signal, EntryKind.EXITED))
        if closed:
            self._index.waiting.append((now, 0, 0, 0, 0, EntryKind.CLOSED))
        self.flush()

    def flush(self) -> None:
        """Bring into the log what did not fit before.

        :raises LogFull: there is still no room
        """
        self._index.flush()
        if self._pending is not None:
            self._land(self._pending)
            self._index.flush()

    # Reading

    def entries(self, after: int, limit: int) -> list[Entry]:
        """Up to *limit* records with sequence numbers above *after*, in order; *gone* are those without their bytes."""
        entries = self._index.entries(after, limit)
        return entries if self._written else self._there(entries)

    def _there(self, entries: list[Entry]) -> list[Entry]:
        sizes: dict[int, int] = {}
        found: list[Entry] = []
        for entry in entries:
            if entry.length:
                if entry.kind not in sizes:
                    sizes[entry.kind] = 0 if self.forgotten else self._stored(EntryKind(entry.kind))
                if entry.offset + entry.length > sizes[entry.kind]:
                    entry = gone(entry.seq)
            found.append(entry)
        return found

    def _stored(self, kind: EntryKind) -> int:
        """Bytes in the file of *kind*."""
        try:
            return os.lstat(f"{self._directory}/{STREAM_FILES[kind]}").st_size
        except FileNotFoundError:
            return 0

    def last(self, kind: EntryKind) -> Entry | None:
        """The newest record of *kind*, looking backwards."""
        return self._index.last(kind)

    def data(self, entry: Entry) -> bytes:
        """The bytes that *entry* describes; none if it describes none."""
        if not entry.length:
            return b""
        descriptor = self._files.get(entry.kind)
        if descriptor is not None:
            return os.pread(descriptor, entry.length, entry.offset)
        name = STREAM_FILES[EntryKind(entry.kind)]
        descriptor = os.open(f"{self._directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(descriptor, entry.length, entry.offset)
        finally:
            os.close(descriptor)

    def data_of(self, entries: list[Entry]) -> list[bytes | memoryview]:
        """The bytes of several entries, until the log grows; what lies side by side in a file is read together."""
        found: list[bytes | memoryview] = []
        first = 0
        while first < len(entries):
            begin = entries[first]
            end = begin.offset + begin.length
            last = first + 1
            while last < len(entries) and entries[last].kind == begin.kind and entries[last].offset == end:
                end += entries[last].length
                last += 1
            pouring = self._pourings.get(begin.kind)
            view = None if pouring is None else pouring.data(begin.offset, end)
            if view is None and last == first + 1:
                found.append(self.data(begin))
            else:
                if view is None:
                    view = memoryview(self.data(begin._replace(length=end - begin.offset)))
                for entry in entries[first:last]:
                    start = entry.offset - begin.offset
                    found.append(view[start : start + entry.length])
            first = last
        return found

    def stored_bytes(self) -> int:
        """Bytes that the stream files take, as far as they can be seen."""
        total = 0
        for name in STREAM_FILES.values():
            try:
                total += os.stat(f"{self._directory}/{name}").st_size
            except OSError:
                # It was never made; or its process, to whom it belongs as well, has put something else there.
                continue
        return total

    def drop_output(self) -> None:
        """Delete the bytes of a complete log; its index, and so the knowledge of what is gone, stays.

        :raises OSError: they cannot be deleted, or not all of them
        """
        for name in STREAM_FILES.values():
            try:
                os.unlink(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue

    def hold_index(self) -> None:
        """Let who reads a complete log at this moment go on reading its index when the files are deleted."""
        self._index.hold()

    def close(self) -> None:
        """Close the files; reading goes on working, writing does not."""
        self._written = False
        for pouring in self._pourings.values():
            pouring.close()
        self._pourings = {}
        descriptors = self._files.values()
        self._files = {}
        self._index.close()
        for descriptor in descriptors:
            close_file(descriptor)
