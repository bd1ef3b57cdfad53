"""Answers wait while they cannot be sent, and are sent in two lanes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List, Sequence

import pytest

from ngcp_task_agent.backends import outbox
from ngcp_task_agent.backends.redis import backend, lane
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import Bench, lost, started
from tests.unit.fakes import WITHIN, Records, until
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")

LARGE = 1 << 20  # bytes that the answer is said to have


class Clock:
    """Stands in for the module; its clock stands until it is changed."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


def send_large(
    bench: Bench,
    *messages: str,
    ref: str = "large",
    encode: Any = None,
    size: int = LARGE,
) -> asyncio.Task[None]:
    """Send a large answer; the task that waits until it has left."""

    def encoded() -> List[bytes]:
        return [message.encode() for message in messages]

    return asyncio.create_task(
        bench.backend.send_large("fb", encode or encoded, size, ref)
    )


async def test_in_their_order(server: Server) -> None:
    async with started(server) as bench:
        for number in range(500):
            bench.backend.send(f"fb{number % 3}", [b"%d" % number], "ref")
        await until(lambda: len(server.published) == 500)
        assert server.published == [
            (f"fb{number % 3}", b"%d" % number) for number in range(500)
        ]


async def test_the_chunks_of_an_answer_in_their_order(server: Server) -> None:
    async with started(server) as bench:
        bench.backend.send("fb", [b"1", b"2", b"3"], "ref")
        bench.backend.send("fb", [b"4"], "ref")
        await until(lambda: len(server.published) == 4)
        assert server.messages == [b"1", b"2", b"3", b"4"]


BATCHES: List[Any] = [
    pytest.param(b"x", 500, 100, id="answers"),
    pytest.param(b"x" * 100_000, 20, 3, id="bytes"),
]


@pytest.mark.parametrize(("message", "count", "most"), BATCHES)
async def test_batches_are_small_enough_for_a_slow_line(
    message: bytes, count: int, most: int, server: Server
) -> None:
    async with started(server) as bench:
        for _ in range(count):
            bench.backend.send("fb", [message], "ref")
        await until(lambda: len(server.published) == count)
    batches = [
        words.count(message)
        for words in server.commands
        if words[0] == b"EVALSHA"
    ]
    assert max(batches) == most
    assert sum(batches) == count


async def test_kept_until_redis_is_up(
    server: Server, journal_records: Records
) -> None:
    async with started(server, is_there=False) as bench:
        bench.backend.send("fb", [b"1", b"2"], "ref")
        large = send_large(bench, "3", "4")
        await server.start()
        await asyncio.wait_for(large, WITHIN)
        assert server.messages == [b"1", b"2", b"3", b"4"]
    # One record for each change.
    assert len(journal_records.of(journal.BACKEND_DOWN)) == 1
    assert not lost(journal_records)


# Limits of the queue.

LIMITS: List[Any] = [
    pytest.param("KEEP", 3, id="number"),
    pytest.param("KEEP_BYTES", 30, id="bytes"),
]


@pytest.mark.parametrize(("limit", "value"), LIMITS)
async def test_the_oldest_are_dropped_when_too_many_wait(
    limit: str,
    value: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    monkeypatch.setattr(outbox, limit, value)
    async with started(Server(tmp_path), is_there=False) as bench:
        for number in range(5):
            bench.backend.send("fb", [b"%010d" % number], f"ref-{number}")
        assert lost(journal_records) == ["ref-0", "ref-1"]
        await bench.stop(0)
        assert lost(journal_records) == [f"ref-{n}" for n in range(5)]
    texts = journal_records.texts(journal.ANSWER_LOST)
    assert "is lost: Redis is away for too long" in texts[0]
    assert "is lost: the backend has stopped" in texts[-1]


def test_the_limits() -> None:
    limits = outbox.KEEP, outbox.KEEP_BYTES, outbox.KEEP_SECONDS
    assert limits == (1000, 64 << 20, 60)


async def test_answers_that_are_too_old_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    clock = Clock()
    monkeypatch.setattr(outbox, "time", clock)
    async with started(Server(tmp_path), is_there=False) as bench:
        bench.send("old")
        clock.now += 30
        bench.send("young")
        clock.now += 31
        # Also when nothing more comes.
        await until(lambda: lost(journal_records))
        bench.send("new")
        assert lost(journal_records) == ["ref-old"]


async def test_nothing_is_dropped_while_redis_is_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setattr(outbox, "KEEP", 3)
    async with started(server) as bench:
        bench.send(*map(str, range(50)))
        await until(lambda: len(server.published) == 50)
    assert not lost(journal_records)


async def test_an_answer_is_dropped_as_a_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setattr(outbox, "KEEP_BYTES", 4)
    async with started(server, is_there=False) as bench:
        bench.backend.send("fb", [b"1", b"2", b"3"], "a")
        bench.backend.send("fb", [b"45"], "b")
        assert lost(journal_records) == ["a"]
        await server.start()
        await until(lambda: server.messages == [b"45"])


async def test_no_ending_without_its_accepted(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setattr(outbox, "KEEP", 3)
    async with started(server, is_there=False) as bench:
        for message in (b"accepted", b"done"):
            for ref in ("a", "b"):
                bench.backend.send(
                    "fb", [b"%b %b" % (message, ref.encode())], ref
                )
        # With those that wait, and those that are still to come, of both
        # lanes.
        assert lost(journal_records) == ["a"]
        bench.backend.send("fb", [b"late"], "a")
        assert lost(journal_records) == ["a", "a"]
        large = send_large(bench, "large", ref="a")
        await server.start()
        await asyncio.wait_for(large, WITHIN)
        await until(lambda: len(server.published) == 2)
        assert server.messages == [b"accepted b", b"done b"]
    assert lost(journal_records) == ["a"] * 4
    assert "one before it is" in journal_records.texts(journal.ANSWER_LOST)[-1]


async def test_a_lost_rejection_cuts_off_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    """Anyone can have a request rejected that has the uuid of another."""
    monkeypatch.setattr(outbox, "KEEP", 2)
    async with started(server, is_there=False) as bench:
        bench.backend.send_rejection("other", [b"rejected"], "a")
        for message in (b"accepted", b"done"):
            bench.backend.send("fb", [message], "a")
        (record,) = journal_records.of(journal.REJECTION_LOST)
        assert record.NGCP_TASK_UUID == "a"
        await server.start()
        await until(lambda: len(server.published) == 2)
        assert server.messages == [b"accepted", b"done"]
    assert not journal_records.of(journal.ANSWER_LOST)


async def test_a_rejection_is_not_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEEP", 1)
    async with started(server, is_there=False) as bench:
        bench.backend.send("fb", [b"accepted"], "a")
        bench.backend.send_rejection("fb", [b"rejected"], "a")
        await server.start()
        await until(lambda: server.messages == [b"rejected"])


async def test_answers_without_a_request_are_separate(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setattr(outbox, "KEEP", 1)
    async with started(server, is_there=False) as bench:
        for message in (b"1", b"2", b"3"):
            bench.backend.send("fb", [message], None)
        assert lost(journal_records) == [None, None]
        await server.start()
        await until(lambda: server.messages == [b"3"])


# Large answers.


async def test_a_large_answer_has_a_connection_of_its_own(
    server: Server,
) -> None:
    async with started(server) as bench:
        before = server.clients
        await asyncio.wait_for(send_large(bench, "1"), WITHIN)
        assert server.clients == before + 1
        assert server.messages == [b"1"]


async def test_a_large_answer_is_published_once(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        await asyncio.wait_for(send_large(bench, "0"), WITHIN)
        server.hang_up_at("EVALSHA", False, True)
        await asyncio.wait_for(send_large(bench, "1", "2"), WITHIN)
        assert server.messages == [b"0", b"1", b"2"]
        assert not server.is_to_hang_up
    assert not lost(journal_records)


async def test_expiry_on_the_server_in_a_long_pause_loses_nothing(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        await asyncio.wait_for(send_large(bench, "0"), WITHIN)
        server.hang_up()
        server.forget()
        await until(lambda: server.count("SUBSCRIBE", "a") == 2)
        server.hang_up_at("EVALSHA", False)
        await asyncio.wait_for(send_large(bench, "1"), WITHIN)
        assert server.messages == [b"0", b"1"]
    assert not lost(journal_records)


async def test_it_is_encoded_when_it_is_next(
    server: Server,
) -> None:
    encoded: List[str] = []

    def encode(number: str) -> Callable[[], Sequence[bytes]]:
        def made() -> Sequence[bytes]:
            encoded.append(number)
            return [f"{number}-{part}".encode() for part in "ab"]

        return made

    async with started(server, is_there=False) as bench:
        sending = [send_large(bench, encode=encode(n)) for n in ("1", "2")]
        await asyncio.sleep(0.05)
        # They wait, and so do those who have sent them.
        assert not any(task.done() for task in sending)
        assert not encoded
        server.stalled_command = b"EVALSHA"
        await server.start()
        await until(lambda: server.count("EVALSHA"))
        server.resume()
        await asyncio.wait_for(asyncio.gather(*sending), WITHIN)
        assert encoded == ["1", "2"]
        assert server.messages == [b"1-a", b"1-b", b"2-a", b"2-b"]


async def test_a_large_answer_overtakes_no_small_one(server: Server) -> None:
    async with started(server, ping_interval=0.1) as bench:
        # Its own connection is new, and works.
        server.stall_these()
        bench.send("accepted")
        large = send_large(bench, "done")
        await asyncio.wait_for(large, WITHIN)
        assert server.messages == [b"accepted", b"done"]


async def test_a_small_answer_does_not_wait_for_a_large_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next part is due in an hour.
    monkeypatch.setattr(backend, "LARGE_RATE", 1 / 3600)
    async with started(server) as bench:
        large = send_large(bench, "1", "2")
        await until(lambda: server.messages == [b"1"])
        bench.send("3", "4")
        await until(lambda: server.messages == [b"1", b"3", b"4"])
        assert not large.done()
        await bench.backend.stop_listening()
        await asyncio.wait_for(large, WITHIN)


async def test_large_answers_are_sent_at_a_readable_rate(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: List[float] = []
    clock = Clock()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    fakes = {**vars(asyncio), "sleep": sleep}
    monkeypatch.setattr(lane, "asyncio", SimpleNamespace(**fakes))
    monkeypatch.setattr(lane, "time", clock)
    async with started(server) as bench:
        half = "x" * (512 << 10)
        for _ in range(2):
            large = send_large(bench, half, half, "end")
            await asyncio.wait_for(large, WITHIN)
        assert len(server.published) == 6
    assert pauses[0] <= 0
    # 8 MiB a second; the next answer is behind the last one.
    assert pauses[1:] == pytest.approx(
        [1 / 16, 1 / 16, 3 / (8 << 20), 1 / 16, 1 / 16]
    )


async def test_a_large_answer_does_not_wait_for_a_small_one_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    async with started(server) as bench:
        await asyncio.wait_for(send_large(bench, "0"), WITHIN)
        monkeypatch.setattr(outbox, "KEEP_SECONDS", 0.0)
        server.stalled_command = b"EVALSHA"
        bench.send("small")
        await asyncio.wait_for(send_large(bench, "1"), WITHIN)
        assert lost(journal_records) == ["large"]


async def test_the_rest_of_a_lost_large_answer_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    async with started(server) as bench:
        await asyncio.wait_for(send_large(bench, "0"), WITHIN)
        server.replies["EVALSHA"] = b"-NOPERM no permission\r\n"
        server.hang_up_at("EVALSHA", False)
        await asyncio.wait_for(send_large(bench, "1", "2"), WITHIN)
        await asyncio.wait_for(send_large(bench, "3", ref="other"), WITHIN)
        assert server.messages == [b"0", b"3"]
    assert lost(journal_records) == ["large"]


async def test_no_task_waits_for_a_large_answer_that_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setattr(outbox, "KEEP_BYTES", LARGE - 1)
    async with started(server, is_there=False) as bench:
        await asyncio.wait_for(send_large(bench, "1"), WITHIN)
        assert lost(journal_records) == ["large"]


async def test_no_task_waits_at_the_end(tmp_path: Path) -> None:
    async with started(Server(tmp_path), is_there=False) as bench:
        sending = [send_large(bench, "1")]
        await asyncio.sleep(0.02)
        assert not sending[0].done()
        await bench.backend.stop_listening()
        await bench.backend.stop_listening()
        sending.append(send_large(bench, "2"))
        await asyncio.wait_for(asyncio.gather(*sending), WITHIN)


@pytest.mark.parametrize("size", [1000, LARGE])
async def test_a_cancelled_answer_is_still_delivered(
    size: int, server: Server
) -> None:
    async with started(server, is_there=False) as bench:
        task = send_large(bench, "1", size=size)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await server.start()
        await until(lambda: server.messages == [b"1"])


# The end.


async def test_stop_delivers_waiting_answers(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        bench.send(*map(str, range(50)))
        large = send_large(bench, "large")
        await asyncio.sleep(0)
        await bench.stop(WITHIN)
        assert len(server.published) == 51
        assert large.done() or await large is None
        await until(lambda: server.clients == 0)
    assert not lost(journal_records)


async def test_stop_logs_undelivered_answers(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.stalled_command = b"EVALSHA"
        bench.send("1")
        await until(lambda: server.count_of("1"))
        bench.send("2")
        large = send_large(bench, "3")
        await until(lambda: server.clients == 3)
        await bench.stop(0)
        await asyncio.wait_for(large, WITHIN)
    found = {
        record.NGCP_TASK_UUID: record.getMessage()
        for record in journal_records.of(journal.ANSWER_LOST)
    }
    assert set(found) == {"ref-1", "ref-2", "large"}
    assert "may be lost: the backend has stopped" in found["ref-1"]
    assert "is lost: the backend has stopped" in found["ref-2"]


async def test_stop_can_be_called_again_before_it_returns(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.stalled_command = b"EVALSHA"
        bench.send("1")
        await until(lambda: server.count_of("1"))
        bench.send("2")
        patient = asyncio.create_task(bench.stop(WITHIN))
        await asyncio.sleep(0.02)
        await asyncio.wait_for(bench.stop(0), WITHIN)
        await asyncio.wait_for(patient, WITHIN)
    assert sorted(map(str, lost(journal_records))) == ["ref-1", "ref-2"]
