"""``file:`` URIs, the only spelling of a path on the wire."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from holdfast.errors import InvalidRequest

#: The first step of a path on Windows, as it stands in a URI.
_DRIVE: Final = re.compile(r"[A-Za-z](:|%3[Aa])")
#: The same where the name of a server would stand.
_DRIVE_AS_HOST: Final = re.compile(r"[A-Za-z][:|]")
#: A URL is read without control characters and spaces around it, and without tabs and line ends wherever they stand.
_AROUND: Final = "".join(map(chr, range(0x21)))
_WITHIN: Final = str.maketrans("", "", "\t\n\r")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
#: What the name of a server has not, after its percent signs are decoded.
_NEVER_IN_HOST: Final = re.compile(r"[\x00-\x20\x7f#/:<>?@\[\\\]^|%\ufffd]")
#: What a URL leaves as it is in a path, beside letters and digits.
_PLAIN_IN_PATH: Final = "/%:@!$&'()*+,;=~-._[]|"
#: What of the name of a file stands in its URI as it is, as with the reference implementation.
_PLAIN_IN_NAME: Final = "/:@!$&'()*+,;=[]^|"


class InvalidUri(InvalidRequest):
    """The text is not a ``file:`` URI of this machine."""

    code = "invalid_uri"


class ForeignUri(InvalidUri):
    """The text is a ``file:`` URI, but of Windows: its path begins with a drive, or it names a server."""

    def __init__(self, uri: str) -> None:
        #: The URI as a browser would write it.
        self.uri = uri
        #: What is wrong with it, in the words of the reference implementation.
        self.reason = f"'{uri}' is invalid on 'linux'"
        super().__init__(f"URI `{uri}` is not valid on this exec-server host: {self.reason}")


def path_to_uri(path: str) -> str:
    """The URI of an absolute path."""
    return "file://" + quote(path.encode("utf-8", "surrogateescape"), safe=_PLAIN_IN_NAME)


@lru_cache(256)
def uri_to_path(uri: str) -> str:
    """The absolute path that *uri* names; ``..`` is still in it, see :func:`resolve_dots`.

    :raises ForeignUri: it names a place on another kind of machine
    :raises InvalidUri: in the words of the reference implementation
    """
    uri = uri.strip(_AROUND).translate(_WITHIN)
    named = _SCHEME.match(uri)
    if named is None:
        raise InvalidUri("invalid URI: relative URL without a base")
    scheme, rest = named[1].lower(), uri[named.end() :]
    if scheme != "file":
        raise InvalidUri(f"unsupported path URI scheme `{scheme}`")
    if "?" in rest:
        raise InvalidUri("query parameters are not allowed in path URIs")
    if "#" in rest:
        raise InvalidUri("fragments are not allowed in path URIs")
    # In a URL of a file both kinds of slashes mean the same; a backslash in a name is percent-encoded.
    rest = rest.replace("\\", "/")
    authority = ""
    if rest.startswith("//"):
        authority, slash, tail = rest[2:].partition("/")
        rest = slash + tail
    if _DRIVE_AS_HOST.fullmatch(authority):
        authority, rest = "", f"/{authority[0]}:{rest}"
    host = _host(authority)
    if host not in ("", "localhost"):
        raise ForeignUri(f"file://{host}{quote(rest or '/', safe=_PLAIN_IN_PATH)}")
    if _DRIVE.search(rest):
        _refuse_drive(rest)
    path = unquote_to_bytes(rest)
    if b"\0" in path:
        raise InvalidUri(f"'file:///{quote(rest.removeprefix('/'), safe=_PLAIN_IN_PATH)}' is invalid on 'linux'")
    if not path.startswith(b"/"):
        path = b"/" + path
    return path.decode("utf-8", "surrogateescape")


def _host(authority: str) -> str:
    """The server that a URI names.

    :raises InvalidUri: there can be none of that name
    """
    if authority.startswith("["):
        return authority.lower()
    host = unquote_to_bytes(authority).decode("utf-8", "replace").lower()
    if _NEVER_IN_HOST.search(host):
        raise InvalidUri("invalid URI: invalid international domain name")
    return host


def resolve_dots(path: str) -> str:
    """An absolute path with ``.``, ``..`` and doubled slashes resolved in the text, as in any URL."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _refuse_drive(path: str) -> None:
    """Check that a path does not begin with a drive when its dots are resolved as in a URL.

    :raises ForeignUri: it does
    """
    steps: list[str] = []
    for step in path.split("/"):
        dots = step.lower().replace("%2e", ".")
        if dots == "..":
            # A drive is the top: nothing leads out of it.
            if steps and not (len(steps) == 1 and _DRIVE.fullmatch(steps[0])):
                steps.pop()
        elif dots != "." and (step or steps):
            steps.append(step)
    if steps and _DRIVE.fullmatch(steps[0]):
        drive = steps[0][0].upper() + steps[0][1:]
        raise ForeignUri("file:///" + quote("/".join([drive, *steps[1:]]), safe=_PLAIN_IN_PATH))
