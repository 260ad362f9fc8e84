"""What a client asks for, checked: method, address, headers and body, ready to be sent.

The texts of refusals are those of Codex CLI 0.169, and so are the rules for redirects.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import msgspec

from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.parameters import Parameters
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
_PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Whatever slashes follow the scheme, two are meant; in a redirect one or none would be a relative address.
_SLASHES: Final = re.compile(r"(https?:)/*", re.IGNORECASE)
_SLASHES_OF_REDIRECT: Final = re.compile(r"(https?:)?/{2,}", re.IGNORECASE)
_BEFORE_QUERY: Final = re.compile(r"[^?#]*")
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


class HttpRequest(Parameters, frozen=True, kw_only=True):
    """The parameters of ``http/request``."""

    method: str
    url: str
    request_id: str
    headers: list[Header] = msgspec.field(default_factory=list[Header])
    body_base64: str | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    redirect_policy: RedirectPolicy = RedirectPolicy.FOLLOW
    stream_response: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One request to one server."""

    method: str
    url: str
    secure: bool
    host: str
    port: int
    #: What stands in the request line.
    target: str
    #: Names in lower case.
    headers: tuple[tuple[str, str], ...]
    body: bytes
    #: Names of the headers with something of the host's environment in them: for this server, and for no other.
    confided: frozenset[str] = frozenset()

    def head(self) -> bytes:
        """The request line and the headers, as they are sent."""
        names = {name for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if "accept" not in names:
            lines.append("accept: */*")
        if "host" not in names:
            lines.append(f"host: {self._authority()}")
        if self.body:
            lines.append(f"content-length: {len(self.body)}")
        lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"

    def redirected(self, status: int, location: str) -> Request | None:
        """The request that follows an answer with *status* and *location*; None if that is no address.

        :raises RpcError: it leads to something that is not HTTP
        """
        location = _forward(location.strip())
        if slashes := _SLASHES_OF_REDIRECT.match(location):
            rest = location[slashes.end() :]
            if not rest:
                return None
            location = f"{slashes[1] or self.url.partition('/')[0]}//{rest}"
        try:
            parts = urlsplit(urljoin(self.url, location))
        except ValueError:
            return None
        if parts.scheme not in _PORTS:
            problem = f"redirect target uses unsupported URL scheme: {parts.scheme}"
            raise RpcError(INTERNAL_ERROR, f"http/request failed: {problem}")
        try:
            secure, host, port, target = _address(parts)
        except RpcError:
            return None
        method, body = self.method, self.body
        if (status in (301, 302) and method == "POST") or (status == 303 and method != "HEAD"):
            method, body = "GET", b""
        same = (secure, host, port) == (self.secure, self.host, self.port)
        kept = [
            (name, value)
            for name, value in self.headers
            if name not in ("referer", "host")
            and (same or (name not in _PRIVATE and name not in self.confided))
            and (body or not name.startswith("content-"))
        ]
        if not (self.secure and not secure):
            kept.append(("referer", _referer(self.url, same=same)))
        return replace(
            self,
            method=method,
            url=_spelled(parts, target),
            secure=secure,
            host=host,
            port=port,
            target=target,
            headers=tuple(kept),
            body=body,
        )


def _referer(url: str, *, same: bool) -> str:
    """Where a redirect came from, without credentials; another server learns no more than the origin."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return origin + (parts.path or "/") + (f"?{parts.query}" if parts.query else "") if same else origin + "/"


def prepare(params: HttpRequest, environment: Mapping[str, str] = os.environ) -> Request:
    """Check what a client asks for.

    :raises RpcError: it is not a request that can be sent
    """
    if not _TOKEN.fullmatch(params.method):
        raise _invalid("method is invalid: invalid HTTP method")
    try:
        parts = urlsplit(_with_two_slashes(_forward(params.url.strip())))
        if not parts.scheme:
            raise _invalid("url is invalid: relative URL without a base")
        if parts.scheme not in _PORTS:
            raise _invalid(f"only supports http and https URLs, got {parts.scheme}")
        secure, host, port, target = _address(parts)
    except ValueError as error:
        raise _invalid(f"url is invalid: {error}") from None
    headers = [_header(header, environment) for header in params.headers]
    if "@" in parts.netloc and not any(name == "authorization" for name, _ in headers):
        credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        headers.append(("authorization", "Basic " + base64.b64encode(credentials).decode()))
    try:
        body = decode_base64(params.body_base64 or "")
    except ValueError:
        raise RpcError(INVALID_PARAMS, base64_fault(params.body_base64 or "")) from None
    wanted = tuple((name, value) for name, value in headers if name not in _FRAMING)
    confided = frozenset(header.name.lower() for header in params.headers if header.value_env_var is not None)
    return Request(params.method, _spelled(parts, target), secure, host, port, target, wanted, body, confided)


def _invalid(problem: str) -> RpcError:
    return RpcError(INVALID_PARAMS, f"http/request {problem}")


def _forward(url: str) -> str:
    """The URL with its backslashes turned: they separate a path, and a host from it, as slashes do."""
    return _BEFORE_QUERY.sub(lambda found: found[0].replace("\\", "/"), url, count=1)


def _with_two_slashes(url: str) -> str:
    scheme = _SLASHES.match(url)
    return url if scheme is None else f"{scheme[1]}//{url[scheme.end() :]}"


def _spelled(parts: SplitResult, target: str) -> str:
    """The URL with its path as it is sent."""
    return f"{parts.scheme}://{parts.netloc}{target}" + (f"#{parts.fragment}" if parts.fragment else "")


def _without_dots(path: str) -> str:
    """The path of a URL with ``.`` and ``..`` resolved, which nothing that is sent may contain."""
    steps = path.split("/")[1:]
    kept: list[str] = []
    for position, step in enumerate(steps, 1):
        dots = step.lower().replace("%2e", ".")
        if dots not in (".", ".."):
            kept.append(step)
            continue
        if dots == ".." and kept:
            kept.pop()
        if position == len(steps):
            kept.append("")
    return "/" + "/".join(kept)


def _address(parts: SplitResult) -> tuple[bool, str, int, str]:
    """Whether it is TLS, the host, the port and the target of the request line.

    :raises RpcError: there is no such address
    """
    try:
        host, port = parts.hostname, parts.port
        if not host:
            raise ValueError("empty host")
        if not _is_address(host):
            host = host.encode("idna").decode()
    except ValueError as error:
        raise _invalid(f"url is invalid: {error}") from None
    if _FORBIDDEN_IN_VALUE.search(host) or " " in host:
        raise _invalid("url is invalid: invalid host")
    target = quote(_without_dots(parts.path), safe="/%:@!$&'()*+,;=~-._[]|^")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&()*+,;=~-._?[]|^{}`\\")
    return parts.scheme == "https", host, _PORTS[parts.scheme] if port is None else port, target


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _header(header: Header, environment: Mapping[str, str]) -> tuple[str, str]:
    name, value = header.name, header.value
    if not _TOKEN.fullmatch(name):
        raise _invalid("header name is invalid: invalid HTTP header name")
    variable = header.value_env_var
    if variable is not None:
        if variable.upper() in DENIED_VARIABLES or variable.upper().startswith("HOLDFAST_"):
            raise _invalid(f"header {name} cannot use executor environment variable {variable}")
        if not environment.get(variable):
            raise _invalid(f"header {name} requires executor environment variable {variable}")
        value += environment[variable]
    if _FORBIDDEN_IN_VALUE.search(value):
        raise _invalid(f"header value is invalid for {name}: failed to parse header value")
    return name.lower(), value
