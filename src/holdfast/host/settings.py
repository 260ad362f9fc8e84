"""What was decided when the host was started, for each of its servers.

A server that takes the place of another one does not ask again: a token file may have gone meanwhile, and the host has
promised to go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from holdfast.host.authentication import Authorize


class Access(NamedTuple):
    """How WebSocket clients prove who they are."""

    #: The digest of the capability token, in hexadecimal; empty if tokens are signed.
    token_sha256: str = ""
    #: The secret with which tokens are signed.
    secret: bytes = b""
    issuer: str | None = None
    audience: str | None = None
    clock_skew: float = 0.0

    def authorize(self) -> Authorize:
        """What decides on the headers of an upgrade."""
        from holdfast.host.authentication import capability_token, signed_bearer_token

        if self.token_sha256:
            return capability_token(self.token_sha256)
        return signed_bearer_token(self.secret, issuer=self.issuer, audience=self.audience, clock_skew=self.clock_skew)


class Settings(NamedTuple):
    """Everything that the options decide beyond address and directory."""

    #: Bytes of output of closed processes that are retained.
    retain_bytes: int
    log_format: str
    log_level: str
    #: How many descriptors the host was allowed when it was started, and its children are.
    child_descriptors: int
    #: Seconds, or None to stay.
    idle_exit: float | None = None
    #: The directory outside of which ``fs/*`` touches nothing; None for no limit.
    root: str | None = None
    #: None: every client is admitted.
    access: Access | None = None

    def words(self) -> list[str]:
        """As words without NUL."""
        told: dict[str, object] = {
            "retain_bytes": self.retain_bytes,
            "log_format": self.log_format,
            "log_level": self.log_level,
            "child_descriptors": self.child_descriptors,
            "idle_exit": self.idle_exit,
            "root": self.root,
        }
        if self.access is not None:
            told |= self.access._asdict()
            told["secret"] = self.access.secret.hex()
        return [f"{name}={value}" for name, value in told.items() if value is not None]

    @classmethod
    def from_words(cls, words: list[str]) -> Settings:
        """The other way round."""
        told: dict[str, str] = {}
        for word in words:
            name, _, told[name] = word.partition("=")
        access: Access | None = None
        if "secret" in told:
            access = Access(
                told["token_sha256"],
                bytes.fromhex(told["secret"]),
                told.get("issuer"),
                told.get("audience"),
                float(told["clock_skew"]),
            )
        idle_exit = told.get("idle_exit")
        return cls(
            int(told["retain_bytes"]),
            told["log_format"],
            told["log_level"],
            int(told["child_descriptors"]),
            None if idle_exit is None else float(idle_exit),
            told.get("root"),
            access,
        )
