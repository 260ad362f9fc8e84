"""Holdfast runs coding agents and holds on to everything they do.

::

    import holdfast

    result = holdfast.run("codex", "Explain how the cache is invalidated")
    print(result.status, result.message.text)

Importing this does nothing and costs nothing; each name below is loaded when it is first used (docs/python.md).  The
folders are the floors of the house (docs/architecture.md); imports go down only.
"""

__version__ = "0.1.0"

# Not from typing: importing it would be most of what this module costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from typing import Any

    from holdfast.agents.adapter import Sandbox as Sandbox
    from holdfast.api import aio as aio
    from holdfast.api.fanout import LaneReceipt as LaneReceipt
    from holdfast.api.fanout import fanout as fanout
    from holdfast.api.follow import StillRunning as StillRunning
    from holdfast.api.order import WorkOptions as WorkOptions
    from holdfast.api.review import ReviewOptions as ReviewOptions
    from holdfast.api.review import read_review as read_review
    from holdfast.api.review import review as review
    from holdfast.api.review import start_review as start_review
    from holdfast.api.sync import Task as Task
    from holdfast.api.sync import TaskNotCompleted as TaskNotCompleted
    from holdfast.api.sync import approve as approve
    from holdfast.api.sync import cancel as cancel
    from holdfast.api.sync import list as list
    from holdfast.api.sync import log as log
    from holdfast.api.sync import message as message
    from holdfast.api.sync import progress as progress
    from holdfast.api.sync import result as result
    from holdfast.api.sync import run as run
    from holdfast.api.sync import start as start
    from holdfast.api.sync import status as status
    from holdfast.api.sync import steer as steer
    from holdfast.api.sync import wait as wait
    from holdfast.api.sync import wait_all as wait_all
    from holdfast.api.sync import wait_any as wait_any
    from holdfast.daemon.client import LogEntry as LogEntry
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import InternalError as InternalError
    from holdfast.errors import InvalidRequest as InvalidRequest
    from holdfast.errors import NotFound as NotFound
    from holdfast.errors import Unavailable as Unavailable
    from holdfast.tasks.request import Notification as Notification
    from holdfast.tasks.request import VerdictRule as VerdictRule
    from holdfast.tasks.result import Result as Result
    from holdfast.tasks.result import Status as Status
    from holdfast.tasks.review.findings import Finding as Finding
    from holdfast.tasks.review.rendering import Review as Review
    from holdfast.tasks.state import State as State
    from holdfast.tasks.view import NotFinished as NotFinished
    from holdfast.tasks.view import Progress as Progress
    from holdfast.tasks.view import TaskView as TaskView

#: The same for when the program runs: where each name is at home (tests hold the two together).
_HOMES = {
    "agents.adapter": ["Sandbox"],
    "api.fanout": ["LaneReceipt", "fanout"],
    "api.follow": ["StillRunning"],
    "api.order": ["WorkOptions"],
    "api.review": ["ReviewOptions", "read_review", "review", "start_review"],
    "api.sync": [
        *["Task", "TaskNotCompleted", "approve", "cancel", "list", "log", "message", "progress", "result", "run"],
        *["start", "status", "steer", "wait", "wait_all", "wait_any"],
    ],
    "daemon.client": ["LogEntry"],
    "errors": ["HoldfastError", "InternalError", "InvalidRequest", "NotFound", "Unavailable"],
    "tasks.request": ["Notification", "VerdictRule"],
    "tasks.result": ["Result", "Status"],
    "tasks.review.findings": ["Finding"],
    "tasks.review.rendering": ["Review"],
    "tasks.state": ["State"],
    "tasks.view": ["NotFinished", "Progress", "TaskView"],
}


def __getattr__(name: str) -> "Any":
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value = globals()[name] = getattr(import_module(f"holdfast.{home}"), name)
            return value
    if name == "aio":
        from holdfast.api import aio

        return aio
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> "builtins.list[str]":
    return sorted({*globals(), "aio", *(name for names in _HOMES.values() for name in names)})
