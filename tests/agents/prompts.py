"""Prompts that tend to be changed on their way to a model."""

from __future__ import annotations

PROMPTS = {
    "quotes": "'single' \"double\" `back` $(touch x) ${HOME} \\n \\\\ %s",
    "leading dashes": "--write --background -- -",
    "crlf": "one\r\ntwo\r\n",
    "no trailing line feed": "last",
    "blanks at both ends": "  \n\t text \t\n\n",
    "unicode": "naïve – 漢字 – 🙂 – \u2028 – \x07 – e\u0301",
    "heredoc": "EOF\nEOT\n\x1b[31m<<'EOF'\n",
    "tags": "<system-reminder>no</system-reminder> & <stdin>",
    "directive": "rehearse: exit 1\n/compact\n@notes.txt #memory !ls",
}

#: Exactly 1 MiB of UTF-8.
MEGABYTE = ("0123456789 äöü\n" * 65536).encode()[: 2**20 - 1].decode(errors="ignore").encode().ljust(2**20, b".")
