"""The processor time for checks."""

from __future__ import annotations

import functools
import gc
import re
import signal
import time
from typing import Callable

import pytest

from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.requests import check_time
from ngcp_task_agent.requests.check_time import LONGEST, CheckTime, LoopTime


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
        CheckTime(LoopTime()).run(work)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_lost_is_repeated() -> None:
    class Swallowing:
        def __del__(self) -> None:
            spin()  # Python ignores what is raised here

    def work() -> None:
        Swallowing()
        spin()

    with pytest.raises(Rejected):
        CheckTime(LoopTime()).run(work)


def test_the_garbage_of_others_does_not_count() -> None:
    collected = 0

    def count(*_: object) -> None:
        nonlocal collected
        collected += 1

    def work() -> None:
        kept = [[] for _ in range(10_000)]  # type: ignore[var-annotated]
        assert len(kept) == 10_000

    gc.callbacks.append(count)
    try:
        CheckTime(LoopTime()).run(work)
        assert not collected
        work()
        assert collected
    finally:
        gc.callbacks.remove(count)


def test_no_interrupt_comes_after_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checks that end when their time is up, more or less."""
    monkeypatch.setattr(check_time, "LONGEST", 0.004)
    monkeypatch.setattr(check_time, "SHARE", 1e9)

    # Without system calls: the timer counts a program's own time.
    def count(most: int) -> None:
        for _ in range(most):
            pass

    ended = 0
    for number in range(300):
        try:
            CheckTime(LoopTime()).run(
                functools.partial(count, number % 12 * 100_000)
            )
        except Rejected:
            ended += 1
    count(5_000_000)  # an interrupt now would be an error
    assert 0 < ended < 300


def test_does_not_interrupt_fast_work() -> None:
    time_left = CheckTime(LoopTime())
    assert [time_left.run(lambda: "done") for _ in range(100)] == [
        "done"
    ] * 100
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("error", [ValueError("mine"), Rejected("mine")])
def test_errors_pass(error: Exception) -> None:
    def fail() -> None:
        raise error

    time_left = CheckTime(LoopTime())
    with pytest.raises(type(error), match="mine"):
        time_left.run(fail)
    assert time_left.run(lambda: True)


def test_many_tasks_do_not_take_the_loop_at_once() -> None:
    """The first check takes all its time, those of others less."""
    loop_time, reasons = LoopTime(), []
    for _ in range(10):
        with pytest.raises(Rejected) as error:
            CheckTime(loop_time).run(spin)
        reasons.append(str(error.value))
    assert reasons[0].startswith("the data takes more than")
    assert all(reason.startswith("busy: ") for reason in reasons[1:])


def test_others_may_take_some_time_meanwhile() -> None:
    def some() -> str:
        end = time.thread_time() + LONGEST / 4
        while time.thread_time() < end:
            pass
        return "done"

    loop_time = LoopTime()
    with pytest.raises(Rejected):
        CheckTime(loop_time).run(spin)
    assert CheckTime(loop_time).run(some) == "done"


def test_a_task_is_on_probation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has no check while the loop has other work."""
    loop_time = LoopTime()
    bad, other = CheckTime(loop_time), CheckTime(loop_time)
    monkeypatch.setattr(check_time, "SHARE", 1e9)  # that is no limit here
    for each in (bad, other):
        with pytest.raises(Rejected):
            each.run(spin)
    with pytest.raises(Rejected, match="busy: "):
        bad.run(lambda: "done")
    monkeypatch.setattr(check_time, "PROBATION", 0.0)
    assert CheckTime(loop_time).run(lambda: "done") == "done"
