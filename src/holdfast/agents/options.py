"""Values of a request that become command-line arguments: checked before anything starts."""

from __future__ import annotations

import re
import uuid

from holdfast.agents.adapter import Agent, Approvals, Sandbox, UnsupportedOption, Work

#: A model name is one word that cannot be mistaken for an option; brackets and @ occur in real ones.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,199}")
_EFFORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def check(work: Work, agent: Agent) -> None:
    """Refuse what *agent* (or any agent) cannot do, and what would be read as something else than it is.

    :raises UnsupportedOption: naming the option
    """
    wishes = (
        (work.fork is not None, agent.can_fork, "begin with a copy of a thread", "--fork"),
        (work.review is not None, agent.can_review, "review by itself", "the native review"),
        (work.approvals is not Approvals.DECLINE, agent.can_ask, "ask whether it may do something", "--approvals"),
        (work.network, agent.can_open_network, "be given the network alone", "--network"),
        (work.ephemeral, agent.can_forget, "leave its thread unrecorded", "--ephemeral"),
    )
    for wanted, able, what, option in wishes:
        if wanted and not able:
            raise UnsupportedOption(
                f"{agent.title} ({agent.drive}) cannot {what}.", hint=f"Leave {option} out, or choose another --drive."
            )
    if work.network and work.sandbox is Sandbox.READ_ONLY:
        raise UnsupportedOption(
            "The network can only be opened in the workspace-write sandbox.", hint="Add --write, or leave it out."
        )
    if work.model is not None and not _MODEL.fullmatch(work.model):
        raise UnsupportedOption(
            f"{work.model!r} cannot be the name of a model.",
            hint=f"Give the model's name as {agent.title} knows it, without blanks.",
        )
    if work.effort is not None and not _EFFORT.fullmatch(work.effort):
        raise UnsupportedOption(
            f"{work.effort!r} cannot be an effort.", hint="Use one word, such as low, medium or high."
        )
    if work.add_dirs and work.sandbox is Sandbox.READ_ONLY:
        raise UnsupportedOption(
            "Additional directories to write to make no sense with a read-only sandbox.",
            hint="Leave them out, or ask for the workspace-write sandbox.",
        )


def require_uuid(thread_id: str, agent: str) -> str:
    """*thread_id* in canonical spelling, if it is a UUID.

    Codex takes anything else for a thread *name* and silently starts a fresh thread when there is none; Claude Code
    opens a search.  Neither is what somebody who resumes a thread wants.

    :raises UnsupportedOption: it is not
    """
    try:
        return str(uuid.UUID(thread_id))
    except ValueError:
        raise UnsupportedOption(
            f"{thread_id!r} is not a thread of {agent}: its threads are named by UUID.",
            hint="Use the thread id that the earlier result reports.",
        ) from None
