"""The ``exec-server`` command: no command-line library and no event loop before they are needed.

The process that is started becomes the keeper and forks the server; with stdio, where a connection cannot outlive the
server, it is the server itself.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from holdfast.directories import private_directory, state_directory
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.host.address import RefusedAddress, bind
from holdfast.host.keeper import Held, Keeper

if TYPE_CHECKING:
    from holdfast.host.authentication import Authorize
    from holdfast.host.server import ProcessHost

#: The option by which a server becomes the keeper after the keeper's death; its value is a descriptor.
_SUCCEED: Final = "--succeed-keeper"


class StateDirectoryInUse(InvalidRequest):
    """Another host has this state directory."""

    code = "state_directory_in_use"


class RefusedOption(InvalidRequest):
    """An option of the reference implementation that only it can keep."""

    code = "refused_option"


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
    parser.add_argument(
        "--retain-bytes",
        metavar="N",
        type=int,
        default=20 * 1024**3,
        help="output of closed processes to keep, in bytes (default 20 GiB); beyond it the oldest goes",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        help="let fs/* touch nothing outside of DIR (processes are not limited by it)",
    )
    parser.add_argument(
        "--concurrent-requests",
        metavar="N",
        type=int,
        help="understood because codex has it; here no request waits for another one anyway",
    )
    parser.add_argument("--remote", metavar="URL", help="refused: it takes OpenAI's registry, and a login there")
    parser.add_argument("--environment-id", help=argparse.SUPPRESS)
    parser.add_argument("--remote-transport", help=argparse.SUPPRESS)
    parser.add_argument(
        "--log-format", choices=["text", "json"], default="text", help="lines for people, or JSON objects"
    )
    access = parser.add_argument_group("authentication of WebSocket clients (required off loopback)")
    access.add_argument("--ws-auth", choices=["capability-token", "signed-bearer-token"])
    access.add_argument("--ws-token-file", metavar="FILE", type=Path, help="the capability token")
    access.add_argument("--ws-token-sha256", metavar="HEX", help="the digest of the capability token")
    access.add_argument(
        "--ws-shared-secret-file", metavar="FILE", type=Path, help="the secret of signed tokens (HS256)"
    )
    access.add_argument("--ws-issuer", metavar="TEXT", help="required issuer of signed tokens")
    access.add_argument("--ws-audience", metavar="TEXT", help="required audience of signed tokens")
    access.add_argument("--ws-max-clock-skew-seconds", metavar="SECONDS", type=float, default=30.0)
    parser.add_argument(_SUCCEED, type=int, help=argparse.SUPPRESS)
    return parser


class Inheritance:
    """What passes from a server to the keeper that it becomes: descriptors and their meaning, across an ``exec``."""

    def __init__(self, listener: socket.socket, url: str, lock: int, directory: Path, own_directory: bool) -> None:
        self.listener = listener
        self.url = url
        self.lock = lock
        self.directory = directory
        #: Whether the directory is removed in the end.
        self.own_directory = own_directory

    def bequeath(self, held: Held) -> int:
        """Write everything to an inheritable descriptor; returns it."""
        will = {
            "listener": self.listener.fileno(),
            "url": self.url,
            "lock": self.lock,
            "directory": str(self.directory),
            "ownDirectory": self.own_directory,
            "held": held,
        }
        memory = os.memfd_create("holdfast-keeper", 0)
        os.write(memory, json.dumps(will).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        for descriptor in (
            memory,
            self.lock,
            self.listener.fileno(),
            *(d for ds in held.values() for d in ds.values()),
        ):
            os.set_inheritable(descriptor, True)
        return memory

    @classmethod
    def inherit(cls, memory: int) -> tuple[Inheritance, Held]:
        """Read what :meth:`bequeath` wrote."""
        with os.fdopen(memory, "rb") as file:
            will = json.loads(file.read())
        listener = socket.socket(fileno=will["listener"])
        listener.setblocking(False)
        return cls(listener, will["url"], will["lock"], Path(will["directory"]), will["ownDirectory"]), will["held"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(given)
    try:
        if options.remote is not None:
            raise RefusedOption(
                "--remote is not possible here: its registry is OpenAI's, and only codex can sign in to it.",
                hint="Listen on this machine and bring the port to the other one, for example with ssh -R.",
            )
        if options.root is not None and not options.root.is_dir():
            raise RefusedOption(f"--root {options.root} is not a directory.", hint="Give an existing directory.")
        authorize = _authorization(options)
        if options.succeed_keeper is not None:
            inheritance, held = Inheritance.inherit(options.succeed_keeper)
            _prepare_process()
            _sign(inheritance.lock)
            return _keep(options, given, inheritance, held, authorize)
        _prepare_process()
        directory, own = _directory(options.state_dir)
        lock = lock_directory(directory)
        if options.listen in ("stdio", "stdio://"):
            return _serve_stdio(options, directory, own)
        listener, url = bind(options.listen, directory, authenticated=authorize is not None)
        return _keep(options, given, Inheritance(listener, url, lock, directory, own), None, authorize)
    except HoldfastError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _keep(
    options: argparse.Namespace,
    given: list[str],
    inheritance: Inheritance,
    held: Held | None,
    authorize: Authorize | None,
) -> int:
    def serve(channel: socket.socket, first: bool) -> int:
        from holdfast.host.keeping import KeeperLink
        from holdfast.host.serving import Service, serve

        def succeed(host: ProcessHost) -> NoReturn:
            memory = inheritance.bequeath(host.holdings())
            remaining = [word for word in given if not word.startswith(_SUCCEED)]
            os.execv(sys.executable, [sys.executable, "-m", "holdfast.host", *remaining, f"{_SUCCEED}={memory}"])

        _configure_log(options)
        service = Service(
            directory=inheritance.directory,
            listener=inheritance.listener,
            url=inheritance.url,
            idle_exit=options.idle_exit,
            retain_bytes=options.retain_bytes,
            authorize=authorize,
            root=_root(options),
        )
        return serve(service, KeeperLink(channel), succeed, announce=first)

    status = Keeper(serve, held).run()
    _clean_up(inheritance)
    return status


def _authorization(options: argparse.Namespace) -> Authorize | None:
    """What ``--ws-auth`` asks for; None if it was not given."""
    if options.ws_auth is None:
        if any((options.ws_token_file, options.ws_token_sha256, options.ws_shared_secret_file)):
            raise RefusedAddress("A token without --ws-auth would protect nothing.", hint="Add --ws-auth.")
        return None
    from holdfast.host.authentication import capability_token, signed_bearer_token

    if not options.listen.startswith("ws://"):
        raise RefusedAddress("--ws-auth is for WebSocket; others are guarded by the file system.", hint="Leave it out.")
    if options.ws_auth == "capability-token":
        return capability_token(file=options.ws_token_file, sha256=options.ws_token_sha256)
    if options.ws_shared_secret_file is None:
        raise RefusedAddress("--ws-auth signed-bearer-token needs --ws-shared-secret-file.")
    return signed_bearer_token(
        secret_file=options.ws_shared_secret_file,
        issuer=options.ws_issuer,
        audience=options.ws_audience,
        clock_skew=options.ws_max_clock_skew_seconds,
    )


def _serve_stdio(options: argparse.Namespace, directory: Path, own: bool) -> int:
    from holdfast.host.keeping import KeeperLink
    from holdfast.host.serving import Service, serve

    _configure_log(options)
    try:
        service = Service(
            directory=directory,
            listener=None,
            url="",
            idle_exit=options.idle_exit,
            retain_bytes=options.retain_bytes,
            authorize=None,
            root=_root(options),
        )
        return serve(service, KeeperLink(None), None, announce=False)
    finally:
        if own:
            shutil.rmtree(directory, ignore_errors=True)


def _root(options: argparse.Namespace) -> str | None:
    return None if options.root is None else os.path.realpath(options.root)


def _clean_up(inheritance: Inheritance) -> None:
    if inheritance.url.startswith("unix://"):
        Path(inheritance.url.removeprefix("unix://")).unlink(missing_ok=True)
    if inheritance.own_directory:
        shutil.rmtree(inheritance.directory, ignore_errors=True)


def _configure_log(options: argparse.Namespace) -> None:
    import logging

    from holdfast.host.log_lines import configure

    configure(level=logging.WARNING, log_format=options.log_format)


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


def _directory(given: Path | None) -> tuple[Path, bool]:
    """The state directory, and whether it is one that is removed in the end."""
    if given is not None:
        return private_directory(given.absolute()), False
    hosts = private_directory(private_directory(state_directory()) / "hosts")
    return private_directory(hosts / f"host-{secrets.token_hex(8)}"), True


def lock_directory(directory: Path) -> int:
    """Make this process and its children the only host of *directory*; returns the descriptor that holds the lock.

    :raises StateDirectoryInUse: another one has it
    """
    private_directory(directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateDirectoryInUse(
            f"Another host is running with the state directory {directory}.",
            hint="Connect to that one, or choose another --state-dir.",
        ) from None
    _sign(lock)
    return lock


def _sign(lock: int) -> None:
    """Write into the lock whose it is."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
