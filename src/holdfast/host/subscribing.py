"""Extensions that push a log to the client from a cursor on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.host import parameters
from holdfast.host.methods import Reply, method
from holdfast.host.push import Subscription
from holdfast.host.status import describe
from holdfast.jsonrpc.messages import INVALID_REQUEST, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection


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
    return b"{}"
