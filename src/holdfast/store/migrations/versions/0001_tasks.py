"""Tasks, their attempts, the fold cursors of their processes, and the change feed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holdfast.clock import boot_id
from holdfast.store.triggers import create_triggers

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("label", sa.Text),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("created_monotonic", sa.Float(53), nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("baseline", sa.LargeBinary),
        sa.Column("reservation", sa.LargeBinary),
        sa.Column("cancel_requested_at", sa.Float(53)),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("status", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("result", sa.LargeBinary),
        sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
    )
    op.create_index("ix_tasks_state", "tasks", ["state"])
    op.create_index("ix_tasks_created_at", "tasks", ["created_at"])
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("process_id", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53)),
        sa.Column("started_monotonic", sa.Float(53)),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("thread_id", sa.Text),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("ended_at", sa.Float(53)),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_attempts_task_id", ondelete="CASCADE"),
        sa.UniqueConstraint("process_id", name="uq_attempts_process_id"),
    )
    op.create_table(
        "processes",
        sa.Column("process_id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("fold_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("fold_skip", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("fold_seen", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("process_id", name="pk_processes"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_processes_task_id", ondelete="CASCADE"),
    )
    op.create_index("ix_processes_task_id", "processes", ["task_id"])
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("row_key", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sqlite_autoincrement=True,
    )
    feed_state = op.create_table(
        "feed_state",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feed_state"),
    )
    for table, key in (("tasks", ["id"]), ("attempts", ["task_id", "number"]), ("processes", ["process_id"])):
        for statement in create_triggers(table, key):
            op.execute(statement)
    op.execute(feed_state.insert().values(id=1, floor=0, boot_id=boot_id()))
