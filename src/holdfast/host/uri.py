"""``file:`` URIs, the only spelling of a path on the wire."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from holdfast.errors import InvalidRequest

#: What begins a URL.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
#: The first step of a path on Windows, as it stands in a URI.
_DRIVE: Final = re.compile(r"/[A-Za-z](:|%3[Aa])(/|$)")
#: The same as one step of a path or in the place of a server, and where there is none; a browser makes a colon of the
#: bar.
_DRIVE_LETTER: Final = re.compile(r"[A-Za-z][:|]$")
_DRIVE_WITH_BAR: Final = re.compile(r"/?[A-Za-z]\|(/|$)")
#: What is cut off at both ends of a URL, and what is left out of it wherever it stands.
_AROUND: Final = "".join(map(chr, range(0x21)))
_WITHIN: Final = str.maketrans("", "", "\t\n\r")
#: What the name of a server cannot have in it, bytes that are no UTF-8 included.
_NO_SERVER: Final = re.compile(r"[\0-\x20#/:<>?@\[\\\]^|%\x7f\ufffd]")
#: What of the name of a file stands in its URI as it is, as with the reference implementation.
_PLAIN_IN_NAME: Final = "/:@!$&'()*+,;=[]^|"
#: What a URL leaves as it is in a path.
_PLAIN_IN_PATH: Final = _PLAIN_IN_NAME + "%"
#: Characters of the longest text that is remembered: no file has a longer path, even if all of it is percent-encoded.
_LONGEST: Final = 16 * 1024


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


def _remembered(function: Callable[[str], str]) -> Callable[[str], str]:
    """The function, with what it said last; a client that sends long texts has them kept by nobody."""
    remembering = lru_cache(256)(function)

    @wraps(function)
    def call(text: str) -> str:
        return remembering(text) if len(text) <= _LONGEST else function(text)

    return call


def path_to_uri(path: str) -> str:
    """The URI of an absolute path."""
    return "file://" + quote(path.encode("utf-8", "surrogateescape"), safe=_PLAIN_IN_NAME)


@_remembered
def uri_to_path(uri: str) -> str:
    """The absolute path that *uri* names.

    :raises ForeignUri: it names a place on another kind of machine
    :raises InvalidUri: in the words of the reference implementation
    """
    return unquote_to_bytes(normalize(uri).removeprefix("file://")).decode("utf-8", "surrogateescape")


@_remembered
def normalize(uri: str) -> str:
    """*uri* as a browser writes it, which is how the reference implementation tells it.

    The rules are those of the URL standard: blanks around it are cut off, both kinds of slashes are the same, ``.`` and
    ``..`` are resolved, and what is percent-encoded stays as it is.  Names of servers beyond ASCII are not understood:
    they are foreign however they are written.

    :raises ForeignUri: it names a place on another kind of machine
    :raises InvalidUri: in the words of the reference implementation
    """
    text = uri.strip(_AROUND).translate(_WITHIN)
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise InvalidUri("invalid URI: relative URL without a base")
    if (name := scheme[1].lower()) != "file":
        raise InvalidUri(f"unsupported path URI scheme `{name}`")
    rest = text[scheme.end() :]
    extra = re.search(r"[?#]", rest)
    if extra is not None:
        what = "query parameters" if extra[0] == "?" else "fragments"
        raise InvalidUri(f"{what} are not allowed in path URIs")
    # A backslash in a name is percent-encoded.
    rest = rest.replace("\\", "/")
    server = ""
    if rest.startswith("//"):
        authority, slash, tail = rest[2:].partition("/")
        if _DRIVE_LETTER.match(authority):
            rest = f"/{authority[0]}:{slash}{tail}"
        else:
            server, rest = _server(authority), slash + tail
    elif drive := _DRIVE_WITH_BAR.match(rest):
        rest = drive[0].replace("|", ":") + rest[drive.end() :]
    path = quote(_resolve(rest), safe=_PLAIN_IN_PATH)
    drive = _DRIVE.match(path)
    if drive and drive[1] == ":":
        server = ""
    if "%00" in path:
        raise InvalidUri(f"'file://{server}{path}' is invalid on 'linux'")
    if server:
        raise ForeignUri(f"file://{server}{path}")
    if drive:
        raise ForeignUri(f"file:///{path[1].upper()}{path[2:]}")
    return f"file://{path}"


@_remembered
def resolve_dots(path: str) -> str:
    """An absolute path with ``.``, ``..`` and doubled slashes resolved in the text, as in any URL."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _server(authority: str) -> str:
    """The name of the server of a URL; empty for this machine.

    :raises InvalidUri: it is no name
    """
    if authority.startswith("["):
        if not authority.endswith("]"):
            raise InvalidUri("invalid URI: invalid IPv6 address")
        return authority.lower()
    name = unquote(authority).lower()
    if _NO_SERVER.search(name):
        raise InvalidUri("invalid URI: invalid international domain name")
    return "" if name == "localhost" else name


def _resolve(path: str) -> str:
    """The path of a URL without its dots, and without empty steps at its beginning."""
    steps: list[str] = []
    dots = ""
    for step in path.split("/"):
        dots = step.lower().replace("%2e", ".")
        if dots == "..":
            # Nothing leads out of what looks like a drive, wherever it stands.
            if steps and not _DRIVE_LETTER.match(steps[-1]):
                steps.pop()
        elif dots != "." and (step or steps):
            steps.append(step)
    if steps and dots in (".", ".."):
        steps.append("")
    return "/" + "/".join(steps)
