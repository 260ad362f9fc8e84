"""How a command says that it failed: one sentence, one hint, and with ``--json`` the same as an object on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from holdfast.cli import terminal
from holdfast.errors import HoldfastError, InvalidRequest

_JSON_FORMATS = ("json", "jsonl")


class UsageError(InvalidRequest):
    """The command line itself is wrong; nothing was started."""

    code = "usage"


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, told from the words alone because parsing may just have failed."""
    options = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if "--json" in options or any(f"--format={name}" in options for name in _JSON_FORMATS):
        return True
    return any(options[i : i + 2] == ["--format", name] for i in range(len(options)) for name in _JSON_FORMATS)


def report(error: HoldfastError, *, as_json: bool) -> int:
    """Print *error* and return the exit status that goes with it."""
    style = terminal.Style(sys.stderr)
    lines = [f"{style('red', 'error:')} {terminal.printable(error.message)}"]
    if error.hint:
        lines.append(f"{style('bold', 'hint:')} {terminal.printable(error.hint)}")
    terminal.tell("\n".join(lines))
    if as_json:
        import json

        body = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        terminal.write_line(json.dumps({"error": body}, ensure_ascii=False))
    return error.exit_code


def from_click(error: click.ClickException, arguments: Sequence[str], commands: Sequence[str]) -> HoldfastError:
    """The same complaint as *error* in one sentence with a hint."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "holdfast"
    hint = f"See: {command} --help"
    if isinstance(error, click.NoSuchOption):
        word = next((word for word in arguments if word.startswith(error.option_name)), error.option_name)
        return _unknown_option(word, context, hint)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        name = error.param.make_metavar(context or click.Context(click.Command(""))).strip("[].")
        return UsageError(f"{name} is missing.", hint=hint)
    message = error.format_message().strip()
    if context is not None and context.command_path == "holdfast" and arguments:
        word = next((argument for argument in arguments if not argument.startswith("-")), None)
        if word is not None and word not in commands:
            close = _closest(word, commands)
            hint = f"Did you mean 'holdfast {close}'?" if close else "See: holdfast --help"
            return UsageError(f"There is no command {word!r}.", hint=hint)
    return UsageError(message if message.endswith((".", "?", "!")) else f"{message}.", hint=hint)


def _unknown_option(word: str, context: click.Context | None, hint: str) -> HoldfastError:
    parameters = [] if context is None else context.command.params
    takes_prompt = any(parameter.name == "prompt" for parameter in parameters)
    if takes_prompt and word != "-h" and (not word.startswith("--") or any(map(str.isspace, word))):
        return UsageError(
            f"{_shortened(word)!r} begins with '-' and is not an option.",
            hint="If it is the prompt, put it behind '--', or use --prompt-file FILE, or pipe it in.",
        )
    options = [name for parameter in parameters for name in parameter.opts if name.startswith("--")]
    close = _closest(word, options)
    if close is not None:
        hint = f"Did you mean {close}?"
    elif takes_prompt:
        hint += "; if it is the prompt, put it behind '--'."
    return UsageError(f"There is no option {_shortened(word)!r}.", hint=hint)


def _closest(word: str, words: Sequence[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, words, n=1)), None)


def _shortened(word: str) -> str:
    return word if len(word) <= 60 else f"{word[:59]}…"
