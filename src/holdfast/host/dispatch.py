"""One client connection: its handshake, its requests, and the replies.

Requests are carried out as they arrive, at once where nothing has to be waited for, so what concerns one process
happens in the order in which it was asked for.  A request that waits (a long poll, a full stdin, an ending) waits
alone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from pybase64 import b64decode, b64encode

from holdfast.errors import HoldfastError
from holdfast.host import parameters
from holdfast.host.environment import child_environment, environment_info
from holdfast.host.log import STREAM_FILES, EntryKind
from holdfast.host.process import HostedProcess
from holdfast.host.push import Cursor, Notifications, Subscription
from holdfast.host.server import DuplicateProcess, ProcessHost, describe_os_error
from holdfast.host.session import Session
from holdfast.host.tree import OsProcess, Tree, end_tree
from holdfast.host.uri import InvalidUri, uri_to_path
from holdfast.host.writes import WriteState
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.messages import (
    ABSENT,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MalformedMessage,
    RequestId,
    RpcError,
    decode,
    encode_error,
    encode_json,
    encode_result,
)

#: Requests of one connection that may be waiting at the same time.
IN_FLIGHT: Final = 4096
#: Bytes of output in one reply to ``process/read``, whatever the client asks for.
READ_LIMIT: Final = 16 * 1024 * 1024
#: Version of the extensions, announced in the result of ``initialize``.
EXTENSION_VERSION: Final = 1

_EMPTY: Final = b"{}"
_STREAM_NAMES: Final = {
    EntryKind.STDOUT: b"stdout",
    EntryKind.STDERR: b"stderr",
    EntryKind.PTY: b"pty",
}

Reply = bytes | Awaitable[bytes]


class Method(NamedTuple):
    """An entry of the method table."""

    #: How state errors name the group of methods that this one belongs to.
    group: str
    #: Type of the params; None for methods without.
    decoder: msgspec.json.Decoder[Any] | None
    call: Callable[[ClientConnection, Any], Reply]


METHODS: Final[dict[str, Method]] = {}
#: Where the other methods are, by the first part of their names: imported when the first of them is called.
METHOD_MODULES: Final = {
    "fs": "holdfast.host.files.methods",
    "host": "holdfast.host.administration",
    "http": "holdfast.host.http.methods",
    "process": "holdfast.host.resizing",
}

_log = logging.getLogger(__name__)


class Resource(Protocol):
    """Something that a connection has one of, and that ends with it."""

    def close(self) -> None:
        """Let go of everything."""


_R = TypeVar("_R", bound=Resource)


def method(
    name: str, params: type[Any] | None, group: str = "exec"
) -> Callable[[Callable[[ClientConnection, Any], Reply]], Callable[[ClientConnection, Any], Reply]]:
    def register(call: Callable[[ClientConnection, Any], Reply]) -> Callable[[ClientConnection, Any], Reply]:
        METHODS[name] = Method(group, msgspec.json.Decoder(params) if params is not None else None, call)
        return call

    return register


class ClientConnection:
    """The host's side of one connection."""

    def __init__(self, host: ProcessHost, connection: Connection, *, root: str | None = None) -> None:
        self.host = host
        self.connection = connection
        #: The directory outside of which ``fs/*`` touches nothing; None for no limit.
        self.root = root
        self.session: Session | None = None
        self._ready = False
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_for_room: dict[Cursor, None] = {}
        self._room_waiters: list[asyncio.Future[None]] = []
        self._pushes: set[Cursor] = set()
        self.subscriptions: dict[int, Subscription] = {}
        self._resources: dict[type[Resource], Resource] = {}
        host.connection_opened()

    # What the connection calls

    def message_received(self, message: bytes) -> None:
        try:
            decoded = decode(message)
        except MalformedMessage as error:
            channel = "websocket " if "websocket" in self.connection.origin else ""
            text = f"failed to parse {channel}JSON-RPC message from {self.connection.origin}: {error.message}"
            self.connection.send(encode_error(-1, INVALID_REQUEST, text))
            return
        method = decoded.method
        if not isinstance(method, str):
            self.connection.close(1002, "a response to a request that was never made")
            return
        identity = decoded.id
        if identity is None or isinstance(identity, msgspec.UnsetType):
            self._notified(method, decoded.params)
            return
        try:
            reply = self._call(method, decoded.params)
        except HoldfastError as error:
            self._refuse(identity, error)
            return
        if isinstance(reply, bytes):
            self.connection.send(encode_result(identity, reply))
            return
        if len(self._tasks) >= IN_FLIGHT:
            if asyncio.iscoroutine(reply):
                reply.close()
            self.connection.send(encode_error(identity, INVALID_REQUEST, "too many requests in flight"))
            return
        task = self._loop.create_task(self._finish(identity, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def writing_resumed(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiting = self._waiting_for_room
        while waiting and self.connection.writable:
            cursor = next(iter(waiting))
            del waiting[cursor]
            cursor.pump()

    async def room(self) -> None:
        """Wait until the connection is writable."""
        while not self.connection.writable:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room_waiters.append(waiter)
            await waiter

    def connection_lost(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        self._stop_pushing()
        for subscription in self.subscriptions.values():
            subscription.stop()
        self.subscriptions.clear()
        for resource in self._resources.values():
            resource.close()
        self._resources.clear()
        session = self.session
        if session is not None and session.connection is self:
            session.connection = None
            self.host.session_detached(session)
        self.host.connection_closed()

    # Requests

    def resource(self, kind: type[_R], make: Callable[[ClientConnection], _R]) -> _R:
        """The connection's one resource of a kind, made when it is first asked for."""
        found = self._resources.get(kind)
        if found is None:
            found = self._resources[kind] = make(self)
        assert isinstance(found, kind)
        return found

    def _call(self, name: str, params: msgspec.Raw) -> Reply:
        method = METHODS.get(name) or _import_method(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"exec-server stub does not implement `{name}` yet")
        value = _decode_params(method, params)
        if name != "initialize":
            if self.session is None:
                raise RpcError(INVALID_REQUEST, f"client must call initialize before using {method.group} methods")
            if not self._ready:
                raise RpcError(INVALID_REQUEST, f"client must send initialized before using {method.group} methods")
        return method.call(self, value)

    async def _finish(self, identity: RequestId, reply: Awaitable[bytes]) -> None:
        try:
            self.connection.send(encode_result(identity, await reply))
        except HoldfastError as error:
            self._refuse(identity, error)
        except Exception:
            # A fault of ours: the client must not wait for ever for the answer.
            _log.exception("a request failed")
            self.connection.send(encode_error(identity, INTERNAL_ERROR, "internal error"))

    def _refuse(self, identity: RequestId, error: HoldfastError) -> None:
        code = error.rpc_code if isinstance(error, RpcError) else INTERNAL_ERROR
        # A message may name a path, and a path may be bytes that are no text.
        message = error.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self.connection.send(encode_error(identity, code, message))

    def _notified(self, name: str, params: msgspec.Raw) -> None:
        if name == "initialized":
            if self.session is None:
                self.connection.close(1002, "initialized before initialize")
            self._ready = True
        elif name == "process/acknowledge":
            acknowledgement = msgspec.json.decode(params, type=parameters.Acknowledge)
            subscription = self.subscriptions.get(acknowledgement.subscription_id)
            if subscription is not None:
                subscription.acknowledge(acknowledgement.bytes)
        else:
            self.connection.close(1002, "unknown notification")

    # Pushing

    def wait_for_room(self, cursor: Cursor) -> None:
        """Pump *cursor* again when the connection is writable (or, if it still is, after the others)."""
        self._waiting_for_room[cursor] = None
        if self.connection.writable:
            self._loop.call_soon(self.writing_resumed)

    def push(self, process: HostedProcess, after: int) -> None:
        """Send notifications of everything after *after*."""
        cursor = Notifications(self, process, after)
        self._pushes.add(cursor)

    def _stop_pushing(self) -> None:
        for cursor in self._pushes:
            cursor.stop()
        self._pushes.clear()
        self._waiting_for_room.clear()

    def taken_over(self) -> None:
        """Another connection resumed the session: this one has nothing any more."""
        self.session = None
        self._stop_pushing()
        self.connection.close(1008, "the session was resumed by another connection")

    def attach(self, session: Session) -> None:
        """Make *session* this connection's."""
        self.session = session
        session.connection = self

    def find(self, process_id: str) -> HostedProcess | None:
        """The process of that id: the session's own, else the host's."""
        assert self.session is not None
        return self.session.processes.get(process_id) or self.host.persistent.get(process_id)

    def require(self, process_id: str) -> HostedProcess:
        """The process of that id, or the protocol's error."""
        process = self.find(process_id)
        if process is None:
            raise RpcError(INVALID_REQUEST, f"unknown process id {process_id}")
        return process


def _import_method(name: str) -> Method | None:
    module = METHOD_MODULES.get(name.partition("/")[0])
    if module is not None:
        import_module(module)
    return METHODS.get(name)


def _decode_params(method: Method, params: msgspec.Raw) -> Any:
    if method.decoder is None:
        if params is not ABSENT and bytes(params).strip() not in (b"null", b"{}"):
            raise RpcError(INVALID_PARAMS, "invalid type: expected unit")
        return None
    try:
        return method.decoder.decode(params if params is not ABSENT else b"null")
    except (msgspec.DecodeError, RecursionError) as error:
        raise RpcError(INVALID_PARAMS, _explain(str(error))) from None


def _explain(text: str) -> str:
    """A decoding error in the words of the reference implementation, where a client might look for them."""
    if text.startswith("Object missing required field"):
        return "missing field " + text.split("field ", 1)[1].split(" - at")[0]
    if text.startswith("Expected `object`, got `null`"):
        return "invalid type: null, expected struct"
    return text


# Handshake and environment


@method("initialize", parameters.Initialize)
def initialize(client: ClientConnection, params: parameters.Initialize) -> Reply:
    """Open a session, or resume one; the newest connection that resumes it wins."""
    if client.session is not None:
        raise RpcError(INVALID_REQUEST, "initialize may only be sent once per connection")
    host = client.host
    if params.resume_session_id is None:
        session = host.open_session()
        client.attach(session)
    else:
        resumed = host.sessions.get(params.resume_session_id)
        if resumed is None:
            raise RpcError(INVALID_REQUEST, f"unknown session id {params.resume_session_id}")
        session = resumed
        if session.connection is not None:
            session.connection.taken_over()
        client.attach(session)
        for process in session.processes.values():
            if not process.closed:
                client.push(process, process.log.last_seq)
    return encode_json(
        {
            "sessionId": session.session_id,
            "environmentInfo": environment_info(),
            "holdfast": {
                "version": EXTENSION_VERSION,
                "instanceId": host.instance_id,
                "stateDirectory": str(host.directory),
            },
        }
    )


@method("environment/info", None, "environment info")
def information(client: ClientConnection, params: None) -> Reply:
    """What machine this is."""
    return encode_json(environment_info())


@method("environment/status", None, "environment status")
def environment_status(client: ClientConnection, params: None) -> Reply:
    """Whether the host is well."""
    return b'{"status":"ready"}'


# Processes


@method("process/start", parameters.Start)
def start(client: ClientConnection, params: parameters.Start) -> Reply:
    """Start a process."""
    if not params.argv:
        raise RpcError(INVALID_PARAMS, "argv must not be empty")
    unsupported = {
        "managedNetwork": params.managed_network,
        "networkProxy": params.network_proxy,
        "credentialProviders": params.credential_providers,
        "enforceManagedNetwork": params.enforce_managed_network,
    }
    for name, value in unsupported.items():
        if value:
            raise RpcError(INVALID_PARAMS, f"this exec-server cannot honour `{name}` and will not ignore it")
    try:
        cwd = uri_to_path(params.cwd)
    except InvalidUri as error:
        raise RpcError(INVALID_PARAMS, error.message) from None
    if not params.argv[0]:
        raise RpcError(INTERNAL_ERROR, f"missing program for {'PTY' if params.tty else 'pipe'} spawn")
    env = child_environment(params.env, params.env_policy)
    if params.sandbox is not None:
        return _start_in_sandbox(client, params, cwd, env)
    argv = params.argv if params.arg0 is None else [params.arg0, *params.argv[1:]]
    return _start(client, params, params.argv[0], argv, cwd, env)


async def _start_in_sandbox(client: ClientConnection, params: parameters.Start, cwd: str, env: dict[str, str]) -> bytes:
    from holdfast.host.sandbox.command_line import command_line

    try:
        argv = await asyncio.to_thread(command_line, params, cwd, env)
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, describe_os_error(error)) from None
    except ValueError:
        raise RpcError(INTERNAL_ERROR, "nul byte found in provided data") from None
    if client.session is None:
        raise RpcError(INVALID_REQUEST, "the session was resumed by another connection")
    if argv is None:
        return _start(client, params, params.argv[0], params.argv, cwd, env)
    return _start(client, params, argv[0], argv, cwd, env, sandbox_type=b"linuxSeccomp")


def _start(
    client: ClientConnection,
    params: parameters.Start,
    program: str,
    argv: list[str],
    cwd: str,
    env: dict[str, str],
    *,
    sandbox_type: bytes = b"none",
) -> bytes:
    extension = params.holdfast or parameters.StartExtension()
    session = client.session
    if extension.persistent:
        existing = client.host.persistent.get(params.process_id)
        if existing is not None:
            return _started(existing, existing=True)
        session = None
    try:
        process = client.host.start(
            session,
            params.process_id,
            argv=argv,
            program=program,
            cwd=cwd,
            env=env,
            tty=params.tty,
            pipe_stdin=params.pipe_stdin,
            stdin_file=extension.stdin_file,
            signal_drop=extension.persistent and extension.signal_drop,
        )
    except DuplicateProcess as error:
        raise RpcError(INVALID_REQUEST, error.message) from None
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, describe_os_error(error)) from None
    except ValueError:
        raise RpcError(INTERNAL_ERROR, "nul byte found in provided data") from None
    if extension.persistent:
        return _started(process, existing=False)
    client.push(process, 0)
    return b'{"processId":%s,"sandboxType":"%s"}' % (encode_json(params.process_id), sandbox_type)


def _started(process: HostedProcess, *, existing: bool) -> bytes:
    return encode_json(
        {
            "processId": process.process_id,
            "sandboxType": "none",
            "existing": existing,
            "status": describe(process),
        }
    )


class _Wake:
    """An observer that completes a future once."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pump(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


@method("process/read", parameters.Read)
def read(client: ClientConnection, params: parameters.Read) -> Reply:
    """Read from a cursor, and if there is nothing new wait for it."""
    process = client.require(params.process_id)
    after = params.after_seq or 0
    if not client.connection.writable:
        return _read_later(client, process, params, after)
    if params.wait_ms and after >= process.log.last_seq and not process.closed:
        return _read_later(client, process, params, after)
    return _read_now(process, params, after)


async def _read_later(client: ClientConnection, process: HostedProcess, params: parameters.Read, after: int) -> bytes:
    loop = asyncio.get_running_loop()
    # Any unsigned 64-bit number is a valid wait; a century is as good as the largest of them.
    deadline = loop.time() + min((params.wait_ms or 0) / 1000, 3e9)
    while after >= process.log.last_seq and not process.closed:
        left = deadline - loop.time()
        if left <= 0:
            break
        wake = _Wake()
        process.observers.add(wake)
        try:
            await asyncio.wait_for(wake.future, left)
        except TimeoutError:
            break
        finally:
            process.observers.discard(wake)
    # A client that does not read its replies gets no more of them; it may still send.
    await client.room()
    return _read_now(process, params, after)


def _read_now(process: HostedProcess, params: parameters.Read, after: int) -> bytes:
    log = process.log
    limit = READ_LIMIT if params.max_bytes is None else min(params.max_bytes, READ_LIMIT)
    chunks: list[bytes] = []
    size = 0
    last = 0
    cut = False
    gap: tuple[int, int] | None = None
    position = after
    end = log.last_seq
    while position < end and not cut:
        for entry in log.entries(position, min(256, end - position)):
            position = entry.seq
            stream = _STREAM_NAMES.get(EntryKind(entry.kind))
            if stream is None:
                continue
            if log.dropped:
                gap = (gap[0] if gap else entry.seq, entry.seq)
                continue
            if chunks and size + entry.length > limit:
                cut = True
                break
            size += entry.length
            last = entry.seq
            chunks.append(b'{"seq":%d,"stream":"%s","chunk":"%s"}' % (entry.seq, stream, b64encode(log.data(entry))))
    # As the reference implementation has it: whoever limits a read is told of the chunk it ends with, cut or not.
    next_seq = last + 1 if cut or (last and params.max_bytes is not None) else end + 1
    exit_code = process.exit[0] if process.exit is not None else None
    exited = process.exit is not None
    return (
        b'{"chunks":[%s],"nextSeq":%d,"exited":%s,"exitCode":%s,"closed":%s,"failure":null,"sandboxDenied":false%s}'
        % (
            b",".join(chunks),
            next_seq,
            b"true" if exited else b"false",
            b"%d" % exit_code if exit_code is not None else b"-1" if exited else b"null",
            b"true" if process.closed else b"false",
            # An extension: what is gone is said, not left to be noticed by a jump of the numbers.
            b',"gap":{"first":%d,"last":%d}' % gap if gap else b"",
        )
    )


@method("process/write", parameters.Write)
def write(client: ClientConnection, params: parameters.Write) -> Reply:
    """Write to stdin, in order and once for each write id."""
    if not params.write_id:
        raise RpcError(INVALID_PARAMS, "writeId must not be empty")
    try:
        data = b64decode(params.chunk, validate=True)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, str(error)) from None
    process = client.find(params.process_id)
    if process is None:
        return b'{"status":"unknownProcess"}'
    if (known := _known_write(process, params.write_id)) is not None:
        return known
    if not process.accepts_input:
        return b'{"status":"stdinClosed"}'
    waiter = process.write(data, write_id=params.write_id, until_written=params.until_written)
    return b'{"status":"accepted"}' if waiter is None else _written(waiter)


def _known_write(process: HostedProcess, write_id: str) -> bytes | None:
    state = process.writes.state(write_id)
    if state is WriteState.UNCERTAIN:
        raise RpcError(INTERNAL_ERROR, "the server was killed during this write; how much of it arrived is not known")
    return b'{"status":"accepted"}' if state is WriteState.TAKEN else None


async def _written(waiter: asyncio.Future[bool]) -> bytes:
    # Not cancelled with the request: what was queued is written even if the client goes away.
    return b'{"status":"accepted"}' if await asyncio.shield(waiter) else b'{"status":"stdinClosed"}'


@method("process/closeStdin", parameters.OneProcess)
def close_stdin(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: end of file on stdin."""
    client.require(params.process_id).close_stdin()
    return _EMPTY


@method("process/signal", parameters.Signal)
def send_signal(client: ClientConnection, params: parameters.Signal) -> Reply:
    """Send a signal to the process group; a process that is gone is no error."""
    if isinstance(params.signal, int):
        if not 0 < params.signal < signal.NSIG:
            raise RpcError(INVALID_PARAMS, f"no such signal: {params.signal}")
        number = params.signal
    elif params.signal == "interrupt":
        number = signal.SIGINT
    else:
        raise RpcError(INVALID_PARAMS, f"unknown variant `{params.signal}`, expected `interrupt`")
    process = client.find(params.process_id)
    if process is not None and not process.closed:
        identity = f"signal {params.signal_id}"
        if params.signal_id is None or process.writes.state(identity) is WriteState.NEW:
            if params.signal_id is not None:
                process.writes.begin(identity)
            process.signal_group(number)
    return _EMPTY


@method("process/terminate", parameters.Terminate)
def terminate(client: ClientConnection, params: parameters.Terminate) -> Reply:
    """Kill the process group at once; as an extension, end the whole tree with grace."""
    process = client.find(params.process_id)
    if process is None:
        return b'{"running":false}'
    if params.tree:
        return _terminate_tree(process, params.grace_ms / 1000)
    return b'{"running":true}' if process.kill_group() else b'{"running":false}'


async def _terminate_tree(process: HostedProcess, grace: float) -> bytes:
    was_running = process.running
    tree = process.tree
    ended: list[OsProcess] = []
    survivors: list[OsProcess] = []
    if tree is not None:
        process.terminating = True
        ending = await end_tree(tree, grace=grace)
        ended, survivors = ending.ended, ending.survivors
    return encode_json(
        {
            "running": was_running,
            "ended": [_member(one) for one in ended],
            "survivors": [_member(one) for one in survivors],
        }
    )


# Extensions


def _member(process: OsProcess) -> dict[str, Any]:
    return {"pid": process.pid, "command": process.command}


def describe(process: HostedProcess) -> dict[str, Any]:
    """A process as the extensions show it."""
    if process.lost:
        state = "lost"
    elif process.closed:
        state = "closed"
    else:
        state = "running" if process.exit is None else "exited"
    code, number = process.exit or (None, 0)
    return {
        "processId": process.process_id,
        "state": state,
        "pid": process.pid,
        "lastSeq": process.log.last_seq,
        "exitCode": code,
        "signal": number or None,
        "stalled": process.stalled,
    }


@method("process/status", parameters.OneProcess)
def status(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: a process as the host sees it, null if there is none."""
    process = client.find(params.process_id)
    return encode_json({"status": None if process is None else describe(process)})


@method("process/list", None)
def list_processes(client: ClientConnection, params: None) -> Reply:
    """Extension: the processes of the host's namespace."""
    return encode_json({"processes": [describe(process) for process in client.host.persistent.values()]})


@method("process/members", parameters.OneProcess)
def members(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: what is alive of a process's tree."""
    tree = client.require(params.process_id).tree
    return b'{"members":[]}' if tree is None else _members(tree)


async def _members(tree: Tree) -> bytes:
    found = await asyncio.to_thread(tree.members)
    return encode_json({"members": [_member(process) for process in found]})


@method("process/subscribe", parameters.Subscribe)
def subscribe(client: ClientConnection, params: parameters.Subscribe) -> Reply:
    """Extension: push the log from a cursor on."""
    process = client.require(params.process_id)
    if params.subscription_id in client.subscriptions:
        raise RpcError(INVALID_REQUEST, f"subscription {params.subscription_id} exists already")
    subscription = Subscription(
        client,
        process,
        params.after_seq,
        identity=params.subscription_id,
        window=params.window,
        follow=params.follow,
    )
    client.subscriptions[params.subscription_id] = subscription
    asyncio.get_running_loop().call_soon(subscription.pump)
    return encode_json({"status": describe(process)})


@method("process/unsubscribe", parameters.Unsubscribe)
def unsubscribe(client: ClientConnection, params: parameters.Unsubscribe) -> Reply:
    """Extension: end a subscription."""
    subscription = client.subscriptions.pop(params.subscription_id, None)
    if subscription is not None:
        subscription.stop()
    return _EMPTY


assert set(_STREAM_NAMES) | {EntryKind.SIGNAL} == set(STREAM_FILES)
