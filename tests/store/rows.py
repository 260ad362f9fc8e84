"""Rows to write, with every column that has no default filled in."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from holdfast.store.schema import attempts, processes, tasks


def add_task(connection: sa.Connection, task_id: str, **values: Any) -> None:
    connection.execute(
        tasks.insert().values(
            {"id": task_id, "agent": "rehearsal", "state": "queued", "created_at": 1.5, "created_monotonic": 2.5}
            | {"boot_id": "boot", "request": b"{}"}
            | values
        )
    )


def add_attempt(connection: sa.Connection, task_id: str, number: int, **values: Any) -> None:
    connection.execute(
        attempts.insert().values(
            {"task_id": task_id, "number": number, "reason": "first", "process_id": f"{task_id}-{number}"}
            | {"phase": "running", "created_at": 1.0, "boot_id": "boot", "facts": b"{}"}
            | values
        )
    )


def add_process(connection: sa.Connection, process_id: str, task_id: str, **values: Any) -> None:
    connection.execute(processes.insert().values({"process_id": process_id, "task_id": task_id} | values))
