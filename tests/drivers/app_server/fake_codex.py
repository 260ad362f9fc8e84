"""A stand-in for ``codex app-server`` that breaks in the ways in which servers have been seen to break.

    fake_codex.py app-server [--listen unix://PATH] [-c ...]

It speaks the part of the protocol that a turn needs, over a socket or over its pipes.  What it has on record survives
it in ``$FAKE_CODEX_HOME/record.json``; every turn that it begins leaves a line in ``$FAKE_CODEX_HOME/begun``.  The
fault is ``$FAKE_CODEX_FAULT``; each piece of work suffers it once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("FAKE_CODEX_HOME", "/nonexistent"))
FAULT = os.environ.get("FAKE_CODEX_FAULT", "")
WS_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

lock = threading.RLock()
clients: list[Client] = []
#: Nothing is read from anybody any more.
deaf = threading.Event()
#: Somebody wanted to know whether we are still there.
probed = threading.Event()


def load() -> dict[str, Any]:
    try:
        threads: dict[str, Any] = json.loads((HOME / "record.json").read_text())
    except FileNotFoundError:
        return {}
    for turns in threads.values():
        for turn in turns:
            if turn["status"] == "inProgress":
                turn["status"] = "interrupted"
    return threads


threads: dict[str, Any] = {}


def save() -> None:
    with lock:
        (HOME / "record.new").write_text(json.dumps(threads))
        (HOME / "record.new").rename(HOME / "record.json")


def strikes(work: str) -> bool:
    """Whether the fault happens to this piece of work now: once, and if it takes time to notice, to every third."""
    if FAULT in ("stops reading after a turn", "falls silent on the connection") and int(work.split("-")[-1]) % 3 != 1:
        return False
    mark = HOME / f"struck-{work}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Client:
    """One connection."""

    def __init__(self) -> None:
        self.subscribed: set[str] = set()
        self.mute = False
        self.sending = threading.Lock()

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> None:
        if not self.mute:
            with self.sending:
                try:
                    self.write(json.dumps(message).encode())
                except OSError:
                    pass

    def serve(self, message: dict[str, Any]) -> None:
        method, params, number = message.get("method"), message.get("params") or {}, message.get("id")
        if number is None or method is None:
            return
        try:
            result = answer(self, str(method), params)
        except LookupError as error:
            self.send({"id": number, "error": {"code": -32600, "message": str(error.args[0])}})
            return
        self.send({"id": number, "result": result})
        if method == "turn/start":
            begin(self, params, result["turn"])


class Piped(Client):
    def write(self, data: bytes) -> None:
        os.write(1, data + b"\n")

    def close(self) -> None:
        os._exit(0)

    def run(self) -> None:
        for line in sys.stdin.buffer:
            while deaf.is_set():
                time.sleep(1)
            self.serve(json.loads(line))


class Socketed(Client):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection
        self.file = connection.makefile("rb")

    def write(self, data: bytes) -> None:
        # In two fragments with a ping between, as RFC 6455 allows.
        middle = len(data) // 2
        for first, part in ((0x01, data[:middle]), (0x89, b"?"), (0x80, data[middle:])):
            size = bytes([len(part)]) if len(part) < 126 else b"\x7f" + len(part).to_bytes(8, "big")
            self.connection.sendall(bytes([first]) + size + part)

    def close(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def run(self) -> None:
        try:
            key = b""
            while (line := self.file.readline().strip()) != b"":
                if line.lower().startswith(b"sec-websocket-key:"):
                    key = line.split(b":", 1)[1].strip()
            accept = base64.b64encode(hashlib.sha1(key + WS_KEY).digest())
            self.connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            while (message := self.read()) is not None:
                self.serve(message)
        except (OSError, ValueError):
            pass
        with lock:
            clients.remove(self)

    def read(self) -> dict[str, Any] | None:
        while True:
            while deaf.is_set():
                time.sleep(1)
            head = self.file.read(2)
            if len(head) < 2:
                return None
            length = head[1] & 0x7F
            if length >= 126:
                length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
            mask, data = self.file.read(4), self.file.read(length)
            opcode = head[0] & 0x0F
            if opcode == 8:
                return None
            if opcode == 1:
                plain = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
                found: dict[str, Any] = json.loads(plain)
                return found


def answer(client: Client, method: str, params: dict[str, Any]) -> dict[str, Any]:
    thread_id = params.get("threadId")
    known = threads.get(thread_id) if isinstance(thread_id, str) else None
    if method in ("thread/read", "thread/turns/list", "thread/resume") and known is None:
        raise LookupError(f"thread not loaded: {thread_id}")
    match method:
        case "initialize":
            return {"userAgent": "fake/0.0.0"}
        case "thread/start":
            thread_id = str(uuid.uuid4())
            with lock:
                threads[thread_id] = []
            client.subscribed.add(thread_id)
            return {"thread": {"id": thread_id}, "model": "fake", "sandbox": {"type": "readOnly"}}
        case "thread/resume" | "thread/read":
            if method == "thread/resume":
                client.subscribed.add(str(thread_id))
            active = any(turn["status"] == "inProgress" for turn in known or [])
            return {
                "thread": {"id": thread_id, "status": {"type": "active" if active else "idle"}},
                "sandbox": {"type": "readOnly"},
            }
        case "thread/turns/list":
            return {"data": list(reversed(known or [])), "nextCursor": None}
        case "turn/start":
            work = params["clientUserMessageId"]
            if FAULT == "exits 1 when asked to begin" and strikes(work):
                print("the fake gives up", file=sys.stderr, flush=True)
                os._exit(1)
            user = {"type": "userMessage", "id": str(uuid.uuid4()), "clientId": work, "content": params["input"]}
            turn = {"id": str(uuid.uuid4()), "status": "inProgress", "completedAt": None, "items": [user]}
            with lock:
                threads[str(thread_id)].append(turn)
                # On record before it counts as begun, as the real one does it.
                save()
                with (HOME / "begun").open("a") as journal:
                    journal.write(work + "\n")
            return {"turn": {**turn, "items": []}}
        case "turn/interrupt":
            for turn in known or []:
                if turn["id"] == params["turnId"] and turn["status"] == "inProgress":
                    end(str(thread_id), turn, "interrupted")
            return {}
        case "thread/loaded/list" if FAULT == "is old, and thinks for long":
            probed.set()
            raise LookupError(f"unknown variant `{method}`")
        case "thread/loaded/list":
            return {"data": []}
        case "thread/unsubscribe" | "thread/delete" | "thread/name/set":
            return {}
        case _:
            raise LookupError(f"unknown variant `{method}`")


def tell(thread_id: str, method: str, **params: Any) -> None:
    times = 2 if FAULT == "says everything twice, and more" else 1
    with lock:
        for client in list(clients):
            if thread_id in client.subscribed:
                for _ in range(times):
                    client.send({"method": method, "params": {"threadId": thread_id, **params}})


def begin(client: Client, params: dict[str, Any], turn: dict[str, Any]) -> None:
    thread_id, work = params["threadId"], params["clientUserMessageId"]
    real = next(one for one in threads[thread_id] if one["id"] == turn["id"])
    tell(thread_id, "turn/started", turn=turn)
    match FAULT:
        case "exits 0 after it accepted" if strikes(work):
            os._exit(0)
        case "is killed after it accepted" if strikes(work):
            os.kill(os.getpid(), 9)
        case "drops the connection in the middle" if strikes(work):
            client.close()
        case "falls silent on the connection" if strikes(work):
            client.mute = True
        case "says everything twice, and more":
            tell(thread_id, "thread/horoscope/updated", sign="leo")
            tell(thread_id, "turn/completed", turn={"id": "somebody-elses", "status": "failed", "error": None})
            client.send({"id": 7, "method": "item/tarot/draw", "params": {"threadId": thread_id}})
        case "retries for ever":
            error = {"message": "Reconnecting... waiting for network", "codexErrorInfo": "other"}
            tell(thread_id, "error", turnId=turn["id"], willRetry=True, error=error)
            return
        case _:
            pass
    threading.Thread(target=work_on, args=(thread_id, real, params), daemon=True).start()


def work_on(thread_id: str, turn: dict[str, Any], params: dict[str, Any]) -> None:
    time.sleep(0.05)
    if FAULT == "is old, and thinks for long":
        probed.wait(60)
    text = f"You said: {params['input'][0]['text']}"
    message = {"type": "agentMessage", "id": str(uuid.uuid4()), "text": text, "phase": "final_answer"}
    turn["items"].append(message)
    tell(thread_id, "item/completed", turnId=turn["id"], item=message)
    late = {"type": "agentMessage", "id": str(uuid.uuid4()), "text": "By the way.", "phase": "commentary"}
    if FAULT == "goes on talking":
        turn["items"].append(late)
        tell(thread_id, "item/completed", turnId=turn["id"], item=late)
    end(thread_id, turn, "completed")
    if FAULT == "stops reading after a turn" and strikes(params["clientUserMessageId"]):
        deaf.set()
    if FAULT == "exits 0 after a turn" and strikes(params["clientUserMessageId"]):
        # At once: a turn that began meanwhile would rightly die with it.
        os._exit(0)


def end(thread_id: str, turn: dict[str, Any], status: str) -> None:
    turn |= {"status": status, "completedAt": 1}
    save()
    tell(thread_id, "turn/completed", turn={**turn, "items": []})


def main() -> None:
    if "--help" in sys.argv:
        old = FAULT in ("is too old for sockets", "is old, and thinks for long")
        print("usage: app-server" if old else "--listen <URL>  stdio:// unix://")
        return
    threads.update(load())
    listen = next((word for word in sys.argv if word.startswith("unix://")), None)
    if listen is None:
        client = Piped()
        clients.append(client)
        client.run()
        return
    path = listen.removeprefix("unix://")
    if os.path.exists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    while True:
        connection, _ = server.accept()
        connected = Socketed(connection)
        with lock:
            clients.append(connected)
        threading.Thread(target=connected.run, daemon=True).start()


if __name__ == "__main__":
    main()
