"""With ``--ws-auth`` nobody gets in without proof, and the refusals are those of the reference implementation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.authentication import (
    InvalidAuthentication,
    capability_digest,
    capability_token,
    expected_name,
    shared_secret,
    signed_bearer_token,
)
from holdfast.host.client import HostClient
from holdfast.host.port import HostUnavailable

from .harness import start_host, within

SECRET = "s" * 40


def jwt(claims: dict[str, Any], *, secret: str = SECRET, alg: str = "HS256") -> str:
    def encode(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head, body = encode(json.dumps({"alg": alg, "typ": "JWT"}).encode()), encode(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{encode(signature) if alg != 'none' else ''}"


@pytest.mark.parametrize(
    ("header", "refusal"),
    [
        (None, "missing websocket bearer token"),
        ("Bearer right", None),
        ("bearer right", None),
        ("Bearer wrong", "invalid websocket bearer token"),
        ("Basic right", "invalid authorization header"),
        ("right", "invalid authorization header"),
        ("Bearer ", "invalid authorization header"),
    ],
)
def test_capability_tokens(tmp_path: Path, header: str | None, refusal: str | None) -> None:
    file = tmp_path / "token"
    file.write_text("right\n")
    headers = {} if header is None else {"authorization": header}
    assert capability_token(capability_digest(file=file))(headers) == refusal
    assert capability_token(capability_digest(sha256=hashlib.sha256(b"right").hexdigest()))(headers) == refusal


@pytest.mark.parametrize(
    ("claims", "refusal"),
    [
        ({}, None),
        ({"exp": None}, "invalid websocket jwt"),
        ({"exp": "soon"}, "invalid websocket jwt"),
        ({"exp": 1e300}, "invalid websocket jwt"),
        ({"exp": 2**63}, "invalid websocket jwt"),
        ({"exp": True}, "invalid websocket jwt"),
        ({"exp": -10}, None),
        ({"exp": -40}, "expired websocket jwt"),
        ({"nbf": 10}, None),
        ({"nbf": 300}, "websocket jwt is not valid yet"),
        ({"iss": "other"}, "websocket jwt issuer mismatch"),
        ({"iss": None}, "websocket jwt issuer mismatch"),
        ({"aud": ["x", "aud"]}, None),
        ({"aud": "x"}, "websocket jwt audience mismatch"),
    ],
)
def test_signed_tokens(tmp_path: Path, claims: dict[str, Any], refusal: str | None) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    authorize = signed_bearer_token(shared_secret(file), issuer="iss", audience="aud")
    given: dict[str, Any] = {"exp": 60, "iss": "iss", "aud": "aud", **claims}
    for name in ("exp", "nbf"):
        if type(given.get(name)) is int:
            given[name] += int(time.time())
    given = {name: value for name, value in given.items() if value is not None}
    assert authorize({"authorization": f"Bearer {jwt(given)}"}) == refusal
    for forged in (
        f"{jwt(given)}=",
        jwt(given, secret="t" * 40),
        jwt(given, alg="none"),
        jwt(given, alg="HS512"),
        "a.b.c",
        "x",
        "..",
    ):
        assert authorize({"authorization": f"Bearer {forged}"}) == "invalid websocket jwt"


def test_a_name_that_is_none_is_refused_at_the_start() -> None:
    assert expected_name("--ws-issuer", None) is None
    assert expected_name("--ws-issuer", " iss\n") == "iss"
    for empty in ("", " ", "\u00a0\n"):
        with pytest.raises(InvalidAuthentication, match="--ws-issuer is empty"):
            expected_name("--ws-issuer", empty)


@pytest.mark.parametrize("token", ["a\nb", "a\r\nb", "a\x00b", "a\x1fb", "a\x7fb", "a\u00e9b"])
def test_a_token_that_nobody_can_present_is_refused_at_the_start(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token, newline="")
    with pytest.raises(InvalidAuthentication, match="Nobody could present") as caught:
        capability_digest(file=file)
    assert "one line of ASCII" in str(caught.value.hint)


async def test_the_longest_token_fits_through_the_door(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    longest = "x" * (15 * 1024)
    file.write_text(longest + "y")
    with pytest.raises(InvalidAuthentication, match="more than 15360 bytes"):
        capability_digest(file=file)
    file.write_text(longest)
    server = start_host(state, "ws://127.0.0.1:0", "--ws-auth", "capability-token", "--ws-token-file", str(file))
    client = await HostClient.connect(server.url, token=longest)
    assert await client.list() == []
    await client.aclose()
    assert server.stop() == 0


def test_unusable_secrets_are_refused_at_the_start(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("short")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff" * 40)
    for make in (
        lambda: shared_secret(short),
        lambda: capability_digest(file=empty),
        lambda: capability_digest(file=binary),
        lambda: capability_digest(file=tmp_path / "missing"),
        lambda: capability_digest(sha256="abc"),
        lambda: capability_digest(),
        lambda: capability_digest(file=short, sha256="0" * 64),
    ):
        with pytest.raises(InvalidAuthentication) as caught:
            make()
        assert caught.value.hint


async def test_a_host_off_loopback_needs_the_token(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("right")
    server = start_host(state, "ws://0.0.0.0:0", "--ws-auth", "capability-token", "--ws-token-file", str(file))
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    # At once, however long one would wait for a host that does not answer.
    with pytest.raises(HostUnavailable, match="asks for a token"):
        await within(HostClient.connect(url, wait=1e9))
    with pytest.raises(HostUnavailable, match="does not accept this token"):
        await within(HostClient.connect(url, token="wrong", wait=1e9))
    client = await HostClient.connect(url, token="right")
    assert await client.list() == []
    await client.aclose()
    server.stop()
