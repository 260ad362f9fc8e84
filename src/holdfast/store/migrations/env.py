"""Run by Alembic: migrate the connection that :func:`holdfast.store.database.run_migrations` hands over."""

from __future__ import annotations

from alembic import context

from holdfast.store.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("Migrations run through holdfast.store.database.run_migrations, which gives them a connection.")
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
