"""Processor time for the checks of what any client sends.

Administrators write schemas and regular expressions, few of which have a
bounded run time, and any client sends their input.  The checks run on the
event loop, so their time is limited: that of each check, of each task's
checks, and of long checks of all tasks.
"""

from __future__ import annotations

import gc
import signal
import time
from types import FrameType
from typing import Callable, Optional, TypeVar

from ngcp_task_agent.errors import Busy, Rejected

LONGEST = 0.03  # seconds that a check may take
SHARE = 0.2  # seconds of a task's checks, per second
SHORT = 0.001  # seconds that no other request notices
LONG_COSTS = 4  # a longer check takes this much more of the task's share
PROBATION = 10.0  # seconds after a check of a task had to be ended

# After a long check, the loop has other work for this many times its length.
_PAUSE = 4
# Meanwhile, seconds that a check of another task may take: of the first few
# tasks that use them up, within a second, and of those that follow.
_SHORTER, _SHORTEST = LONGEST / 2, 0.004
_FEW = 3
_AGAIN = 0.01  # seconds to the next interrupt, should one have no effect

_Checked = TypeVar("_Checked")


class LoopTime:
    """The event loop's time for long checks, shared by all tasks."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self._ended, self._since = 0, 0.0  # checks of good tasks, since when

    def limit(self, is_good: bool) -> float:
        """Return the seconds that a check may take now; 0 for none.

        :param is_good: whether the task is not on probation
        """
        if time.monotonic() >= self._free_at:
            return LONGEST
        if not is_good:
            return 0.0
        return _SHORTER if self._ended < _FEW else _SHORTEST

    def spend(self, seconds: float, is_new: bool) -> None:
        """Take the time of a check.

        :param is_new: whether it put its task on probation
        """
        now = time.monotonic()
        if seconds > SHORT:
            self._free_at = max(self._free_at, now + _PAUSE * seconds)
        if now - self._since > 1.0:
            self._ended, self._since = 0, now
        self._ended += is_new


class Overrun(BaseException):
    """The time is up.

    Not an Exception, so that no library takes it for one of its own errors.
    """


class CheckTime:
    """The time for one task's checks."""

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time = loop_time
        # What was left of the task's share, and when.
        self._left, self._at = SHARE, time.monotonic()
        self._good_from = 0.0
        self._end: Optional[float] = None  # of the check that runs

    def run(self, check: Callable[[], _Checked]) -> _Checked:
        """Check, and return what the check returns.

        Works in the main thread only.  Interrupts Python code, and Python's
        regular expressions, which look for signals; other C code delays the
        interrupt.

        :raises Rejected: when the time is used up
        """
        now = time.monotonic()
        gained = SHARE * (now - self._at)
        self._left, self._at = min(SHARE, self._left + gained), now
        is_good = now >= self._good_from
        limit = self._loop_time.limit(is_good)
        if self._left <= 0 or not limit:
            raise _busy()
        begin = time.thread_time()
        overrun = False
        # The garbage is that of the whole agent, and its callbacks would
        # swallow the interrupt.
        collects = gc.isenabled()  # not while a configuration is loaded
        gc.disable()
        signal.signal(signal.SIGVTALRM, self._interrupt)
        self._end = begin + limit
        signal.setitimer(signal.ITIMER_VIRTUAL, limit, _AGAIN)
        try:
            return check()
        except Overrun:
            overrun = True
        finally:
            self._end = None
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if collects:
                gc.enable()
            took = time.thread_time() - begin
            self._left -= took if took <= SHORT else took * LONG_COSTS
            self._loop_time.spend(took, is_new=overrun and is_good)
        self._left = min(self._left, 0.0) - SHARE
        self._good_from = self._at + PROBATION
        if limit < LONGEST:
            raise _busy()
        raise Rejected(f"the data takes more than {LONGEST:g} s to check")

    def _interrupt(self, number: int, frame: Optional[FrameType]) -> None:
        # The timer counts the time of other threads, too.
        if self._end is None or time.thread_time() < self._end:
            return
        # Not in run() itself: it could then not clean up.  If the check is
        # still to begin, the next interrupt ends it.
        if frame and frame.f_code is not CheckTime.run.__code__:
            raise Overrun


def _busy() -> Busy:
    return Busy(
        "busy: checking requests takes too much of the processor's time"
    )
