"""Backoff: how long to wait before the next attempt."""

from __future__ import annotations

from typing import Iterator, List

import pytest

from ngcp_task_agent.backends import backoff
from ngcp_task_agent.backends.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(backoff, "time", made)
    return made


def waits(count: int, attempts: int = 50) -> List[List[float]]:
    """What so many failures in a row wait, tried several times."""
    found = []
    for _ in range(attempts):
        one = Backoff()
        found.append([one.next() for _ in range(count)])
    return found


def test_from_1_to_30_seconds() -> None:
    for tried in waits(20):
        assert all(1 <= wait <= 30 for wait in tried)
        assert tried[0] <= 2
        assert tried[1] <= 4


def test_grows_to_30_seconds() -> None:
    assert max(max(tried[5:]) for tried in waits(20)) > 20


def test_is_jittered() -> None:
    assert len({tried[0] for tried in waits(1)}) > 10


def test_goes_on_for_ever() -> None:
    one = Backoff()
    assert all(1 <= one.next() <= 30 for _ in range(5000))


def test_a_connection_that_held_is_made_anew_almost_at_once(
    clock: Clock,
) -> None:
    one = Backoff()
    for _ in range(10):
        one.next()
    one.connected()
    clock.now += 5
    assert one.next() <= 0.3
    # The next attempts start again from the shortest.
    assert 1 <= one.next() <= 2
    assert 1 <= one.next() <= 4


def test_a_connection_that_broke_at_once_counts_as_a_failure(
    clock: Clock,
) -> None:
    seen = []
    for _ in range(50):
        one = Backoff()
        for _ in range(6):
            one.connected()
            clock.now += 0.1
            seen.append(one.next())
    assert min(seen) >= 1
    assert max(seen) > 20


def test_one_that_held_is_remembered_when_the_next_one_stands(
    clock: Clock,
) -> None:
    one = Backoff()
    for _ in range(10):
        one.next()
    one.connected()
    clock.now += 6
    # It broke while nobody needed it, and the next one stands at once.
    one.connected()
    assert one.next() <= 2
    assert one.next() <= 4


def test_after_a_success_it_begins_anew(clock: Clock) -> None:
    one = Backoff()
    for _ in range(10):
        one.next()
    one.succeeded()
    assert 1 <= one.next() <= 2
