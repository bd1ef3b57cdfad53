"""What the bus sends, cut into messages."""

from __future__ import annotations

import random
import struct
from typing import List

import pytest

from ngcp_task_agent.bus.frames import LONGEST, Frames

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4


def frame(
    kind: int = CALL,
    body: int = 5,
    fields: int = 3,
    order: str = "<",
    flags: int = 0,
) -> bytes:
    head = b"l" if order == "<" else b"B"
    head += bytes([kind, flags, 1])
    head += struct.pack(f"{order}III", body, 7, fields)
    return head + b"f" * (fields + -fields % 8) + b"b" * body


def cut(stream: bytes, *sizes: int) -> List[bytes]:
    """Return the messages of a stream that arrives in pieces."""
    frames, found = Frames(), []
    for size in sizes:
        found += frames.add(stream[:size])
        stream = stream[size:]
    return [*found, *frames.add(stream)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_messages_in_pieces_of_any_size(order: str) -> None:
    sent = [
        frame(kind, body, fields, order)
        for kind in (CALL, RETURN, ERROR, SIGNAL)
        for body, fields in ((0, 0), (1, 8), (100, 7))
    ]
    stream = b"".join(sent)
    chance = random.Random(7)
    for _ in range(50):
        sizes = [chance.randint(1, 40) for _ in range(30)]
        assert cut(stream, *sizes) == sent


@pytest.mark.parametrize("kind", [CALL, SIGNAL, 9])
@pytest.mark.parametrize("part", ["body", "fields"])
def test_what_strangers_send_is_bounded(kind: int, part: str) -> None:
    large, small = frame(kind, **{part: LONGEST}), frame()
    stream = small + large + small
    for sizes in ([], [len(small) + 16], [1000] * 20, [1] * len(stream)):
        assert cut(stream, *sizes) == [small, small]


@pytest.mark.parametrize("kind", [RETURN, ERROR])
def test_a_reply_may_be_large(kind: int) -> None:
    large, small = frame(kind, 1_000_000), frame()
    assert cut(large + small, 999, 4096) == [large, small]


def test_it_reads_little_at_once() -> None:
    """Except of what is known to be one message."""
    frames = Frames()
    assert frames.wanted == 4096
    assert not [*frames.add(frame(RETURN, 100_000)[:4096])]
    assert frames.wanted == 100_000 + 16 + 8 - 4096
    assert not [*Frames().add(b"")]


def test_flags_that_mean_nothing_to_us() -> None:
    for flags in range(256):
        kept = [] if flags & 1 else [frame()]
        assert cut(frame(flags=flags)) == kept


def test_calls_without_a_reply_are_left_out() -> None:
    unwanted = frame(flags=1)
    stream = unwanted * 3 + frame(body=9) + unwanted
    for sizes in ([], [10] * 20, [1] * len(stream)):
        assert cut(stream, *sizes) == [frame(body=9)]


TO_US = b"\6\1s\0\4\0\0\0:1.7\0"
OF_BUS = b"\7\1s\0\x14\0\0\0org.freedesktop.DBus\0"
OF_OTHER = b"\7\1s\0\4\0\0\0:1.9\0"


@pytest.mark.parametrize(
    ("fields", "is_kept"),
    [
        (TO_US + OF_OTHER, False),
        (TO_US + OF_BUS, True),
        (OF_OTHER, True),  # to all who have asked for it
    ],
)
def test_signals_to_us_alone_are_the_bus_own(
    fields: bytes, is_kept: bool
) -> None:
    head = (
        b"l" + bytes([SIGNAL, 0, 1]) + struct.pack("<III", 0, 7, len(fields))
    )
    signal = head + fields + bytes(-len(fields) % 8)
    assert cut(signal) == ([signal] if is_kept else [])
