"""Which options and tokens our host and the real ``codex exec-server`` refuse, asked of both."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import BOTH, BOUND, RunningServer, server_command, within

SECRET = b"s" * 40
#: A moment that is not over before the tests are.
LATER = int(time.time()) + 3600
INVALID = "invalid websocket jwt"
HEAD = '{"alg":"HS256"}'
GOOD = f'{{"exp":{LATER},"iss":"iss","aud":"aud"}}'


def encode(value: str | bytes) -> str:
    return base64.urlsafe_b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=").decode()


def token(head: str, claims: str) -> str:
    """A signed token of any head and claims, JSON or not."""
    signed = f"{encode(head)}.{encode(claims)}"
    return f"{signed}.{encode(hmac.digest(SECRET, signed.encode(), hashlib.sha256))}"


def head(member: str) -> str:
    return token(f'{{"alg":"HS256",{member}}}', GOOD)


def claim(member: str) -> str:
    """With a claim more than the necessary ones, or another one in its place."""
    name = member.partition(":")[0]
    others = [other for other in GOOD.strip("{}").split(",") if not other.startswith(name)]
    return token(HEAD, "{" + ",".join([*others, member]) + "}")


#: What is refused as no token at all.
MALFORMED = {
    **{f"{name} {value}": head(f'"{name}":{value}') for name in ("typ", "kid", "cty", "x5u") for value in ("5", "{}")},
    **{f"x5c {value}": head(f'"x5c":{value}') for value in ('"x"', "[5]", "{}")},
    **{f"claim {member}": claim(member) for member in ('"iss":5', '"iss":["iss"]', '"aud":5', '"aud":["aud",5]')},
    **{
        f"claim {member}": claim(member)
        for member in ('"sub":[]', '"sub":{}', '"aud":{}', '"nbf":"5"', '"nbf":1.0', '"exp":1e300', '"exp":"9"')
    },
    "jwk": head('"jwk":5'),
    "algorithm twice": token('{"alg":"HS256","alg":"HS256"}', GOOD),
    "type twice": head('"typ":"a","typ":"a"'),
    "end twice": token(HEAD, f'{{"exp":{LATER},"exp":{LATER},"iss":"iss","aud":"aud"}}'),
    "end twice, in other words": token(HEAD, f'{{"exp":{LATER},"\\u0065xp":{LATER},"iss":"iss","aud":"aud"}}'),
    "past end twice": token(HEAD, f'{{"exp":1,"exp":{LATER},"iss":"iss","aud":"aud"}}'),
    "issuer twice": claim('"iss":"x","iss":"iss"'),
    "no number": claim('"x":NaN'),
    "byte order mark": token("\ufeff" + HEAD, GOOD),
    "array": token('["HS256"]', GOOD),
    "padded": token(HEAD, GOOD) + "=",
    "bits that mean nothing": token(HEAD, GOOD)[:-1] + chr(ord(token(HEAD, GOOD)[-1]) + 1),
    "a point more": token(HEAD, GOOD) + ".",
}
ANSWERS = {
    **{name: (f"Bearer {malformed}", INVALID) for name, malformed in MALFORMED.items()},
    "good": (f"Bearer {token(HEAD, GOOD)}", None),
    "blanks around": (f"bearer   {token(HEAD, GOOD)}  ", None),
    "unknown members": ("Bearer " + head('"nonce":[5]'), None),
    "null": ("Bearer " + head('"kid":null'), None),
    "other issuer": ("Bearer " + claim('"iss":null'), "websocket jwt issuer mismatch"),
    "about anybody": ("Bearer " + claim('"sub":5'), None),
    "no audience": ("Bearer " + claim('"aud":[]'), "websocket jwt audience mismatch"),
    "over": ("Bearer " + claim('"exp":-5'), "expired websocket jwt"),
    "no ASCII": ("Bearer \xff", "invalid authorization header"),
}


@pytest.fixture(scope="module", params=BOTH)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that asks for signed tokens, of ours and of the reference."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "secret").write_bytes("\u2028".encode() + SECRET + "\u00a0\n".encode())
    guard = ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(directory / "secret")]
    # Blanks around them mean nothing.
    expected = ["--ws-issuer", " iss\n", "--ws-audience", "\u00a0aud "]
    server = RunningServer([*server_command(request.param, directory / "state"), *guard, *expected])
    yield server
    server.stop()


async def ask(server: RunningServer, authorization: str) -> str | None:
    """Ask for an upgrade; returns why it was refused."""
    host, port = server.url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\nUpgrade: websocket\r\n"
    key = "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    writer.write((request + key).encode("latin-1"))
    try:
        answer = (await within(reader.readuntil(b"\r\n\r\n"))).decode()
        if " 101 " in answer.splitlines()[0]:
            return None
        assert " 401 " in answer.splitlines()[0]
        length = re.search(r"(?i)content-length: (\d+)", answer)
        assert length
        return (await within(reader.readexactly(int(length[1])))).decode()
    finally:
        writer.close()


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_token_that_is_not_what_it_should_be_admits_nobody(guarded: RunningServer, case: str) -> None:
    authorization, refusal = ANSWERS[case]
    assert await ask(guarded, authorization) == refusal


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize(
    "options",
    [
        ["--ws-max-clock-skew-seconds", "5"],
        ["--ws-issuer", "x"],
        ["--ws-token-file", "token"],
        ["--ws-auth", "capability-token"],
        ["--ws-auth", "capability-token", "--ws-token-file", "token", "--ws-max-clock-skew-seconds", "5"],
        ["--ws-auth", "capability-token", "--ws-token-file", "token", "--ws-issuer", "x"],
        ["--ws-auth", "signed-bearer-token"],
        ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", "token", "--ws-token-file", "token"],
        *(
            ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", "token", f"--ws-max-clock-skew-seconds={n}"]
            for n in ("-1", "nan", "inf", "1.5", "", " 5", "5_0", "9" * 20)
        ),
        *(["--concurrent-requests", count] for count in ("0", "1.5", "9" * 20, "1_0", "")),
        ["--concurrent", "1"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_start_nothing(which: str, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(SECRET)
    command = [*server_command(which, tmp_path / "state"), *options]
    ended = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=BOUND
    )
    assert ended.returncode in (1, 2)
    assert ended.stdout == b""
    assert ended.stderr


@pytest.mark.parametrize("which", BOTH)
async def test_any_token_that_a_header_can_carry_may_be_one(which: str, tmp_path: Path) -> None:
    odd = "a\tb c:\"',;=~!"
    (tmp_path / "token").write_text(f"\n {odd}\r\n")
    guard = ["--ws-auth", "capability-token", "--ws-token-file", str(tmp_path / "token")]
    server = RunningServer([*server_command(which, tmp_path / "state"), *guard])
    try:
        assert await ask(server, f"Bearer {odd}") is None
        assert await ask(server, "Bearer other") == "invalid websocket bearer token"
    finally:
        server.stop()
