"""The Anthropic Messages API: reading requests, and writing answers as JSON or server-sent events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from .script import EditFile, Say, Shell, Step, Tool, WriteFile

Json = dict[str, Any]


def user_texts(body: Json) -> list[str]:
    """Every text block of every user message of a request, oldest first."""
    return [block["text"] for block in _user_blocks(body) if block.get("type") == "text"]


def tool_results(body: Json) -> list[str]:
    """What tools answered, oldest first."""
    found = [block.get("content") for block in _user_blocks(body) if block.get("type") == "tool_result"]
    return [content if isinstance(content, str) else json.dumps(content) for content in found]


def tools(body: Json) -> dict[str, Json]:
    """The tools that a request offers, by name."""
    return {tool["name"]: tool for tool in body.get("tools") or [] if "name" in tool}


def error_body(status: int, message: str) -> Json:
    """An error as the API words it."""
    kinds = {
        400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
        413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error",
    }  # fmt: skip
    return {"type": kinds.get(status, "api_error"), "message": message}


def content(step: Step) -> Json:
    """The block with which the model answers."""
    match step:
        case Say():
            return {"type": "text", "text": step.text}
        case Shell():
            name, arguments = "Bash", {"command": step.command, "description": "scripted"}
        case WriteFile():
            name, arguments = "Write", {"file_path": step.path, "content": step.text}
        case EditFile():
            name, arguments = "Edit", {"file_path": step.path, "old_string": step.old, "new_string": step.new}
        case Tool():
            name, arguments = step.name, dict(step.arguments)
        case _:
            raise AssertionError(step)
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": name, "input": arguments}


def answer(step: Step, body: Json) -> Json:
    """The whole answer, as it is sent without streaming."""
    block = content(step)
    return {**_message(step, body), "content": [block], "stop_reason": _stop_reason(step, block)}


def events(step: Step, body: Json) -> Iterator[tuple[str, Json]]:
    """The answer as a stream of events: name and payload."""
    block = content(step)
    message = _message(step, body)
    yield "message_start", {"message": {**message, "usage": {**message["usage"], "output_tokens": 1}}}
    if isinstance(step, Say):
        yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
        for begin in range(0, len(step.text), step.piece):
            delta = {"type": "text_delta", "text": step.text[begin : begin + step.piece]}
            yield "content_block_delta", {"index": 0, "delta": delta}
    else:
        yield "content_block_start", {"index": 0, "content_block": {**block, "input": {}}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    delta = {"stop_reason": _stop_reason(step, block), "stop_sequence": None}
    yield "message_delta", {"delta": delta, "usage": {"output_tokens": step.output_tokens}}
    yield "message_stop", {}


def _user_blocks(body: Json) -> list[Json]:
    blocks: list[Json] = []
    for message in body.get("messages") or []:
        if message.get("role") == "user":
            given = message.get("content")
            blocks += [{"type": "text", "text": given}] if isinstance(given, str) else given or []
    return blocks


def _message(step: Step, body: Json) -> Json:
    usage = {
        "input_tokens": step.input_tokens, "output_tokens": step.output_tokens,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    }  # fmt: skip
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": body.get("model"),
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def _stop_reason(step: Step, block: Json) -> str:
    return step.stop_reason or ("end_turn" if block["type"] == "text" else "tool_use")
