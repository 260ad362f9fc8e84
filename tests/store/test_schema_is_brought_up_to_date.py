from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import holdfast.store.database as database
from holdfast.directories import InsecureDirectory
from holdfast.store.database import (
    InsecureStore,
    SchemaTooNew,
    StoreUnusable,
    connect_raw,
    create_from_schema,
    prepare,
    run_migrations,
)
from holdfast.store.schema import HEAD, REVISIONS, UNWATCHED, metadata, watched_tables
from holdfast.store.store import Store
from holdfast.store.triggers import trigger_names

from .rows import add_task


def describe(connection: sqlite3.Connection) -> dict[str, Any]:
    """Everything that matters about a schema, independent of how its statements are spelled."""
    described: dict[str, Any] = {}
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if name.startswith("sqlite_"):
            continue
        if kind == "table":
            indices = [row[1:] for row in connection.execute(f"PRAGMA index_list('{name}')")]
            described[name] = {
                "columns": connection.execute(f"PRAGMA table_info('{name}')").fetchall(),
                "references": connection.execute(f"PRAGMA foreign_key_list('{name}')").fetchall(),
                "indices": sorted(
                    (index, [row[2] for row in connection.execute(f"PRAGMA index_info('{index[0]}')")])
                    for index in indices
                ),
                "autoincrement": "AUTOINCREMENT" in sql,
            }
        elif kind == "trigger":
            described[name] = sql
    return described


def built_by(path: Path, build: Any) -> dict[str, Any]:
    path.touch(0o600)
    raw = connect_raw(path)
    engine = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=sa.StaticPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            build(connection)
            connection.commit()
        return describe(raw)
    finally:
        raw.close()


def test_migrations_from_empty_give_the_same_schema_as_a_new_database(tmp_path: Path) -> None:
    assert built_by(tmp_path / "migrated", run_migrations) == built_by(tmp_path / "new", create_from_schema)


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    import holdfast.store.migrations as migrations

    config = Config()
    config.set_main_option("script_location", os.path.dirname(migrations.__file__ or ""))
    script = ScriptDirectory.from_config(config)
    assert tuple(revision.revision for revision in reversed(list(script.walk_revisions()))) == REVISIONS
    assert script.get_current_head() == HEAD


def test_every_table_but_the_feed_itself_has_its_triggers(tmp_path: Path) -> None:
    path = tmp_path / "db"
    prepare(path)
    connection = connect_raw(path)
    triggers = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    tables = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_") and name != "alembic_version"
    }
    connection.close()
    assert tables == set(metadata.tables)
    assert {table.name for table in watched_tables()} == tables - UNWATCHED
    assert triggers == {name for table in tables - UNWATCHED for name in trigger_names(table)}


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{head}"


def upgrade():
    op.add_column("tasks", sa.Column("colour", sa.Text))
    op.execute("UPDATE tasks SET colour = 'green'")
    {last}
"""


def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """Let this Holdfast be one revision ahead of what is shipped."""
    migrations = tmp_path / "migrations"
    shutil.copytree(Path(database.__file__).parent / "migrations", migrations)
    following = f"{int(HEAD) + 1:04}"
    (migrations / "versions" / f"{following}_colour.py").write_text(NEXT.format(next=following, head=HEAD, last=last))
    monkeypatch.setattr(database, "_MIGRATIONS", migrations)
    monkeypatch.setattr(database, "HEAD", following)
    monkeypatch.setattr(database, "REVISIONS", (*REVISIONS, following))


async def test_an_older_database_is_migrated_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.open(tmp_path / "db") as store:
        await store.write(lambda connection: add_task(connection, "a"))
    add_revision(tmp_path, monkeypatch, last="pass")
    for _ in ("migrated", "present"):
        async with await Store.open(tmp_path / "db") as store:
            rows = await store.read(lambda connection: connection.exec_driver_sql("SELECT id, colour FROM tasks").all())
            assert [tuple(row) for row in rows] == [("a", "green")]
            assert [(change.seq, change.key) for change in await store.feed.changes(0)] == [(1, ("a",)), (2, ("a",))]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db"
    prepare(path)
    add_revision(tmp_path, monkeypatch, last="op.execute('SELECT nonsense FROM nowhere')")
    with pytest.raises(StoreUnusable, match="nowhere"):
        prepare(path)
    monkeypatch.undo()
    prepare(path)
    connection = connect_raw(path)
    assert "colour" not in [row[1] for row in connection.execute("PRAGMA table_info('tasks')")]
    connection.close()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "db").touch(0o600)
    prepare(tmp_path / "db")
    connection = connect_raw(tmp_path / "db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("revision", ["9999", "zzzz"])
def test_a_database_of_a_newer_holdfast_is_refused_and_left_alone(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "db"
    prepare(path)
    connection = connect_raw(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match=revision) as caught:
        prepare(path)
    assert caught.value.hint and "Upgrade" in caught.value.hint
    assert path.read_bytes() == before


def test_nobody_is_told_to_give_up_a_database_for_what_is_wrong_with_its_disk(tmp_path: Path) -> None:
    path = tmp_path / "db"
    prepare(path)
    before = path.read_bytes()
    # As on a full or a failing disk: what SQLite needs beside the database is not to be had.
    Path(f"{path}-wal").mkdir()
    with pytest.raises(StoreUnusable) as caught:
        prepare(path)
    assert caught.value.hint
    assert caught.value.hint.startswith("Make room on the disk of ")
    assert "backup" not in caught.value.hint
    assert path.read_bytes() == before


def test_what_is_not_our_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for content in (b"not a database, but long enough to have a header" * 100, b"short"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(StoreUnusable):
            prepare(path)
        assert path.read_bytes() == content
        path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_elses (x)")
    connection.close()
    path.chmod(0o600)
    with pytest.raises(StoreUnusable, match="not one of Holdfast"):
        prepare(path)


def test_a_start_on_a_present_database_does_not_import_alembic(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from holdfast.store.database import prepare; prepare(pathlib.Path(sys.argv[1]));"
        "assert 'alembic' not in sys.modules"
    )
    for _ in ("new", "present"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "db")], check=True, timeout=60)


def test_many_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from holdfast.store.database import prepare;"
        "print('ready', flush=True); sys.stdin.readline(); prepare(pathlib.Path(sys.argv[1]))"
    )
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "state" / "db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    try:
        for opener in openers:
            assert opener.stdout and opener.stdout.readline() == "ready\n"
        for opener in openers:
            assert opener.stdin
            opener.stdin.write("go\n")
            opener.stdin.flush()
        for opener in openers:
            _, complaints = opener.communicate(timeout=60)
            assert (opener.returncode, complaints) == (0, "")
    finally:
        for opener in openers:
            opener.kill()
            opener.wait()


async def test_the_database_and_all_its_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    previous = os.umask(0)
    try:
        async with await Store.open(directory / "holdfast.db"):
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}
    finally:
        os.umask(previous)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes.keys() >= {"holdfast.db", "holdfast.db-wal", "holdfast.db-shm"}
    assert set(modes.values()) == {0o600}


def test_a_database_that_others_could_touch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    prepare(path)
    path.chmod(0o640)
    with pytest.raises(InsecureStore) as caught:
        prepare(path)
    assert caught.value.hint == f"Run: chmod 600 {path}"
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(InsecureStore, match="not a regular file"):
        prepare(link)
    tmp_path.chmod(0o755)
    with pytest.raises(InsecureDirectory):
        prepare(path)
