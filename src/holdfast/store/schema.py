"""The tables.  Only facts are stored here; what is shown as a status is derived from them.

Times ``*_at`` are UTC seconds since the epoch, for people; times ``*_monotonic`` are :func:`holdfast.clock.monotonic`
readings and mean something only together with the ``boot_id`` beside them.  Columns of type ``LargeBinary`` hold JSON
that the floor above encodes and decodes.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

#: Every revision that a database may be at, oldest first; the last one is what this code works with.  Kept here so
#: that a database which is already there can be recognised without importing Alembic.
REVISIONS: Final = ("0001", "0002")
HEAD: Final = REVISIONS[-1]

#: A 64-bit counter; SQLite numbers rows by itself only in a column that is spelled ``INTEGER``.
_Counter: Final = BigInteger().with_variant(Integer(), "sqlite")

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

#: One delegated piece of work.
tasks: Final = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("label", Text),
    Column("agent", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("created_monotonic", Float(53), nullable=False),
    Column("boot_id", Text, nullable=False),
    #: What was asked for (JSON).
    Column("request", LargeBinary, nullable=False),
    #: How the working directory was before the agent started (JSON of ``tasks.workspace.changes.Baseline``).
    Column("baseline", LargeBinary),
    #: The place kept for the output file (JSON of ``tasks.output_file.Reservation``).
    Column("reservation", LargeBinary),
    Column("cancel_requested_at", Float(53)),
    Column("finished_at", Float(53)),
    #: How it ended; set once, with the result.
    Column("status", Text),
    Column("exit_code", Integer),
    Column("result", LargeBinary),
    #: Counts the results written for this task; 0 until there is one.
    Column("revision", Integer, nullable=False, server_default="0"),
    Index(None, "state"),
    Index(None, "created_at"),
)

#: One try of a task: one hosted process.
attempts: Final = Table(
    "attempts",
    metadata,
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("process_id", Text, nullable=False, unique=True),
    Column("phase", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("started_monotonic", Float(53)),
    Column("boot_id", Text, nullable=False),
    #: The agent's own conversation, as soon as it is known.
    Column("thread_id", Text),
    #: What the records of the process add up to so far (JSON).
    Column("facts", LargeBinary, nullable=False),
    #: The last message of the agent.
    Column("message", Text),
    Column("ended_at", Float(53)),
    PrimaryKeyConstraint("task_id", "number"),
)

#: How far the log of a hosted process has been folded; moved in the transaction that stores what the records meant.
processes: Final = Table(
    "processes",
    metadata,
    Column("process_id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False, index=True),
    #: The last record whose meaning is in the facts.
    Column("fold_seq", BigInteger, nullable=False, server_default="0"),
    #: Bytes of the record after it that were already used (a line can end in the middle of a record).
    Column("fold_skip", BigInteger, nullable=False, server_default="0"),
    #: The last record that was seen at all.
    Column("fold_seen", BigInteger, nullable=False, server_default="0"),
)

#: Who is to be told of a task's end, and whether it was done.
notifications: Final = Table(
    "notifications",
    metadata,
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    #: Its place among those that the task was accepted with.
    Column("number", Integer, nullable=False),
    #: How often it was tried; counted before each try.
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("notified_at", Float(53)),
    #: When it was given up.
    Column("abandoned_at", Float(53)),
    #: Why the last try failed.
    Column("error", Text),
    PrimaryKeyConstraint("task_id", "number"),
)

#: The change feed: what happened to which row, in commit order.  Written by triggers only.
changes: Final = Table(
    "changes",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    Column("table_name", Text, nullable=False),
    #: The row's primary key as a JSON array.
    Column("row_key", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("at", Float(53), nullable=False),
    sqlite_autoincrement=True,
)

#: One row: from where on the change feed is whole.
feed_state: Final = Table(
    "feed_state",
    metadata,
    Column("id", Integer, primary_key=True),
    #: Changes up to and including this one are gone.
    Column("floor", BigInteger, nullable=False),
    #: The boot in which the present sequence numbers were given out.
    Column("boot_id", Text, nullable=False),
)

#: The feed does not report on itself.  Every other table is watched.
UNWATCHED: Final = frozenset({"changes", "feed_state"})


def watched_tables() -> list[Table]:
    """Every table whose changes appear in the feed: all but the feed's own."""
    return [table for table in metadata.sorted_tables if table.name not in UNWATCHED]
