"""A daemon that only speaks docs/http-api.md: tests say what its tasks do, and see what clients asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from holdfast.agents.adapter import Sandbox
from holdfast.agents.failure import FailureClass, Remedy
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import (
    EXIT_CODES,
    Backend,
    ErrorPart,
    Exit,
    Files,
    LimitsPart,
    MessagePart,
    Output,
    Result,
    Status,
    Thread,
    Timing,
    ToolUses,
    UsagePart,
)
from holdfast.tasks.state import State
from holdfast.tasks.view import Progress, TaskView

#: Nothing in a test may take longer.
PATIENCE = 60.0
CREATED = "2030-01-02T03:04:05.000Z"


class FakeTask:
    """One task; what it does is said by the test."""

    def __init__(self, request: TaskRequest, prompt: bytes, environment: dict[str, str]) -> None:
        self.request = request
        self.prompt = prompt
        self.environment = environment
        self.id = request.task_id
        self.progress: list[Progress] = []
        self.log: list[dict[str, Any]] = []
        self.message = b""
        self.result: Result | None = None
        self.changed = threading.Condition()
        #: Followers are cut off, once each, after this many lines.
        self.cuts: list[int] = []
        #: Readers of the answer are cut off, once each, after this byte of it.
        self.message_cuts: list[int] = []
        self.cancels = 0
        #: What a cancel does; by default the task ends at once.
        self.finish_on_cancel = True
        #: The first cancel is not answered before this is set.
        self.answer_first_cancel = threading.Event()
        self.answer_first_cancel.set()

    def say(self, kind: str, text: str, *, tool_uses: int = 0, state: State = State.RUNNING) -> None:
        """Append a line of progress."""
        with self.changed:
            cursor = str(len(self.progress) + 1)
            self.progress.append(
                Progress(kind=kind, text=text, elapsed_s=1.5, tool_uses=tool_uses, state=state, cursor=cursor)
            )
            self.changed.notify_all()

    def finish(
        self,
        message: bytes = b"",
        status: Status = Status.COMPLETED,
        *,
        error: ErrorPart | None = None,
        thread_id: str | None = None,
        output: bool = False,
        warnings: list[str] | None = None,
    ) -> None:
        """End the task with a result."""
        digest = hashlib.sha256(message).hexdigest()
        result = Result(
            task_id=self.id,
            label=self.request.label,
            status=status,
            ok=status is Status.COMPLETED,
            message=MessagePart(
                text=message.decode(errors="replace"),
                bytes=len(message),
                sha256=digest,
                path=f"/state/tasks/{self.id}/message",
                complete=status is Status.COMPLETED,
            ),
            tool_uses=ToolUses(total=len([line for line in self.progress if line.kind == "tool"])),
            usage=UsagePart(input_tokens=1200, output_tokens=34),
            files=Files(),
            exit=Exit(code=0, wrapper_code=EXIT_CODES[status]),
            thread=Thread(id=thread_id),
            backend=Backend(name=self.request.agent, sandbox=Sandbox.READ_ONLY),
            timing=Timing(created=CREATED, wall_ms=1500),
            limits=LimitsPart(),
            output=Output(
                path=self.request.output_file if output else None,
                bytes=len(message) if output else None,
                sha256=digest if output else None,
            ),
            error=error,
            warnings=warnings or [],
        )
        self.message = message
        self.result = result
        self.say("finished", status, state=State.FINISHED)

    def fail(
        self,
        message: str = "You have hit your usage limit.",
        *,
        stderr: list[str] | None = None,
        said: bytes = b"",
        thread_id: str | None = "thread-1",
    ) -> None:
        """End the task as failed, the way an agent without credit does."""
        error = ErrorPart(
            error_class=FailureClass.USAGE_LIMIT,
            message=message,
            http_status=429,
            remedy=[Remedy(text="Use another account.", argv=["codex", "login"])],
            stderr_tail=stderr or [],
        )
        self.finish(said, Status.FAILED, error=error, thread_id=thread_id)

    def view(self) -> TaskView:
        """The task as the API shows it."""
        finished = self.result is not None
        last = self.progress[-1] if self.progress else None
        return TaskView(
            id=self.id,
            agent=self.request.agent,
            label=self.request.label,
            state=State.FINISHED if finished else last.state if last else State.QUEUED,
            status=self.result.status if self.result else None,
            exit_code=self.result.exit.wrapper_code if self.result else None,
            evidence=last.text if last else "queued",
            evidence_age_s=0.5,
            created=CREATED,
            elapsed_s=1.5,
            cwd=self.request.cwd,
            sandbox=self.request.sandbox,
            model=self.request.model,
            thread_id=None,
            tool_uses=0,
            attempts=1,
            summary=self.prompt.decode(errors="replace").partition("\n")[0][:40],
            cancel_requested=self.cancels > 0,
        )


class FakeDaemon:
    """Listens on the socket of a state directory until :meth:`close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tasks: dict[str, FakeTask] = {}
        self.requests: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        #: What every new task does at once.
        self.on_create = lambda task: None
        #: Status and error object for the next ``POST /v1/tasks``.
        self.refuse: tuple[int, dict[str, Any]] | None = None
        #: Answers to ``POST /v1/tasks`` that get lost after the task was stored.
        self.lose_answers = 0
        self._server = _Server(str(directory / "daemon.sock"), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def add(self, prompt: bytes = b"do it", **fields: Any) -> FakeTask:
        """Make a task without any client."""
        fields = {"task_id": f"task{len(self.tasks):08}", "agent": "codex", "cwd": "/work", **fields}
        task = FakeTask(TaskRequest(**fields), prompt, {})
        self.tasks[task.id] = task
        return task

    def next_task(self) -> FakeTask:
        """The first task that a client creates; waits for it."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.tasks, PATIENCE), "no task was created"
            return next(iter(self.tasks.values()))

    def wait_for_request(self, method: str, ending: str, count: int = 1) -> None:
        """Wait until *count* requests for a path that ends so have come."""

        def come() -> bool:
            return sum(name == method and path.endswith(ending) for name, path in self.requests) >= count

        with self.changed:
            assert self.changed.wait_for(come, PATIENCE), f"no {method} ...{ending} among {self.requests}"

    def close(self) -> None:
        """Stop listening and let every waiting request end."""
        self._server.shutdown()
        for task in self.tasks.values():
            if task.result is None:
                task.finish(status=Status.ABORTED)
        self._server.server_close()
        self._thread.join()
        (self.directory / "daemon.sock").unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    block_on_close = True


class _NotFound(Exception):
    pass


def _handler(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            self.close_connection = True
            url = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with daemon.changed:
                daemon.requests.append((method, url.path))
                daemon.changed.notify_all()
            parts = url.path.strip("/").split("/")[1:]
            try:
                if parts == ["tasks"]:
                    self._tasks() if method == "GET" else self._create()
                elif parts[0] == "tasks":
                    getattr(self, f"_task_{parts[2] if len(parts) > 2 else 'view'}")(_find(unquote(parts[1])))
                elif parts == ["status"]:
                    self._json(200, _status())
                elif parts == ["shutdown"]:
                    active = sum(task.result is None for task in daemon.tasks.values())
                    self._json(202, {"stopping": True, "active": active})
            except _NotFound as missing:
                error = {"code": "not_found", "message": f"There is no task {missing}.", "hint": "See 'holdfast list'."}
                self._json(404, {"error": error})
            except BrokenPipeError:
                pass

        def _tasks(self) -> None:
            tasks = [task for task in reversed(daemon.tasks.values()) if not ("active" in self.query and task.result)]
            listed = [task.view() for task in tasks][: int(self.query.get("limit", "100"))]
            self._json(200, {"tasks": listed, "total": len(tasks)})

        def _create(self) -> None:
            if daemon.refuse is not None:
                status, error = daemon.refuse
                self._json(status, {"error": error})
                return
            body = json.loads(self.body)
            request = msgspec.convert(body["request"], TaskRequest)
            known = request.task_id in daemon.tasks
            if not known:
                task = FakeTask(request, base64.b64decode(body["prompt_base64"], validate=True), body["environment"])
                daemon.on_create(task)
                with daemon.changed:
                    daemon.tasks[task.id] = task
                    daemon.changed.notify_all()
            if daemon.lose_answers:
                daemon.lose_answers -= 1
                self._sever()
                return
            self._json(200 if known else 201, daemon.tasks[request.task_id].view())

        def _task_view(self, task: FakeTask) -> None:
            self._json(200, task.view())

        def _task_wait(self, task: FakeTask) -> None:
            with task.changed:
                task.changed.wait_for(lambda: task.result, float(self.query["timeout_s"]))
            self._json(200, task.view())

        def _task_result(self, task: FakeTask) -> None:
            if task.result is None:
                error = {"code": "not_finished", "message": f"Task {task.id} is not finished.", "hint": None}
                self._json(409, {"error": error})
            else:
                self._json(200, task.result)

        def _task_message(self, task: FakeTask) -> None:
            offset = int(self.query.get("offset", "0"))
            end = offset + int(self.query.get("limit", str(len(task.message))))
            if task.message_cuts:
                cut = task.message_cuts.pop(0)
                self._head(200, max(0, min(end, len(task.message)) - offset), "application/octet-stream")
                self.wfile.write(task.message[offset:cut])
                self._sever()
                return
            self._send(200, task.message[offset:end], "application/octet-stream")

        def _task_cancel(self, task: FakeTask) -> None:
            task.cancels += 1
            if task.cancels == 1:
                task.answer_first_cancel.wait(PATIENCE)
            if task.result is None and task.finish_on_cancel:
                task.finish(status=Status.CANCELLED)
            self._json(200, task.view())

        def _task_progress(self, task: FakeTask) -> None:
            position = int(self.query.get("after", "0"))
            self._begin_stream()
            while True:
                if task.cuts and position >= task.cuts[0]:
                    task.cuts.pop(0)
                    self._sever()
                    return
                with task.changed:
                    more = position < len(task.progress)
                    if not more and "follow" in self.query and task.result is None:
                        task.changed.wait(0.02)
                        continue
                if not more:
                    break
                self._chunk(msgspec.json.encode(task.progress[position]) + b"\n")
                position += 1
            self._end_stream()

        def _task_log(self, task: FakeTask) -> None:
            self._begin_stream()
            for entry in task.log:
                self._chunk(msgspec.json.encode(entry) + b"\n")
            self._end_stream()

        def _begin_stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        def _end_stream(self) -> None:
            self.wfile.write(b"0\r\n\r\n")

        def _sever(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)

        def _json(self, status: int, document: object) -> None:
            self._send(status, msgspec.json.encode(document), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self._head(status, len(body), kind)
            self.wfile.write(body)

        def _head(self, status: int, length: int, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
            self.end_headers()

    def _find(prefix: str) -> FakeTask:
        found = [task for task in daemon.tasks.values() if task.id.startswith(prefix)]
        if len(found) != 1:
            raise _NotFound(prefix)
        return found[0]

    def _status() -> dict[str, Any]:
        active = sum(task.result is None for task in daemon.tasks.values())
        return {
            "version": "0.1.0",
            "pid": os.getpid(),
            "started": CREATED,
            "state_directory": str(daemon.directory),
            "host": {"url": None},
            "tasks": {"total": len(daemon.tasks), "active": active},
            "in_process": False,
        }

    return Handler
