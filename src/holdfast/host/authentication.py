"""Who may open a WebSocket: a capability token, or a signed bearer token (JWT, HS256 only).

Modes, options, checks and the texts of refusals are those of the reference implementation (Codex CLI 0.169).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from holdfast.errors import InvalidRequest
from holdfast.jsonrpc.upgrade import HEAD_LIMIT

#: Decides on the headers of an upgrade: None admits, a text is the reason of a 401.
Authorize = Callable[[Mapping[str, str]], str | None]

#: Seconds that the clocks of issuer and host may differ.
CLOCK_SKEW: Final = 30.0
#: Bytes below which a shared secret can be guessed.
_SHORTEST_SECRET: Final = 32
#: Bytes above which a token leaves too little room for what else a client has to say in the head of its request.
_LONGEST_TOKEN: Final = HEAD_LIMIT - 1024
#: The beginning of a command that writes a token or a secret into the file behind it.
_WRITE: Final = "head -c 32 /dev/urandom | base64 >"

#: What means nothing around a secret or a name: the blanks of Unicode.
_BLANKS: Final = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
#: What the value of a header may have in it for a token to be found there.
_PRESENTABLE: Final = re.compile(rb"[\t\x20-\x7e]+")

_MISSING: Final = "missing websocket bearer token"
_INVALID_HEADER: Final = "invalid authorization header"
_INVALID_TOKEN: Final = "invalid websocket bearer token"
_INVALID_JWT: Final = "invalid websocket jwt"


class _Head(msgspec.Struct, frozen=True, rename={"x5t_s256": "x5t#S256"}):
    """The head of a token; but for the algorithm only its form matters."""

    alg: str
    typ: str | None = None
    cty: str | None = None
    kid: str | None = None
    jku: str | None = None
    jwk: dict[str, Any] | None = None
    x5u: str | None = None
    x5c: list[str] | None = None
    x5t: str | None = None
    x5t_s256: str | None = None


#: A moment as the reference implementation reads it: a signed 64-bit number of seconds since the epoch.
_Moment = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Claims(msgspec.Struct, frozen=True):
    """What a token says."""

    exp: _Moment
    nbf: _Moment | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    #: Whom it is about: nobody asks, but it has to be one.
    sub: str | int | float | bool | None = None


_Part = TypeVar("_Part", _Head, _Claims)


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
    if scheme.lower() != "bearer" or not token or not value.isascii():
        return "", _INVALID_HEADER
    return token, None


def capability_digest(*, file: Path | None = None, sha256: str | None = None) -> str:
    """The SHA-256 of a capability token: of the one in *file*, or the given one (64 hexadecimal digits).

    :raises InvalidAuthentication: neither or both are given, the digest is none, or there is no token in the file that
        anybody could present
    """
    if (file is None) == (sha256 is None):
        raise InvalidAuthentication(
            "Give either --ws-token-file or --ws-token-sha256.",
            hint=f"Write a token with: {_WRITE} FILE" if file is None else "Leave one of them out.",
        )
    if file is not None:
        token = _secret(file)
        reason = None
        if len(token) > _LONGEST_TOKEN:
            reason = f"it has more than {_LONGEST_TOKEN} bytes"
        elif not _PRESENTABLE.fullmatch(token):
            reason = "no header can carry it"
        if reason is not None:
            raise InvalidAuthentication(
                f"Nobody could present the token in {file}: {reason}.",
                hint=f"A token is one line of ASCII; write one with: {_WRITE} {file}",
            )
        return hashlib.sha256(token).hexdigest()
    digest = (sha256 or "").strip(_BLANKS)
    if not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InvalidAuthentication(
            "--ws-token-sha256 must be 64 hexadecimal digits.",
            hint="Those of the token in FILE: tr -d '\\n' < FILE | sha256sum",
        )
    return digest


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
            hint=f"Write one with: {_WRITE} {file}",
        )
    return secret


def expected_name(option: str, given: str | None) -> str | None:
    """Who has to have signed a token, or whom it is for; None if that was not *given*.

    :raises InvalidAuthentication: it is nothing but blanks
    """
    name = None if given is None else given.strip(_BLANKS)
    if name == "":
        # It would have to be ignored, and look as if it guarded something.
        raise InvalidAuthentication(f"{option} is empty.", hint="Leave it out if any will do.")
    return name


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
        secret = file.read_bytes().decode().strip(_BLANKS)
    except OSError as error:
        raise InvalidAuthentication(
            f"Cannot read {file}: {error.strerror}.", hint="Give a file that you can read."
        ) from error
    except UnicodeDecodeError:
        raise InvalidAuthentication(f"{file} is not UTF-8.", hint=f"Write another one with: {_WRITE} FILE") from None
    if not secret:
        raise InvalidAuthentication(f"{file} is empty.", hint=f"Write one with: {_WRITE} {file}")
    return secret.encode()


def _verified_claims(token: str, secret: bytes) -> _Claims | None:
    signed, _, signature = token.rpartition(".")
    try:
        head, payload = signed.split(".")
        told, members = _read(head, _Head)
        claims, _ = _read(payload, _Claims)
        given = _decode(signature)
    except (ValueError, RecursionError):
        return None
    # What is in "crit" would have to be understood.
    if told.alg != "HS256" or "crit" in members:
        return None
    expected = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return claims if hmac.compare_digest(given, expected) else None


def _read(part: str, kind: type[_Part]) -> tuple[_Part, dict[str, Any]]:
    """A part of a token, and all its members.

    :raises ValueError: it is none
    """
    members = json.loads(_decode(part).decode(), object_pairs_hook=_once_each, parse_constant=_refuse)
    return msgspec.convert(members, kind), members


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no name is twice: or what was checked need not be what another reader of the token sees."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name twice")
    return members


def _refuse(constant: str) -> None:
    """``NaN`` and the infinities are no JSON."""
    raise ValueError(constant)


def _decode(part: str) -> bytes:
    given = part.encode("ascii")
    decoded = urlsafe_b64decode(given + b"=" * (-len(given) % 4))
    # There is one spelling of each value; the decoder skips what it does not know.
    if urlsafe_b64encode(decoded).rstrip(b"=") != given:
        raise ValueError("not the base64 of anything")
    return decoded


def _judge(claims: _Claims, issuer: str | None, audience: str | None, skew: float) -> str | None:
    now = time.time()
    if now > claims.exp + skew:
        return "expired websocket jwt"
    if claims.nbf is not None and now < claims.nbf - skew:
        return "websocket jwt is not valid yet"
    if issuer is not None and claims.iss != issuer:
        return "websocket jwt issuer mismatch"
    if audience is not None:
        audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud]
        if audience not in audiences:
            return "websocket jwt audience mismatch"
    return None
