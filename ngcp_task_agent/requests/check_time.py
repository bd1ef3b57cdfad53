"""Processor time for the checks of what any client sends.

Administrators write schemas and regular expressions, few of which have a
bounded run time, and any client sends their input.  The checks run on the
event loop, so their time is limited: that of each check, of each task's
checks, and of long checks of all tasks.
"""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Optional, Type

from ngcp_task_agent.errors import Rejected

LONGEST = 0.03  # seconds that a check may take
SHARE = 0.2  # seconds of a task's checks, per second
SHORT = 0.001  # seconds that no other request notices
LONG_COSTS = 4  # a longer check takes this much more of the task's share
# One that has to be ended takes all of it.
# While the loop does the work that a long check delayed.
_HURRIED = 0.004  # seconds that a check may take
_PAUSE = 4  # times the length of the long check
_AGAIN = 0.01  # seconds to the next interrupt, should one have no effect


class LoopTime:
    """The event loop's time for long checks, shared by all tasks."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def limit(self) -> float:
        """Return the seconds that a check may take now."""
        return LONGEST if time.monotonic() >= self._free_at else _HURRIED

    def spend(self, seconds: float) -> None:
        if seconds > SHORT:
            self._free_at = time.monotonic() + _PAUSE * seconds


class Overrun(BaseException):
    """The time is up.

    Not an Exception, so that no library takes it for one of its own errors.
    """


class CheckTime:
    """The time for one task's checks: ``with check_time:`` limits a check.

    Works in the main thread only.  Interrupts Python code, and Python's
    regular expressions, which look for signals.

    :raises Rejected: when the time is used up
    """

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time = loop_time
        # What was left of the task's share, and when.
        self._left, self._at = SHARE, time.monotonic()
        self._begin = self._limit = 0.0
        self._is_on = False

    def __enter__(self) -> None:
        now = time.monotonic()
        gained = SHARE * (now - self._at)
        self._left, self._at = min(SHARE, self._left + gained), now
        if self._left <= 0:
            raise _busy()
        self._limit = self._loop_time.limit()
        self._begin = time.thread_time()
        self._is_on = True
        signal.signal(signal.SIGVTALRM, self._interrupt)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._limit, _AGAIN)

    def _interrupt(self, number: int, frame: Optional[FrameType]) -> None:
        # The timer counts the time of other threads, too, and the signal can
        # still arrive just after the check has ended.
        if self._is_on and self._took() >= self._limit:
            raise Overrun

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._is_on = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        took = self._took()
        self._left -= took if took <= SHORT else took * LONG_COSTS
        self._loop_time.spend(took)
        if kind is Overrun:
            self._left = min(self._left, 0.0) - SHARE
            if self._limit < LONGEST:
                raise _busy() from None
            raise Rejected(
                f"the data takes more than {LONGEST:g} s to check"
            ) from None

    def _took(self) -> float:
        return time.thread_time() - self._begin


def _busy() -> Rejected:
    return Rejected(
        "busy: checking requests takes too much of the processor's time"
    )
