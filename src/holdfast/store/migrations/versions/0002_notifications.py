"""Who is to be told of a task's end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holdfast.store.triggers import create_triggers

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("notified_at", sa.Float(53)),
        sa.Column("abandoned_at", sa.Float(53)),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_notifications"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_notifications_task_id", ondelete="CASCADE"),
    )
    for statement in create_triggers("notifications", ["task_id", "number"]):
        op.execute(statement)
