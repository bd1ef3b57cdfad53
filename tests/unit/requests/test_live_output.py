"""Live output: whole lines, bounded, what is left out is counted."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Origin
from ngcp_task_agent.requests import live_output
from ngcp_task_agent.requests.live_output import KEPT, PIECE, LiveOutput
from tests.unit.fakes import FakeBackend, Records, until

ORIGIN = Origin("cb88ac76-f348-4614-866f-43877b893e7e", "ping", "client")
MOST = live_output.PER_SECOND


class Clock:
    """The time of both, which passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: List[Tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def get_running_loop(self) -> Clock:
        return self

    def call_later(self, delay: float, step: Callable[[], None]) -> Any:
        entry = (self.now + delay, step)
        self._due.append(entry)
        return Timer(lambda: self._due.remove(entry))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and min(self._due)[0] <= end:
            entry = min(self._due, key=lambda entry: entry[0])
            self._due.remove(entry)
            self.now = entry[0]
            entry[1]()
        self.now = end

    @property
    def is_idle(self) -> bool:
        return not self._due


class Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class LiveBackend(FakeBackend):
    """Takes live output while it has room."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.has_room = True
        self.times: List[float] = []
        self._clock = clock

    def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
        if self.has_room:
            self.sent.append((address, encode(), None))
            self.times.append(self._clock.now)
        return self.has_room


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(live_output, "time", clock)
    monkeypatch.setattr(live_output, "asyncio", clock)
    return clock


def make(clock: Clock) -> Tuple[LiveOutput, LiveBackend]:
    backend = LiveBackend(clock)
    return LiveOutput(backend, "live", ORIGIN, "sp1"), backend


def texts(backend: LiveBackend) -> List[str]:
    return [message["data"] for message in backend.responses()]


def test_fields(clock: Clock) -> None:
    live, backend = make(clock)
    live.write("stdout", b"one\n")
    clock.run(1)
    live.write("stderr", b"two\n")
    assert backend.responses() == [
        {
            "ref": ORIGIN.uuid,
            "task": "ping",
            "src": "sp1",
            "stream": stream,
            "number": number,
            "data": data,
        }
        for number, stream, data in (
            (1, "stdout", "one\n"),
            (2, "stderr", "two\n"),
        )
    ]
    assert {address for address, _, _ in backend.sent} == {"live"}


WRITTEN: List[Any] = [
    pytest.param([b"a\nb\n"], ["a\nb\n"], id="lines"),
    pytest.param([b"a", b"b\nc", b"\n"], ["ab\n", "c\n"], id="pieces"),
    pytest.param([b"a\nb"], ["a\n", "b"], id="no-newline-at-the-end"),
    pytest.param([b"\n\n"], ["\n\n"], id="empty-lines"),
    pytest.param([b"\xe2\x82", b"\xac\n"], ["\u20ac\n"], id="character"),
    pytest.param([b"a\xffb\n"], ["a\ufffdb\n"], id="not-utf-8"),
    pytest.param([b"\xe2\x82"], ["\ufffd"], id="half-a-character"),
    pytest.param([b"\x1b\0\r\n"], ["\x1b\0\r\n"], id="exact"),
    pytest.param([], [], id="nothing"),
]


@pytest.mark.parametrize(("pieces", "expected"), WRITTEN)
def test_whole_lines(
    pieces: List[bytes], expected: List[str], clock: Clock
) -> None:
    live, backend = make(clock)
    for piece in pieces:
        live.write("stdout", piece)
        clock.run(1)
    live.write("stdout", b"")
    clock.run(1)
    assert texts(backend) == expected
    live.end()
    assert texts(backend) == expected


def test_lines_of_a_moment_share_a_message(clock: Clock) -> None:
    live, backend = make(clock)
    for number in range(5):
        live.write("stdout", b"%d\n" % number)
    assert texts(backend) == ["0\n"]  # at once
    clock.run(1)
    assert texts(backend) == ["0\n", "1\n2\n3\n4\n"]


def test_what_is_left_leaves_at_the_end(clock: Clock) -> None:
    live, backend = make(clock)
    live.write("stdout", b"a\n")
    live.write("stdout", b"b\nc")
    live.write("stderr", b"d")
    assert texts(backend) == ["a\n"]
    live.end()
    assert sorted(texts(backend)) == ["a\n", "b\nc", "d"]
    assert clock.is_idle
    live.write("stdout", b"late\n")
    assert len(texts(backend)) == 3
    assert clock.is_idle


def test_a_long_line_is_cut_between_characters(clock: Clock) -> None:
    live, backend = make(clock)
    line = "\u20ac" * (3 * PIECE // 3) + "\n"
    live.write("stdout", line.encode())
    clock.run(10)
    assert "".join(texts(backend)) == line
    assert len(texts(backend)) > 3
    assert all(len(text.encode()) <= PIECE for text in texts(backend))


def left_out(messages: List[Dict[str, Any]]) -> int:
    return sum(message.get("omitted", 0) for message in messages)


@pytest.mark.parametrize("streams", [["stdout"], ["stdout", "stderr"]])
def test_a_flood(streams: List[str], clock: Clock) -> None:
    """Bounded in messages and bytes; what is left out is counted."""
    live, backend = make(clock)
    block = b"".join(b"%d\n" % number for number in range(10_000))
    for _ in range(500):
        for name in streams:
            live.write(name, block)
        clock.run(0.01)
    live.end()
    messages = backend.responses()
    for at, begin in enumerate(backend.times):
        within = [t for t in backend.times[at:] if t - begin < 1.0]
        assert len(within) <= MOST
    assert len(backend.times) > 7 * 5
    sizes = [len(text.encode()) for text in texts(backend)]
    assert max(sizes) <= PIECE
    assert sum(sizes) + left_out(messages) == 500 * len(block) * len(streams)
    assert [m["number"] for m in messages] == list(range(1, len(sizes) + 1))
    for name in streams:
        own = [m for m in messages if m["stream"] == name]
        assert len(own) >= len(messages) // len(streams) - 1
        # Whole lines: each is a number.
        assert all(m["data"].endswith("\n") for m in own)
        assert {int(n) for m in own for n in m["data"].split()} <= {
            *range(10_000)
        }
        assert own[-1]["data"].endswith("9998\n9999\n")


def test_much_at_once_is_sent_in_turn(clock: Clock) -> None:
    """A burst that fits into the rate is complete."""
    live, backend = make(clock)
    text = b"".join(b"%d\n" % number for number in range(KEPT // 8))
    live.write("stdout", text)
    clock.run(2)
    assert "".join(texts(backend)).encode() == text
    assert left_out(backend.responses()) == 0


def test_much_just_before_the_end(clock: Clock) -> None:
    live, backend = make(clock)
    text = b"".join(b"%d\n" % number for number in range(KEPT // 8))
    live.write("stdout", text)
    live.write("stdout", b"")
    live.end()
    assert "".join(texts(backend)).encode() == text
    assert len(backend.times) <= MOST


def test_a_backend_without_room(clock: Clock) -> None:
    live, backend = make(clock)
    backend.has_room = False
    written = 0
    for number in range(10_000):
        line = b"%099d\n" % number
        live.write("stdout", line)
        written += len(line)
    clock.run(5)
    assert not backend.sent
    backend.has_room = True
    clock.run(5)
    messages = backend.responses()
    assert messages[0]["omitted"] == written - KEPT + (KEPT % 100)
    assert all("omitted" not in message for message in messages[1:])
    assert "".join(texts(backend)).endswith(f"{9999:099d}\n")
    live.end()
    assert messages == backend.responses()
    assert clock.is_idle


def test_no_room_at_the_end(clock: Clock) -> None:
    live, backend = make(clock)
    backend.has_room = False
    live.write("stdout", b"x\n" * KEPT)
    live.end()
    assert not backend.sent
    assert clock.is_idle


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]),
            st.sampled_from(
                [b"a\n", b"x" * 1000, b"\n", "\u20ac".encode() * 30_000, b""]
            ),
            st.sampled_from([0.0, 0.05, 0.2]),
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_unseen(
    writes: List[Tuple[str, bytes, float]],
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock()
        monkeypatch.setattr(live_output, "time", clock)
        monkeypatch.setattr(live_output, "asyncio", clock)
        live, backend = make(clock)
        written: Dict[str, bytes] = {"stdout": b"", "stderr": b""}
        for name, data, pause in writes:
            if data:
                live.write(name, data)
                written[name] += data
                clock.run(pause)
        live.end()
        for name, whole in written.items():
            at = 0
            for message in backend.responses():
                if message["stream"] == name:
                    at += message.get("omitted", 0)
                    data = message["data"].encode()
                    assert 0 < len(data) <= PIECE
                    assert whole[at : at + len(data)] == data
                    at += len(data)
            assert at == len(whole)
        for at, begin in enumerate(backend.times):
            within = [t for t in backend.times[at:] if t - begin < 1.0]
            assert len(within) <= MOST


async def test_in_a_real_loop() -> None:
    live, backend = make(Clock())
    live.write("stdout", b"a\n")
    live.write("stdout", b"b\n")
    await until(lambda: len(backend.sent) == 2)
    live.write("stdout", b"c\n")
    live.end()
    assert texts(backend) == ["a\n", "b\n", "c\n"]


async def test_a_backend_that_fails(journal_records: Records) -> None:
    """Once; the answers are not affected."""

    class Failing(FakeBackend):
        def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
            raise ValueError("a bug")

    live = LiveOutput(Failing(), "live", ORIGIN, "sp1")
    for _ in range(3):
        live.write("stdout", b"a\n")
    live.end()
    assert len(journal_records.of(journal.BUG)) == 1


async def test_a_backend_without_live_output() -> None:
    live = LiveOutput(FakeBackend(), "live", ORIGIN, "sp1")
    live.write("stdout", b"a\n")
    live.end()
