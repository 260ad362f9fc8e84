"""``setup``: what is there, whether somebody is logged in, and the switch of the review gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from holdfast.agents import foreign
from holdfast.companion import availability, codex_server, job, output, render
from holdfast.companion.arguments import Syntax
from holdfast.companion.codex_server import CodexRefused
from holdfast.companion.daemon import Daemon, Document
from holdfast.companion.refusal import CodexMissing, Refused
from holdfast.companion.runtime import session_runtime
from holdfast.companion.task import environment
from holdfast.companion.view import GATE, View, is_active
from holdfast.companion.workspace import Workspace

SYNTAX: Final = Syntax(switches=("json", "enable-review-gate", "disable-review-gate"))
_PROVIDERS: Final = {"openai": "OpenAI", "ollama": "Ollama", "lmstudio": "LM Studio"}


def run(arguments: Sequence[str]) -> int:
    """``setup [--enable-review-gate|--disable-review-gate]``; exit status 0 whatever it finds."""
    given = SYNTAX.read(arguments)
    enable, disable = given.switch("enable-review-gate"), given.switch("disable-review-gate")
    if enable and disable:
        raise Refused("Choose either --enable-review-gate or --disable-review-gate.")
    workspace = Workspace(given.value("cwd"))
    view = View(workspace.directory)
    actions: list[str] = []
    if enable or disable:
        view.configure(GATE, enable)
        actions.append(f"{'Enabled' if enable else 'Disabled'} the stop-time review gate for {workspace.root}.")
    report = _report(workspace, view, actions)
    output.put(report, render.setup_report(report), as_json=given.switch("json"))
    return 0


def _report(workspace: Workspace, view: View, actions: list[str]) -> Document:
    variables = environment()
    try:
        command = availability.require_codex(variables)
    except CodexMissing:
        command = None
    node, npm = availability.node_and_npm(variables)
    codex = availability.codex(command, variables)
    auth = _auth(command, codex, variables, workspace.cwd)
    gate = bool(view.config.get(GATE))
    home = str(Daemon().directory)
    active = any(is_active(each) and job.is_ours(each, home) for each in view.records())
    steps: list[str] = []
    if not codex.available:
        steps.append("Install Codex with `npm install -g @openai/codex`.")
    elif not auth["loggedIn"] and auth["requiresOpenaiAuth"]:
        steps.append("Run `!codex login`.")
        steps.append(
            "If browser login is blocked, retry with `!codex login --device-auth` or `!codex login --with-api-key`."
        )
    if not gate:
        steps.append("Optional: run `/codex:setup --enable-review-gate` to require a fresh review before stop.")
    return {
        "ready": node.available and codex.available and auth["loggedIn"],
        "node": node.document(),
        "npm": npm.document(),
        "codex": codex.document(),
        "auth": auth,
        "sessionRuntime": session_runtime(view, active=active),
        "reviewGateEnabled": gate,
        "actionsTaken": actions,
        "nextSteps": steps,
    }


def _auth(
    command: list[str] | None, codex: availability.Available, variables: dict[str, str], cwd: str
) -> dict[str, Any]:
    auth: dict[str, Any] = {
        "available": codex.available,
        "loggedIn": False,
        "detail": codex.detail,
        "source": "availability",
        "authMethod": None,
        "verified": None,
        "requiresOpenaiAuth": None,
        "provider": None,
    }
    if command is None or not codex.available:
        return auth
    auth["source"] = "app-server"
    try:
        account, config = codex_server.account(command, variables, cwd)
    except CodexRefused as error:
        return {**auth, "detail": error.message}
    return {**auth, **_login(account, config)}


def _login(read: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What Codex says about the login, in the words that callers know."""
    account = foreign.member(read, "account")
    kind, required = foreign.text(account, "type"), foreign.flag(read, "requiresOpenaiAuth")
    provider, label = _provider(foreign.member(config, "config"))
    known = {"requiresOpenaiAuth": required, "provider": provider}
    if kind == "chatgpt":
        email = foreign.text(account, "email")
        detail = f"ChatGPT login active for {email}" if email else "ChatGPT login active"
        return {**known, "loggedIn": True, "detail": detail, "authMethod": "chatgpt", "verified": True}
    if kind == "apiKey":
        detail = "API key configured (unverified)"
        return {**known, "loggedIn": True, "detail": detail, "authMethod": "apiKey", "verified": False}
    if kind is not None:
        # Amazon Bedrock, Google Cloud and whatever comes: Codex takes it for a login, so it is one.
        return {**known, "loggedIn": True, "detail": f"{kind} account configured (unverified)", "verified": False}
    if required is False:
        detail = f"{label} is configured and does not require OpenAI authentication"
        return {**known, "loggedIn": True, "detail": detail}
    return {**known, "loggedIn": False, "detail": f"{label} requires OpenAI authentication"}


def _provider(config: dict[str, Any]) -> tuple[str | None, str]:
    """The id of the model provider that is configured, and what to call it."""
    name = (foreign.text(config, "model_provider") or "").strip()
    table = foreign.member(foreign.member(config, "model_providers"), name)
    title = (foreign.text(table, "name") or "").strip()
    return name or None, title or _PROVIDERS.get(name, name or "The active provider")
