"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holdfast.store.triggers import create_triggers, drop_triggers

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Add the revision to holdfast.store.schema.REVISIONS.  A new table needs create_triggers(); a batch operation that
    # rebuilds a table drops its triggers, so create them again.
    ${upgrades if upgrades else "pass"}
