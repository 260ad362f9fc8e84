"""The address of an HTTP request, read as browsers and Codex CLI 0.169 read it (the URL Standard of WHATWG).

So both send to the same server: ``0x7f.1`` is an address, ``%68ost`` a name, and each name has one spelling.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

#: The schemes there are, and the ports that need not be told.
PORTS: Final = {"http": 80, "https": 443}
#: What is cut off at both ends: control characters and blanks.
_AROUND: Final = "".join(map(chr, range(0x21)))
#: What is left out wherever it stands.
_LEFT_OUT: Final = str.maketrans("", "", "\t\r\n")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
#: Whatever slashes follow the scheme, and whether they lean forward, two are meant.
_AFTER_SCHEME: Final = re.compile(r"[/\\]*([^/\\?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_SCHEME_OF_REDIRECT: Final = re.compile(r"(https?):(/*)", re.IGNORECASE)
_BEFORE_QUERY: Final = re.compile(r"[^?#]*")
_FORBIDDEN_IN_HOST: Final = re.compile(r"[\x00-\x20\x7f#/:<>?@\[\\\]^|%]")
_NUMBER: Final = re.compile(r"\d+|0[xX][0-9a-fA-F]*", re.ASCII)
_LARGEST_PORT: Final = 65535
#: Characters of a name that mean nothing: hyphens for the end of a line, joiners of no width, selectors of a glyph.
_MEANINGLESS: Final = re.compile("[\u00ad\u034f\u180b-\u180f\u200b\u2060\u2064\ufe00-\ufe0f\ufeff]")
#: Categories of characters that no name may have: controls, private ones, halves of others, and those not assigned.
_UNUSABLE: Final = frozenset({"Cc", "Co", "Cs", "Cn"})


class NoAddress(ValueError):
    """It is not the URL of anything; the text says why, in the reference implementation's words."""


class UnsupportedScheme(Exception):
    """It is an address, but of something other than HTTP; the argument is the scheme."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes."""

    secure: bool
    #: A name in ASCII and lower case, or an address, of IPv6 without its brackets.
    host: str
    port: int
    #: What stands in the request line, percent-encoded.
    target: str
    fragment: str
    #: User and password, None if the URL tells neither.
    credentials: tuple[str, str] | None

    @property
    def authority(self) -> str:
        """The host, and its port if that is not the usual one: as in ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The server: all that tells one from another."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The one spelling of the URL, without credentials."""
        return f"{self.origin}{self.target}{self.fragment}"

    @property
    def scheme(self) -> str:
        """That of the URL."""
        return "https" if self.secure else "http"


def read_address(url: str) -> Address:
    """Take a URL apart.

    :raises NoAddress: it is none
    :raises UnsupportedScheme: it is not one of HTTP
    """
    url = url.strip(_AROUND).translate(_LEFT_OUT)
    found = _SCHEME.match(url)
    if found is None:
        raise NoAddress("relative URL without a base")
    scheme = found[1].lower()
    if scheme not in PORTS:
        raise UnsupportedScheme(scheme)
    rest = _AFTER_SCHEME.fullmatch(url, found.end())
    assert rest is not None
    userinfo, _, location = rest[1].rpartition("@")
    host, port = _host_and_port(location)
    target = quote(_without_dots(rest[2].replace("\\", "/")), safe="/%:@!$&'()*+,;=~-._[]|^")
    if rest[3] is not None:
        target += quote(rest[3], safe="/%:@!$&()*+,;=~-._?[]|^{}`\\")
    return Address(
        secure=scheme == "https",
        host=host,
        port=PORTS[scheme] if port is None else port,
        target=target,
        fragment=rest[4] or "",
        credentials=_credentials(userinfo),
    )


def redirected(base: Address, location: str) -> Address | None:
    """Where a ``Location`` leads that came from *base*; None if that is no address.

    :raises UnsupportedScheme: it leads to something that is not HTTP
    """
    location = _BEFORE_QUERY.sub(lambda found: found[0].replace("\\", "/"), location.strip(), count=1)
    found = _SCHEME_OF_REDIRECT.match(location)
    if location.startswith("///") or (found is not None and found.end() == len(location)):
        return None
    try:
        if found is None:
            location = location.translate(_LEFT_OUT)
            if _SCHEME.match(location) is None:
                location = _joined(base, location)
        elif found[1].lower() == base.scheme and len(found[2]) < 2:
            # With the scheme that is known already, and no two slashes behind it, it is a relative address.
            location = _joined(base, location[found.end(1) + 1 :].translate(_LEFT_OUT))
        return read_address(location)
    except ValueError:
        return None


def _joined(base: Address, location: str) -> str:
    """The URL that a relative one means; its dots are left in it."""
    path = base.target.partition("?")[0]
    if location.startswith("//"):
        return f"{base.scheme}:{location}"
    if location.startswith("/"):
        return base.origin + location
    if location.startswith("?"):
        return base.origin + path + location
    if not location or location.startswith("#"):
        return base.origin + base.target + location
    return base.origin + path[: path.rindex("/") + 1] + location


def _credentials(userinfo: str) -> tuple[str, str] | None:
    """User and password; what is no UTF-8 is none."""
    user, _, password = userinfo.partition(":")
    try:
        name = unquote_to_bytes(user).decode()
    except UnicodeDecodeError:
        return None
    try:
        secret = unquote_to_bytes(password).decode()
    except UnicodeDecodeError:
        secret = ""
    return (name, secret) if user or password else None


def _host_and_port(location: str) -> tuple[str, int | None]:
    if location.startswith("["):
        inside, closed, rest = location[1:].partition("]")
        if not closed:
            raise NoAddress("invalid IPv6 address")
        host = _ipv6(inside)
        colon, port = rest[:1], rest[1:]
    else:
        name, colon, port = location.partition(":")
        host = _name(name)
    if not colon and not port:
        return host, None
    if colon != ":" or (port and not (port.isascii() and port.isdigit())):
        raise NoAddress("invalid port number")
    digits = port.lstrip("0")
    if len(digits) > len(str(_LARGEST_PORT)) or int(digits or "0") > _LARGEST_PORT:
        raise NoAddress("invalid port number")
    return host, int(port) if port else None


def _ipv6(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("which interface of this machine is meant is not for others to say")
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise NoAddress("invalid IPv6 address") from None
    if address.ipv4_mapped is None:
        return str(address)
    # Which Python 3.13 writes in another way.
    low = int(address.ipv4_mapped)
    return f"::ffff:{low >> 16:x}:{low & 0xFFFF:x}"


def _name(text: str) -> str:
    """A name in its one spelling; an address of IPv4 is one as well."""
    if not text:
        raise NoAddress("empty host")
    name = unquote_to_bytes(text).decode(errors="replace")
    if not name.isascii():
        name = _mapped(name)
    labels = [_label(label) for label in name.lower().split(".")]
    name = ".".join(labels)
    if _FORBIDDEN_IN_HOST.search(name):
        raise NoAddress("invalid international domain name")
    if not name:
        raise NoAddress("empty host")
    parts = labels[:-1] if len(labels) > 1 and not labels[-1] else labels
    return _ipv4(parts) if _NUMBER.fullmatch(parts[-1]) else name


def _mapped(name: str) -> str:
    """A name with characters other than ASCII, with one spelling for all that mean the same (UTS 46)."""
    # Loaded only by who needs it: it is a megabyte.
    import unicodedata

    for _ in range(2):
        # Each by itself: what "Σ" is in lower case would depend on what stands around it.
        name = unicodedata.normalize("NFKC", "".join(character.lower() for character in name))
    name = _MEANINGLESS.sub("", name).replace("\u3002", ".")
    if "\ufffd" in name or any(unicodedata.category(character) in _UNUSABLE for character in name):
        raise NoAddress("invalid international domain name")
    return name


def _label(label: str) -> str:
    """A part of a name between dots, in ASCII."""
    if not label.isascii():
        return "xn--" + label.encode("punycode").decode()
    if label.startswith("xn--"):
        try:
            meant = label[4:].encode().decode("punycode")
        except UnicodeError:
            meant = ""
        if meant.isascii() or _mapped(meant) != meant:
            raise NoAddress("invalid international domain name")
    return label


def _ipv4(parts: list[str]) -> str:
    """An address of up to four numbers, decimal, octal or hexadecimal, of which the last one fills what is left."""
    try:
        numbers = [_number(part) for part in parts]
        *first, last = numbers
        if len(first) > 3 or any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
            raise ValueError("too large")
    except ValueError:
        raise NoAddress("invalid IPv4 address") from None
    return str(ipaddress.IPv4Address(sum(number << 24 - 8 * place for place, number in enumerate(first)) + last))


def _number(text: str) -> int:
    """The number that is meant; python refuses to take long over a longer one."""
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") and len(text) > 1 else 10)


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
