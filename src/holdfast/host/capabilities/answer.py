"""An answer of bounded size: what does not fit is left out, and the answer says so."""

from __future__ import annotations

from typing import Any, Final

from holdfast.jsonrpc.messages import encode_json

#: Bytes of the JSON of one answer; the reference implementation's number.
ANSWER_LIMIT: Final = 4 * 1024 * 1024
_GROUPS: Final = ("plugins", "skills", "warnings")
_CUT: Final = encode_json("capability discovery size limit reached")


class BoundedAnswer:
    """The JSON of an answer in the making."""

    def __init__(self, limit: int = ANSWER_LIMIT) -> None:
        self._limit = limit
        self._groups: dict[str, list[bytes]] = {group: [] for group in _GROUPS}
        self._size = len(self._encoded())
        self._cut = False

    def add(self, group: str, value: Any) -> None:
        """Add a value to a group (``plugins``, ``skills`` or ``warnings``), if there is room for it."""
        text = encode_json(value)
        if self._size + self._cost(group, text) > self._limit:
            self._cut = True
            return
        self._size += self._cost(group, text)
        self._groups[group].append(text)

    def finish(self) -> bytes:
        """The answer; if anything is missing, that is its first warning."""
        if self._cut:
            for group in reversed(_GROUPS[:2]):
                while self._groups[group] and self._size + self._cost("warnings", _CUT) > self._limit:
                    text = self._groups[group].pop()
                    self._size -= self._cost(group, text)
            self._groups["warnings"].insert(0, _CUT)
        return self._encoded()

    def _cost(self, group: str, text: bytes) -> int:
        """The bytes of a value, with the comma before it."""
        return len(text) + bool(self._groups[group])

    def _encoded(self) -> bytes:
        return b"{%s}" % b",".join(b'"%s":[%s]' % (group.encode(), b",".join(self._groups[group])) for group in _GROUPS)
