"""The CPU time limit."""

from __future__ import annotations

import re
import signal
from typing import Callable

import pytest

from ngcp_task_agent.process.cpu_limit import Overrun, cpu_limit


def spin() -> None:
    while True:
        pass


def match() -> None:
    re.fullmatch("(a|a)*b", "a" * 60)


@pytest.mark.parametrize("work", [spin, match])
def test_interrupts_slow_work(work: Callable[[], None]) -> None:
    with pytest.raises(Overrun), cpu_limit(0.01):
        work()


def test_does_not_interrupt_fast_work() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with cpu_limit(60):
        done = True
    assert done
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_libraries_do_not_catch_it() -> None:
    def careless() -> None:
        try:
            spin()
        except Exception:
            pytest.fail("the limit was caught")

    with pytest.raises(Overrun), cpu_limit(0.01):
        careless()
