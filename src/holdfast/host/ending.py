"""The signals that ask the host to end: its main thread hears them, and no other thread.

The keeper loads this, and so it imports no more than that.
"""

from __future__ import annotations

import signal

#: Not those that whoever started the host had it ignore: ``nohup`` does so, and a shell with what it puts aside.
ENDING = (
    signal.SIGTERM,
    *(number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN),
)


def hear_none() -> None:
    """Leave them to the main thread; every other thread of the server begins with this.

    The kernel gives a signal to any thread that does not block it.  A server that becomes the keeper blocks them in its
    main thread, so that they wait across the exec; a thread that took one meanwhile would take it along.  The end of a
    child is nothing to a thread either: while another child is started the main thread blocks everything, and each end
    would wake a thread for nothing.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, signal.SIGCHLD))
