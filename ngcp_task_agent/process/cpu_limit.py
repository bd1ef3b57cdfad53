"""A limit of the time that a piece of work on the event loop may take.

For regular expressions and schemas, which the administrator has chosen and
strangers feed: few of either are bounded by themselves.
"""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Iterator, Optional


class Overrun(BaseException):
    """The time is up.

    No Exception, so that no library on the way takes it for an error of its
    own.
    """


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Interrupt what takes more than so many seconds of the processor.

    Works in the main thread, where Python's regular expressions look for
    signals as they run.  Counts the processor's time, of all threads, so
    that a busy machine interrupts nothing that is sound.

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
