"""``process/resize``: the size of a process's terminal.  An extension; the reference server has 24 by 80 for ever."""

from __future__ import annotations

from typing import Annotated

import msgspec

from holdfast.host.dispatch import ClientConnection
from holdfast.host.methods import Reply, method
from holdfast.jsonrpc.messages import INVALID_REQUEST, RpcError

#: What the kernel keeps of each is a 16-bit number.
Cells = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Resize(msgspec.Struct, rename="camel"):
    """Parameters: columns and rows in characters."""

    process_id: str
    columns: Cells
    rows: Cells


@method("process/resize", Resize)
def resize(client: ClientConnection, params: Resize) -> Reply:
    """Change the size; a process without a terminal has none to change."""
    process = client.require(params.process_id)
    if not process.has_terminal:
        raise RpcError(INVALID_REQUEST, f"process {params.process_id} has no terminal")
    process.resize(params.columns, params.rows)
    return b"{}"
