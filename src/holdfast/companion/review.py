"""``review`` and ``adversarial-review``: Codex's own reviewer, and a turn that is told to look for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.companion import output, task
from holdfast.companion.arguments import Arguments, Syntax
from holdfast.companion.daemon import Document
from holdfast.companion.jobs import Jobs
from holdfast.companion.refusal import Refused
from holdfast.companion.workspace import Workspace
from holdfast.errors import HoldfastError
from holdfast.tasks.review import targets
from holdfast.tasks.review.repository import NotARepository, Repository

SYNTAX: Final = Syntax(switches=("json", "background", "wait"), values=("base", "scope", "model"), prose=True)
_SCOPES: Final = ("auto", "working-tree", "branch")


def run(arguments: Sequence[str]) -> int:
    """``review``: by Codex's own reviewer, which takes no words about what to look for."""
    given = SYNTAX.read(arguments)
    workspace, repository = _place(given)
    target = resolve(repository, given.value("base"), given.value("scope"))
    focus = given.prose.strip()
    if focus:
        raise Refused(
            "`/codex:review` now maps directly to the built-in reviewer and does not support custom focus text. "
            f"Retry with `/codex:adversarial-review {focus}` for focused review instructions."
        )
    subject: Document = {"kind": "uncommitted"}
    if target["mode"] == "branch":
        subject = {"kind": "base", "value": target["baseRef"]}
    work = task.Work(
        kind="review",
        prompt=f"Review the {target['label']}.",
        title="Codex Review",
        summary=f"Review {target['label']}",
        model=task.model_named(given.value("model")),
        target=json.dumps({"target": target}, ensure_ascii=False),
        fields={"ephemeral": True, "review": subject},
    )
    return _do(workspace, work, as_json=given.switch("json"))


def run_adversarial(arguments: Sequence[str]) -> int:
    """``adversarial-review [focus]``: a turn that is asked to find what should keep the change from being shipped."""
    given = SYNTAX.read(arguments)
    workspace, repository = _place(given)
    target = resolve(repository, given.value("base"), given.value("scope"))
    # Imported here: the other reviews need none of it.
    from holdfast.companion import review_prompt
    from holdfast.tasks.review.findings import SCHEMA

    material = review_prompt.material(repository, target)
    context = {
        "repoRoot": workspace.root,
        "branch": review_prompt.branch(repository),
        "summary": material.summary,
    }
    work = task.Work(
        kind="adversarial-review",
        prompt=review_prompt.prompt(target["label"], given.prose.strip(), material),
        title="Codex Adversarial Review",
        summary=f"Adversarial Review {target['label']}",
        model=task.model_named(given.value("model")),
        target=json.dumps({"target": target, "context": context}, ensure_ascii=False),
        fields={"ephemeral": True, "output_schema": SCHEMA},
    )
    return _do(workspace, work, as_json=given.switch("json"))


def resolve(repository: Repository, base: str | None, scope: str | None) -> Document:
    """What is reviewed: ``mode``, ``label``, ``baseRef`` for a branch, and whether the caller chose it.

    :raises Refused: the scope is none, or there is nothing that could be meant
    """
    if base is not None:
        return _branch(repository, base, explicit=True)
    scope = scope or "auto"
    if scope not in _SCOPES:
        raise Refused(f'Unsupported review scope "{scope}". Use one of: {", ".join(_SCOPES)}, or pass --base <ref>.')
    if scope == "working-tree" or (scope == "auto" and targets.is_dirty(repository)):
        return {"mode": "working-tree", "label": "working tree diff", "explicit": scope != "auto"}
    try:
        name = targets.default_branch(repository)
    except targets.NothingToReview as error:
        if scope == "auto":
            raise Refused(error.message, hint="Pass --base <ref> to review what was committed since.") from error
        raise Refused(
            "This is the main branch itself, and there is no other to compare it with.",
            hint="Pass --base <ref> or use --scope working-tree.",
        ) from error
    except HoldfastError as error:
        raise Refused(
            "Unable to detect the repository default branch. Pass --base <ref> or use --scope working-tree.",
            hint=error.message,
        ) from error
    return _branch(repository, name, explicit=scope != "auto")


def _branch(repository: Repository, base: str, *, explicit: bool) -> Document:
    if repository.commit(base) is None:
        raise Refused(f"{base!r} is no branch, tag or commit here.", hint="See 'git branch --all' for what there is.")
    return {"mode": "branch", "label": f"branch diff against {base}", "baseRef": base, "explicit": explicit}


def _place(given: Arguments) -> tuple[Workspace, Repository]:
    workspace = Workspace(given.value("cwd"))
    try:
        return workspace, Repository(Path(workspace.cwd))
    except NotARepository as error:
        raise Refused("This command must run inside a Git repository.", hint=error.message) from error


def _do(workspace: Workspace, work: task.Work, *, as_json: bool) -> int:
    jobs = Jobs(workspace)
    try:
        record = task.hand_over(jobs, work)
        end = task.attend(jobs, record, as_json=as_json)
        output.put(end.payload, end.rendered, as_json=as_json)
        if end.reason is not None:
            output.note(end.reason)
        return end.exit_status
    finally:
        jobs.daemon.close()
