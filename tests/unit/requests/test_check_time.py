"""The processor time for checks."""

from __future__ import annotations

import re
import signal
from typing import Callable

import pytest

from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.requests.check_time import CheckTime, LoopTime


def spin() -> None:
    while True:
        pass


def match() -> None:
    re.fullmatch("(a|a)*b", "a" * 60)


def careless() -> None:
    """Catch what a library might."""
    try:
        spin()
    except Exception:
        pytest.fail("the limit was caught")


@pytest.mark.parametrize("work", [spin, match, careless])
def test_interrupts_slow_work(work: Callable[[], None]) -> None:
    with pytest.raises(Rejected, match="takes more than 0.03 s to check"):
        with CheckTime(LoopTime()):
            work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_lost_is_repeated() -> None:
    class Swallowing:
        def __del__(self) -> None:
            spin()  # Python ignores what is raised here

    def work() -> None:
        Swallowing()
        spin()

    with pytest.raises(Rejected), CheckTime(LoopTime()):
        work()


def test_does_not_interrupt_fast_work() -> None:
    time_left = CheckTime(LoopTime())
    for _ in range(100):
        with time_left:
            pass
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_errors_pass() -> None:
    time_left = CheckTime(LoopTime())
    with pytest.raises(ValueError, match="mine"), time_left:
        raise ValueError("mine")
    with pytest.raises(Rejected, match="mine"), time_left:
        raise Rejected("mine")
