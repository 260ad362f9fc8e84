"""Alembic's environment and revisions; used only when an existing database is older than the code."""
