"""The outbox: order, lanes, and what is dropped."""

from __future__ import annotations

import time
from typing import Any, List

import pytest

from ngcp_task_agent.backends import redis_outbox
from ngcp_task_agent.backends.redis_outbox import Answer, Outbox

LARGE = b"x" * (redis_outbox._LARGE + 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """The monotonic clock, which stands until its one item is changed."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def texts(batch: List[Answer]) -> List[bytes]:
    return [answer.message[:3] for answer in batch]


def test_empty() -> None:
    outbox = Outbox()
    assert (len(outbox), outbox.pause(), outbox.take()) == (0, None, [])


def test_first_in_first_out() -> None:
    outbox = Outbox()
    for number in range(250):
        outbox.put("fb", [b"%d" % number], f"ref-{number}")
    taken: List[Answer] = []
    while outbox.pause() == 0:
        batch = outbox.take()
        assert 0 < len(batch) <= 100
        taken += batch
    assert [a.message for a in taken] == [b"%d" % n for n in range(250)]
    assert taken[7].ref == "ref-7"


def test_put_back_is_first_again() -> None:
    outbox = Outbox()
    outbox.put("fb", [b"1", b"2"], None)
    batch = outbox.take()
    outbox.put("fb", [b"3"], None)
    outbox.put_back(batch)
    assert texts(outbox.take()) == [b"1", b"2", b"3"]


def test_small_answers_do_not_wait_behind_large_ones(
    clock: List[float],
) -> None:
    outbox = Outbox()
    outbox.put("fb", [b"1--" + LARGE, b"2--" + LARGE, b"end"], None)
    outbox.put("fb", [b"abc"], None)
    assert texts(outbox.take()) == [b"abc"]
    assert texts(outbox.take()) == [b"1--"]
    outbox.put("fb", [b"def"], None)
    assert texts(outbox.take()) == [b"def"]


def test_large_answers_leave_no_faster_than_they_can_be_taken(
    clock: List[float],
) -> None:
    outbox = Outbox()
    outbox.put("fb", [b"1--" + LARGE, b"2--" + LARGE, b"end"], None)
    assert outbox.pause() == 0
    assert texts(outbox.take()) == [b"1--"]
    pause = outbox.pause()
    assert pause == pytest.approx(len(LARGE) / redis_outbox._LARGE_RATE, 0.01)
    assert outbox.take() == []
    clock[0] += pause
    assert texts(outbox.take()) == [b"2--"]
    clock[0] += pause
    # The last chunk, however small, is behind the others.
    assert texts(outbox.take()) == [b"end"]
    assert outbox.pause() is None


@pytest.mark.parametrize(
    ("limit", "value", "left"),
    [("KEEP", 2, 2), ("KEEP_BYTES", 6, 2), ("KEEP_SECONDS", 4, 1)],
)
def test_the_oldest_are_dropped(
    limit: str,
    value: Any,
    left: int,
    clock: List[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_outbox, limit, value)
    outbox = Outbox()
    for number in range(4):
        outbox.put("fb", [b"%03d" % number], None)
        clock[0] += 2.5
    dropped = outbox.drop_excess()
    assert texts(dropped) == [b"%03d" % n for n in range(4 - left)]
    assert len(outbox) == left
    assert outbox.drop_excess() == []


def test_the_oldest_is_dropped_whichever_lane_it_is_in(
    clock: List[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP", 1)
    outbox = Outbox()
    outbox.put("fb", [b"1--" + LARGE], None)
    clock[0] += 1
    outbox.put("fb", [b"2--"], None)
    clock[0] += 1
    outbox.put("fb", [b"3--" + LARGE], None)
    assert texts(outbox.drop_excess()) == [b"1--", b"2--"]
    assert texts(outbox.clear()) == [b"3--"]
    assert len(outbox) == 0
