"""The parameters of every method, as the exec-server protocol of Codex CLI 0.169 names them.

Members called ``holdfast`` (and the methods that only we have) are extensions; the result of ``initialize`` announces
them by a member of the same name.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from holdfast.host.environment import EnvironmentPolicy
from holdfast.jsonrpc.messages import ABSENT, INVALID_PARAMS, RpcError

#: A size, an offset or a number that is not negative.
Unsigned = Annotated[int, msgspec.Meta(ge=0)]

#: The longest grace of an ending, in milliseconds: somebody has to remember it and look after it all the while.
GRACE_LIMIT: Final = 600_000


class Parameters(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base: camelCase on the wire, unknown members ignored."""


class NumberParameters(Parameters, frozen=True):
    """Base of those with numbers: the reference implementation has 64 bits for each.

    :raises RpcError: one has more
    """

    def __post_init__(self) -> None:
        # The bound of a type cannot be that large.
        if any(isinstance(value, int) and value >= 2**64 for value in msgspec.structs.astuple(self)):
            raise RpcError(INVALID_PARAMS, "invalid number")


class Initialize(Parameters, frozen=True):
    client_name: str
    resume_session_id: str | None = None


class StartExtension(Parameters, frozen=True):
    """``process/start``: what only Holdfast offers."""

    #: Live in the namespace of the host and outlive the client's session; a repeated start returns the first one.
    persistent: bool = False
    #: A regular file of the host that becomes standard input.
    stdin_file: str | None = None
    #: Make a drop for hook events (persistent processes only); see :mod:`holdfast.host.drop`.
    signal_drop: bool = False


class Start(Parameters, frozen=True):
    process_id: str
    argv: list[str]
    cwd: str
    env: dict[str, str]
    tty: bool
    arg0: str | None = None
    env_policy: EnvironmentPolicy | None = None
    pipe_stdin: bool = False
    # What is raw stays JSON: as objects it would take ten times the memory, and mostly nobody looks at it.
    sandbox: msgspec.Raw = ABSENT
    enforce_managed_network: bool = False
    managed_network: msgspec.Raw = ABSENT
    network_proxy: msgspec.Raw = ABSENT
    credential_providers: msgspec.Raw = ABSENT
    holdfast: StartExtension | None = None


class Read(NumberParameters, frozen=True):
    process_id: str
    after_seq: Unsigned | None = None
    max_bytes: Unsigned | None = None
    wait_ms: Unsigned | None = None


class Write(Parameters, frozen=True):
    process_id: str
    chunk: str
    write_id: str
    #: Extension: answer only when the kernel has taken all of it.
    until_written: bool = False


class Signal(Parameters, frozen=True):
    process_id: str
    #: ``interrupt``, or as an extension the number of any signal.
    signal: str | int
    #: Extension: a repeated signal with the same id is not sent again.
    signal_id: str | None = None


class Terminate(Parameters, frozen=True):
    process_id: str
    #: Extension: end the whole tree, with SIGTERM and this much time before SIGKILL.
    tree: bool = False
    grace_ms: Annotated[int, msgspec.Meta(ge=0, le=GRACE_LIMIT)] = 0


class OneProcess(Parameters, frozen=True):
    """Extension methods about one process: ``status``, ``members``."""

    process_id: str


class CloseStdin(Parameters, frozen=True):
    """Extension: end of file on stdin."""

    process_id: str
    #: That of the ^D which it is at a terminal.
    write_id: str = ""


class Subscribe(Parameters, frozen=True):
    """Extension: push the log from a cursor on, as ``process/records`` notifications."""

    process_id: str
    #: Chosen by the client, unique on its connection.
    subscription_id: int
    after_seq: Unsigned = 0
    #: Go on with records that come later; without it the subscription ends at the present end of the log.
    follow: bool = True
    #: Bytes that may be under way unacknowledged.
    window: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024


class Unsubscribe(Parameters, frozen=True):
    subscription_id: int


class Acknowledge(Parameters, frozen=True):
    """Extension, a notification: the client has consumed this much more of a subscription."""

    subscription_id: int
    bytes: Unsigned
