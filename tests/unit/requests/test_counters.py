"""Counters: durations of ended requests, by task."""

from __future__ import annotations

from typing import Any, List

import pytest

from ngcp_task_agent.requests.counters import BUCKETS, Counters, Durations

DURATIONS: List[Any] = [
    pytest.param(0.0, 0, id="none"),
    pytest.param(0.01, 0, id="the-first-bound"),
    pytest.param(0.010001, 1, id="beyond-it"),
    pytest.param(59.0, 11, id="a-minute"),
    pytest.param(3600.0, 14, id="an-hour"),
    pytest.param(1e9, 15, id="endless"),
]


@pytest.mark.parametrize(("seconds", "bucket"), DURATIONS)
def test_a_duration_is_in_the_bucket_of_its_bound(
    seconds: float, bucket: int
) -> None:
    durations = Durations()
    durations.add(seconds)
    assert durations.counts.index(1) == bucket
    assert sum(durations.counts) == 1
    assert durations.total == seconds


def test_bounds_grow() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert len(Durations().counts) == len(BUCKETS) + 1


def test_of_the_tasks_that_are_kept() -> None:
    counters = Counters()
    for name in ("a", "b"):
        counters.durations_of(name).add(1.0)
        counters.durations_of(name).add(2.0)
    assert [(n, total) for n, _, total in counters.durations()] == [
        ("a", 3.0),
        ("b", 3.0),
    ]
    counters.keep({"b"})
    assert [name for name, _, _ in counters.durations()] == ["b"]
    counters.keep(set())
    assert not list(counters.durations())
