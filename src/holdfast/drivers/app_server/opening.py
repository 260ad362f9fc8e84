"""What has to be said to begin a turn or a review, and what it means when that is refused."""

from __future__ import annotations

from holdfast.drivers.app_server.conversation import RpcError
from holdfast.drivers.app_server.payload import texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.order import Order
    from holdfast.drivers.app_server.payload import Json

#: The longest prompt that Codex takes, in characters (measured on 0.142.2 and 0.169.0).
LONGEST_PROMPT = 1_048_576


def read_prompt(path: str) -> str:
    """The prompt, exactly as it lies there.

    :raises ValueError: it cannot be sent, or cannot be read
    """
    try:
        with open(path, "rb") as file:
            data = file.read(4 * LONGEST_PROMPT + 1)
        prompt = data.decode("utf-8")
    except OSError as error:
        raise ValueError(f"The prompt could not be read: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompt is not UTF-8 (byte {error.start}), and Codex takes nothing else.") from None
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(f"The prompt is longer than the {LONGEST_PROMPT:,} characters that Codex takes.")
    if not prompt.strip():
        raise ValueError("The prompt is empty.")
    return prompt


def thread_params(order: Order) -> Json:
    """What a thread is opened with, whether it is started, resumed or forked."""
    config: Json = {}
    if order["effort"] is not None:
        config["model_reasoning_effort"] = order["effort"]
    if order["review"] is not None and order["model"] is not None:
        # 0.169 has reviews done by this model, whatever model the thread has.
        config["review_model"] = order["model"]
    if order["sandbox"] == "workspace-write":
        config["sandbox_workspace_write"] = {
            "network_access": order["network"],
            "writable_roots": order["writable_roots"],
        }
    params: Json = {
        "cwd": order["cwd"],
        "sandbox": order["sandbox"],
        "approvalPolicy": _approval_policy(order),
        "config": config or None,
    }
    if order["model"] is not None:
        params["model"] = order["model"]
    return params


def turn_params(order: Order, thread_id: str, prompt: str, policy: Json) -> Json:
    """What a turn is begun with in a thread that has the sandbox *policy*."""
    params: Json = {
        "threadId": thread_id,
        "clientUserMessageId": order["work_id"],
        "input": [{"type": "text", "text": prompt, "text_elements": []}],
        "cwd": order["cwd"],
        "approvalPolicy": _approval_policy(order),
    }
    for name in ("model", "effort"):
        if order[name] is not None:
            params[name] = order[name]
    if order["output_schema"] is not None:
        params["outputSchema"] = order["output_schema"]
    wanted = _sandbox_policy(order)
    if not _is_as_wanted(policy, wanted):
        # A thread that was loaded already keeps the sandbox that it had; a turn can be given its own.
        params["sandboxPolicy"] = wanted
    return params


def review_params(order: Order, thread_id: str, prompt: str) -> Json:
    """What a review is begun with."""
    review = order["review"]
    assert review is not None
    target: Json = {"type": review["type"]}
    match review["type"]:
        case "baseBranch":
            target["branch"] = review["branch"]
        case "commit":
            target |= {"sha": review["sha"], "title": None}
        case "custom":
            target["instructions"] = prompt
        case _:
            pass
    return {"threadId": thread_id, "target": target, "delivery": "inline"}


def failure_class(error: RpcError) -> str:
    """The class of a refusal, by what the server says: its codes are all the same."""
    if error.data.get("input_error_code") == "input_too_large":
        return "context_exceeded"
    if "already has an active writer" in error.message or "is in use" in error.message:
        return "thread_busy"
    unknown = ("no rollout found", "thread not loaded", "thread not found", "invalid session id")
    if any(known in error.message for known in unknown):
        return "thread_unknown"
    if "unknown variant" in error.message:
        return "backend_incompatible"
    return "bad_request"


def _approval_policy(order: Order) -> str:
    """With ``never``, Codex declines by itself what the sandbox does not allow."""
    return "never" if order["approvals"] == "decline" else "on-request"


def _sandbox_policy(order: Order) -> Json:
    """What a turn may touch, in the words of the protocol."""
    match order["sandbox"]:
        case "danger-full-access":
            return {"type": "dangerFullAccess"}
        case "workspace-write":
            roots = order["writable_roots"]
            return {"type": "workspaceWrite", "writableRoots": roots, "networkAccess": order["network"]}
        case _:
            return {"type": "readOnly", "networkAccess": order["network"]}


def _is_as_wanted(policy: Json, wanted: Json) -> bool:
    """Whether the sandbox *policy* that a thread has allows what is *wanted*, and no more."""
    if policy.get("type") != wanted["type"]:
        return False
    if "networkAccess" in wanted and bool(policy.get("networkAccess")) != wanted["networkAccess"]:
        return False
    return set(texts(wanted, "writableRoots")) == set(texts(policy, "writableRoots"))
