"""The database file: opened privately, brought to the present schema, and connected to with the right settings."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from holdfast.clock import boot_id, monotonic
from holdfast.directories import open_private, private_directory
from holdfast.errors import InvalidRequest, Unavailable
from holdfast.store.schema import HEAD, REVISIONS, feed_state, metadata, watched_tables
from holdfast.store.triggers import create_triggers

#: Seconds to wait for another process's lock before giving up.  Our own transactions take milliseconds.
BUSY_SECONDS = 10.0
#: Seconds to wait for another process that is creating or migrating the database.
MIGRATION_SECONDS = 60.0
#: Distance between the sequence numbers of two boots.  A loss of power can take back the last commits; numbers that
#: clients saw before must not be given to other changes afterwards.
_BOOT_STRIDE = 1_000_000
_MIGRATIONS = Path(__file__).parent / "migrations"
#: Errors of what the database lies on: they say nothing of what is in it.
_NOT_ITS_FAULT = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM}
)


class StoreUnusable(Unavailable):
    """The database file cannot be used as it is."""

    code = "store_unusable"


class SchemaTooNew(StoreUnusable):
    """The database was last written by a newer Holdfast."""

    code = "schema_too_new"


class StoreBusy(Unavailable):
    """Another process kept the database locked for too long."""

    code = "store_busy"


class InsecureStore(InvalidRequest):
    """The database file is a symlink, belongs to somebody else, or is open to others."""

    code = "insecure_store"


def prepare(path: Path) -> None:
    """Make *path* a database at the present schema: create it, migrate it, or find that nothing is to be done.

    Safe against other processes doing the same at the same time.  Alembic is imported only for a migration.

    :raises InsecureStore: the file, or its directory, is not private to us
    :raises SchemaTooNew: a newer Holdfast wrote it
    :raises StoreUnusable: it is not a database of Holdfast, or is damaged
    :raises StoreBusy: another process kept it locked
    """
    private_directory(path.parent)
    _check_private(path)
    try:
        if not path.exists() or _stored_revision(path) != HEAD:
            with _migration_lock(path.with_name(path.name + ".migration-lock")):
                _create_or_migrate(path)
        _begin_boot(path)
    except (sqlite3.DatabaseError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.Error) and _is_busy(cause):
            raise StoreBusy(
                f"{path} is locked by another process.", hint="Find it with 'holdfast doctor', or try again."
            ) from error
        raise StoreUnusable(
            f"{path} cannot be used as Holdfast's database: {cause}", hint=way_out(path, cause)
        ) from error


def way_out(path: Path, error: BaseException | None) -> str:
    """What to do when *error* says that *path* cannot be used."""
    if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _NOT_ITS_FAULT:
        return (
            f"Make room on the disk of {path}, or see why it cannot be read or written there; it need not be damaged."
        )
    return f"Restore {path} from a backup, or move it away to begin with an empty one."


def create_engine(path: Path, *, read_only: bool, connections: int) -> sa.Engine:
    """An engine on the prepared database *path* with at most *connections* connections, usable from any thread.

    A transaction of the writing engine takes the write lock when it begins, so it never fails half-way because
    somebody else wrote; one of a reading engine sees one snapshot throughout.
    """

    def connect() -> sqlite3.Connection:
        return connect_raw(path, read_only=read_only)

    engine = sa.create_engine(
        "sqlite://", creator=connect, poolclass=sa.QueuePool, pool_size=connections, max_overflow=0
    )
    statement = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine, "begin", begin)
    return engine


def connect_raw(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect with the settings that every connection of Holdfast has; transactions are begun explicitly."""
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        # REPLACE fires the delete triggers of the rows that it removes only with this setting.
        connection.execute("PRAGMA recursive_triggers = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_private(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise InsecureStore(f"{path} is not a regular file.", hint=f"Move {path} away.")
    if status.st_uid != os.geteuid():
        raise InsecureStore(f"{path} belongs to user {status.st_uid}, not to you.", hint=f"Move {path} away.")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise InsecureStore(
            f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"Run: chmod 600 {path}",
        )


def _is_busy(error: sqlite3.Error) -> bool:
    return (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def _migration_lock(path: Path) -> Generator[None]:
    """Let one process at a time create or migrate; the kernel gives the lock back if that process dies."""
    descriptor = open_private(path, os.O_RDWR)
    try:
        deadline = monotonic() + MIGRATION_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > deadline:
                    raise StoreBusy(
                        f"Another process has been migrating the database for {MIGRATION_SECONDS:.0f} s.",
                        hint=f"Find who holds {path} open, or try again.",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _stored_revision(path: Path) -> str | None:
    """The revision that the database says it is at; ``None`` for an empty database.

    :raises StoreUnusable: there are tables, but not ours
    """
    connection = connect_raw(path)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        row: tuple[Any] | None = None
        if "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if row is None:
            raise StoreUnusable(
                f"{path} is a database, but not one of Holdfast.", hint=f"Move {path} away, or set HOLDFAST_STATE_DIR."
            )
        return str(row[0])
    finally:
        connection.close()


def _create_or_migrate(path: Path) -> None:
    if not path.exists():
        # SQLite gives its -wal and -shm files the mode of the database.  The descriptor is closed while nobody can
        # have opened the database yet: closing it later would drop SQLite's own locks of this process.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    revision = _stored_revision(path)
    if revision == HEAD:
        return
    if revision is not None and revision not in REVISIONS:
        raise SchemaTooNew(
            f"{path} was written by a newer Holdfast (schema {revision}; this one knows up to {HEAD}).",
            hint="Upgrade Holdfast, or set HOLDFAST_STATE_DIR to another directory.",
        )
    connection = connect_raw(path)
    connection.execute("PRAGMA journal_mode = WAL")
    # A migration that rebuilds a table must not trip over the references to it; they are checked at its end.
    connection.execute("PRAGMA foreign_keys = OFF")
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.StaticPool)
    try:
        with engine.connect() as bound:
            bound.exec_driver_sql("BEGIN IMMEDIATE")
            if revision is None:
                create_from_schema(bound)
            else:
                run_migrations(bound)
            broken = bound.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise StoreUnusable(
                    f"{path} holds {len(broken)} rows that refer to missing ones.",
                    hint=f"Restore {path} from a backup.",
                )
            bound.commit()
    finally:
        engine.dispose()
        connection.close()


def create_from_schema(connection: sa.Connection) -> None:
    """Create all tables at the present revision in an empty database, in one step and without Alembic.

    The same as running every migration (a test compares the two), half a second faster.
    """
    metadata.create_all(connection, checkfirst=False)
    for table in watched_tables():
        for statement in create_triggers(table.name, [column.name for column in table.primary_key]):
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version (version_num) VALUES (?)", (HEAD,))
    connection.execute(feed_state.insert().values(id=1, floor=0, boot_id=boot_id()))


def run_migrations(connection: sa.Connection) -> None:
    """Bring the database to the present revision inside the transaction that *connection* is in."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _begin_boot(path: Path) -> None:
    """After a restart of the machine, declare all earlier positions in the change feed void.

    Commits survive the death of any process, but a loss of power may take back the last of them.  A client that had
    seen those would otherwise never learn that they did not happen.
    """
    connection = connect_raw(path)
    try:
        row = connection.execute("SELECT boot_id FROM feed_state WHERE id = 1").fetchone()
        if row is not None and row[0] == boot_id():
            return
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("SELECT boot_id FROM feed_state WHERE id = 1").fetchone()
        if row is None or row[0] != boot_id():
            (newest,) = connection.execute(
                "SELECT max(coalesce((SELECT max(seq) FROM changes), 0),"
                " coalesce((SELECT floor FROM feed_state WHERE id = 1), 0))"
            ).fetchone()
            floor = newest + _BOOT_STRIDE
            # An explicit number moves SQLite's counter; the row itself is not a change.
            connection.execute(
                "INSERT INTO changes (seq, table_name, row_key, operation, at) VALUES (?, '', '[]', '', 0)", (floor,)
            )
            connection.execute("DELETE FROM changes")
            connection.execute("INSERT OR REPLACE INTO feed_state VALUES (1, ?, ?)", (floor, boot_id()))
        connection.execute("COMMIT")
    finally:
        connection.close()
