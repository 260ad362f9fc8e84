"""``file:`` URIs, the only spelling of a path on the wire."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from holdfast.errors import InvalidRequest


class InvalidUri(InvalidRequest):
    """The text is not a ``file:`` URI of this machine."""

    code = "invalid_uri"


def path_to_uri(path: str) -> str:
    """The URI of an absolute path."""
    return "file://" + quote(path.encode("utf-8", "surrogateescape"))


@lru_cache(256)
def uri_to_path(uri: str) -> str:
    """The absolute path that *uri* names; ``..`` is left to the operating system.

    :raises InvalidUri: in the words of the reference implementation
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not scheme.isalnum():
        raise InvalidUri("invalid URI: relative URL without a base")
    if scheme.lower() != "file":
        raise InvalidUri(f"unsupported path URI scheme `{scheme.lower()}`")
    if "?" in rest:
        raise InvalidUri("query parameters are not allowed in path URIs")
    if "#" in rest:
        raise InvalidUri("fragments are not allowed in path URIs")
    authority = ""
    if rest.startswith("//"):
        authority, slash, tail = rest[2:].partition("/")
        rest = slash + tail
    if authority and authority.lower() != "localhost":
        raise InvalidUri(f"URI {uri} is not valid on this exec-server host: it names the host `{authority}`")
    path = unquote_to_bytes(rest)
    if b"\0" in path:
        raise InvalidUri("path URIs must not contain NUL")
    if not path.startswith(b"/"):
        path = b"/" + path
    return path.decode("utf-8", "surrogateescape")
