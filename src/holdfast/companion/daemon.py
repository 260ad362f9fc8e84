"""The daemon as the companion's commands see it: what it refuses is a :class:`.Refused` under the daemon's own code."""

from __future__ import annotations

import sys
from typing import Final

from holdfast.companion.refusal import Refused
from holdfast.daemon import refusal
from holdfast.daemon.documents import Document as Document
from holdfast.daemon.documents import Documents
from holdfast.errors import HoldfastError

#: Seconds that one ``wait`` asks for at most (the daemon's own bound).
WAIT_BOUND: Final = 60.0


class Daemon(Documents):
    """The daemon of the state directory; started when there is none, and again when it died."""

    def _tell(self, notice: str) -> None:
        sys.stderr.write(f"{notice}\n")

    def _refusal(self, status: int, answer: bytes) -> HoldfastError:
        said = refusal.read(status, answer)
        return type("Refused", (Refused,), {"code": said.code, "__doc__": Refused.__doc__})(
            said.message, hint=said.hint
        )
