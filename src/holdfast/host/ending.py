"""The signals that ask the host to end: its main thread hears them, and no other thread."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hear_none() -> None:
    """Leave them to the main thread.

    The kernel gives a signal to any thread that does not block it.  A server that becomes the keeper blocks them in its
    main thread, so that they wait across the exec; a thread that took one meanwhile would take it along.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def worker_threads(count: int | None, name: str) -> ThreadPoolExecutor:
    """Up to *count* threads (by default as many as Python thinks fit) that hear none of them."""
    # The keeper, which has no threads, does not load them.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=hear_none)
