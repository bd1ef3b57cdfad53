"""The outbox: order, lanes, and what is dropped."""

from __future__ import annotations

import time
from typing import Any, List, Optional

import pytest

from ngcp_task_agent.backends import redis_outbox
from ngcp_task_agent.backends.redis_outbox import Answer, Outbox, Part

LARGE = b"x" * (1 << 20)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """The monotonic clock, which stands until its one item is changed."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def small(*messages: bytes, ref: Optional[str] = None) -> Answer:
    return Answer("fb", ref, sum(map(len, messages)), messages=messages)


def large(
    *messages: bytes, ref: Optional[str] = None, channel: str = "fb"
) -> Answer:
    return Answer(channel, ref, 1000, encode=lambda: messages)


def put(outbox: Outbox, *answers: Answer) -> None:
    for answer in answers:
        assert outbox.put(answer)


def encode(outbox: Outbox) -> Answer:
    """Do what to_encode() asks for."""
    answer = outbox.to_encode()
    assert answer
    assert answer.encode
    outbox.encoded(answer, answer.encode())
    return answer


def texts(batch: List[Part]) -> List[bytes]:
    return [message[:3] for _, message in batch]


def refs(answers: List[Answer]) -> List[Optional[str]]:
    return [answer.ref for answer in answers]


def take(outbox: Outbox, is_large: bool = False) -> List[bytes]:
    """Take what can be taken, as if it left at once; how it begins."""
    batch = outbox.take(is_large)
    outbox.landed(is_large)
    return texts(batch)


def test_empty() -> None:
    outbox = Outbox()
    assert len(outbox) == 0
    assert outbox.is_settled
    for is_large in (False, True):
        assert outbox.pause(is_large) is None
        assert outbox.take(is_large) == []
    assert outbox.to_encode() is None


def test_first_in_first_out() -> None:
    outbox = Outbox()
    for number in range(250):
        put(outbox, small(b"%d" % number, ref=f"ref-{number}"))
    taken: List[Part] = []
    while outbox.pause(False) == 0:
        batch = outbox.take(False)
        assert 0 < len(batch) <= 100
        taken += batch
    assert [message for _, message in taken] == [b"%d" % n for n in range(250)]
    assert taken[7][0].ref == "ref-7"
    assert len(outbox) == 0
    assert not outbox.is_settled
    outbox.landed(False)
    assert outbox.is_settled


def test_put_back_is_first_again() -> None:
    outbox = Outbox()
    put(outbox, small(b"1", b"2"), small(b"3"))
    batch = outbox.take(False)
    assert len(outbox) == 0
    put(outbox, small(b"4"))
    outbox.landed(False)
    outbox.put_back(batch)
    assert len(outbox) == 3
    assert take(outbox) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("last", [(), (b"2",)])
def test_put_back_of_a_part(last: Any, clock: List[float]) -> None:
    outbox = Outbox()
    put(outbox, large(b"1", *last), large(b"3"))
    encode(outbox)
    batch = outbox.take(True)
    if not last:
        # The next one is already made into messages.
        encode(outbox)
    outbox.landed(True)
    outbox.put_back(batch)
    assert len(outbox) == 2
    clock[0] += 1
    assert take(outbox, True) == [b"1"]
    clock[0] += 1
    if last:
        assert take(outbox, True) == [b"2"]
        encode(outbox)
        clock[0] += 1
    assert outbox.to_encode() is None
    assert take(outbox, True) == [b"3"]
    assert (len(outbox), outbox._bytes) == (0, 0)


def test_lanes_do_not_wait_for_each_other(clock: List[float]) -> None:
    outbox = Outbox()
    put(outbox, large(b"1--" + LARGE, b"2--" + LARGE, b"end"), small(b"abc"))
    # The large one is no message yet.
    assert take(outbox) == [b"abc"]
    assert (len(outbox), outbox.pause(True)) == (1, None)
    encode(outbox)
    put(outbox, small(b"def"))
    # Small ones leave while a large one is on its way, and it before those
    # that came later.
    assert texts(outbox.take(True)) == [b"1--"]
    assert take(outbox) == [b"def"]


def test_a_large_answer_overtakes_no_small_one(clock: List[float]) -> None:
    outbox = Outbox()
    put(outbox, small(b"accepted", ref="a"), large(b"done", ref="a"))
    encode(outbox)
    assert outbox.pause(True) is None
    assert outbox.take(True) == []
    batch = outbox.take(False)
    # On its way is not there.
    assert outbox.pause(True) is None
    outbox.landed(False)
    outbox.put_back(batch)
    assert outbox.pause(True) is None
    assert take(outbox) == [b"acc"]
    assert outbox.pause(True) == 0
    assert take(outbox, True) == [b"don"]


def test_large_answers_leave_no_faster_than_they_can_be_taken(
    clock: List[float],
) -> None:
    outbox = Outbox()
    put(outbox, large(b"1--" + LARGE, b"2--" + LARGE, b"end"))
    encode(outbox)
    assert outbox.pause(True) == 0
    assert take(outbox, True) == [b"1--"]
    pause = outbox.pause(True)
    assert pause == pytest.approx(len(LARGE) / redis_outbox._LARGE_RATE, 0.01)
    assert take(outbox, True) == []
    clock[0] += pause
    assert take(outbox, True) == [b"2--"]
    clock[0] += pause
    # The last chunk, however small, is behind the others.
    assert take(outbox, True) == [b"end"]
    assert outbox.pause(True) is None


def test_a_channel_does_not_wait_for_what_another_can_take(
    clock: List[float],
) -> None:
    outbox = Outbox()
    put(outbox, *(large(b"%d--" % n + LARGE, channel="a") for n in range(9)))
    encode(outbox)
    assert take(outbox, True) == [b"0--"]
    put(outbox, large(b"b--" + LARGE, channel="b"))
    encode(outbox)
    assert take(outbox, True) == [b"b--"]
    encode(outbox)
    assert take(outbox, True) == []
    clock[0] += 1
    assert take(outbox, True) == [b"1--"]


def test_what_breaks_connections_lets_the_others_go_first(
    clock: List[float],
) -> None:
    outbox = Outbox()
    put(outbox, large(b"bad"), large(b"1", channel="a"), large(b"2"))
    encode(outbox)
    for _ in range(redis_outbox._BREAKS):
        clock[0] += 1
        batch = outbox.take(True)
        assert texts(batch) == [b"bad"]
        batch[0][0].breaks += 1
        outbox.landed(True)
        outbox.put_back(batch)
    # Also those of its own channel.
    for other in (b"1", b"2"):
        clock[0] += 1
        encode(outbox)
        assert take(outbox, True) == [other]
    clock[0] += 1
    assert outbox.to_encode() is None
    assert take(outbox, True) == [b"bad"]


def test_large_answers_become_messages_one_at_a_time(
    clock: List[float],
) -> None:
    outbox = Outbox()
    put(outbox, large(b"1"), large(b"2"))
    encode(outbox)
    assert outbox.to_encode() is None
    assert take(outbox, True) == [b"1"]
    clock[0] += 1
    encode(outbox)
    assert take(outbox, True) == [b"2"]


def test_the_rest_of_what_is_given_up_does_not_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox = Outbox()
    put(outbox, small(b"1", b"2"), small(b"3"))
    monkeypatch.setattr(redis_outbox, "_BATCH", 1)
    part = outbox.take(False)
    monkeypatch.undo()
    outbox.discard(part[0][0])
    outbox.landed(False)
    outbox.put_back(part)
    assert take(outbox) == [b"3"]
    assert outbox._bytes == 0


def test_the_rest_of_a_large_one_that_is_given_up_does_not_leave(
    clock: List[float],
) -> None:
    outbox = Outbox()
    put(outbox, large(b"1", b"2"), large(b"3"))
    encode(outbox)
    part = outbox.take(True)
    outbox.discard(part[0][0])
    outbox.landed(True)
    clock[0] += 1
    encode(outbox)
    assert take(outbox, True) == [b"3"]
    assert (len(outbox), outbox._bytes) == (0, 0)


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
        put(outbox, small(b"%03d" % number, ref=f"{number}"))
        clock[0] += 2.5
    dropped = outbox.drop_excess()
    assert refs(dropped) == [f"{n}" for n in range(4 - left)]
    assert all(answer.is_lost for answer in dropped)
    assert len(outbox) == left
    assert outbox.drop_excess() == []


def test_the_oldest_is_dropped_whichever_lane_it_is_in(
    clock: List[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP", 1)
    outbox = Outbox()
    put(outbox, large(ref="1"), small(b"2", ref="2"), large(ref="3"))
    assert refs(outbox.drop_excess()) == ["1", "2"]
    assert refs(outbox.clear()) == ["3"]
    assert len(outbox) == 0


def test_an_answer_is_dropped_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP_BYTES", 4)
    outbox = Outbox()
    put(outbox, small(b"1", b"2", b"3", ref="a"), small(b"45", ref="b"))
    assert refs(outbox.drop_excess()) == ["a"]
    assert take(outbox) == [b"45"]


def test_no_ending_without_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP", 3)
    outbox = Outbox()
    put(
        outbox,
        *(small(b"accepted", ref="a"), small(b"accepted", ref="b")),
        *(large(b"done", ref="a"), small(b"done", ref="b")),
    )
    # Both those that wait, and those that are still to come.
    assert refs(outbox.drop_excess()) == ["a", "a"]
    late = small(b"late", ref="a")
    assert not outbox.put(late)
    assert late.is_lost
    assert take(outbox) == [b"acc", b"don"]
    assert (len(outbox), outbox._bytes) == (0, 0)


def test_what_cannot_be_told_apart_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP", 1)
    outbox = Outbox()
    put(outbox, small(b"1"), small(b"2"))
    assert len(outbox.drop_excess()) == 1
    assert outbox.put(small(b"3"))


def test_what_is_dropped_while_it_becomes_messages() -> None:
    outbox = Outbox()
    put(outbox, large(b"1"), small(b"2"))
    answer = outbox.to_encode()
    assert answer
    outbox.clear()
    outbox.encoded(answer, [b"1"])
    assert (len(outbox), take(outbox, True), outbox._bytes) == (0, [], 0)
