"""A CPU time limit for work on the event loop.

For regular expressions and schemas: administrators write them, any client
sends their input, and few have a bounded run time.
"""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Iterator, Optional


class Overrun(BaseException):
    """The time is up.

    Not an Exception, so that no library takes it for one of its own errors.
    """


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Interrupt work that takes longer.

    Works only in the main thread; Python's regular expressions check for
    signals, too.  Counts the CPU time of all threads, but not of other
    processes on a busy machine.

    :raises Overrun: when the time is up
    """
    is_on = True

    def interrupt(number: int, frame: Optional[FrameType]) -> None:
        # The signal can still arrive just after the work has ended.
        if is_on:
            raise Overrun

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        is_on = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
