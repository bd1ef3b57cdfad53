"""What becomes of answers on a connection that breaks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Callable, List
from unittest.mock import Mock

import pytest
from redis.exceptions import ResponseError

from ngcp_task_agent import journal
from ngcp_task_agent.backends import (
    redis_call,
    redis_delivery,
    redis_outbox,
    redis_publisher,
)
from ngcp_task_agent.backends.redis_delivery import Delivery
from ngcp_task_agent.backends.redis_link import Link
from ngcp_task_agent.backends.redis_outbox import Answer
from ngcp_task_agent.backends.redis_receipts import Receipts
from ngcp_task_agent.backends.redis_writer import Writer
from tests.unit.fakes import WITHIN, Records, until
from tests.unit.resp import Server


class Bench:
    """A writer, and a connection that hears its receipts."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.receipts = Receipts("redis")
        self.writer = Writer(
            "redis", server.options, 0.05, self.receipts, lambda: True
        )

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.writer.stop(5)
        await self.stop_hearing()
        await self.server.stop()

    async def start(self) -> None:
        await self.server.start()
        await self.hear()
        self.writer.start()
        # Before that it publishes without receipts.
        await until(lambda: self.writer._publishers[0]._proves)

    async def hear(self) -> None:
        link = await Link.open(self.server.options, self._on_push, 30)
        await link.identify(30)
        await link.call([("SUBSCRIBE", self.receipts.channel)], 30)
        self.receipts.listen(link)
        self._ear = link

    async def stop_hearing(self) -> None:
        await self._ear.close("test")
        self.receipts.stop_listening()

    def _on_push(self, push: List[bytes]) -> None:
        self.receipts.hear(push[2])

    async def until(self, what: Callable[[], Any]) -> None:
        """Wait until it is true, and do not let the writer wait long."""
        await until(lambda: (self.writer.redis_is_back(), what())[1])

    def send(self, *messages: str) -> None:
        """An answer of one message each, to a request of its own."""
        for message in messages:
            self.writer.send("fb", [message.encode()], f"ref-{message}")

    async def published(self, *messages: str) -> None:
        """Wait until these are published, and nothing else was."""
        expected = [("fb", message.encode()) for message in messages]
        await self.until(lambda: len(self.server.published) >= len(expected))
        assert self.server.published == expected


CARRIED_OUT: List[Any] = [
    pytest.param("EXEC", True, id="published"),
    pytest.param("EXEC", False, id="not-published"),
    pytest.param("PUBLISH", False, id="half-sent"),
]


@pytest.mark.parametrize(("command", "is_carried_out"), CARRIED_OUT)
async def test_each_is_published_once(
    command: str,
    is_carried_out: bool,
    tmp_path: Path,
    journal_records: Records,
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.hang_up_at(command, is_carried_out)
        bench.send("1", "2")
        bench.send("3")
        await bench.published("1", "2", "3")
        bench.send("4")
        await bench.published("1", "2", "3", "4")
        assert not journal_records.of(journal.ANSWER_LOST)


async def test_connections_may_break_again_and_again(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.hang_up_at("EXEC", False)
        bench.send("1", "2")
        await until(lambda: bench.server.has_got("PUBLISH", "fb"))
        for _ in range(3):
            # On the next connection, before it knows what became of them.
            bench.server.hang_up_at("PUBLISH", False)
            await bench.until(lambda: not bench.server.is_to_hang_up)
        await bench.published("1", "2")
        assert not journal_records.of(journal.ANSWER_LOST)


async def test_what_a_stalled_connection_held_is_sent_over_another(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        monkeypatch.setattr(redis_call, "_GRACE", 0.05)
        await bench.start()
        bench.server.stall_these()
        bench.send("1")
        await bench.published("1")
        # What the server held was dropped, not carried out later.
        bench.server.resume()
        bench.send("2")
        await bench.published("1", "2")
        assert not journal_records.of(journal.ANSWER_LOST)


async def test_nobody_is_left_who_heard_the_receipt(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.stalled = True
        bench.send("1")
        await until(lambda: bench.server.has_got("PUBLISH", "fb"))
        await bench.stop_hearing()
        bench.server.stalled = False
        bench.server.hang_up()
        await until(lambda: journal_records.of(journal.ANSWER_LOST))
        await bench.hear()
        bench.send("2")
        await bench.published("2")
        (record,) = journal_records.of(journal.ANSWER_LOST)
        assert record.NGCP_TASK_UUID == "ref-1"
        assert "may be lost" in record.getMessage()


async def test_another_server_cannot_tell(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.hang_up_at("EXEC", False)
        bench.server.run_id = b"run2"
        bench.send("1")
        await bench.until(lambda: journal_records.of(journal.ANSWER_LOST))
        assert not bench.server.published
        # Each has only tried whether it might kill: there the number of the
        # broken connection is somebody else's.
        kills = [w[3] for w in bench.server.commands if w[1:2] == [b"KILL"]]
        assert len(kills) == len(set(kills))


REFUSALS: List[Any] = [
    pytest.param("INFO", id="info"),
    pytest.param("CLIENT", id="client"),
    pytest.param("MULTI", id="multi"),
    pytest.param("EXEC", id="exec"),
]


@pytest.mark.parametrize("command", REFUSALS)
async def test_a_user_that_may_not_is_told_and_served(
    command: str, tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.server.start()
        await bench.hear()
        bench.server.replies[command] = b"-NOPERM no permission\r\n"
        bench.writer.start()
        bench.send("1")
        await bench.published("1")
        (note,) = journal_records.texts(journal.BACKEND_NOTE)
        assert command in note
        assert "no permission" in note
        bench.server.hang_up_at("PUBLISH", True)
        bench.send("2")
        await until(lambda: journal_records.of(journal.ANSWER_LOST))
        bench.send("3")
        await bench.published("1", "2", "3")
        assert len(journal_records.texts(journal.BACKEND_NOTE)) == 1


async def test_one_that_is_refused_keeps_no_other_back(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.forbidden.add(b"elsewhere")
        bench.send("1")
        bench.writer.send("elsewhere", [b"x"], "ref-x")
        bench.send("2")
        await bench.published("1", "2")
        (record,) = journal_records.of(journal.ANSWER_LOST)
        assert record.NGCP_TASK_UUID == "ref-x"
        assert "No permissions" in record.getMessage()


async def test_a_right_that_is_withdrawn_costs_nothing(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.send("1")
        await bench.published("1")
        bench.server.replies["MULTI"] = b"-NOPERM no permission\r\n"
        bench.send("2")
        await bench.published("1", "2")
        del bench.server.replies["MULTI"]
        bench.server.replies["EXEC"] = b"-NOPERM no permission\r\n"
        bench.send("3")
        await bench.published("1", "2", "3")
        assert not journal_records.of(journal.ANSWER_LOST)


async def test_what_is_in_doubt_for_too_long_is_lost(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.hang_up_at("EXEC", False)
        bench.send("1")
        await until(lambda: bench.server.has_got("PUBLISH", "fb"))
        await bench.server.stop()
        later = time.monotonic() + redis_outbox.KEEP_SECONDS + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        bench.send("2")
        lost = journal_records.of(journal.ANSWER_LOST)
        assert [record.NGCP_TASK_UUID for record in lost] == ["ref-1"]
        monkeypatch.undo()


async def test_none_is_sent_whose_ending_was_dropped(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.hang_up_at("EXEC", False)
        bench.writer.send("fb", [b"accepted"], "ref")
        await until(lambda: bench.server.has_got("PUBLISH", "fb"))
        await bench.server.stop()
        monkeypatch.setattr(redis_outbox, "KEEP", 1)
        bench.writer.send("fb", [b"done"], "ref")
        bench.send("1")
        await bench.server.start()
        await bench.hear()
        await bench.published("1")
        lost = journal_records.of(journal.ANSWER_LOST)
        assert [record.NGCP_TASK_UUID for record in lost] == ["ref", "ref"]


async def test_a_listener_that_hears_nothing_holds_nobody_up(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_delivery, "_SILENCE", 0.05)
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.is_mute = True
        bench.server.hang_up_at("EXEC", False)
        bench.send("1")
        await until(lambda: bench.server.has_got("PUBLISH", "fb"))
        bench.send("2")
        await bench.published("2")
        (record,) = journal_records.of(journal.ANSWER_LOST)
        assert record.NGCP_TASK_UUID == "ref-1"


async def test_without_memory_for_transactions_none_is_lost(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.is_full = True
        bench.server.forbidden.add(b"elsewhere")
        bench.send("1")
        bench.writer.send("elsewhere", [b"x"], "ref-x")
        bench.send("2")
        await bench.published("1", "2")
        (record,) = journal_records.of(journal.ANSWER_LOST)
        assert record.NGCP_TASK_UUID == "ref-x"


async def test_what_redis_refuses_for_a_while_is_kept(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.replies["PUBLISH"] = b"-BUSY Redis is busy\r\n"
        bench.send("1", "2")
        await until(lambda: journal_records.of(journal.BACKEND_DOWN))
        bench.send("3")
        del bench.server.replies["PUBLISH"]
        await bench.published("1", "2", "3")
        assert not journal_records.of(journal.ANSWER_LOST)
        assert len(journal_records.of(journal.BACKEND_UP)) == 1


async def test_what_is_refused_is_not_tried_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "_TROUBLE", WITHIN)
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        # The reader came later, and nobody has waited for it since.
        bench.writer.redis_is_back()
        bench.server.replies["PUBLISH"] = b"-BUSY Redis is busy\r\n"
        bench.send("1")
        # In a transaction, and without.
        await until(lambda: bench.server.count("PUBLISH", "fb") == 2)
        await asyncio.sleep(0.1)
        assert bench.server.count("PUBLISH", "fb") == 2


async def test_trouble_while_something_is_in_doubt(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "_TROUBLE", 0.2)
    async with Bench(Server(tmp_path)) as bench:
        await bench.start()
        bench.server.replies["INFO"] = b"-BUSY Redis is busy\r\n"
        bench.server.hang_up_at("EXEC", False)
        bench.send("1")
        asked = bench.server.count("INFO")
        await bench.until(lambda: bench.server.count("INFO") > asked)
        # It is asked again after a while, over the same connection, and not
        # all the time.
        bench.writer.redis_is_back()
        clients, asked = bench.server.clients, bench.server.count("INFO")
        await until(lambda: bench.server.count("INFO") >= asked + 2)
        assert bench.server.count("INFO") < asked + 10
        assert bench.server.clients == clients
        assert not bench.server.published
        del bench.server.replies["INFO"]
        await bench.published("1")
        assert not journal_records.of(journal.ANSWER_LOST)


async def test_it_is_told_that_answers_can_be_sent_though_none_waits(
    tmp_path: Path, journal_records: Records
) -> None:
    async with Bench(Server(tmp_path)) as bench:
        bench.server.stalled_command = b"PUBLISH"
        await bench.server.start()
        await bench.hear()
        bench.writer.start()
        await until(lambda: journal_records.of(journal.BACKEND_DOWN))
        bench.server.resume()
        await until(lambda: journal_records.of(journal.BACKEND_UP))


async def test_transactions_that_were_refused_for_a_while_come_back(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "_PROVE_AGAIN", 0.0)
    async with Bench(Server(tmp_path)) as bench:
        await bench.server.start()
        await bench.hear()
        bench.server.replies["INFO"] = b"-BUSY Redis is busy\r\n"
        bench.writer.start()
        bench.send("1")
        await bench.published("1")
        del bench.server.replies["INFO"]
        bench.server.hang_up_at("EXEC", False)
        await bench.until(lambda: not bench.server.is_to_hang_up)
        bench.server.hang_up_at("EXEC", True)
        bench.send("2")
        await bench.published("1", "2")
        assert not journal_records.of(journal.ANSWER_LOST)


def test_nothing_is_sent_again_behind_what_follows_it() -> None:
    """Without transactions Redis can refuse the first of two alone."""
    parts = [
        (Answer("fb", ref, 1), text)
        for ref, text in (("a", b"accepted"), ("a", b"done"), ("b", b"x"))
    ]
    delivery = Delivery(Mock(), parts, Mock(), None)
    busy = ResponseError("BUSY Redis is busy")
    outcome = delivery.read([busy, 1, busy])
    assert outcome
    assert outcome.published == parts[1:2]
    assert outcome.refused == {parts[0][0]: str(busy)}
    assert outcome.again == parts[2:]
