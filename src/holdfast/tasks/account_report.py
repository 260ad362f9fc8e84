"""What can be asked about accounts, and the answers."""

from __future__ import annotations

import msgspec

from holdfast.drivers.app_server.calls import Account, RateLimits


class Consumption(msgspec.Struct, kw_only=True):
    """What the finished tasks of one agent used; tasks that did not tell are counted in ``unknown``."""

    agent: str
    tasks: int = 0
    unknown: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent itself says of its account; ``reason`` says why a part is not known."""

    account: Account | None = None
    limits: RateLimits | None = None
    reason: str | None = None


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/usage`` and ``holdfast usage --json``."""

    #: UTC seconds since the epoch: tasks that were finished since then.
    since: float
    consumption: list[Consumption]
    #: By agent; only of those that were asked about.
    allowances: dict[str, Allowance]


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of one agent that is a thread of another now."""

    agent: str
    thread_id: str
    source: str


class UsageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/usage``."""

    #: How far back tasks are counted.
    seconds: float
    #: Whose allowance is asked for.
    agents: list[str]
    environment: dict[str, str]


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/transfer``."""

    source: str
    cwd: str
    environment: dict[str, str]
