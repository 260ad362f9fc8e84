"""``process/start``: a process of the client's session, or as an extension one in the namespace of the host."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.host import parameters
from holdfast.host.environment import child_environment
from holdfast.host.hanging import touch
from holdfast.host.methods import Reply, method
from holdfast.host.pending import PendingStart
from holdfast.host.process import HostedProcess
from holdfast.host.server import DuplicateProcess
from holdfast.host.spawn import search_path
from holdfast.host.status import describe
from holdfast.host.uri import ForeignUri, InvalidUri, resolve_dots, uri_to_path
from holdfast.jsonrpc.messages import ABSENT, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: In longer JSON than this there is something.
_SHORT: Final = 64


@method("process/start", parameters.Start)
def start(client: ClientConnection, params: parameters.Start) -> Reply:
    """Start a process."""
    if not params.argv:
        raise RpcError(INVALID_PARAMS, "argv must not be empty")
    if unsupported := _unsupported(params):
        raise RpcError(INVALID_PARAMS, f"this exec-server cannot honour `{unsupported}` and will not ignore it")
    if params.arg0 == "":
        raise RpcError(INVALID_PARAMS, "arg0 must not be empty")
    try:
        cwd = resolve_dots(uri_to_path(params.cwd))
    except ForeignUri as error:
        raise RpcError(INVALID_PARAMS, f"cwd {error.message}") from None
    except InvalidUri as error:
        raise RpcError(INVALID_PARAMS, error.message) from None
    if not params.argv[0]:
        raise RpcError(INTERNAL_ERROR, f"missing program for {'PTY' if params.tty else 'pipe'} spawn")
    env = child_environment(params.env, params.env_policy, terminal=params.tty)
    if not _is_null(params.sandbox):
        return PendingStart(client, params, partial(_start_in_sandbox, client, params, cwd, env))
    if hanging := _hanging(client, _places(params, cwd, env)):
        return PendingStart(client, params, partial(_start_when_they_answer, client, params, cwd, env, hanging))
    return _start(client, params, params.argv[0], _renamed(params), cwd, env)


def _unsupported(params: parameters.Start) -> str | None:
    """What is wanted and not offered, if anything is."""
    if not _is_nothing(params.managed_network):
        return "managedNetwork"
    # Nothing of the others is nothing; of a proxy the reference implementation misses what it has to have.
    if not _is_null(params.network_proxy):
        return "networkProxy"
    if not _is_nothing(params.credential_providers):
        return "credentialProviders"
    return "enforceManagedNetwork" if params.enforce_managed_network else None


def _renamed(params: parameters.Start) -> list[str]:
    """The arguments as the program gets them."""
    return params.argv if params.arg0 is None else [params.arg0, *params.argv[1:]]


def _hanging(client: ClientConnection, places: Iterable[str]) -> list[str]:
    """Those of *places* that may never answer."""
    mounts = client.host.hanging
    return [path for path in places if mounts.lead(path)] if mounts.any() else []


def _places(params: parameters.Start, cwd: str, env: Mapping[str, str]) -> Iterator[str]:
    """Where a start looks."""
    program = params.argv[0]
    stdin_file = None if params.holdfast is None else params.holdfast.stdin_file
    named = [program] if "/" in program else search_path(env)
    for path in (cwd, *named, *([] if stdin_file is None else [stdin_file])):
        yield posixpath.join(cwd, path)


async def _start_when_they_answer(
    client: ClientConnection,
    params: parameters.Start,
    cwd: str,
    env: dict[str, str],
    hanging: list[str],
) -> bytes:
    """Start what may hang: first in a thread, where it keeps nobody else waiting."""
    from holdfast.host.files.service import FileService

    await client.resource(FileService, FileService).in_thread(touch, hanging)
    _require_session(client)
    return _start(client, params, params.argv[0], _renamed(params), cwd, env)


def _require_session(client: ClientConnection) -> None:
    if client.session is None:
        raise RpcError(INVALID_REQUEST, "the session was resumed by another connection")


def _is_null(value: msgspec.Raw) -> bool:
    """Whether it is left out, or said to be nothing."""
    return value is ABSENT or bytes(value) == b"null"


def _is_nothing(value: msgspec.Raw) -> bool:
    """Whether it is absent, null, empty, zero or false."""
    return _is_null(value) or (len(text := bytes(value)) <= _SHORT and not msgspec.json.decode(text))


async def _start_in_sandbox(client: ClientConnection, params: parameters.Start, cwd: str, env: dict[str, str]) -> bytes:
    from holdfast.host.files.service import FileService
    from holdfast.host.sandbox.command_line import command_line
    from holdfast.host.sandbox.handover import HELPERS_ENVIRONMENT

    service = client.resource(FileService, FileService)
    try:
        command = await service.in_thread(command_line, params, cwd, env)
        # What is inside of a sandbox is looked for there, but in its directory this process is first.
        if hanging := _hanging(client, _places(params, cwd, env) if command is None else [cwd]):
            await service.in_thread(touch, hanging)
        _require_session(client)
        if command is None:
            return _start(client, params, params.argv[0], _renamed(params), cwd, env)
        with command.handed_over() as (argv, descriptors):
            return _start(
                client,
                params,
                argv[0],
                argv,
                cwd,
                HELPERS_ENVIRONMENT,
                descriptors=descriptors,
                sandbox_type=b"linuxSeccomp",
            )
    except (OSError, ValueError) as error:
        raise _failed(error, params) from None


def _start(
    client: ClientConnection,
    params: parameters.Start,
    program: str,
    argv: list[str],
    cwd: str,
    env: Mapping[str, str],
    *,
    descriptors: Collection[int] = (),
    sandbox_type: bytes = b"none",
) -> bytes:
    extension = params.holdfast or parameters.StartExtension()
    if extension.persistent:
        existing = client.host.persistent.get(params.process_id)
        if existing is not None:
            return _started(existing, existing=True)
    if extension.stdin_file is not None and (params.tty or params.pipe_stdin):
        # Whoever waits for the one would wait for ever.
        raise RpcError(INVALID_PARAMS, "stdinFile goes with neither tty nor pipeStdin")
    try:
        process = client.host.start(
            None if extension.persistent else client.session,
            params.process_id,
            argv=argv,
            program=program,
            cwd=cwd,
            env=env,
            tty=params.tty,
            pipe_stdin=params.pipe_stdin,
            stdin_file=extension.stdin_file,
            signal_drop=extension.persistent and extension.signal_drop,
            sandboxed=sandbox_type != b"none",
            descriptors=descriptors,
        )
    except DuplicateProcess as error:
        raise RpcError(INVALID_REQUEST, error.message) from None
    except (OSError, ValueError) as error:
        raise _failed_at_terminal(error, params, program, cwd, env) if params.tty else _failed(error, params) from None
    if extension.persistent:
        return _started(process, existing=False)
    client.push(process, 0)
    return b'{"processId":%s,"sandboxType":"%s"}' % (encode_json(params.process_id), sandbox_type)


def _failed(error: OSError | ValueError, params: parameters.Start) -> RpcError:
    if isinstance(error, ValueError):
        # The reference has other words for one in the environment.
        in_command = any("\0" in word for word in (params.arg0 or "", *params.argv))
        return RpcError(
            INTERNAL_ERROR, "nul byte found in provided data" if in_command else "data provided contains a nul byte"
        )
    from holdfast.host.files.refusal import describe as describe_error

    return RpcError(INTERNAL_ERROR, describe_error(error))


def _failed_at_terminal(
    error: OSError | ValueError, params: parameters.Start, program: str, cwd: str, env: Mapping[str, str]
) -> RpcError:
    # Whatever failed in that directory or before it has nothing to do with the program.
    if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError) and error.filename != cwd:
        from holdfast.host.terminal_refusal import why_not

        if (reason := why_not(program, cwd, env)) is not None:
            return RpcError(INTERNAL_ERROR, reason)
    return _failed(error, params)


def _started(process: HostedProcess, *, existing: bool) -> bytes:
    return encode_json(
        {
            "processId": process.process_id,
            "sandboxType": "none",
            "existing": existing,
            "status": describe(process),
        }
    )
