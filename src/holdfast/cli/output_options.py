"""The options that say what a finished task looks like, shared by ``run``, ``wait`` and ``result``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from holdfast.cli.result_output import Format

_F = TypeVar("_F", bound=Callable[..., Any])


def format_options(function: _F) -> _F:
    """``--format`` and ``--json``."""
    function = click.option("--json", "as_json", is_flag=True, help="Print the result document: --format json.")(
        function
    )
    return click.option(
        "--format",
        "output_format",
        type=click.Choice([str(format_) for format_ in Format]),
        help="What goes to standard output.  [default: text; receipt with --output-file]",
    )(function)


def judgement_options(function: _F) -> _F:
    """``--fail-on-reject``."""
    return click.option(
        "--fail-on-reject",
        is_flag=True,
        help="Exit with status 5 for a completed task whose verdict does not approve, or that has none.",
    )(function)


def marker_options(function: _F) -> _F:
    """``--append-marker``, for what is printed."""
    return click.option(
        "--append-marker", is_flag=True, help="End the text with PATCH_APPLIED or FINDINGS_ONLY on a line of its own."
    )(function)


def output_options(function: _F) -> _F:
    """``--format``, ``--json``, ``--quiet`` and ``--progress``."""
    function = click.option(
        "--progress",
        type=click.Choice(["auto", "line", "plain", "none"]),
        default="auto",
        help="How to show what the agent does, on standard error.  [default: a line on a terminal, else nothing]",
    )(function)
    function = click.option("--quiet", is_flag=True, help="Nothing on standard error but failures.")(function)
    return format_options(function)
