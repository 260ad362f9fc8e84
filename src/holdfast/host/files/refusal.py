"""How a failed file operation is told to the client: the protocol's code and the reference implementation's words."""

from __future__ import annotations

import errno
import os
from typing import Final

from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_REQUEST, NOT_FOUND, RpcError

#: Codex CLI 0.169 is linked with musl, whose texts differ from those of glibc in these.
_WORDS: Final = {
    errno.EADDRINUSE: "Address in use",
    errno.EADDRNOTAVAIL: "Address not available",
    errno.EBUSY: "Resource busy",
    errno.ECHILD: "No child process",
    errno.ECONNABORTED: "Connection aborted",
    errno.EDEADLK: "Resource deadlock would occur",
    errno.EDOM: "Domain error",
    errno.EDQUOT: "Quota exceeded",
    errno.EHOSTUNREACH: "Host is unreachable",
    errno.EILSEQ: "Illegal byte sequence",
    errno.EINPROGRESS: "Operation in progress",
    errno.EIO: "I/O error",
    errno.EISCONN: "Socket is connected",
    errno.ELOOP: "Symbolic link loop",
    errno.EMFILE: "No file descriptors available",
    errno.EMSGSIZE: "Message too large",
    errno.ENAMETOOLONG: "Filename too long",
    errno.ENETRESET: "Connection reset by network",
    errno.ENETUNREACH: "Network unreachable",
    errno.ENOMEM: "Out of memory",
    errno.ENOTCONN: "Socket not connected",
    errno.ENOTSOCK: "Not a socket",
    errno.ENOTTY: "Not a tty",
    errno.EOPNOTSUPP: "Not supported",
    errno.EOVERFLOW: "Value too large for data type",
    errno.EOWNERDEAD: "Previous owner died",
    errno.ERANGE: "Result not representable",
    errno.ESHUTDOWN: "Cannot send after socket shutdown",
    errno.ESPIPE: "Invalid seek",
    errno.ETIME: "Device timeout",
    errno.ETIMEDOUT: "Operation timed out",
    errno.EXDEV: "Cross-device link",
}
_CODES: Final = {
    errno.ENOENT: NOT_FOUND,
    errno.EACCES: INVALID_REQUEST,
    errno.EPERM: INVALID_REQUEST,
    errno.EINVAL: INVALID_REQUEST,
}


def describe(error: OSError) -> str:
    """What the operating system said, as the reference implementation says it."""
    number = error.errno or 0
    return f"{_WORDS.get(number) or os.strerror(number)} (os error {number})"


def reason_of(error: OSError | RpcError) -> str:
    """Why a file cannot be had, whoever refused it."""
    return error.message if isinstance(error, RpcError) else describe(error)


def from_os_error(error: OSError) -> RpcError:
    """The protocol's error for an error of the operating system."""
    return RpcError(_CODES.get(error.errno or 0, INTERNAL_ERROR), describe(error))


def refused(message: str) -> RpcError:
    """The request is at fault: wrong kind of file, wrong arguments, or not allowed."""
    return RpcError(INVALID_REQUEST, message)


def missing() -> RpcError:
    """There is no such file."""
    return from_os_error(FileNotFoundError(errno.ENOENT, ""))
