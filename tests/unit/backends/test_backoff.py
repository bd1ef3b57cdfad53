"""Backoff: how long to wait before the next attempt."""

from __future__ import annotations

from typing import List

from ngcp_task_agent.backends.backoff import Backoff

LONGEST = 30.0


def waits(attempts: int) -> List[float]:
    backoff = Backoff()
    return [backoff.next() for _ in range(attempts)]


def test_the_first_attempt_is_immediate() -> None:
    assert waits(1) == [0]


def test_waits_longer_after_each_failure() -> None:
    for _ in range(50):
        found = waits(12)
        for number, wait in enumerate(found[1:]):
            most = min(LONGEST, 0.2 * 2**number)
            assert most / 2 <= wait <= most


def test_is_jittered() -> None:
    assert len({waits(2)[1] for _ in range(20)}) > 10


def test_never_gives_up() -> None:
    assert all(LONGEST / 2 <= wait <= LONGEST for wait in waits(5000)[20:])


def test_a_success_resets_it() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next()
    backoff.succeeded()
    assert backoff.next() == 0
    assert 0.1 <= backoff.next() <= 0.2
