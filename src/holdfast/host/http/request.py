"""What a client asks for, checked: method, address, headers and body, ready to be sent.

The texts of refusals are those of Codex CLI 0.169, and so are the rules for redirects.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.http.address import Address, NoAddress, UnsupportedScheme, read_address, redirected
from holdfast.host.parameters import NumberParameters, Unsigned
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_PARAMS, RpcError

#: Variables of the host that no header may carry away, whatever the client asks for: those that Codex CLI 0.169 denies,
#: and credentials of the other agents' own.
DENIED_VARIABLES: Final = frozenset(
    {
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_FOUNDRY_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_OPENAI_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CODEX_ACCESS_TOKEN",
        "CODEX_AGENT_IDENTITY",
        "CODEX_API_KEY",
        "CODEX_CONNECTORS_TOKEN",
        "CODEX_EXEC_SERVER_NOISE_AUTH_TOKEN",
        "CODEX_GUARDIAN_DECISIONS_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "NODE_REPL_AUTH_TOKEN",
        "OPENAI_API_KEY",
        "OPENAI_FEDERATION_RULE_ID",
        "OPENAI_IDENTITY_TOKEN_FILE",
        "OPENAI_WORKLOAD_IDENTITY_CONTEXT",
        "OPENROUTER_API_KEY",
    }
)
#: Headers that a redirect to another server must not take along.
_PRIVATE: Final = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization", "www-authenticate"})
#: Headers that we write ourselves; the client's would contradict the framing of the message.
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers about a body; they go where it goes.
_PAYLOAD: Final = frozenset({"content-type", "content-encoding"})
#: How many bytes the name of a header may have.
_LONGEST_NAME: Final = 65535
_FORBIDDEN_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class RedirectPolicy(StrEnum):
    """What to do with an answer that points elsewhere."""

    FOLLOW = "follow"
    STOP = "stop"


class Header(msgspec.Struct, frozen=True, rename="camel"):
    """A header to send; the value of a variable of the host is appended to its value."""

    name: str
    value: str
    value_env_var: str | None = None


class HttpRequest(NumberParameters, frozen=True, kw_only=True):
    """The parameters of ``http/request``."""

    method: str
    url: str
    request_id: str
    headers: list[Header] = msgspec.field(default_factory=list[Header])
    body_base64: str | None = None
    timeout_ms: Unsigned | None = None
    redirect_policy: RedirectPolicy = RedirectPolicy.FOLLOW
    stream_response: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One request to one server."""

    method: str
    address: Address
    #: Names in lower case.
    headers: tuple[tuple[str, str], ...]
    body: bytes
    #: Names of the headers with something of the host's environment in them: for this server, and for no other.
    confided: frozenset[str] = frozenset()

    def head(self) -> bytes:
        """The request line and the headers, as they are sent."""
        names = {name for name, _ in self.headers}
        lines = [f"{self.method} {self._target()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if "accept" not in names:
            lines.append("accept: */*")
        if "host" not in names:
            lines.append(f"host: {self.address.authority}")
        if self.body:
            lines.append(f"content-length: {len(self.body)}")
        lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _target(self) -> str:
        if self.method != "CONNECT":
            return self.address.target
        return f"{self.address.authority.removesuffix(f':{self.address.port}')}:{self.address.port}"

    def redirected(self, status: int, location: str) -> Request | None:
        """The request that follows an answer with *status* and *location*; None if that is no address.

        :raises RpcError: it leads to something that is not HTTP
        """
        try:
            address = redirected(self.address, location)
        except UnsupportedScheme as error:
            problem = f"redirect target uses unsupported URL scheme: {error}"
            raise RpcError(INTERNAL_ERROR, f"http/request failed: {problem}") from None
        if address is None:
            return None
        method, body = self.method, self.body
        another = status == 303 or (status in (301, 302) and method == "POST")
        if another:
            method, body = "HEAD" if method == "HEAD" else "GET", b""
        same = address.origin == self.address.origin
        kept = [
            (name, value)
            for name, value in self.headers
            if name != "referer"
            and (same or (name != "host" and name not in _PRIVATE and name not in self.confided))
            and not (another and name in _PAYLOAD)
        ]
        if address.secure or not self.address.secure:
            kept.append(("referer", self.address.origin + (self.address.target if same else "/")))
        return replace(self, method=method, address=address, headers=tuple(kept), body=body)


def prepare(params: HttpRequest, environment: Mapping[str, str] = os.environ) -> Request:
    """Check what a client asks for.

    :raises RpcError: it is not a request that can be sent
    """
    try:
        body = decode_base64(params.body_base64 or "")
    except ValueError:
        raise RpcError(INVALID_PARAMS, base64_fault(params.body_base64 or "")) from None
    if not _TOKEN.fullmatch(params.method):
        raise _invalid("method is invalid: invalid HTTP method")
    try:
        address = read_address(params.url)
    except NoAddress as error:
        raise _invalid(f"url is invalid: {error}") from None
    except UnsupportedScheme as error:
        raise _invalid(f"only supports http and https URLs, got {error}") from None
    headers = [_header(header, environment) for header in params.headers]
    if address.credentials is not None and not any(name == "authorization" for name, _ in headers):
        credentials = ":".join(address.credentials).encode()
        headers.append(("authorization", "Basic " + base64.b64encode(credentials).decode()))
    wanted = tuple((name, value) for name, value in headers if name not in _FRAMING)
    confided = frozenset(header.name.lower() for header in params.headers if header.value_env_var is not None)
    return Request(params.method, address, wanted, body, confided)


def _invalid(problem: str) -> RpcError:
    return RpcError(INVALID_PARAMS, f"http/request {problem}")


def _header(header: Header, environment: Mapping[str, str]) -> tuple[str, str]:
    name, value = header.name, header.value
    if not _TOKEN.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise _invalid("header name is invalid: invalid HTTP header name")
    variable = header.value_env_var
    if variable is not None:
        if variable.upper() in DENIED_VARIABLES or variable.upper().startswith("HOLDFAST_"):
            raise _invalid(f"header {name} cannot use executor environment variable {variable}")
        if variable not in environment:
            raise _invalid(f"header {name} requires executor environment variable {variable}")
        if not environment[variable]:
            raise _invalid(f"header {name} requires a non-empty executor environment variable {variable}")
        value += environment[variable]
    if _FORBIDDEN_IN_VALUE.search(value):
        raise _invalid(f"header value is invalid for {name}: failed to parse header value")
    return name.lower(), value
