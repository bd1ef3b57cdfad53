"""The limit of the processor's time."""

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
def test_ends_what_takes_too_long(work: Callable[[], None]) -> None:
    with pytest.raises(Overrun), cpu_limit(0.01):
        work()


def test_what_is_in_time_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with cpu_limit(60):
        done = True
    assert done
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_no_library_takes_it_for_its_own_error() -> None:
    def careless() -> None:
        try:
            spin()
        except Exception:
            pytest.fail("the limit was caught")

    with pytest.raises(Overrun), cpu_limit(0.01):
        careless()
