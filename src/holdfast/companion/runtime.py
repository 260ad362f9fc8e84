"""Whether jobs of a workspace share a Codex server at the moment, in the words that callers know."""

from __future__ import annotations

import os
from typing import Any

from holdfast.companion.view import View
from holdfast.companion.workspace import ENDPOINT_VARIABLE


def session_runtime(view: View, *, active: bool) -> dict[str, Any]:
    """``mode``, ``label``, ``detail`` and ``endpoint``; *active* is whether a job of ours is under way.

    An endpoint that somebody registered is reported as it is.  Whether it works decides nothing here: Holdfast keeps
    its own server and looks after it.
    """
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or view.shared_endpoint
    if endpoint or active:
        return {
            "mode": "shared",
            "label": "shared session",
            "detail": "Jobs share one Codex app-server, which Holdfast starts, watches and ends.",
            "endpoint": endpoint,
        }
    return {
        "mode": "direct",
        "label": "direct startup",
        "detail": "No Codex app-server is needed at the moment; the first job starts one.",
        "endpoint": None,
    }
