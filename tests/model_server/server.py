"""The HTTP side: takes requests, plays the script, keeps the journal."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from . import anthropic, openai
from .script import Decide, Drop, Echo, Fail, Hang, Say, Step

#: By the end of the path of a POST.
_APIS: dict[str, ModuleType] = {"/responses": openai, "/messages": anthropic}

#: What a request gets that comes without tools: an agent asking on the side for a title or a classification.
_SIDE_ANSWER = Say("scripted side answer")


@dataclass(frozen=True)
class Request:
    """One request of an agent, as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    #: Every text block of its user messages, oldest first; the prompt is among them, byte for byte or not.
    user_texts: list[str]
    #: What tools answered, oldest first.
    tool_results: list[str]
    #: The step that answered it; ``None`` for a side request.
    step: Step | None

    def has_prompt(self, prompt: str) -> bool:
        """Whether one of the text blocks is exactly *prompt*."""
        return prompt in self.user_texts

    def prompt_hashes(self) -> list[str]:
        """SHA-256 of each text block, for comparing big prompts."""
        return [hashlib.sha256(text.encode()).hexdigest() for text in self.user_texts]


@dataclass
class _Script:
    steps: list[Step] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> Step:
        with self.lock:
            if not self.steps:
                return Say("The script is at its end.")
            step = self.steps[0]
            if isinstance(step, Fail | Drop) and step.times > 1:
                self.steps[0] = replace(step, times=step.times - 1)
            else:
                del self.steps[0]
            return step


class ModelServer:
    """A model API on a free port of 127.0.0.1 (or on *port*), to be used as a context manager."""

    def __init__(self, port: int = 0) -> None:
        self._script = _Script()
        self.journal: list[Request] = []
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_of_models = owner

        self._server = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="model server")

    @property
    def url(self) -> str:
        """Where agents reach it, without a trailing slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def main_requests(self) -> list[Request]:
        """The journal without side requests."""
        return [request for request in self.journal if request.step is not None]

    def script(self, *steps: Step) -> None:
        """Append steps to what is left of the script."""
        with self._script.lock:
            self._script.steps += steps

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with self._script.lock:
            gates = [step.gate for step in [*self._script.steps, *(entry.step for entry in self.journal)] if step]
        for gate in gates:
            if gate is not None:
                gate.open()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, path: str, headers: Mapping[str, str], body: dict[str, Any], api: ModuleType) -> Request:
        """Record a request and choose the step that answers it."""
        step = self._script.next() if api.tools(body) else None
        if isinstance(step, Decide):
            step = step.choose(api.tool_results(body))
        texts = api.user_texts(body)
        if isinstance(step, Echo):
            step = Say(texts[-1] if texts else "", gate=step.gate, delay=step.delay)
        request = Request(path, headers, body, texts, api.tool_results(body), step)
        with self._lock:
            self.journal.append(request)
        return request

    def connected(self, connection: socket.socket) -> None:
        """Remember a connection, so that closing the server ends it."""
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that hangs up is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_models: ModelServer

    def setup(self) -> None:
        super().setup()
        self.server_of_models.connected(self.connection)

    def finish(self) -> None:
        self.server_of_models.disconnected(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._send_json(404, {"error": {"type": "not_found_error", "message": "The scripted model has no such page."}})

    def do_POST(self) -> None:
        body = self._read_json()
        path = urlsplit(self.path).path
        if path.endswith("/count_tokens"):
            self._send_json(200, {"input_tokens": 1000})
            return
        api = next((known for end, known in _APIS.items() if path.endswith(end)), None)
        if api is None:
            self.do_GET()
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._play(self.server_of_models.take(path, headers, body, api), api)

    def _play(self, request: Request, api: ModuleType) -> None:
        step = request.step or _SIDE_ANSWER
        if step.gate is not None and not isinstance(step, Hang):
            step.gate.wait()
        time.sleep(step.delay)
        streams = bool(request.body.get("stream"))
        match step:
            case Fail():
                error = {"type": "error", "error": step.error or api.error_body(step.status, step.message)}
                self._send_json(step.status, error, step.headers)
            case Drop() | Hang():
                try:
                    if streams and (isinstance(step, Hang) or step.in_the_middle):
                        self._begin_stream(step.headers)
                        parts = list(api.events(Say("This answer breaks off. " * 4, piece=16), request.body))
                        for name, payload in parts[: len(parts) // 2]:
                            self._send_event(name, payload)
                finally:
                    # Also when the agent has hung up already: it was told something meanwhile and asks anew.
                    if isinstance(step, Hang) and step.gate is not None:
                        step.gate.reached.set()
                if isinstance(step, Hang):
                    (step.gate or self.server_of_models.closing).wait()
                self._break()
            case _ if streams:
                self._begin_stream(step.headers)
                for name, payload in api.events(step, request.body):
                    self._send_event(name, payload)
                self.wfile.write(b"0\r\n\r\n")
            case _:
                self._send_json(200, api.answer(step, request.body), step.headers)

    def _read_json(self) -> dict[str, Any]:
        if (self.headers.get("transfer-encoding") or "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(data)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    def _send_json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "content-type": "text/event-stream"}.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _send_event(self, name: str, payload: Mapping[str, Any]) -> None:
        data = f"event: {name}\ndata: {json.dumps({'type': name, **payload})}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _break(self) -> None:
        """Reset the connection, as a failing network would."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        raise ConnectionResetError
