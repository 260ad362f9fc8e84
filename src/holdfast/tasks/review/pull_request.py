"""Getting a pull request from its remote, into a ref of our own; the checkout stays as it is.

The refs under which the hosts of repositories offer them: GitHub, Gitea and Forgejo ``refs/pull/N/head``, GitLab
``refs/merge-requests/N/head``, Bitbucket Server ``refs/pull-requests/N/from`` (each host's own documentation).
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from holdfast.tasks.review.repository import GitRefused, Repository
from holdfast.tasks.review.targets import Target, TargetKind, TargetRefused, branch, default_branch

_OFFERED: Final = ("refs/pull/{}/head", "refs/merge-requests/{}/head", "refs/pull-requests/{}/from")
_PAGE: Final = re.compile(
    r"(?P<repository>/.+?)(/-)?/(pull|pulls|merge_requests|pull-requests)/(?P<number>[0-9]{1,10})(/.*)?"
)
#: Seconds to talk to the remote.
_PATIENCE: Final = 300.0
#: What the user's own way to the remote may need.
_VARIABLES: Final = (
    *("SSH_AUTH_SOCK", "SSH_AGENT_PID", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "SSH_ASKPASS"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "LOGNAME"),
)
#: Settings by which a repository names a program that a fetch would start.
_PROGRAMS: Final = (
    r"^(core\.(sshcommand|gitproxy|askpass|alternaterefscommand)|credential\..*helper|credential\.helper"
    r"|remote\..+\.(uploadpack|vcs)|ssh\.variant|uploadpack\.packobjectshook)$"
)


def resolve(repository: Repository, name: str, *, remote: str | None, base: str | None) -> Target:
    """Fetch the pull request *name* and find out what it changes.

    :param name: a number, the address of its page, or a full ref of the remote
    :param base: the branch that it is meant for; by default the main branch of the remote
    :raises TargetRefused: the remote has no such pull request, or there is no remote
    """
    remote = _remote(repository, remote)
    wanted = _refs(repository, name, remote)
    _refuse_programs(repository)
    offered = _offered(repository, remote, wanted, name)
    private = f"refs/holdfast/review/{offered.removeprefix('refs/')}"
    _talk(
        repository,
        *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"),
        *("--end-of-options", remote, f"+{offered}:{private}"),
        what=f"Pull request {name} cannot be fetched from {remote}",
    )
    target = branch(repository, base or default_branch(repository, remote), head=private, kind=TargetKind.PULL_REQUEST)
    return msgspec.structs.replace(target, label=f"pull request {name}, {target.label}", reference=name)


def _remote(repository: Repository, name: str | None) -> str:
    known = repository.text("remote").splitlines()
    if name is not None and name not in known:
        there = ", ".join(known) or "none"
        raise TargetRefused(f"There is no remote {name!r}; there are: {there}.", hint="Name one with --remote NAME.")
    if name is None and not known:
        raise TargetRefused(
            "This repository has no remote, and so no pull requests.", hint="Review a branch with --base REF."
        )
    if name is None and len(known) > 1 and "origin" not in known:
        raise TargetRefused(f"There are several remotes: {', '.join(known)}.", hint="Name one with --remote NAME.")
    return name or ("origin" if "origin" in known else known[0])


def _refs(repository: Repository, name: str, remote: str) -> list[str]:
    """Where *name* may be offered."""
    number = name.lstrip("#!")
    if re.fullmatch(r"[0-9]{1,10}", number):
        return [ref.format(number) for ref in _OFFERED]
    if name.startswith("refs/"):
        valid = repository.ask("check-ref-format", name, accept=range(2)).status == 0
        if valid and "*" not in name:
            return [name]
    elif name.startswith(("https://", "http://")):
        page = _PAGE.fullmatch(urlsplit(name).path)
        if page is not None:
            address = repository.text("remote", "get-url", "--", remote).removesuffix("/").removesuffix(".git")
            if not address.endswith((page["repository"], ":" + page["repository"][1:])):
                raise TargetRefused(
                    f"{name} is not a page of the remote {remote}.",
                    hint="Name the remote it belongs to: --remote NAME.",
                )
            return [ref.format(page["number"]) for ref in _OFFERED]
    raise TargetRefused(
        f"{name!r} is not a pull request.", hint="Give its number, the address of its page, or a full ref (refs/...)."
    )


def _refuse_programs(repository: Repository) -> None:
    query = ("config", "-z", "--show-scope", "--name-only", "--get-regexp", _PROGRAMS)
    fields = repository.ask(*query, accept=range(2)).output.split(b"\0")
    for scope, key in zip(fields[::2], fields[1::2], strict=False):
        if scope in (b"local", b"worktree"):
            raise TargetRefused(
                f"The repository's own configuration names a program for fetching ({os.fsdecode(key)}).",
                hint="If you trust it, fetch by yourself, and review with --commit or --base.",
            )


def _offered(repository: Repository, remote: str, wanted: list[str], name: str) -> str:
    listing = _talk(
        repository,
        *("ls-remote", "--refs", "--end-of-options", remote, *wanted),
        what=f"The remote {remote} cannot be asked for pull request {name}",
    )
    there = {line.partition("\t")[2] for line in listing.splitlines()}
    for ref in wanted:
        if ref in there:
            return ref
    raise TargetRefused(
        f"The remote {remote} has no pull request {name} (looked for {', '.join(wanted)}).",
        hint="Check the number, or name another remote with --remote NAME.",
    )


def _talk(repository: Repository, *arguments: str, what: str) -> str:
    try:
        answer = repository.ask(*arguments, transport=_VARIABLES, patience=_PATIENCE)
    except GitRefused as error:
        raise TargetRefused(f"{what}: {error}", hint="Check that 'git fetch' works here.") from None
    return os.fsdecode(answer.output)
