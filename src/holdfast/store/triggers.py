"""The triggers that write the change feed, generated from a table's name and primary key."""

from __future__ import annotations

from collections.abc import Sequence

#: UTC seconds since the epoch, with milliseconds, in SQL that every SQLite understands.
_NOW = "(julianday('now') - 2440587.5) * 86400.0"


def trigger_names(table: str) -> list[str]:
    """The names of the triggers that *table* must have."""
    return [f"feed_{table}_insert", f"feed_{table}_update", f"feed_{table}_rekey", f"feed_{table}_delete"]


def create_triggers(table: str, key: Sequence[str]) -> list[str]:
    """The SQLite statements that make every change of *table*, whose primary key is *key*, appear in the feed.

    A change of the primary key itself appears as the deletion of one row and the insertion of another.
    """

    def record(row: str, operation: str) -> str:
        columns = ", ".join(f'{row}."{column}"' for column in key)
        return (
            "INSERT INTO changes (table_name, row_key, operation, at) "
            f"VALUES ('{table}', json_array({columns}), '{operation}', {_NOW});"
        )

    insert, update, rekey, delete = trigger_names(table)
    same_key = " AND ".join(f'OLD."{column}" IS NEW."{column}"' for column in key)
    return [
        f'CREATE TRIGGER {insert} AFTER INSERT ON "{table}" BEGIN {record("NEW", "insert")} END',
        f'CREATE TRIGGER {update} AFTER UPDATE ON "{table}" WHEN {same_key} BEGIN {record("NEW", "update")} END',
        f'CREATE TRIGGER {rekey} AFTER UPDATE ON "{table}" WHEN NOT ({same_key}) '
        f"BEGIN {record('OLD', 'delete')} {record('NEW', 'insert')} END",
        f'CREATE TRIGGER {delete} AFTER DELETE ON "{table}" BEGIN {record("OLD", "delete")} END',
    ]


def drop_triggers(table: str) -> list[str]:
    """The statements that remove them again; for a migration that rebuilds a table."""
    return [f"DROP TRIGGER IF EXISTS {name}" for name in trigger_names(table)]
