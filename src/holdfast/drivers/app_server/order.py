"""What the turn program is told to do: one JSON argument, which holds neither the prompt nor any secret."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Review(TypedDict):
    """A review target in the words of the app-server protocol."""

    type: Literal["uncommittedChanges", "baseBranch", "commit", "custom"]
    branch: str | None
    sha: str | None


class Order(TypedDict):
    """One turn, or one review."""

    #: The Holdfast that gives the order, and that understands what its own program says.
    version: str
    #: The Unix socket of the shared server; ``None``: start *command* and talk to it over its pipes.
    socket: str | None
    command: list[str]
    #: The same in every start for the same piece of work: a turn that bears it was begun by us.
    work_id: str
    #: Where the prompt lies; what must be remembered between two starts lies beside it.
    prompt_file: str
    resume: str | None
    fork: str | None
    ephemeral: bool
    thread_name: str | None
    cwd: str
    model: str | None
    effort: str | None
    #: ``read-only``, ``workspace-write`` or ``danger-full-access``.
    sandbox: str
    writable_roots: list[str]
    network: bool
    #: ``decline``, ``ask`` or ``accept``.
    approvals: str
    output_schema: dict[str, Any] | None
    review: Review | None
    #: Seconds that a server that went away is waited for.
    patience: float
    #: Seconds after which a server that does not answer, or says nothing and then does not answer, is taken for dead.
    answer_within: float
