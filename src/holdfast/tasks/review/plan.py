"""From what a caller wants to have reviewed to the task that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.agents.adapter import Agent, ReviewKind, ReviewTarget, UnsupportedOption
from holdfast.errors import InvalidRequest
from holdfast.tasks.review import collection, prompts, pull_request, targets
from holdfast.tasks.review.findings import SCHEMA
from holdfast.tasks.review.repository import Repository
from holdfast.tasks.review.targets import Choice, Target, TargetKind

#: The tag of a task that is a review.
TAG: Final = "holdfast.review"
#: Characters of a label in the tag.
_LABEL: Final = 300

_NATIVE_KINDS: Final = {
    TargetKind.UNCOMMITTED: ReviewKind.UNCOMMITTED,
    TargetKind.BASE: ReviewKind.BASE,
    TargetKind.COMMIT: ReviewKind.COMMIT,
    TargetKind.PULL_REQUEST: ReviewKind.CUSTOM,
    TargetKind.CUSTOM: ReviewKind.CUSTOM,
}


class ReviewTag(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's tag says about the review that it is."""

    target: Target
    #: Done by the agent's own reviewer, not by a prompt of ours.
    native: bool
    adversarial: bool
    #: The root of the repository.
    root: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The task that does a review."""

    #: The root of the repository, where the agent works.
    cwd: Path
    prompt: str
    label: str
    tags: dict[str, str]
    #: What the agent's own reviewer gets, if it is to do it.
    review: ReviewTarget | None
    #: The form of the answer, for an agent that can be held to one.
    output_schema: dict[str, Any] | None
    #: For people: what is reviewed, and how much of it was shown.
    summary: str


def make(
    agent: Agent,
    directory: Path,
    choice: Choice,
    focus: str,
    *,
    adversarial: bool = False,
    native: bool | None = None,
    needs_verdict: bool = False,
) -> Plan:
    """Resolve the target, look at the changes, and write the prompt.

    :param native: have the agent's own reviewer do it; ``None``: where it can, and nothing is asked that it cannot do
    :param needs_verdict: the review must state one, which an agent's own reviewer need not do
    :raises InvalidRequest: one sentence and a hint; nothing was started, and the checkout is as it was
    """
    if choice.custom and not focus.strip():
        raise InvalidRequest("A custom review has no instructions.", hint="Say in the prompt what shall be reviewed.")
    if not directory.is_dir():
        raise InvalidRequest(f"The directory {directory} does not exist.", hint="Give an existing directory.")
    native = _choose(agent, choice, focus, adversarial, native, needs_verdict)
    if choice.custom:
        root, material = directory, None
        target = Target(kind=TargetKind.CUSTOM, label="what the prompt says")
    else:
        repository = Repository(directory)
        root = repository.root
        if choice.pull_request is not None:
            target = pull_request.resolve(repository, choice.pull_request, remote=choice.remote, base=choice.base)
        else:
            target = targets.resolve(repository, choice)
        # For an agent's own reviewer too: it must not be asked about nothing.
        material = collection.collect(repository, target)
    reference = None if target.reference is None else _utf8(target.reference)
    target = msgspec.structs.replace(target, label=_utf8(target.label)[:_LABEL], reference=reference)
    if native:
        prompt = _native_prompt(target, focus)
    else:
        prompt = prompts.build(target, material, focus, adversarial=adversarial)
    tag = ReviewTag(target=target, native=native, adversarial=adversarial, root=_utf8(str(root)))
    return Plan(
        cwd=root,
        prompt=prompt,
        label=f"{'adversarial ' * adversarial}review: {target.label}"[:_LABEL],
        tags={TAG: msgspec.json.encode(tag).decode()},
        review=ReviewTarget(kind=_NATIVE_KINDS[target.kind], value=_value(target)) if native else None,
        output_schema=None if native else SCHEMA,
        summary=target.label if material is None else f"{target.label}: {material.summary}",
    )


def _choose(
    agent: Agent, choice: Choice, focus: str, adversarial: bool, native: bool | None, needs_verdict: bool
) -> bool:
    focused = bool(focus.strip()) and not (choice.custom or choice.pull_request is not None)
    if native is None:
        return agent.can_review and not (adversarial or focused or needs_verdict)
    if native and not agent.can_review:
        raise UnsupportedOption(f"{agent.title} has no reviewer of its own.", hint="Leave --native out.")
    if native and adversarial:
        raise UnsupportedOption(
            "An agent's own reviewer cannot be made adversarial.", hint="Leave --native or --adversarial out."
        )
    if native and focused:
        raise UnsupportedOption(
            "An agent's own reviewer takes no focus with this target.", hint="Leave --native out, or use --custom."
        )
    return native


def _native_prompt(target: Target, focus: str) -> str:
    if target.kind is TargetKind.CUSTOM:
        return focus
    if target.kind is TargetKind.PULL_REQUEST:
        return prompts.describe_range(target, focus)
    # The reviewer does not get it; it is what lists of tasks show.
    return f"Review {target.label}."


def _utf8(text: str) -> str:
    """*text* without the bytes of an argument or a path that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _value(target: Target) -> str | None:
    if target.kind is TargetKind.BASE:
        return target.reference
    return target.head if target.kind is TargetKind.COMMIT else None
