"""The OpenAI Responses API: reading requests, and writing answers as JSON or server-sent events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from .script import EditFile, Say, Shell, Step, Together, Tool, WriteFile

Json = dict[str, Any]

#: Names of shell tools that Codex has offered, the present one first.
_SHELLS = ("exec_command", "shell_command", "shell")


def user_texts(body: Json) -> list[str]:
    """Every text block of every user message of a request, oldest first."""
    texts: list[str] = []
    items = body.get("input")
    if isinstance(items, str):
        return [items]
    for item in items or []:
        if item.get("type", "message") == "message" and item.get("role") == "user":
            content = item.get("content")
            blocks = [{"text": content}] if isinstance(content, str) else content or []
            texts += [block["text"] for block in blocks if isinstance(block.get("text"), str)]
    return texts


def tool_results(body: Json) -> list[str]:
    """What tools answered, oldest first."""
    items = body.get("input")
    found = (
        [item for item in items if str(item.get("type", "")).endswith("_call_output")]
        if isinstance(items, list)
        else []
    )
    return [item["output"] if isinstance(item["output"], str) else json.dumps(item["output"]) for item in found]


def tools(body: Json) -> dict[str, Json]:
    """The tools that a request offers, by name."""
    found: dict[str, Json] = {}
    for tool in body.get("tools") or []:
        if tool.get("type") == "namespace":
            found |= tools(tool)
        else:
            found[tool.get("name") or tool.get("type")] = tool
    return found


def error_body(status: int, message: str) -> Json:
    """An error as the API words it."""
    kinds = {400: "invalid_request_error", 401: "invalid_request_error", 429: "rate_limit_exceeded"}
    return {"type": kinds.get(status, "server_error"), "code": None, "message": message, "param": None}


def output(step: Step, body: Json) -> list[Json]:
    """The items with which the model answers."""
    if isinstance(step, Say):
        content = [{"type": "output_text", "text": step.text, "annotations": []}]
        return [{"type": "message", "id": _id("msg"), "role": "assistant", "status": "completed", "content": content}]
    if isinstance(step, Together):
        return [item for one in step.steps for item in output(one, body)]
    offered = tools(body)
    match step:
        case Shell():
            name = next((known for known in _SHELLS if known in offered), _SHELLS[0])
            properties = (offered.get(name, {}).get("parameters") or {}).get("properties") or {}
            argument = "cmd" if "cmd" in properties else "command"
            as_list = (properties.get(argument) or {}).get("type") == "array"
            arguments: Any = {argument: ["bash", "-lc", step.command] if as_list else step.command}
        case WriteFile():
            name, arguments = "apply_patch", _patch(f"*** Add File: {step.path}", *_prefixed("+", step.text))
        case EditFile():
            change = [*_prefixed("-", step.old), *_prefixed("+", step.new)]
            name, arguments = "apply_patch", _patch(f"*** Update File: {step.path}", "@@", *change)
        case Tool():
            name, arguments = step.name, dict(step.arguments)
        case _:
            raise AssertionError(step)
    call = {"id": _id("fc"), "call_id": _id("call"), "status": "completed", "name": name}
    if offered.get(name, {}).get("type") == "custom":
        return [{"type": "custom_tool_call", **call, "input": arguments}]
    if isinstance(arguments, str):
        arguments = {"input": arguments}
    group = {"namespace": step.namespace} if isinstance(step, Tool) and step.namespace else {}
    return [{"type": "function_call", **call, **group, "arguments": json.dumps(arguments)}]


def answer(step: Step, body: Json) -> Json:
    """The whole answer, as it is sent without streaming."""
    return {**_response(body), "status": "completed", "output": output(step, body), "usage": _usage(step)}


def events(step: Step, body: Json) -> Iterator[tuple[str, Json]]:
    """The answer as a stream of events: name and payload."""
    response = _response(body)
    items = output(step, body)
    yield "response.created", {"response": response}
    for index, item in enumerate(items):
        place = {"output_index": index}
        if item["type"] == "message":
            text = item["content"][0]["text"]
            part = {**place, "item_id": item["id"], "content_index": 0}
            yield "response.output_item.added", {**place, "item": {**item, "status": "in_progress", "content": []}}
            piece = step.piece if isinstance(step, Say) else 4096
            for begin in range(0, len(text), piece):
                yield "response.output_text.delta", {**part, "delta": text[begin : begin + piece]}
            yield "response.output_text.done", {**part, "text": text}
        else:
            yield "response.output_item.added", {**place, "item": {**item, "status": "in_progress"}}
        yield "response.output_item.done", {**place, "item": item}
    yield (
        "response.completed",
        {"response": {**response, "status": "completed", "output": items, "usage": _usage(step)}},
    )


def _response(body: Json) -> Json:
    return {
        "id": _id("resp"), "object": "response", "created_at": 1_700_000_000, "model": body.get("model"),
        "status": "in_progress", "output": [], "usage": None, "error": None,
    }  # fmt: skip


def _usage(step: Step) -> Json:
    return {
        "input_tokens": step.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": step.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": step.input_tokens + step.output_tokens,
    }


def _patch(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


def _prefixed(mark: str, text: str) -> list[str]:
    return [mark + line for line in text.removesuffix("\n").split("\n")]


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"
