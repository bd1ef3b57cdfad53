"""Answers leave in their order, and are kept while they cannot."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent import journal
from ngcp_task_agent.backends import (
    redis_call,
    redis_outbox,
    redis_publisher,
)
from ngcp_task_agent.backends.redis_receipts import Receipts
from ngcp_task_agent.backends.redis_writer import Writer
from tests.unit.fakes import WITHIN, Records, until
from tests.unit.resp import Server


def make(server: Server, **options: Any) -> Writer:
    return Writer(
        "redis",
        {**server.options, **options},
        10.0,
        Receipts("redis"),
        lambda: True,
    )


def is_ready(writer: Writer) -> bool:
    """Whether it has asked all that it asks at first, and can publish."""
    return writer.is_own_master and writer._publishers[0]._proves


async def test_in_order(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    for n in range(500):
        writer.send(f"fb{n % 3}", [b"%d" % n], "ref")
    await until(lambda: len(server.published) == 500)
    assert [message for _, message in server.published] == [
        b"%d" % n for n in range(500)
    ]
    assert server.published[1][0] == "fb1"
    await writer.stop(5)
    await server.stop()


async def test_kept_until_redis_is_there(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    writer = make(server)
    writer.start()
    writer.send("fb", [b"1", b"2"], "ref")
    await until(lambda: journal_records.of(journal.BACKEND_DOWN))
    await server.start()
    writer.redis_is_back()
    await until(lambda: journal_records.of(journal.BACKEND_UP))
    assert len(server.published) == 2
    # One record for each change of state.
    assert len(journal_records.of(journal.BACKEND_DOWN)) == 1
    await writer.stop(5)
    await server.stop()
    assert not journal_records.of(journal.ANSWER_LOST)


LIMITS: List[Any] = [
    pytest.param("KEEP", 3, id="number"),
    pytest.param("KEEP_BYTES", 30, id="bytes"),
]


@pytest.mark.parametrize(("limit", "value"), LIMITS)
async def test_the_oldest_go_when_too_much_waits(
    limit: str,
    value: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    monkeypatch.setattr(redis_outbox, limit, value)
    writer = make(Server(tmp_path))
    for n in range(5):
        writer.send("fb", [b"%010d" % n], f"ref-{n}")
    lost = journal_records.of(journal.ANSWER_LOST)
    assert [record.NGCP_TASK_UUID for record in lost] == ["ref-0", "ref-1"]
    await writer.stop(0)
    lost = journal_records.of(journal.ANSWER_LOST)
    assert [record.NGCP_TASK_UUID for record in lost] == [
        f"ref-{n}" for n in range(5)
    ]
    assert "the backend has stopped" in lost[-1].getMessage()


async def test_what_is_too_old_goes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    writer = make(Server(tmp_path))
    writer.send("fb", [b"old"], "ref-0")
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    writer.send("fb", [b"new"], "ref-1")
    lost = journal_records.of(journal.ANSWER_LOST)
    assert [record.NGCP_TASK_UUID for record in lost] == ["ref-0"]
    monkeypatch.undo()
    await writer.stop(0)


async def test_what_may_have_been_sent_is_not_sent_again(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    await until(lambda: is_ready(writer))
    server.stalled = True
    writer.send("fb", [b"1"], "ref-1")
    await until(lambda: server.has_got("PUBLISH", "fb"))
    writer.send("fb", [b"2"], "ref-2")
    server.stalled = False
    server.hang_up()
    await until(lambda: journal_records.of(journal.ANSWER_LOST))
    writer.redis_is_back()
    await until(lambda: (writer.redis_is_back(), server.published)[1])
    assert server.published == [("fb", b"2")]
    (record,) = journal_records.of(journal.ANSWER_LOST)
    assert record.NGCP_TASK_UUID == "ref-1"
    await writer.stop(5)
    await server.stop()


async def test_a_stalled_server_goes_on_where_it_stopped(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = Writer(
        "redis", server.options, 0.05, Receipts("redis"), lambda: True
    )
    writer.start()
    await until(lambda: is_ready(writer))
    server.stalled = True
    writer.send("fb", [b"accepted"], "ref")
    await until(lambda: server.has_got("PUBLISH", "fb"))
    # It is noticed, and other connections are tried, in vain.
    await until(lambda: journal_records.of(journal.BACKEND_DOWN))
    await until(lambda: server.clients > 1)
    await writer.redis_is_away("the reader gets no answer either")
    writer.send("fb", [b"done"], "ref")
    server.resume()
    await until(lambda: ("fb", b"done") in server.published)
    assert [m for channel, m in server.published if channel == "fb"] == [
        b"accepted",
        b"done",
    ]
    await until(lambda: journal_records.of(journal.BACKEND_UP))
    await writer.stop(5)
    await server.stop()
    assert not journal_records.of(journal.ANSWER_LOST)


async def test_a_connection_that_alone_is_dead_is_given_up(
    tmp_path: Path,
    journal_records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_call, "_GRACE", 0.05)
    server = Server(tmp_path)
    await server.start()
    writer = Writer(
        "redis", server.options, 0.05, Receipts("redis"), lambda: True
    )
    writer.start()
    await until(lambda: is_ready(writer))
    server.stall_these()
    writer.send("fb", [b"1"], "ref-1")
    await until(lambda: server.has_got("PUBLISH", "fb"))
    writer.send("fb", [b"2"], "ref-2")
    await until(
        lambda: (writer.redis_is_back(), ("fb", b"2") in server.published)[1]
    )
    assert ("fb", b"1") not in server.published
    (record,) = journal_records.of(journal.ANSWER_LOST)
    assert record.NGCP_TASK_UUID == "ref-1"
    assert "may be lost" in record.getMessage()
    await writer.stop(5)
    await server.stop()


async def test_a_slow_line_is_not_taken_for_a_dead_one(
    tmp_path: Path, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_call, "_GRACE", 0.0)
    server = Server(tmp_path)
    await server.start()
    writer = Writer(
        "redis", server.options, 0.05, Receipts("redis"), lambda: True
    )
    writer.start()
    await until(lambda: is_ready(writer))
    server.stall_these()
    writer.send("fb", [b"x" * (redis_call._SLOWEST // 2)], "ref")
    await until(lambda: server.has_got("PUBLISH", "fb"))
    # Longer than a small one may take.
    await asyncio.sleep(0.2)
    server.resume()
    await until(lambda: server.published)
    await writer.stop(5)
    await server.stop()
    assert not journal_records.of(journal.ANSWER_LOST)


async def test_whoever_sends_much_waits_until_it_has_left(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    encoded: List[int] = []

    def encode(number: int) -> List[bytes]:
        encoded.append(number)
        return [b"%d-a" % number, b"%d-b" % number]

    def send(number: int) -> asyncio.Task[None]:
        return asyncio.create_task(
            writer.send_large("fb", lambda: encode(number), 9, "ref")
        )

    first, second = send(1), send(2)
    await asyncio.sleep(0.02)
    # While it is not connected, nothing is made of them.
    assert not first.done()
    assert not second.done()
    assert not encoded
    server.stalled = True
    writer.start()
    await until(lambda: server.commands)
    server.resume()
    await asyncio.wait_for(asyncio.gather(first, second), WITHIN)
    assert [message for _, message in server.published] == [
        b"1-a",
        b"1-b",
        b"2-a",
        b"2-b",
    ]
    await writer.stop(5)
    await server.stop()


async def test_nobody_waits_for_what_is_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    monkeypatch.setattr(redis_outbox, "KEEP_BYTES", 100)
    writer = make(Server(tmp_path))
    await asyncio.wait_for(
        writer.send_large("fb", lambda: [b"x"], 101, "ref"), WITHIN
    )
    writer.send("fb", [b"1"], "ref")
    lost = journal_records.of(journal.ANSWER_LOST)
    assert [record.NGCP_TASK_UUID for record in lost] == ["ref", "ref"]
    await writer.stop(0)


async def test_nobody_waits_at_the_end(tmp_path: Path) -> None:
    writer = make(Server(tmp_path))
    sending = [
        asyncio.create_task(writer.send_large("fb", lambda: [b"x"], 9, "ref"))
    ]
    await asyncio.sleep(0.02)
    writer.hold_nobody()
    sending.append(
        asyncio.create_task(writer.send_large("fb", lambda: [b"x"], 9, "ref"))
    )
    await asyncio.wait_for(asyncio.gather(*sending), WITHIN)
    await writer.stop(0)


async def test_what_is_on_its_way_at_the_end_is_told(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    await until(lambda: is_ready(writer))
    server.stalled = True
    writer.send("fb", [b"1"], "ref")
    await until(lambda: server.has_got("PUBLISH", "fb"))
    await writer.stop(0)
    (record,) = journal_records.of(journal.ANSWER_LOST)
    assert "may be lost" in record.getMessage()
    await server.stop()


async def test_what_redis_refuses_is_lost(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    server.replies["PUBLISH"] = b"-NOPERM no permission\r\n"
    await server.start()
    writer = make(server)
    writer.start()
    writer.send("fb", [b"1"], "ref")
    await until(lambda: journal_records.of(journal.ANSWER_LOST))
    assert "no permission" in journal_records.texts(journal.ANSWER_LOST)[0]
    await writer.stop(5)
    await server.stop()


ROLES: List[Any] = [
    pytest.param(b"*1\r\n$6\r\nmaster\r\n", True, id="master"),
    pytest.param(b"*1\r\n$5\r\nslave\r\n", False, id="replica"),
    pytest.param(b"-NOPERM no\r\n", False, id="not-permitted"),
]


@pytest.mark.parametrize(("reply", "own"), ROLES)
async def test_role(reply: bytes, own: bool, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.replies["ROLE"] = reply
    await server.start()
    writer = make(server)
    writer.start()
    writer.send("fb", [b"1"], "ref")
    await until(lambda: server.published)
    assert writer.is_own_master is own
    await writer.stop(5)
    await server.stop()


async def test_a_missing_database_is_noted_once(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    server.replies["SELECT"] = b"-ERR DB index is out of range\r\n"
    await server.start()
    writer = make(server, db=40)
    writer.start()
    writer.send("fb", [b"1"], "ref")
    await until(lambda: server.published)
    await writer.redis_is_away("test")
    writer.send("fb", [b"2"], "ref")
    await until(
        lambda: (writer.redis_is_back(), len(server.published) == 2)[1]
    )
    notes = journal_records.texts(journal.BACKEND_NOTE)
    assert len(notes) == 1
    assert "has no database 40" in notes[0]
    await writer.stop(5)
    await server.stop()


async def test_stop_delivers_what_waits(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    for n in range(50):
        writer.send("fb", [b"%d" % n], "ref")
    await writer.stop(30)
    assert len(server.published) == 50
    await server.stop()
    await asyncio.sleep(0)


async def test_the_role_is_known_while_it_connects_again(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    await until(lambda: is_ready(writer))
    server.replies["ROLE"] = b"*1\r\n$5\r\nslave\r\n"
    await server.stop()
    await asyncio.sleep(0.02)
    assert writer.is_own_master
    # Unless the reader has lost it, too: it may be another one now.
    await writer.redis_is_away("test")
    assert not writer.is_own_master
    await writer.stop(0)


async def test_a_new_connection_is_asked_before_its_role_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "_ROLE_KNOWN", 0.0)
    server = Server(tmp_path)
    await server.start()
    writer = make(server)
    writer.start()
    await until(lambda: is_ready(writer))
    server.stalled_command = b"ROLE"
    asked = server.count("ROLE")
    server.hang_up()
    await until(
        lambda: (writer.redis_is_back(), server.count("ROLE") > asked)[1]
    )
    assert not writer.is_own_master
    server.resume()
    await until(lambda: writer.is_own_master)
    await writer.stop(0)
    await server.stop()
