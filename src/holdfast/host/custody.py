"""What the keeper could not take: offered again until it can, because it would not outlive this server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import Held

#: Seconds until it is offered again.
_AGAIN: Final = 2.0

_log = logging.getLogger(__name__)


class Custody:
    """Offers again what the keeper had no free descriptors for."""

    def __init__(self, link: KeeperLink, holdings: Callable[[], Held], give_up_spare: Callable[[], None]) -> None:
        """*holdings* says what the keeper has to hold, *give_up_spare* lets go of what it need not."""
        self._link = link
        self._holdings = holdings
        self._give_up_spare = give_up_spare
        link.on_unheld = self._not_held

    def _not_held(self, keys: list[str]) -> None:
        _log.warning("the keeper has no free descriptors for %d more; they are offered again", len(keys))
        # What is started next must not be one that is not held.
        self._give_up_spare()
        self._later(keys)

    def _later(self, keys: list[str]) -> None:
        asyncio.get_running_loop().call_later(_AGAIN, self._offer, keys)

    def _offer(self, keys: list[str]) -> None:
        held = self._holdings()
        for place, key in enumerate(keys):
            if key in held:
                try:
                    self._link.hold({key: held[key]})
                except OSError:
                    self._later(keys[place:])
                    return
