"""Who may open a WebSocket: a capability token, or a signed bearer token (JWT, HS256 only).

Modes, options, checks and the texts of refusals are those of the reference implementation (Codex CLI 0.169).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from holdfast.errors import InvalidRequest

#: Decides on the headers of an upgrade: None admits, a text is the reason of a 401.
Authorize = Callable[[Mapping[str, str]], str | None]

#: Seconds that the clocks of issuer and host may differ.
CLOCK_SKEW: Final = 30.0
#: Bytes below which a shared secret can be guessed.
_SHORTEST_SECRET: Final = 32

_MISSING: Final = "missing websocket bearer token"
_INVALID_HEADER: Final = "invalid authorization header"
_INVALID_TOKEN: Final = "invalid websocket bearer token"
_INVALID_JWT: Final = "invalid websocket jwt"


class InvalidAuthentication(InvalidRequest):
    """The options for authentication do not fit together, or a secret cannot be used."""

    code = "invalid_authentication"


def _bearer(headers: Mapping[str, str]) -> tuple[str, str | None]:
    """The token of a request, and the reason to refuse it if there is none."""
    value = headers.get("authorization")
    if value is None:
        return "", _MISSING
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return "", _INVALID_HEADER
    return token, None


def capability_digest(*, file: Path | None = None, sha256: str | None = None) -> str:
    """The SHA-256 of a capability token: of the one in *file*, or the given one (64 hexadecimal digits).

    :raises InvalidAuthentication: neither or both are given, the file is empty, or the digest is none
    """
    if (file is None) == (sha256 is None):
        raise InvalidAuthentication("Give either --ws-token-file or --ws-token-sha256.")
    if file is not None:
        return hashlib.sha256(_secret(file)).hexdigest()
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256 or ""):
        raise InvalidAuthentication("--ws-token-sha256 must be 64 hexadecimal digits.")
    return sha256 or ""


def capability_token(digest: str) -> Authorize:
    """Admit whoever knows the token with this digest."""
    expected = bytes.fromhex(digest)

    def authorize(headers: Mapping[str, str]) -> str | None:
        token, refusal = _bearer(headers)
        if refusal is not None:
            return refusal
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        return None if hmac.compare_digest(given, expected) else _INVALID_TOKEN

    return authorize


def shared_secret(file: Path) -> bytes:
    """The secret in *file*, with which tokens are signed.

    :raises InvalidAuthentication: it is too short to be one
    """
    secret = _secret(file)
    if len(secret) < _SHORTEST_SECRET:
        raise InvalidAuthentication(
            f"The shared secret in {file} has fewer than {_SHORTEST_SECRET} bytes.",
            hint=f"Write one with: head -c 32 /dev/urandom | base64 > {file}",
        )
    return secret


def signed_bearer_token(
    secret: bytes, *, issuer: str | None = None, audience: str | None = None, clock_skew: float = CLOCK_SKEW
) -> Authorize:
    """Admit whoever brings a JWT signed with *secret*; ``exp`` is required, ``nbf`` is honoured."""

    def authorize(headers: Mapping[str, str]) -> str | None:
        token, refusal = _bearer(headers)
        if refusal is not None:
            return refusal
        claims = _verified_claims(token, secret)
        if claims is None:
            return _INVALID_JWT
        return _judge(claims, issuer, audience, clock_skew)

    return authorize


def _secret(file: Path) -> bytes:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise InvalidAuthentication(f"Cannot read {file}: {error.strerror}.") from error
    if not secret:
        raise InvalidAuthentication(f"{file} is empty.")
    try:
        secret.decode()
    except UnicodeDecodeError:
        raise InvalidAuthentication(f"{file} is not UTF-8.") from None
    return secret


def _verified_claims(token: str, secret: bytes) -> dict[str, Any] | None:
    try:
        signed, _, signature = token.rpartition(".")
        head, payload = (json.loads(_decode(part)) for part in signed.split("."))
        given = _decode(signature)
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(head, dict) or not isinstance(payload, dict):
        return None
    header = cast(dict[str, Any], head)
    if header.get("alg") != "HS256" or "crit" in header:
        return None
    expected = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(given, expected):
        return None
    return cast(dict[str, Any], payload)


def _decode(part: str) -> bytes:
    if "=" in part:
        raise ValueError("padded")
    return urlsafe_b64decode(part.encode("ascii") + b"=" * (-len(part) % 4))


def _judge(claims: dict[str, Any], issuer: str | None, audience: str | None, skew: float) -> str | None:
    now = time.time()
    expires = _seconds(claims.get("exp"))
    not_before = 0 if claims.get("nbf") is None else _seconds(claims["nbf"])
    if expires is None or not_before is None:
        return _INVALID_JWT
    if now > expires + skew:
        return "expired websocket jwt"
    if now < not_before - skew:
        return "websocket jwt is not valid yet"
    if issuer is not None and claims.get("iss") != issuer:
        return "websocket jwt issuer mismatch"
    if audience is not None:
        told = claims.get("aud")
        audiences = cast(list[Any], told) if isinstance(told, list) else [told]
        if audience not in audiences:
            return "websocket jwt audience mismatch"
    return None


def _seconds(value: Any) -> int | None:
    """A moment as the reference implementation reads it: a signed 64-bit number."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and -(2**63) <= value < 2**63 else None
