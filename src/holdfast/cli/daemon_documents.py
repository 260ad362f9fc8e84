"""The daemon as a command sees it that must be quick: documents as they come, and what there is to say on stderr."""

from __future__ import annotations

import json

from holdfast.cli import terminal
from holdfast.daemon import documents
from holdfast.daemon.documents import Document as Document


def encode(document: Document) -> str:
    """*document* as JSON on one line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


class Documents(documents.Documents):
    """The daemon for the life of one command."""

    def _tell(self, notice: str) -> None:
        terminal.tell(f"notice: {terminal.printable(notice)}")
