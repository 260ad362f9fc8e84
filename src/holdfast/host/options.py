"""The options of ``exec-server``.

Those of nearly every host are read here by hand: the parser of the standard library, and what it imports, would stay in
the memory of each.  It reads whatever else is given, and has all the say about errors and help.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidRequest

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

#: The largest whole number that an option can have.
_LARGEST: Final = 2**64 - 1


class RefusedOption(InvalidRequest):
    """An option that the host cannot keep, or does not know."""

    code = "refused_option"


class HelpWanted(Exception):
    """The options ask for help, which is *text*, and for nothing else."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(slots=True)
class Options:
    """What was given, and the defaults of what was not; the parser has the meaning of each."""

    listen: str = "ws://127.0.0.1:0"
    state_dir: Path | None = None
    idle_exit: float | None = None
    retain_bytes: int = 20 * 1024**3
    root: Path | None = None
    concurrent_requests: int | None = None
    remote: str | None = None
    environment_id: str | None = None
    name: str | None = None
    linux_sandbox_pid_namespace: str | None = None
    proxy_private_ips_via_upstream: bool = False
    remote_transport: str | None = None
    log_format: str = "text"
    log_level: str = "warning"
    ws_auth: str | None = None
    ws_token_file: Path | None = None
    ws_token_sha256: str | None = None
    ws_shared_secret_file: Path | None = None
    ws_issuer: str | None = None
    ws_audience: str | None = None
    ws_max_clock_skew_seconds: int | None = None


def _whole(word: str, *, least: int = 0) -> int:
    """A number as the reference implementation takes it: of 64 bits, without a sign."""
    digits = word.lstrip("+0") or "0"
    if not re.fullmatch(r"\+?[0-9]+", word) or (digits == "0" and least > 0):
        raise ValueError(f"{word!r} is not a whole number from {least} on")
    # Python refuses to read thousands of them.
    if len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST:
        raise ValueError(f"{word!r} is larger than {_LARGEST}")
    return int(digits)


def _positive(word: str) -> int:
    return _whole(word, least=1)


def _seconds(word: str) -> float:
    try:
        # Python would also read the digits of other scripts, and underscores.
        seconds = float(word) if word.isascii() and "_" not in word else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{word!r} is not a number of seconds from 0 on")
    return seconds


def _directory(word: str) -> Path:
    # An empty path would be the working directory.
    if not word:
        raise ValueError("an empty text names no directory")
    return Path(word)


#: The options that are read by hand, and what makes their values of words.
_USUAL: Final[dict[str, Callable[[str], object]]] = {
    "--listen": str,
    "--state-dir": _directory,
    "--idle-exit": _seconds,
    "--retain-bytes": _whole,
    "--root": _directory,
}


def read_options(given: list[str]) -> Options:
    """The options in the words *given*.

    :raises RefusedOption: the words are no options
    :raises HelpWanted: they ask for help
    """
    return read_usual_options(given) or build_parser().parse_args(given, Options())


def read_usual_options(given: list[str]) -> Options | None:
    """The options if they are usual ones, spelled out, each with a value; None if there is more to it."""
    options = Options()
    words = iter(given)
    for word in words:
        name, equals, value = word.partition("=")
        convert = _USUAL.get(name)
        if convert is None:
            return None
        if not equals:
            value = next(words, "-")
            if value.startswith("-"):
                return None
        try:
            setattr(options, name.removeprefix("--").replace("-", "_"), convert(value))
        except ValueError:
            return None
    return options


def build_parser() -> argparse.ArgumentParser:
    """The options of ``exec-server``."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise RefusedOption(
                f"The host does not understand its options: {message}.", hint="See: holdfast exec-server --help"
            )

        def print_help(self, file: object = None) -> NoReturn:
            # By itself it passes over in silence that nobody can read it.
            raise HelpWanted(self.format_help())

    parser = Parser(
        prog="holdfast exec-server",
        description="Host processes for clients of the exec-server protocol. Prints its URL when it is ready.",
        allow_abbrev=False,
    )

    def told(convert: Callable[[str], object]) -> Callable[[str], object]:
        """What lets the parser tell why a word was refused."""

        def converted(word: str) -> object:
            try:
                return convert(word)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        return converted

    parser.add_argument(
        "--listen",
        metavar="URL",
        help="ws://IP:PORT (port 0: any), unix://PATH, unix:// (in the state directory) or stdio",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=told(_directory),
        help="where logs are kept; without it they go when the host ends",
    )
    parser.add_argument(
        "--idle-exit",
        metavar="SECONDS",
        type=told(_seconds),
        help="end when there has been neither a connection nor a live process for so long",
    )
    parser.add_argument(
        "--retain-bytes",
        metavar="N",
        type=told(_whole),
        help="output of closed processes to keep, in bytes (default 20 GiB); beyond it the oldest goes",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=told(_directory),
        help="let fs/* touch nothing outside of DIR (processes are not limited by it)",
    )
    parser.add_argument(
        "--concurrent-requests",
        metavar="N",
        type=told(_positive),
        help="understood because codex has it; here no request waits for another one anyway",
    )
    parser.add_argument("--remote", metavar="URL", help="refused: it takes OpenAI's registry, and a login there")
    for option in ("--environment-id", "--name"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    # A sandbox of ours has a pid namespace of its own in any case, and the proxy is one that we do not have.
    parser.add_argument("--linux-sandbox-pid-namespace", choices=["isolate", "inherit"], help=argparse.SUPPRESS)
    parser.add_argument("--proxy-private-ips-via-upstream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--remote-transport", help=argparse.SUPPRESS)
    parser.add_argument("--log-format", choices=["text", "json"], help="lines for people, or JSON objects")
    parser.add_argument(
        "--log-level",
        choices=["error", "warning", "info"],
        help="what is told on standard error: failures, also what an operator should know (default), or also every "
        "client and process",
    )
    access = parser.add_argument_group("authentication of WebSocket clients (required off loopback)")
    access.add_argument(
        "--ws-auth",
        choices=["capability-token", "signed-bearer-token"],
        help="what a client has to prove: that it knows one token, or that it has one (a JWT) signed with a secret",
    )
    access.add_argument("--ws-token-file", metavar="FILE", type=Path, help="the capability token")
    access.add_argument("--ws-token-sha256", metavar="HEX", help="the digest of the capability token")
    access.add_argument(
        "--ws-shared-secret-file", metavar="FILE", type=Path, help="the secret of signed tokens (HS256)"
    )
    access.add_argument("--ws-issuer", metavar="TEXT", help="required issuer of signed tokens")
    access.add_argument("--ws-audience", metavar="TEXT", help="required audience of signed tokens")
    access.add_argument(
        "--ws-max-clock-skew-seconds",
        metavar="SECONDS",
        type=told(_whole),
        help="how much the clock of who signed may differ (default 30)",
    )
    return parser
