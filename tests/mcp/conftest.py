"""An installation, and what tests of the MCP server ask of an answer."""

from __future__ import annotations

from typing import Any

from mcp.types import CallToolResult

from tests.api.conftest import PATIENCE, Installation, beside, gate, installation, shared, until

__all__ = ["PATIENCE", "Installation", "answer", "beside", "error", "gate", "installation", "shared", "until"]


def answer(called: CallToolResult) -> Any:
    """The structured content of a call that succeeded."""
    assert not called.is_error, called
    assert called.structured_content is not None
    return called.structured_content


def error(called: CallToolResult) -> Any:
    """The error object of a call that did not."""
    assert called.is_error, called
    assert called.structured_content is not None
    return called.structured_content["error"]
