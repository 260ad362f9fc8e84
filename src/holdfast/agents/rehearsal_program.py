"""The program of the rehearsal agent: an agent that follows stage directions instead of a model.

It is executed by path with ``python -I -S``, so it uses the standard library alone and imports little: it is up and has
said its first line in about 15 ms.  The prompt arrives on standard input; events leave on standard output in the
neutral dialect (docs/agents.md).  Lines of the prompt that begin with ``rehearse:`` are directions; everything else is
prose that is never interpreted.  Without directions it looks around in the directory it runs in and says what it saw.
"""

from __future__ import annotations

import os
import sys
import time

# The json package would import re, and take as long as everything else together.
from _json import encode_basestring_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

#: Directories that are somebody else's files, not the repository's.
_FOREIGN_DIRECTORIES = {".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__"}
_MOST_ENTRIES = 50_000
_README_BYTES = 4096
_HTTP = {401: "auth", 403: "auth", 429: "rate_limit", 500: "overloaded", 503: "overloaded", 529: "overloaded"}


def encode(value: Json) -> str:
    """*value* as JSON, ASCII only."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return str(encode_basestring_ascii(value))
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    return "{" + ",".join(encode(key) + ":" + encode(item) for key, item in value.items()) + "}"


def write(data: bytes, descriptor: int = 1) -> None:
    """Write all of *data*; a reader that left ends the program, as SIGPIPE would."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        os._exit(141)


def emit(event: str, **fields: Any) -> None:
    """Report one event."""
    write(encode({"event": event, **fields}).encode("ascii") + b"\n")


def digest(data: bytes) -> str:
    """The SHA-256 of *data* in hexadecimal."""
    # The first is there since 3.12, the second before; the third would load OpenSSL.
    for name in ("_sha2", "_sha256", "hashlib"):
        try:
            return str(__import__(name).sha256(data).hexdigest())
        except ImportError:
            continue
    raise AssertionError("every Python has hashlib")


def unescape(text: str) -> str:
    r"""Text of a direction, where ``\n`` stands for a line feed and ``\\`` for a backslash."""
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))


class Thread:
    """A conversation that can be resumed: one file that lists the digests of its prompts."""

    def __init__(self, home: str, thread_id: str, *, fresh: bool) -> None:
        import fcntl

        self.id = thread_id
        self.path = os.path.join(home, "threads", thread_id)
        # Mode 0700 for every directory that is made here, not only for the last one.
        mask = os.umask(0o077)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        os.umask(mask)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(self.path, flags | (os.O_CREAT | os.O_EXCL if fresh else 0), 0o600)
        # Held for life: the kernel releases it even if this process is killed.
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(self.path, encoding="ascii") as file:
            self.prompts = file.read().split()

    def remember(self, prompt_digest: str) -> None:
        """Add the turn that begins now."""
        os.write(self.descriptor, prompt_digest.encode("ascii") + b"\n")
        self.prompts.append(prompt_digest)


class Refused(Exception):
    """The sandbox does not allow it."""


class Rehearsal:
    """One run: what was asked for, and what it leads to."""

    def __init__(self, options: dict[str, str], writable: list[str], prompt: bytes) -> None:
        self.sandbox = options.get("--sandbox", "read-only")
        self.model = options.get("--model", "rehearsal")
        self.writable = [os.path.realpath(directory) for directory in [os.getcwd(), *writable]]
        self.prompt = prompt
        self.items = 0
        self.exit_code = 0
        self.usage: dict[str, Json] | None = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
        self.usage_of_thread = False
        self.ends = True
        self.lingers = False
        self.said = False
        self.thread: Thread | None = None

    # Tool uses

    def use(self, tool: str, title: str, work: Callable[[], Any]) -> Any:
        """Report a tool use around *work*; a failure is reported, not raised."""
        self.items += 1
        item = f"item_{self.items}"
        emit("tool_started", item_id=item, tool=tool, title=title)
        try:
            done = work()
        except (OSError, ValueError) as error:
            emit("tool_ended", item_id=item, failed=True)
            emit("notice", text=f"{title}: {error}")
            return None
        except Refused as error:
            emit("tool_ended", item_id=item, failed=True)
            emit("notice", text=f"Permission denied: {error}")
            return None
        emit("tool_ended", item_id=item, failed=False)
        return done

    def check_write(self, path: str) -> str:
        """*path* in full, if the sandbox lets it be written to."""
        target = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
        if self.sandbox == "read-only":
            raise Refused(f"{path} cannot be written to in a read-only run")
        inside = any(os.path.commonpath([target, root]) == root for root in self.writable)
        if self.sandbox == "workspace-write" and (not inside or os.path.islink(target)):
            raise Refused(f"{path} is outside of the workspace")
        return target

    # Directions: what an agent does

    def do_say(self, rest: str) -> None:
        self.said = True
        emit("message", text=unescape(rest))

    def do_say_bytes(self, rest: str) -> None:
        line = "The quick brown fox rehearses. "
        count = int(rest)
        self.do_say((line * (count // len(line) + 1))[:count])

    def do_say_nothing(self, rest: str) -> None:
        self.do_say("")

    def do_say_parts(self, rest: str) -> None:
        for part in rest.split("|"):
            self.do_say(part.strip())

    def do_hash_prompt(self, rest: str) -> None:
        self.do_say(f"sha256={digest(self.prompt)} bytes={len(self.prompt)}")

    def do_recall(self, rest: str) -> None:
        prompts = self.thread.prompts if self.thread else []
        self.do_say(f"turn={len(prompts)} previous={prompts[-2] if len(prompts) > 1 else 'none'}")

    def do_notice(self, rest: str) -> None:
        emit("notice", text=unescape(rest))

    def do_sleep(self, rest: str) -> None:
        time.sleep(float(rest))

    def do_wait_for(self, rest: str) -> None:
        while not os.path.exists(rest):
            time.sleep(0.01)

    def do_touch(self, rest: str) -> None:
        with open(rest, "ab"):
            pass

    def do_run(self, rest: str) -> None:
        import shlex
        import subprocess

        def run() -> None:
            if self.sandbox == "read-only":
                raise Refused(f"{rest} cannot be run in a read-only run")
            ended = subprocess.run(shlex.split(rest), stdin=subprocess.DEVNULL, stdout=2, check=False)
            if ended.returncode != 0:
                raise ValueError(f"exit code {ended.returncode}")

        self.use("command", rest, run)

    def do_read(self, rest: str) -> None:
        def read() -> int:
            with open(rest, "rb") as file:
                return len(file.read())

        self.use("file_read", rest, read)

    def do_edit(self, rest: str) -> None:
        path, _, text = rest.partition(" ")

        def edit() -> bool:
            with open(self.check_write(path), "wb") as file:
                file.write(unescape(text).encode())
            return True

        if self.use("file_change", path, edit):
            emit("files_claimed", paths=[path])

    def do_delete(self, rest: str) -> None:
        def delete() -> bool:
            os.unlink(self.check_write(rest))
            return True

        if self.use("file_change", rest, delete):
            emit("files_claimed", paths=[rest])

    def do_tools(self, rest: str) -> None:
        for number in range(1, int(rest) + 1):
            self.use("search", f"list the directory ({number})", lambda: os.listdir("."))

    def do_usage(self, rest: str) -> None:
        words = rest.split()
        self.usage_of_thread = words[-1:] == ["of-thread"]
        names = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_output_tokens")
        self.usage = {name: int(word) for name, word in zip(names, words, strict=False) if word.isdigit()} or None

    # Directions: what an agent should not do

    def do_fail(self, rest: str) -> NoReturn:
        failure_class, _, text = rest.partition(" ")
        self.fail(failure_class, text or f"The rehearsal was told to fail with {failure_class}.")

    def do_http(self, rest: str) -> NoReturn:
        status = int(rest)
        self.fail(_HTTP.get(status, "bad_request"), f"The model API answered with HTTP {status}.", http_status=status)

    def do_usage_limit(self, rest: str) -> NoReturn:
        self.fail("usage_limit", "The usage limit is reached.", retry_after_s=float(rest) if rest else None)

    def do_exit(self, rest: str) -> NoReturn:
        os._exit(int(rest or 0))

    def do_exit_code(self, rest: str) -> None:
        self.exit_code = int(rest)

    def do_die(self, rest: str) -> None:
        os.kill(os.getpid(), int(rest or 9))

    def do_hang(self, rest: str) -> NoReturn:
        forever()

    def do_linger(self, rest: str) -> None:
        self.lingers = True

    def do_no_end(self, rest: str) -> None:
        self.ends = False

    def do_complete(self, rest: str) -> None:
        emit("turn_completed", message=unescape(rest) or None)

    def do_ignore_term(self, rest: str) -> None:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_escape_holding(self, rest: str) -> None:
        """Leave a descendant in a session of its own that holds the streams open and says nothing."""
        if escape():
            time.sleep(float(rest)) if rest else forever()
            os._exit(0)

    def do_escape_writing(self, rest: str) -> None:
        """Leave a descendant in a session of its own that goes on writing: *rest* lines, or for ever."""
        if escape():
            number = 0
            while not rest or number < int(rest):
                number += 1
                time.sleep(0.02)
                emit("notice", text=f"written after the end, {number}")
            os._exit(0)

    def do_sneak(self, rest: str) -> None:
        """Write to a file whatever the sandbox says, and do not tell."""
        path, _, text = rest.partition(" ")
        with open(path, "wb") as file:
            file.write(unescape(text).encode())

    def do_claim(self, rest: str) -> None:
        emit("files_claimed", paths=rest.split())

    def do_raw(self, rest: str) -> None:
        write(rest.encode())

    def do_raw_line(self, rest: str) -> None:
        write(rest.encode() + b"\n")

    def do_garbage_bytes(self, rest: str) -> None:
        write(b"#" * int(rest) + b"\n")

    def do_invalid_utf8(self, rest: str) -> None:
        write(b'{"event":"message","text":"\xff\xfe"}\n')

    def do_unknown_event(self, rest: str) -> None:
        emit(rest or "applause")

    def do_stderr(self, rest: str) -> None:
        write(rest.encode() + b"\n", 2)

    def do_stderr_flood(self, rest: str) -> None:
        """Fill standard error: *rest* bytes, or for ever."""
        block = (b"complaint " * 7 + b"\n") * 1024
        left = int(rest) if rest else -1
        while left:
            part = block if left < 0 else block[:left]
            write(part, 2)
            left -= 0 if left < 0 else len(part)

    def do_flood(self, rest: str) -> NoReturn:
        number = 0
        while True:
            number += 1
            emit("notice", text=f"flood {number} " + "." * 900)

    # The run itself

    def fail(self, failure_class: str, message: str, **details: Json) -> NoReturn:
        """Report that the turn failed, and end."""
        self.report_usage()
        known = {name: value for name, value in details.items() if value is not None}
        emit("turn_failed", failure={"class": failure_class, "message": message, **known})
        os._exit(1)

    def report_usage(self) -> None:
        if self.usage is not None:
            emit("usage_reported", usage=self.usage, of_thread=self.usage_of_thread, source="rehearsal")

    def directions(self) -> list[tuple[str, str]]:
        """The directions in the prompt, in order: verb and rest."""
        found: list[tuple[str, str]] = []
        for line in self.prompt.decode("utf-8", "replace").split("\n"):
            if line.startswith("rehearse:"):
                verb, _, rest = line[len("rehearse:") :].strip().partition(" ")
                found.append((verb, rest.strip()))
        return found

    def look_around(self) -> None:
        """What an agent without directions does: look at the repository and say honestly what this is."""
        kinds: dict[str, int] = {}
        readme: list[str] = []

        def count() -> None:
            entries = 0
            for place, directories, files in os.walk("."):
                directories[:] = sorted(name for name in directories if name not in _FOREIGN_DIRECTORIES)
                for name in files:
                    kind = os.path.splitext(name)[1] or "(no extension)"
                    kinds[kind] = kinds.get(kind, 0) + 1
                    if place == "." and name.lower().startswith("readme"):
                        readme.append(name)
                entries += len(files) + len(directories)
                if entries > _MOST_ENTRIES:
                    kinds["(and more that was not counted)"] = 1
                    return

        def head() -> str:
            with open(sorted(readme)[0], "rb") as file:
                return file.read(_README_BYTES).decode("utf-8", "replace")

        self.use("search", "count the files by kind", count)
        text = str(self.use("file_read", sorted(readme)[0], head) or "") if readme else ""
        first = next((line.strip("# \t") for line in text.split("\n") if line.strip("# \t")), "")
        most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
        lines = [
            "This is the rehearsal agent of Holdfast. No model was asked; this is a plain look at the directory.",
            "",
            f"Directory: {os.getcwd()}",
            f"Files: {sum(kinds.values())}"
            + (f" ({', '.join(f'{number} {kind}' for kind, number in most[:8])})" if most else ""),
            f"README: {first}" if first else "README: none",
            f"Prompt: {len(self.prompt)} bytes, sandbox {self.sandbox}. Nothing was changed.",
        ]
        self.do_say("\\n".join(line.replace("\\", "\\\\") for line in lines))

    def perform(self, resume: str | None, home: str) -> NoReturn:
        """Run from the first event to the exit."""
        directions = self.directions()
        while directions and directions[0][0] in ("late", "silent-exit", "stderr"):
            verb, rest = directions.pop(0)
            if verb == "late":
                time.sleep(float(rest))
            elif verb == "stderr":
                self.do_stderr(rest)
            else:
                os._exit(int(rest or 1))
        self.open_thread(resume, home)
        emit("turn_started")
        if not directions:
            self.look_around()
        for verb, rest in directions:
            method = getattr(self, "do_" + verb.replace("-", "_"), None)
            if method is None:
                self.fail("bad_request", f"The rehearsal agent does not know the direction {verb!r}.")
            try:
                method(rest)
            except (ValueError, OSError) as error:
                self.fail("bad_request", f"The direction {verb!r} cannot be followed: {error}")
        if self.ends:
            if not self.said:
                self.do_say("All directions were followed.")
            self.report_usage()
            emit("turn_completed")
        if self.lingers:
            forever()
        os._exit(self.exit_code)

    def open_thread(self, resume: str | None, home: str) -> None:
        """Start or resume the thread, and name it."""
        digits = os.urandom(16).hex()
        fresh = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        known = resume is None or all(character in "0123456789abcdef-" for character in resume)
        try:
            if not known:
                raise FileNotFoundError
            self.thread = Thread(home, resume or fresh, fresh=resume is None)
        except FileNotFoundError:
            self.fail("thread_unknown", f"The rehearsal agent has no thread {resume}.")
        except BlockingIOError:
            self.fail("thread_busy", f"Another run of thread {resume} is under way.")
        emit("thread_started", thread_id=self.thread.id, model=self.model)
        self.thread.remember(digest(self.prompt))


def escape() -> bool:
    """Fork a descendant into a session of its own; true in the descendant."""
    if os.fork():
        return False
    os.setsid()
    return True


def forever() -> NoReturn:
    """Live until somebody ends it."""
    while True:
        time.sleep(3600)


def main() -> NoReturn:
    """Read the command line and the prompt, then perform."""
    options: dict[str, str] = {}
    writable: list[str] = []
    words = sys.argv[1:]
    for option, value in zip(words[::2], words[1::2], strict=False):
        if option == "--add-dir":
            writable.append(value)
        else:
            options[option] = value
    home = os.environ.get("HOLDFAST_REHEARSAL_HOME") or os.path.join(os.path.expanduser("~"), ".holdfast-rehearsal")
    chunks: list[bytes] = []
    while chunk := os.read(0, 1 << 20):
        chunks.append(chunk)
    Rehearsal(options, writable, b"".join(chunks)).perform(options.get("--resume"), home)


if __name__ == "__main__":
    main()
