"""The ``exec-server`` command: what a server does before it serves.

It runs in the process that the keeper forked (:mod:`holdfast.host.entry`); the first server makes what the host has for
good, and those after it get that from the keeper.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from holdfast.directories import open_private, private_directory, remove_directory, state_directory
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.host.address import RefusedAddress, bind, tcp_address, unix_path
from holdfast.host.ending import ENDING
from holdfast.host.entry import SUCCEED, prepare_process
from holdfast.host.estate import Estate, bequeath, revoke
from holdfast.host.imports import import_leanly
from holdfast.host.options import HelpWanted, Options, RefusedOption, read_options
from holdfast.host.settings import Access, Settings

if TYPE_CHECKING:
    from holdfast.host.keeping import KeeperLink
    from holdfast.host.server import ProcessHost

#: How a keeper is started: no file in the directory in which the host was started is taken for a module.
_PYTHON: Final = (sys.executable, "-P")
#: As if SIGPIPE had ended it.
_PIPE_CLOSED: Final = 128 + signal.SIGPIPE


class StateDirectoryInUse(InvalidRequest):
    """Another host has this state directory."""

    code = "state_directory_in_use"


def run_server(
    given: list[str], channel: int, estate: Estate | None, *, name: str, child_descriptors: int, announce: bool
) -> int:
    """Be a server of the host that the options *given* ask for; returns the exit status.

    *channel* leads to the keeper; *estate* is None for the first server, which makes one.  A state directory that goes
    when the host ends is named by *name*; *child_descriptors* is how many descriptors a child may have.  With
    *announce* the server prints where it listens.
    """
    import_leanly()
    from holdfast.host.keeping import KeeperLink

    link = KeeperLink(socket.socket(fileno=channel))
    if estate is None:
        try:
            estate = _begin(read_options(given), link, name, child_descriptors)
        except HelpWanted as wanted:
            return _help(wanted.text)
        except (HoldfastError, OSError) as error:
            return _complain(error)
    return _serve(given, link, estate, announce)


def checked_options(given: list[str]) -> Options:
    """The options in the words *given*, if a host could be started with them; nothing is made for that.

    :raises InvalidRequest: it would refuse them
    """
    try:
        options = read_options(given)
    except HelpWanted:
        raise RefusedOption("These options only ask for help.", hint="See: holdfast exec-server --help") from None
    settings = _settings(options, 0)
    if options.listen.startswith("unix://"):
        unix_path(options.listen)
    elif not options.listen.startswith("stdio"):
        tcp_address(options.listen, authenticated=settings.access is not None)
    return options


def _begin(options: Options, link: KeeperLink, name: str, child_descriptors: int) -> Estate:
    """Make what the host has for good, and let the keeper hold it."""
    settings = _settings(options, child_descriptors)
    # Between the first thing that is made and the moment when somebody else knows of it, only SIGKILL ends this.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        directory, own = _directory(options.state_dir, name)
        lock = lock_directory(directory)
        try:
            listener, url = bind(options.listen, directory, authenticated=settings.access is not None)
            estate = Estate(listener.detach(), lock, url, str(directory), own, settings.words())
            estate.sign(os.getppid())
            link.entrust(estate)
        except BaseException:
            if own:
                remove_directory(directory)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return estate


def _serve(given: list[str], link: KeeperLink, estate: Estate, announce: bool) -> int:
    from holdfast.host.serving import Service, serve

    settings = Settings.from_words(estate.settings)
    listener = socket.socket(fileno=estate.listener)
    listener.setblocking(False)

    def succeed(host: ProcessHost) -> NoReturn:
        _try_to_load()
        held = host.holdings()
        will = bequeath(estate, held)
        try:
            os.execv(sys.executable, [*_PYTHON, "-m", "holdfast.host", *given, f"{SUCCEED}{will}"])
        except OSError:
            revoke(estate, held, will)
            raise

    _configure_log(settings)
    service = Service(
        directory=Path(estate.directory),
        listener=listener,
        url=estate.url,
        idle_exit=settings.idle_exit,
        retain_bytes=settings.retain_bytes,
        child_descriptors=settings.child_descriptors,
        authorize=settings.access and settings.access.authorize(),
        root=settings.root,
    )
    try:
        status = serve(service, link, succeed, announce=announce)
    except HoldfastError as error:
        status = _complain(error)
    if not link.kept:
        # The keeper, which would do it, was killed meanwhile.
        estate.clean_up()
    return status


def _try_to_load() -> None:
    """See whether another process could load the host, as after an upgrade that is not complete it could not.

    :raises OSError: it could not; standard error says why
    """
    pid = os.posix_spawn(
        sys.executable, [*_PYTHON, "-c", "import holdfast.host.command, holdfast.host.serving"], os.environ
    )
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(errno.ENOEXEC, "its program cannot be loaded any more")


def serve_stdio(given: list[str]) -> int | None:
    """Serve standard input and output without a keeper; None if the options *given* ask for another address."""
    import_leanly()
    try:
        options = read_options(given)
        if options.listen not in ("stdio", "stdio://"):
            return None
        settings = _settings(options, prepare_process())
        directory, own = _directory(options.state_dir, os.urandom(8).hex())
        lock_directory(directory)
    except HelpWanted as wanted:
        return _help(wanted.text)
    except (HoldfastError, OSError) as error:
        return _complain(error)
    from holdfast.host.keeping import KeeperLink
    from holdfast.host.serving import Service, serve

    _configure_log(settings)
    try:
        service = Service(
            directory=directory,
            listener=None,
            url="",
            idle_exit=settings.idle_exit,
            retain_bytes=settings.retain_bytes,
            child_descriptors=settings.child_descriptors,
            authorize=None,
            root=settings.root,
        )
        return serve(service, KeeperLink(None), None, announce=False)
    except HoldfastError as error:
        return _complain(error)
    finally:
        if own:
            remove_directory(directory)


def _complain(error: HoldfastError | OSError) -> int:
    """Say what happened and what to do next; returns the exit status."""
    lines = [f"Error: {error}"]
    if isinstance(error, HoldfastError) and error.hint:
        lines.append(error.hint)
    # None is closed, and would mean standard output.
    if sys.stderr is not None:
        try:
            print("\n".join(lines), file=sys.stderr, flush=True)
        except OSError:
            # Nobody can be told; the exit status is the same.
            pass
    return error.exit_code if isinstance(error, HoldfastError) else 1


def _help(text: str) -> int:
    """Print the help that was asked for; returns the exit status."""
    from holdfast.host.serving import StandardStreamFailed

    if sys.stdout is None:
        return _complain(StandardStreamFailed(OSError(errno.EBADF, os.strerror(errno.EBADF))))
    try:
        # Not into the buffer of sys.stdout: leaving would try once more to write what could not be written.
        with open(sys.stdout.fileno(), "w", closefd=False) as output:
            output.write(text)
    except BrokenPipeError:
        return _PIPE_CLOSED
    except OSError as error:
        return _complain(StandardStreamFailed(error))
    return 0


def _settings(options: Options, child_descriptors: int) -> Settings:
    """What the options decide.

    :raises InvalidRequest: they cannot be kept
    """
    if options.remote is not None:
        raise RefusedOption(
            "--remote is not possible here: its registry is OpenAI's, and only codex can sign in to it.",
            hint="Listen on this machine and bring the port to the other one, for example with ssh -R.",
        )
    if options.root is not None:
        try:
            os.close(os.open(options.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise RefusedOption(
                f"--root {options.root} cannot be used: {error.strerror}.", hint="Give an existing directory."
            ) from error
    return Settings(
        retain_bytes=options.retain_bytes,
        log_format=options.log_format,
        log_level=options.log_level,
        child_descriptors=child_descriptors,
        idle_exit=options.idle_exit,
        root=None if options.root is None else os.path.realpath(options.root),
        access=_access(options),
    )


def _access(options: Options) -> Access | None:
    """What ``--ws-auth`` asks for; None if it was not given."""
    if options.ws_auth is None:
        guards = (
            options.ws_token_file,
            options.ws_token_sha256,
            options.ws_shared_secret_file,
            options.ws_issuer,
            options.ws_audience,
            options.ws_max_clock_skew_seconds,
        )
        if any(guard is not None for guard in guards):
            raise RefusedAddress("What --ws-auth needs would protect nothing without it.", hint="Add --ws-auth.")
        return None
    from holdfast.host.authentication import CLOCK_SKEW, capability_digest, expected_name, shared_secret

    if not options.listen.startswith("ws://"):
        raise RefusedAddress("--ws-auth is for WebSocket; others are guarded by the file system.", hint="Leave it out.")
    signed = options.ws_auth == "signed-bearer-token"
    others = (
        (options.ws_token_file, options.ws_token_sha256)
        if signed
        else (
            options.ws_shared_secret_file,
            options.ws_issuer,
            options.ws_audience,
            options.ws_max_clock_skew_seconds,
        )
    )
    if any(value is not None for value in others):
        # What is ignored would look as if it guarded something.
        raise RefusedAddress(
            f"--ws-auth {options.ws_auth} has no use for the options of the other kind of token.",
            hint="Leave them out, or change --ws-auth.",
        )
    if not signed:
        return Access(token_sha256=capability_digest(file=options.ws_token_file, sha256=options.ws_token_sha256))
    if options.ws_shared_secret_file is None:
        raise RefusedAddress(
            "--ws-auth signed-bearer-token needs --ws-shared-secret-file.",
            hint="Write a secret with: head -c 32 /dev/urandom | base64 > FILE",
        )
    return Access(
        secret=shared_secret(options.ws_shared_secret_file),
        issuer=expected_name("--ws-issuer", options.ws_issuer),
        audience=expected_name("--ws-audience", options.ws_audience),
        clock_skew=CLOCK_SKEW if options.ws_max_clock_skew_seconds is None else options.ws_max_clock_skew_seconds,
    )


def _configure_log(settings: Settings) -> None:
    import logging

    from holdfast.host.log_lines import configure

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    configure(level=level, log_format=settings.log_format)


def _directory(given: Path | None, name: str) -> tuple[Path, bool]:
    """The state directory, and whether it is one that is removed in the end."""
    if given is not None:
        return private_directory(given.absolute()), False
    hosts = private_directory(private_directory(state_directory()) / "hosts")
    return private_directory(hosts / f"host-{name}"), True


def lock_directory(directory: Path) -> int:
    """Make this process and its children the only host of *directory*; returns the descriptor that holds the lock.

    :raises StateDirectoryInUse: another one has it
    :raises UnusableDirectory: it cannot be made, or locked
    """
    private_directory(directory)
    lock = open_private(directory / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateDirectoryInUse(
            f"Another host is running with the state directory {directory}.",
            hint="Connect to that one, or choose another --state-dir.",
        ) from None
    return lock
