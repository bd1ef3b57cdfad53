"""A limit of the processor time that work on the event loop may take.

For regular expressions and schemas: administrators write them, any client
feeds them, and few are bounded by themselves.
"""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Iterator, Optional


class Overrun(BaseException):
    """The time is up.

    Not an Exception: no library on the way may take it for its own error.
    """


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer.

    Works in the main thread alone; Python's regular expressions check for
    signals, too.  Counts the processor time of all threads: on a busy machine
    other processes' time does not count.

    :raises Overrun:
    """
    is_on = True

    def interrupt(number: int, frame: Optional[FrameType]) -> None:
        # The signal can still come when the work has just ended.
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
