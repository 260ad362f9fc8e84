"""Where a host listens: parsing and binding of ``--listen``, without an event loop."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final

from holdfast.directories import socket_path
from holdfast.errors import InvalidRequest

SOCKET_NAME: Final = "host.sock"
#: Bytes of the longest path that a socket can have: those of ``sun_path`` but the final NUL (unix(7)).
_LONGEST_PATH: Final = 107
_LAST_PORT: Final = 65535


class RefusedAddress(InvalidRequest):
    """The host does not listen there."""

    code = "refused_address"


def host_url(state_directory: Path, *, make: bool = True) -> str:
    """Where the host of *state_directory* listens when it is told ``unix://``; for *make* see :func:`socket_path`."""
    return f"unix://{socket_path(state_directory, SOCKET_NAME, make=make)}"


def bind(listen: str, directory: Path, *, authenticated: bool) -> tuple[socket.socket, str]:
    """Bind the socket that *listen* asks for; returns it, listening, with its URL.

    :raises RefusedAddress: not an address, or one that others could reach without proving who they are
    """
    if listen.startswith("unix://"):
        path = unix_path(listen) or socket_path(directory, SOCKET_NAME)
        return bind_unix(path), f"unix://{path}"
    return _bind_tcp(*tcp_address(listen, authenticated=authenticated))


def unix_path(listen: str) -> Path | None:
    """The path of a ``unix://`` URL; None if it names none.

    :raises RefusedAddress: it is too long for a socket
    """
    given = listen.removeprefix("unix://")
    if not given:
        return None
    path = Path(given).absolute()
    length = len(os.fsencode(path))
    if length > _LONGEST_PATH:
        raise RefusedAddress(
            f"Cannot listen on unix://{path}: a socket's path has {_LONGEST_PATH} bytes at most, this one {length}.",
            hint="Use a shorter path.",
        )
    return path


def bind_unix(path: Path) -> socket.socket:
    """Bind a listening socket at *path*, mode 0600 from its first instant; one that nobody answers is replaced.

    :raises RefusedAddress: something else is there, somebody answers, or the path cannot be bound
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise RefusedAddress(
            f"Cannot listen on unix://{path}: {error.strerror or error}.",
            hint="Use a path in an existing directory of yours.",
        ) from error
    finally:
        os.umask(before)
    listener.listen(128)
    return listener


def _clear(path: Path) -> None:
    """Remove the socket that an earlier run left at *path*, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RefusedAddress(
            f"Cannot listen on unix://{path}: {error.strerror}.", hint="Choose another path."
        ) from error
    if not stat.S_ISSOCK(mode):
        raise RefusedAddress(f"{path} is there already, and is not a socket.", hint="Choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            # Too busy to answer (EAGAIN), or somebody else's: not ours to remove.
            pass
    raise RefusedAddress(f"Somebody answers on {path} already.", hint="Connect to it, or choose another path.")


def tcp_address(listen: str, *, authenticated: bool) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """The address and the port of a ``ws://`` URL.

    :raises RefusedAddress: it is none, or others could reach it without proving who they are
    """
    if not listen.startswith("ws://"):
        raise RefusedAddress(f"Cannot listen on {listen}.", hint="Use ws://IP:PORT, unix://PATH or stdio.")
    host, _, port = listen.removeprefix("ws://").rstrip("/").rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        if not (port.isascii() and port.isdigit()):
            raise ValueError(port)
    except ValueError:
        raise RefusedAddress(
            f"{listen} is not an address to listen on.", hint="Use ws://IP:PORT, for example ws://127.0.0.1:0."
        ) from None
    digits = port.lstrip("0") or "0"
    # Python refuses to read thousands of them.
    if len(digits) > len(str(_LAST_PORT)) or int(digits) > _LAST_PORT:
        raise RefusedAddress(
            f"Cannot listen on {listen}: the last port is {_LAST_PORT}.", hint="Port 0 is any free one."
        )
    if not ip.is_loopback and not authenticated:
        raise RefusedAddress(
            f"Listening on {ip} without authentication would give this account to the network.",
            hint="Add --ws-auth, or listen on 127.0.0.1 and forward the port, for example with ssh -L.",
        )
    return ip, int(digits)


def _bind_tcp(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, number: int) -> tuple[socket.socket, str]:
    listener = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(ip), number))
    except OSError as error:
        listener.close()
        raise RefusedAddress(
            f"Cannot listen on {_url(ip, number)}: {error.strerror}.",
            hint="Use an address of this machine and another port; port 0 is any free one.",
        ) from error
    listener.listen(512)
    listener.setblocking(False)
    return listener, _url(ip, listener.getsockname()[1])


def _url(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"ws://[{ip}]:{port}" if ip.version == 6 else f"ws://{ip}:{port}"
