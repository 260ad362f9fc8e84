"""The handshake of a connection (``initialize``), and what a client may know of the machine (``environment/*``)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from holdfast.host import parameters
from holdfast.host.environment import environment_info
from holdfast.host.methods import Reply, method
from holdfast.jsonrpc.messages import INVALID_REQUEST, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Version of the extensions, announced in the result of ``initialize``.
EXTENSION_VERSION: Final = 1

_log = logging.getLogger(__name__)


@method("initialize", parameters.Initialize)
def initialize(client: ClientConnection, params: parameters.Initialize) -> Reply:
    """Open a session, or resume one; the newest connection that resumes it wins."""
    if client.session is not None:
        raise RpcError(INVALID_REQUEST, "initialize may only be sent once per connection")
    host = client.host
    if params.resume_session_id is None:
        session = host.sessions.open()
        client.attach(session)
        _log.info("%r opened session %s", params.client_name, session.session_id)
    else:
        resumed = host.sessions.find(params.resume_session_id)
        if resumed is None:
            raise RpcError(INVALID_REQUEST, f"unknown session id {params.resume_session_id}")
        session = resumed
        if session.connection is not None:
            session.connection.taken_over()
        client.attach(session)
        _log.info("%r resumed session %s", params.client_name, session.session_id)
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
