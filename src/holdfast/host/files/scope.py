"""What a client may touch: everything, what lies below a root, or what a sandbox allows."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from holdfast.host.files.refusal import refused
from holdfast.host.uri import resolve_dots


def is_below(path: str, top: str) -> bool:
    """Whether *path* is *top* or in it; both absolute, without ``..``."""
    return top == "/" or path == top or path.startswith(top + "/")


class NotShown(FileNotFoundError):
    """There is nothing at the real path *path* for whom a rule limits, whatever there is."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT))
        #: Where the way that ended there was to lead, as far as that may be known: without looking.
        self.path = path

    def lead_on(self, steps: Iterable[str]) -> None:
        """There was more to come."""
        self.path = resolve_dots(posixpath.join(self.path, *steps))


class Rule(Protocol):
    """One limit to what may be touched."""

    def require(self, path: str, *, write: bool, tree: bool = False) -> None:
        """Check a real path (no symlinks in it, except perhaps the last component), with *tree* all that is below it.

        :raises RpcError: reading it (or, with *write*, changing it) is not allowed
        """

    def require_way(self, path: str) -> None:
        """Check that it may be known whether there is anything at a real path, and where a symlink there leads.

        :raises NotShown: there is nothing for whom this limits
        :raises RpcError: it may not be known
        """


@dataclass(frozen=True, slots=True)
class Root:
    """Nothing outside of one directory exists for the client."""

    #: Real path of the directory, without a slash at its end.
    path: str

    def require(self, path: str, *, write: bool, tree: bool = False) -> None:
        if not is_below(path, self.path):
            # Without the path: the real one would tell of symlinks out there.
            raise refused(f"the path leads outside of `{self.path}`, the root of this exec-server")
        if write and path == self.path:
            raise refused(f"`{path}` is the root of this exec-server")

    def require_way(self, path: str) -> None:
        # A way may lead out and in again; what is told of the way is the same whatever is there.
        pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Scope:
    """All the rules that hold for one request; without any, everything is allowed that the account may do."""

    rules: tuple[Rule, ...] = ()
    #: Whether a file that exists must stay the same file at present, and only its content may change; asked in threads.
    in_place: Callable[[], bool] = _never

    @property
    def limited(self) -> bool:
        """Whether there is any rule."""
        return bool(self.rules)

    def require(self, path: str, *, write: bool, tree: bool = False) -> None:
        """Check a real path against every rule; with *tree* also all that is below it.

        :raises RpcError: not allowed
        """
        for rule in self.rules:
            rule.require(path, write=write, tree=tree)

    def require_way(self, path: str) -> None:
        """Check a real path on the way to another one against every rule.

        :raises NotShown: there is nothing for whom a rule limits
        :raises RpcError: whether there is anything may not be known
        """
        for rule in self.rules:
            rule.require_way(path)

    def require_inside(self, path: str, missing: OSError) -> None:
        """Check that *path*, which leads nowhere because of *missing*, does so inside of every root.

        :raises RpcError: it does not; the error is the same whatever is there, or is not
        """
        roots = [rule for rule in self.rules if isinstance(rule, Root)]
        if roots:
            real = missing.path if isinstance(missing, NotShown) else os.path.realpath(path)
            for root in roots:
                root.require(real, write=False)

    def narrowed(self, rule: Rule) -> Scope:
        """This scope with one more rule."""
        return Scope((*self.rules, rule), self.in_place)

    @classmethod
    def below(cls, root: str) -> Scope:
        """The scope of a host that serves one directory only."""
        return cls((Root(os.path.realpath(root)),))
