"""``holdfast version``: which Holdfast this is."""

from __future__ import annotations

import json
import platform

import click

import holdfast
from holdfast.cli import terminal


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line.")
def version(*, as_json: bool) -> int:
    """Print the version of Holdfast and of the Python it runs on."""
    python = platform.python_version()
    if as_json:
        terminal.write_line(json.dumps({"holdfast": holdfast.__version__, "python": python}))
    else:
        terminal.write_line(f"holdfast {holdfast.__version__} (Python {python})")
    return 0
