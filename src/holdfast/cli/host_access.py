"""Talking to a running host: the one of the state directory, or the one that is named."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holdfast.cli.error_report import UsageError
from holdfast.directories import state_directory

if TYPE_CHECKING:
    from holdfast.host.client import HostClient

#: Seconds for a host to answer.
PATIENCE: Final = 5.0
NOT_RUNNING: Final = "No host is running; a task that needs one starts it."

T = TypeVar("T")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def options(command: _Command) -> _Command:
    """Give *command* the options that name a host."""
    url = click.option(
        "--url", metavar="URL", help="unix://PATH or ws://IP:PORT (default: the host of the state directory)."
    )
    token_file = click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
        help="The token of a ws:// host that asks for one.",
    )
    return url(token_file(command))


def command(*words: str, url: str | None, token_file: Path | None) -> str:
    """The command ``holdfast host`` *words* for the host that *url* and *token_file* name, as a person can type it."""
    naming = [word for option in (("--url", url), ("--token-file", token_file)) if option[1] for word in option]
    return shlex.join(["holdfast", "host", *words, *map(str, naming)])


def ask(
    url: str | None,
    token_file: Path | None,
    question: Callable[[HostClient], Awaitable[T]],
    *,
    patience: float = PATIENCE,
    within: float | None = None,
) -> T:
    """What the host answers to *question*; one that goes away meanwhile is waited for for *patience* seconds.

    :param within: how many seconds all of it may take; None for no limit
    :raises HostUnavailable: it does not answer; none is started
    :raises TimeoutError: not *within* that time
    :raises InvalidUrl: *url* is none of a host
    """

    async def asked() -> T:
        from holdfast.host.address import host_url
        from holdfast.host.client import HostClient

        token = None if token_file is None else _token(token_file)
        address = host_url(state_directory() / "host", make=False) if url is None else url
        async with asyncio.timeout(within):
            client = await HostClient.connect(address, token=token, reconnect_for=patience)
            try:
                return await question(client)
            finally:
                await client.aclose()

    return asyncio.run(asked())


def ask_if_running(
    url: str | None,
    token_file: Path | None,
    question: Callable[[HostClient], Awaitable[T]],
    *,
    within: float | None = None,
) -> T | None:
    """The same; None if no host was named and none runs for the state directory."""
    from holdfast.host.port import HostUnavailable

    try:
        return ask(url, token_file, question, within=within)
    except HostUnavailable as error:
        # Whoever may not ask, or gets no answer, does not know that.
        if url is None and isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return None
        raise


def _token(file: Path) -> str:
    try:
        token = file.read_bytes().strip().decode("ascii")
    except UnicodeDecodeError:
        token = ""
    if not token or not token.replace("\t", " ").isprintable():
        raise UsageError(f"There is no token in {file}.", hint="A token is one line of ASCII.")
    return token
