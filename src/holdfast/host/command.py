"""The ``exec-server`` command without a command-line library, because its start is on somebody's critical path."""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.directories import private_directory, socket_path, state_directory
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.jsonrpc.connection import Connection

SOCKET_NAME: Final = "host.sock"


class RefusedAddress(InvalidRequest):
    """The host does not listen there."""

    code = "refused_address"


def build_parser() -> argparse.ArgumentParser:
    """The options of ``exec-server``."""
    parser = argparse.ArgumentParser(
        prog="holdfast exec-server",
        description="Host processes for clients of the exec-server protocol. Prints its URL when it is ready.",
    )
    parser.add_argument(
        "--listen",
        metavar="URL",
        default="ws://127.0.0.1:0",
        help="ws://IP:PORT (port 0: any), unix://PATH, unix:// (in the state directory) or stdio",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", type=Path, help="where logs are kept; without it they go when the host ends"
    )
    parser.add_argument(
        "--idle-exit",
        metavar="SECONDS",
        type=float,
        help="end when there has been neither a connection nor a live process for so long",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        _prepare_process()
        with _Directory(options.state_dir) as directory:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(options.listen, directory, options.idle_exit))
    except HoldfastError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _prepare_process() -> None:
    """Inherit nothing to children, and use all descriptors that the machine allows."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                # The descriptor of the listing itself, closed meanwhile.
                pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Directory:
    """The state directory: the given one, or a private one that is removed in the end."""

    def __init__(self, given: Path | None) -> None:
        self._given = given
        self._own: Path | None = None

    def __enter__(self) -> Path:
        if self._given is not None:
            return private_directory(self._given.absolute())
        hosts = private_directory(private_directory(state_directory()) / "hosts")
        self._own = Path(tempfile.mkdtemp(prefix="host-", dir=hosts))
        return self._own

    def __exit__(self, *exc: object) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _unix_path(listen: str, directory: Path) -> Path:
    given = listen.removeprefix("unix://")
    return Path(given).absolute() if given else socket_path(directory, SOCKET_NAME)


def _bind_tcp(address: str) -> socket.socket:
    host, _, port = address.rstrip("/").rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise RefusedAddress(
            f"ws://{address} is not an address to listen on.", hint="Use ws://IP:PORT, for example ws://127.0.0.1:0."
        ) from None
    if not ip.is_loopback:
        raise RefusedAddress(
            f"Listening on {ip} without authentication would give this account to the network.",
            hint="Listen on 127.0.0.1 and forward the port, for example with ssh -L.",
        )
    listener = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((str(ip), number))
    listener.listen(512)
    listener.setblocking(False)
    return listener


async def _serve(listen: str, directory: Path, idle_exit: float | None) -> int:
    from holdfast.host.dispatch import ClientConnection
    from holdfast.host.server import ProcessHost

    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def ask_to_stop() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    host = ProcessHost(directory)
    host.recover()

    def accept(connection: Connection) -> ClientConnection:
        return ClientConnection(host, connection)

    server: asyncio.Server | None = None
    bound: Path | None = None
    if listen in ("stdio", "stdio://"):
        from holdfast.jsonrpc.lines import serve_stdio

        class _Ending(ClientConnection):
            def connection_lost(self) -> None:
                super().connection_lost()
                ask_to_stop()

        await serve_stdio(sys.stdin.buffer, sys.stdout.buffer, lambda connection: _Ending(host, connection))
    elif listen.startswith("unix://"):
        from holdfast.jsonrpc.lines import bind_unix, serve_unix

        bound = _unix_path(listen, directory)
        server = await serve_unix(bind_unix(bound), accept)
        _announce(f"unix://{bound}")
    elif listen.startswith("ws://"):
        from holdfast.jsonrpc.websocket import serve_websocket

        listener = _bind_tcp(listen.removeprefix("ws://"))
        server = await serve_websocket(listener, accept)
        name = listener.getsockname()
        _announce(f"ws://[{name[0]}]:{name[1]}" if ":" in name[0] else f"ws://{name[0]}:{name[1]}")
    else:
        raise RefusedAddress(f"Cannot listen on {listen}.", hint="Use ws://IP:PORT, unix://PATH or stdio.")
    # What exists now lives as long as the host: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    if idle_exit is not None:
        loop.call_later(idle_exit, _leave_when_idle, host, idle_exit, ask_to_stop)
    await stop
    if server is not None:
        server.close()
    await host.stop()
    if bound is not None:
        bound.unlink(missing_ok=True)
    return 0


def _leave_when_idle(host: object, limit: float, leave: object) -> None:
    from holdfast.host.server import ProcessHost

    assert isinstance(host, ProcessHost) and callable(leave)
    if host.idle_for >= limit:
        leave()
    else:
        asyncio.get_running_loop().call_later(max(0.05, limit - host.idle_for), _leave_when_idle, host, limit, leave)


def _announce(url: str) -> None:
    """The one line on standard output: the host is ready, and this is where."""
    sys.stdout.write(url + "\n")
    sys.stdout.flush()
