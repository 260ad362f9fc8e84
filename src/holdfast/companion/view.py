"""The directory that callers of the companion read: ``state.json``, ``jobs/ID.json`` and ``jobs/ID.log``.

It is a view.  What is true lives in Holdfast's own state directory, and nothing is lost with a file of this one.  Other
programs, the original companion among them, read and write here too; so every change is made under a lock, appears
whole (a temporary file that is renamed), keeps what it does not understand, and touches no job that is not its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final, cast

from holdfast.clock import isoformat, wall
from holdfast.companion.refusal import Refused

#: One job as callers know it.  Records of other programs may lack everything but the id.
Record = dict[str, Any]

#: The setting that switches the review gate on.
GATE: Final = "stopReviewGate"
#: Finished jobs beyond this many leave the view (not Holdfast), oldest first.
KEPT_JOBS: Final = 50
#: Fields that belong to the file of a job and not to the index.
_FILE_ONLY: Final = ("result", "rendered", "request")
_JOB_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


class ViewUnavailable(Refused):
    """The directory that callers read cannot be used; jobs are not affected."""

    code = "view_unavailable"


class View:
    """The view of one workspace in *directory*, which is made when something is first written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._jobs = directory / "jobs"
        self._index = directory / "state.json"
        #: Jobs of sessions that have ended, written by others; their own directory does not list them any more.
        self._ended = directory / "ended"

    # --- reading ----------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The index: every job in it, without results, the most recently changed one first."""
        return by_age(self._load()["jobs"])

    def record(self, job_id: str) -> Record | None:
        """The file of one job; ``None`` if there is none that can be read."""
        if not re.fullmatch(_JOB_ID, job_id):
            return None
        for directory in (self._jobs, self._ended):
            found = _read(directory / f"{job_id}.json")
            if isinstance(found, dict):
                return cast(Record, found)
        return None

    def ended(self, prefix: str) -> list[Record]:
        """The jobs of ended sessions whose id begins with *prefix*."""
        try:
            names = sorted(os.listdir(self._ended))
        except OSError:
            return []
        found = [_read(self._ended / name) for name in names if name.startswith(prefix) and name.endswith(".json")]
        return [cast(Record, each) for each in found if isinstance(each, dict)]

    def log_path(self, job_id: str) -> Path:
        """Where the log of a job of ours lies."""
        return self._jobs / f"{job_id}.log"

    @property
    def config(self) -> Record:
        """The settings of the workspace."""
        return self._load()["config"]

    @property
    def shared_endpoint(self) -> str | None:
        """The endpoint of a broker that the original has registered here."""
        found = _read(self.directory / "broker.json")
        endpoint = cast(Record, found).get("endpoint") if isinstance(found, dict) else None
        return endpoint if isinstance(endpoint, str) else None

    # --- writing ----------------------------------------------------------------------------------------------------

    def configure(self, name: str, value: object) -> None:
        """Set one setting of the workspace.

        :raises ViewUnavailable: the directory cannot be written
        """
        with self._changing() as state:
            state["config"] = {**state["config"], name: value}

    def add(self, record: Record, first_line: str) -> None:
        """Show a new job, and begin its log.

        :raises ViewUnavailable: the directory cannot be written
        """
        with self._changing() as state:
            self._put(state, record)
            self.log(self.log_path(record["id"]), first_line, create=True)

    def put(self, record: Record) -> None:
        """Show a job as it is now; one that has left the view meanwhile, with its session, does not come back.

        :raises ViewUnavailable: the directory cannot be written
        """
        with self._changing() as state:
            if any(job["id"] == record["id"] for job in state["jobs"]):
                self._put(state, record)

    def change(self, job_id: str, fields: Record) -> None:
        """Set *fields* of a job of another program, in the index and, if it has one, in its file.

        :raises ViewUnavailable: the directory cannot be written
        """
        with self._changing() as state:
            for job in state["jobs"]:
                if job["id"] == job_id:
                    job.update(fields, updatedAt=isoformat(wall()))
            path = self._jobs / f"{job_id}.json"
            stored = _read(path)
            _replace(
                path, _encode({**(cast(Record, stored) if isinstance(stored, dict) else {"id": job_id}), **fields})
            )

    def end_session(self, session: str, *, ours: Callable[[Record], bool]) -> None:
        """Take the jobs of an ended session out of the view.  Files that are the only copy are kept aside.

        :raises ViewUnavailable: the directory cannot be written
        """
        with self._changing() as state:
            for job in state["jobs"]:
                if job.get("sessionId") != session:
                    continue
                if not ours(job):
                    _private(self._ended)
                    stored = _read(self._jobs / f"{job['id']}.json")
                    whole = {**job, **(cast(Record, stored) if isinstance(stored, dict) else {})}
                    _replace(self._ended / f"{job['id']}.json", _encode(whole))
                self._remove(job, logs=True)
            state["jobs"] = [job for job in state["jobs"] if job.get("sessionId") != session]

    def log(self, path: Path, message: str, body: str | None = None, *, create: bool = False) -> None:
        """Append a line, or a titled block, to the log of a job; a log that cannot be written loses nothing true."""
        stamp = isoformat(wall())
        text = f"[{stamp}] {message.strip()}\n"
        if body is not None:
            text = f"\n{text}{body.rstrip()}\n"
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            descriptor = os.open(path, flags, 0o600)
            try:
                os.write(descriptor, text.encode("utf-8", "backslashreplace"))
            finally:
                os.close(descriptor)

    def _put(self, state: Record, record: Record) -> None:
        record["updatedAt"] = isoformat(wall())
        _replace(self._jobs / f"{record['id']}.json", _encode(record))
        row = {name: value for name, value in record.items() if name not in _FILE_ONLY}
        state["jobs"] = self._bounded([row, *(job for job in state["jobs"] if job["id"] != row["id"])])

    # --- within -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Generator[Record]:
        """Hold the lock of the view around a change of the index."""
        try:
            _private(self.directory.parent)
            _private(self.directory)
            _private(self._jobs)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.directory / ".lock", flags, 0o600)
        except OSError as error:
            raise _unavailable(self.directory, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._load(set_aside=True)
            yield state
            state["jobs"] = by_age(state["jobs"])
            _replace(self._index, _encode(state))
        except OSError as error:
            raise _unavailable(self.directory, error) from error
        finally:
            os.close(lock)

    def _load(self, *, set_aside: bool = False) -> Record:
        state: Record = {"version": 1, "config": {GATE: False}, "jobs": []}
        try:
            # Records name processes to end and files to show, so somebody else's are not to be believed.
            if self.directory.stat().st_uid != os.geteuid():
                raise PermissionError(f"{self.directory} belongs to somebody else")
            found = json.loads(self._index.read_bytes())
        except FileNotFoundError:
            return state
        except OSError as error:
            raise _unavailable(self.directory, error) from error
        except ValueError:
            if set_aside:
                # A torn write of another program: kept, because it may be the only trace of its jobs.
                os.replace(self._index, self._index.with_name(f"state.json.unreadable-{int(wall())}"))
            return state
        if not isinstance(found, dict):
            return state
        read = cast(Record, found)
        config, jobs = read.get("config"), read.get("jobs")
        state.update(read)
        state["config"] = {GATE: False, **(cast(Record, config) if isinstance(config, dict) else {})}
        rows = cast("list[object]", jobs) if isinstance(jobs, list) else []
        state["jobs"] = [
            cast(Record, job) for job in rows if isinstance(job, dict) and isinstance(cast(Record, job).get("id"), str)
        ]
        return state

    def _bounded(self, jobs: list[Record]) -> list[Record]:
        finished = by_age(job for job in jobs if not is_active(job))
        for job in finished[KEPT_JOBS:]:
            if "holdfast" in job:
                self._remove(job, logs=True)
        dropped = {job["id"] for job in finished[KEPT_JOBS:]}
        return [job for job in jobs if job["id"] not in dropped]

    def _remove(self, job: Record, *, logs: bool) -> None:
        if not re.fullmatch(_JOB_ID, job["id"]):
            return
        (self._jobs / f"{job['id']}.json").unlink(missing_ok=True)
        log = job.get("logFile")
        # Only what lies where logs lie: a record must not be able to name any other file.
        if logs and isinstance(log, str) and os.path.dirname(os.path.realpath(log)) == os.path.realpath(self._jobs):
            Path(log).unlink(missing_ok=True)


def is_active(job: Record) -> bool:
    """Whether a record says that the job is under way."""
    return job.get("status") in ("queued", "running")


def by_age(jobs: Iterable[Record]) -> list[Record]:
    """*jobs*, the most recently changed one first."""
    return sorted(jobs, key=lambda job: str(job.get("updatedAt") or ""), reverse=True)


def _private(path: Path) -> None:
    """Make *path* if it is missing, for its owner alone; never go through a link or into somebody else's directory."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        status = path.stat() if status.st_uid in (0, os.geteuid()) else status
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a directory of yours")


def _encode(document: Record) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def _unavailable(directory: Path, error: OSError) -> ViewUnavailable:
    return ViewUnavailable(
        f"{directory} cannot be used ({error}).",
        hint="Jobs run and are kept all the same; set CLAUDE_PLUGIN_DATA to a directory that you can write to.",
    )
