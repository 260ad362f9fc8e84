"""Reading a command line of the companion, so that prose stays prose.

Slash commands hand over everything that a person typed as *one* argument, options included.  Such an argument is taken
apart; but for a command that takes prose, options are read only from its beginning, up to the first word that is none.
The rest is the prose, byte for byte: no quote, blank or backslash of it is touched, and no word of it is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.companion.refusal import Refused, UnknownOption

#: Short names that every command understands.
_SHORT: Final = {"C": "cwd", "m": "model"}
_BLANKS: Final = " \t\r\n\v\f"


class Arguments:
    """One command line, read.

    :ivar options: name (without dashes) to value; ``True`` or ``False`` for a switch
    :ivar words: what is no option: the prose as one string, or each word
    """

    def __init__(self, options: dict[str, str | bool], words: list[str]) -> None:
        self.options = options
        self.words = words

    def switch(self, name: str) -> bool:
        """Whether ``--name`` was given (and not as ``--name=false``)."""
        return self.options.get(name, False) is True

    def value(self, name: str) -> str | None:
        """The value of ``--name``, or ``None``."""
        value = self.options.get(name)
        return value if isinstance(value, str) else None

    @property
    def prose(self) -> str:
        """The words as the text that they are."""
        return " ".join(self.words)


class Syntax:
    """The options of one command.

    :param switches: options without a value
    :param values: options with one
    :param prose: the command takes free text, before which its options stand
    """

    def __init__(self, *, switches: Sequence[str] = (), values: Sequence[str] = (), prose: bool = False) -> None:
        self.switches = frozenset(switches)
        self.values = frozenset({*values, "cwd"})
        self.prose = prose

    def read(self, arguments: Sequence[str]) -> Arguments:
        """Read what follows the command's name.

        :raises UnknownOption: there is no such option, or it stands where only prose can be
        :raises Refused: an option lacks its value
        """
        if len(arguments) == 1:
            return self._read_string(arguments[0])
        return self._read_words(list(arguments))

    def _read_string(self, text: str) -> Arguments:
        if not self.prose:
            return self._read_words(split(text))
        options: dict[str, str | bool] = {}
        position = _skip_blanks(text, 0)
        while position < len(text):
            word, after = _word(text, position)
            if text[position:after] == "--":
                return Arguments(options, _non_empty(text[after + 1 :]))
            if not _is_option(text[position:after]):
                break
            name, value = self._named(word)
            position = _skip_blanks(text, after)
            if name in self.values and value is None:
                if position >= len(text):
                    raise _no_value(word)
                value, after = _word(text, position)
                position = _skip_blanks(text, after)
            options[name] = self._meaning(name, value)
        return Arguments(options, _non_empty(text[position:] if options else text))

    def _read_words(self, arguments: list[str]) -> Arguments:
        options: dict[str, str | bool] = {}
        words: list[str] = []
        while arguments:
            word = arguments.pop(0)
            if word == "--":
                words += arguments
                break
            if not _is_option(word):
                words.append(word)
                if self.prose:
                    self._check_end(arguments)
                    words += arguments
                    break
                continue
            name, value = self._named(word)
            if name in self.values and value is None:
                if not arguments:
                    raise _no_value(word)
                value = arguments.pop(0)
            options[name] = self._meaning(name, value)
        return Arguments(options, words)

    def _check_end(self, words: list[str]) -> None:
        """Refuse prose whose last word is an option of this command: somebody meant it, and would wait in vain."""
        if words and "--" not in words and _is_option(words[-1]) and self._name(words[-1]) is not None:
            raise UnknownOption(
                f"{words[-1]} stands behind the prompt, where everything is text.",
                hint="Put options before the prompt; or put a prompt that ends like this behind --.",
            )

    def _name(self, word: str) -> str | None:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("--"):
            name = _SHORT.get(name, "")
        return name if name in self.switches or name in self.values else None

    def _named(self, word: str) -> tuple[str, str | None]:
        name = self._name(word)
        if name is None:
            raise self._unknown(word)
        _, equals, value = word.partition("=")
        return name, value if equals else None

    def _unknown(self, word: str) -> UnknownOption:
        names = sorted(f"--{name}" for name in self.switches | self.values)
        hint = f"There are {', '.join(names)}."
        if self.prose:
            hint += "  Put text that begins with a dash behind --, or use --prompt-file or standard input."
        return UnknownOption(f"There is no option {word if len(word) <= 60 else word[:59] + '…'}.", hint=hint)

    def _meaning(self, name: str, value: str | None) -> str | bool:
        if name in self.switches:
            return value != "false"
        assert value is not None
        return value


def split(text: str) -> list[str]:
    """The words of *text* as a shell would see them: blanks separate, quotes and backslashes protect."""
    words: list[str] = []
    position = _skip_blanks(text, 0)
    while position < len(text):
        word, position = _word(text, position)
        words.append(word)
        position = _skip_blanks(text, position)
    return words


def _word(text: str, position: int) -> tuple[str, int]:
    """The word that begins at *position*, and where it ends."""
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        if character == "\\" and quote != "'" and position + 1 < len(text):
            position += 1
            word.append(text[position])
        elif quote:
            if character == quote:
                quote = ""
            else:
                word.append(character)
        elif character in "'\"":
            quote = character
        elif character in _BLANKS:
            break
        else:
            word.append(character)
        position += 1
    return "".join(word), position


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANKS:
        position += 1
    return position


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _non_empty(text: str) -> list[str]:
    return [text] if text.strip() else []


def _no_value(word: str) -> Refused:
    return Refused(f"Missing value for {word}", hint=f"Write {word} VALUE.")
