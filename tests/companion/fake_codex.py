"""A ``codex`` that has no socket: it speaks newline JSON on ``codex app-server`` and does what a file beside it says.

As other programs' test doubles do, it answers ``--version`` and ``app-server --help``, names threads ``thr_1`` and
turns ``turn_1``, forgets nothing between runs, and keeps what it was asked in ``seen.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

ANSWER = "Handled the requested task.\nTask prompt accepted."
RESUMED = "Resumed the prior run.\nFollow-up prompt accepted."
BLOCK = "BLOCK: Missing empty-state guard in src/app.js:4-6."
ALLOW = "ALLOW: No blocking issues found in the previous turn."
THOUGHT = "Inspected the prompt, gathered evidence, and checked the highest-risk paths first."
#: What the agent says that this one sets to work.
SUBAGENT_THOUGHT = "Read every caller."
SUBAGENT_ANSWER = "Two of the callers never wait."
REVIEW: dict[str, Any] = {
    "verdict": "needs-attention",
    "summary": "One adversarial concern surfaced.",
    "findings": [
        {
            "severity": "low",
            "title": "A small thing",
            "body": "It is small.",
            "file": "src/app.js",
            "line_start": 1,
            "line_end": 1,
            "confidence": 0.5,
            "recommendation": "",
        },
        {
            "severity": "high",
            "title": "Missing empty-state guard",
            "body": "The change assumes data is always present.",
            "file": "src/app.js",
            "line_start": 4,
            "line_end": 6,
            "confidence": 0.87,
            "recommendation": "Handle empty collections before indexing.",
        },
    ],
    "next_steps": ["Add an empty-state test."],
}
ACCOUNTS: dict[str, dict[str, Any]] = {
    "logged-out": {"account": None, "requiresOpenaiAuth": True},
    "provider": {"account": None, "requiresOpenaiAuth": False},
    "api-key": {"account": {"type": "apiKey"}, "requiresOpenaiAuth": True},
    "": {"account": {"type": "chatgpt", "email": "test@example.com", "planType": "plus"}, "requiresOpenaiAuth": True},
}


def install(directory: Path) -> Path:
    """Put the program ``codex`` into *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "codex"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {Path(__file__).resolve()} {directory} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    behave(directory)
    return program


def behave(directory: Path, **behaviour: Any) -> None:
    """Decide how the programs in *directory* behave from now on; nothing special is the default."""
    temporary = directory / ".behaviour"
    temporary.write_text(json.dumps(behaviour))
    temporary.replace(directory / "behaviour.json")


def seen(directory: Path) -> dict[str, Any]:
    """What the programs in *directory* were asked: the last parameters of each method."""
    path = directory / "seen.json"
    return json.loads(path.read_text()) if path.exists() else {}


class Server:
    """One ``codex app-server`` on standard input and output."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.behaviour: dict[str, Any] = json.loads((directory / "behaviour.json").read_text())
        self.lock = threading.Lock()
        self.state: dict[str, Any] = {"threads": {}, "turns": 0, "asked": {}, "starts": 0}
        if (directory / "state.json").exists():
            self.state = json.loads((directory / "state.json").read_text())
        self.state["starts"] += 1
        self.interrupted = threading.Event()
        self.running: tuple[str, str] | None = None

    def serve(self) -> None:
        """Answer until standard input ends."""
        for line in sys.stdin:
            message = json.loads(line)
            method, params = message.get("method"), message.get("params") or {}
            if "id" not in message:
                continue
            self.state["asked"][method] = params
            self.save()
            handler = getattr(self, method.replace("/", "_"), None)
            if handler is None:
                self.fail(message["id"], -32601, f"Unsupported method: {method}")
            else:
                handler(message["id"], params)

    def save(self) -> None:
        with self.lock:
            for name, value in (("state.json", self.state), ("seen.json", self.state["asked"])):
                temporary = self.directory / f".{name}.{os.getpid()}"
                temporary.write_text(json.dumps(value))
                temporary.replace(self.directory / name)

    def send(self, message: dict[str, Any]) -> None:
        with self.lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def answer(self, number: int, result: dict[str, Any]) -> None:
        self.send({"id": number, "result": result})

    def fail(self, number: int, code: int, message: str) -> None:
        self.send({"id": number, "error": {"code": code, "message": message}})

    def tell(self, method: str, **params: Any) -> None:
        self.send({"method": method, "params": params})

    # --- methods

    def initialize(self, number: int, params: dict[str, Any]) -> None:
        self.answer(number, {"userAgent": "fake-codex-app-server"})

    def account_read(self, number: int, params: dict[str, Any]) -> None:
        self.answer(number, ACCOUNTS[self.behaviour.get("account", "")])

    def config_read(self, number: int, params: dict[str, Any]) -> None:
        if self.behaviour.get("config") == "fails":
            return self.fail(number, -32000, "config/read failed for cwd")
        provider = "ollama" if self.behaviour.get("account") == "provider" else "openai"
        return self.answer(number, {"config": {"model_provider": provider}, "origins": {}})

    def thread_start(self, number: int, params: dict[str, Any]) -> None:
        if "refuse" in self.behaviour:
            return self.fail(number, -32000, self.behaviour["refuse"])
        name = f"thr_{len(self.state['threads']) + 1}"
        self.state["threads"][name] = {"ephemeral": bool(params.get("ephemeral"))}
        self.save()
        return self.open(number, name, params)

    def thread_resume(self, number: int, params: dict[str, Any]) -> None:
        name = params["threadId"]
        if name not in self.state["threads"]:
            return self.fail(number, -32000, f"unknown thread {name}")
        return self.open(number, name, params)

    def open(self, number: int, name: str, params: dict[str, Any]) -> None:
        thread = {"id": name, "ephemeral": False, "cwd": params.get("cwd"), "turns": [], "status": {"type": "idle"}}
        sandbox = {"type": "readOnly"}
        self.answer(number, {"thread": thread, "model": params.get("model") or "gpt-5.4", "sandbox": sandbox})
        self.tell("thread/started", thread=thread)

    def thread_name_set(self, number: int, params: dict[str, Any]) -> None:
        self.answer(number, {})

    def thread_unsubscribe(self, number: int, params: dict[str, Any]) -> None:
        self.answer(number, {})

    def review_start(self, number: int, params: dict[str, Any]) -> None:
        target = params["target"]
        what = f"changes against {target['branch']}" if target["type"] == "baseBranch" else "uncommitted changes"
        turn = self.begin(number, params["threadId"], {"reviewThreadId": params["threadId"]})
        text = f"Reviewed {what}.\nNo material issues found."
        self.item("completed", turn, {"type": "enteredReviewMode", "id": "r1", "review": "current changes"})
        self.think(turn)
        self.item("completed", turn, {"type": "exitedReviewMode", "id": "r2", "review": text})
        self.end(turn)

    def turn_start(self, number: int, params: dict[str, Any]) -> None:
        prompt = "\n".join(part["text"] for part in params["input"] if part["type"] == "text")
        turn = self.begin(number, params["threadId"], {})
        threading.Thread(target=self.work, args=(turn, prompt, params), daemon=True).start()

    def turn_interrupt(self, number: int, params: dict[str, Any]) -> None:
        self.answer(number, {})
        self.interrupted.set()

    def begin(self, number: int, thread: str, more: dict[str, Any]) -> tuple[str, str]:
        self.state["turns"] += 1
        turn = (thread, f"turn_{self.state['turns']}")
        self.save()
        self.answer(number, {"turn": {"id": turn[1], "status": "inProgress", "items": []}, **more})
        self.tell("turn/started", threadId=thread, turn={"id": turn[1], "status": "inProgress", "items": []})
        return turn

    def work(self, turn: tuple[str, str], prompt: str, params: dict[str, Any]) -> None:
        if "gate" in self.behaviour:
            deadline = time.monotonic() + 120
            while not os.path.exists(self.behaviour["gate"]) and time.monotonic() < deadline:
                if self.interrupted.wait(0.02):
                    return self.end(turn, "interrupted")
        self.think(turn)
        answer = self.behaviour.get("answer")
        if answer is None:
            answer = self.choose(prompt, params)
        if self.behaviour.get("delegates") == "before":
            self.delegate(turn)
        if answer:
            item = {"type": "agentMessage", "id": "m1", "text": answer, "phase": "final_answer"}
            self.item("completed", turn, item)
        if self.behaviour.get("delegates") == "after":
            self.delegate(turn)
        if "fails" in self.behaviour:
            return self.end(turn, "failed", {"message": self.behaviour["fails"], "codexErrorInfo": "other"})
        return self.end(turn)

    def choose(self, prompt: str, params: dict[str, Any]) -> str:
        if params.get("outputSchema"):
            return json.dumps(REVIEW)
        if "Only review the work from the previous Claude turn." in prompt:
            return ALLOW if self.behaviour.get("clean") else BLOCK
        return RESUMED if "follow up" in prompt else ANSWER

    def think(self, turn: tuple[str, str]) -> None:
        if thoughts := self.behaviour.get("thinks"):
            summary = [THOUGHT] if thoughts is True else thoughts
            self.item("completed", turn, {"type": "reasoning", "id": "t1", "summary": summary, "content": []})

    def delegate(self, turn: tuple[str, str]) -> None:
        """Set an agent named Boyle to work, and wait for it."""
        other = ("thr_boyle", "turn_boyle")
        self.tell("thread/started", thread={"id": other[0], "agentNickname": "Boyle"})
        call = {"type": "collabAgentToolCall", "id": "c1", "tool": "wait", "receiverThreadIds": [other[0]]}
        self.item("started", turn, {**call, "status": "inProgress"})
        self.tell("turn/started", threadId=other[0], turn={"id": other[1], "status": "inProgress", "items": []})
        self.item("completed", other, {"type": "reasoning", "id": "t9", "summary": [SUBAGENT_THOUGHT], "content": []})
        said = {"type": "agentMessage", "id": "m9", "text": SUBAGENT_ANSWER, "phase": "final_answer"}
        self.item("completed", other, said)
        self.end(other)
        self.item("completed", turn, {**call, "status": "completed"})

    def item(self, how: str, turn: tuple[str, str], item: dict[str, Any]) -> None:
        self.tell(f"item/{how}", threadId=turn[0], turnId=turn[1], item=item)

    def end(self, turn: tuple[str, str], status: str = "completed", error: dict[str, Any] | None = None) -> None:
        whole = {"id": turn[1], "status": status, "items": [], "error": error}
        self.tell("turn/completed", threadId=turn[0], turn=whole)

    def externalAgentConfig_import(self, number: int, params: dict[str, Any]) -> None:
        if self.behaviour.get("import") == "unsupported":
            return self.fail(number, -32601, "Unsupported method: externalAgentConfig/import")
        session = params["migrationItems"][0]["details"]["sessions"][0]
        if self.behaviour.get("import") != "unrecorded":
            home = Path(os.environ["CODEX_HOME"])
            home.mkdir(exist_ok=True)
            digest = hashlib.sha256(Path(session["path"]).read_bytes()).hexdigest()
            record = {"source_path": session["path"], "content_sha256": digest, "imported_thread_id": "thr_1"}
            (home / "external_agent_session_imports.json").write_text(json.dumps({"records": [record]}))
        self.answer(number, {})
        return self.tell("externalAgentConfig/import/completed")


def main(directory: Path, arguments: list[str]) -> int:
    """Be ``codex ARGUMENTS``."""
    if arguments == ["--version"]:
        print("codex-cli test")
    elif arguments[:2] == ["app-server", "--help"]:
        print("fake app-server help")
    elif arguments[:1] == ["app-server"]:
        Server(directory).serve()
    else:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
