"""The database: private, whole, and not from a newer Holdfast."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Final

from holdfast.doctor.check import BlockingCheck, Finding, Level

NAME: Final = "holdfast.db"


class DatabaseCheck(BlockingCheck):
    """It can be opened by this version, and SQLite finds nothing wrong in it."""

    id = "state.database"
    title = "Database"
    #: Reading all of a large one takes a while.
    timeout_s = 20.0

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def look(self) -> Finding:
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return Finding(level=Level.OK, summary="There is none yet; it is created when it is needed.")
        if not stat.S_ISREG(status.st_mode):
            return Finding(
                level=Level.ERROR, summary=f"{self.path} is not a regular file.", hint=f"Move {self.path} away."
            )
        if status.st_size == 0:
            return Finding(level=Level.OK, summary="It is empty; tables are created when they are needed.")
        # Only here: it brings SQLAlchemy along.
        from holdfast.store.database import connect_raw, way_out
        from holdfast.store.schema import HEAD, REVISIONS

        try:
            connection = connect_raw(self.path)
            try:
                connection.execute("PRAGMA query_only = ON")
                revision = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
                problems = [row[0] for row in connection.execute("PRAGMA quick_check(10)")]
            finally:
                connection.close()
        except (sqlite3.Error, TypeError) as error:
            return Finding(
                level=Level.ERROR,
                summary=f"{self.path} cannot be read.",
                detail=str(error),
                hint=way_out(self.path, error),
            )
        if problems != ["ok"]:
            return Finding(
                level=Level.ERROR,
                summary=f"{self.path} is damaged.",
                detail="\n".join(problems),
                hint=way_out(self.path, None),
            )
        if revision not in REVISIONS:
            return Finding(
                level=Level.ERROR,
                summary=f"{self.path} was written by a newer Holdfast (schema {revision}).",
                hint="Upgrade Holdfast, or set HOLDFAST_STATE_DIR to another directory.",
            )
        if revision != HEAD:
            return Finding(
                level=Level.INFO, summary=f"Schema {revision}; it is brought to {HEAD} when the daemon starts."
            )
        return Finding(level=Level.OK, summary=f"Whole, schema {revision}, {status.st_size / (1 << 20):.1f} MiB.")
