"""Replies: the order of the protocol, and the records in the journal."""

from __future__ import annotations

import asyncio
import collections
import json
from typing import Callable, Counter, Optional, Tuple

import pytest

from ngcp_task_agent.brokers.base import Result
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Origin
from ngcp_task_agent.requests import reply as reply_module
from ngcp_task_agent.requests.reply import Reply
from tests.unit.fakes import FakeBackend, Records

ORIGIN = Origin("cb88ac76-f348-4614-866f-43877b893e7e", "ping", "client")


def make(
    address: Optional[str] = "feedback", limit: int = 1 << 20
) -> Tuple[Reply, FakeBackend, Counter[str]]:
    backend = FakeBackend()
    counts: Counter[str] = collections.Counter()
    return (
        Reply(backend, address, ORIGIN, "sp1", limit, counts),
        backend,
        counts,
    )


def test_rejected(journal_records: Records) -> None:
    reply, backend, counts = make()
    reply.rejected("no such task")
    (response,) = backend.responses()
    assert response["status"] == "rejected"
    assert response["reason"] == "no such task"
    assert response["data"] is None
    assert (response["src"], response["dst"]) == ("sp1", "client")
    assert backend.sent[0][0] == "feedback"
    assert backend.sent[0][2] == ORIGIN.uuid
    assert counts == {"rejected": 1}
    (record,) = journal_records.of(journal.REQUEST_REJECTED)
    assert record.NGCP_TASK == "ping"
    assert record.NGCP_TASK_UUID == ORIGIN.uuid
    assert record.NGCP_TASK_SRC == "client"
    assert record.NGCP_TASK_STATUS == "rejected"
    assert record.NGCP_TASK_REASON == "no such task"
    assert "no such task" in record.getMessage()


async def test_accepted_then_done(journal_records: Records) -> None:
    reply, backend, counts = make()
    reply.accepted()
    assert backend.statuses() == ["accepted"]
    await reply.ended(Result(data="out", exit_status=0))
    accepted, done = backend.responses()
    assert (accepted["data"], accepted["reason"]) == (None, "")
    assert (done["status"], done["reason"], done["data"]) == (
        "done",
        "",
        "out",
    )
    assert counts == {"accepted": 1, "done": 1}
    (record,) = journal_records.of(journal.TASK_DONE)
    assert record.NGCP_TASK_DURATION_USEC >= 0
    assert record.NGCP_TASK_EXIT_STATUS == 0
    (record,) = journal_records.of(journal.REQUEST_ACCEPTED)
    assert not hasattr(record, "NGCP_TASK_EXIT_STATUS")
    assert not hasattr(record, "NGCP_TASK_REASON")


async def test_unused_data() -> None:
    for unused, said in ((True, [None, True]), (False, [None, None])):
        reply, backend, _ = make()
        reply.accepted()
        await reply.ended(Result(data="out", unused=unused))
        assert [r.get("unused") for r in backend.responses()] == said
        assert all("unused" not in r for r in backend.responses()[:1])


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_a_cancelled_ending_leaves_after_live_output() -> None:
    class Live(FakeBackend):
        def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
            self.sent.append((address, encode(), None))
            return True

    backend = Live()
    reply = Reply(
        backend, "feedback", ORIGIN, "sp1", 1 << 20, collections.Counter()
    )
    reply.live_address = "live"
    reply.accepted()
    take = reply.live_output()
    assert take
    take("stdout", b"line")
    ending = asyncio.ensure_future(reply.ended(Result(data="line")))
    await asyncio.sleep(0)
    ending.cancel()
    await ending
    addresses = [address for address, _, _ in backend.sent]
    assert addresses == ["feedback", "live", "feedback"]
    assert backend.responses()[-1]["status"] == "done"


async def test_duration(
    monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    """From the arrival on, in the journal's unit."""
    clock = Clock()
    monkeypatch.setattr(reply_module, "time", clock)
    reply, _, _ = make()
    clock.now += 1
    reply.accepted()
    clock.now += 0.5
    await reply.ended(Result())
    (record,) = journal_records.of(journal.TASK_DONE)
    assert record.NGCP_TASK_DURATION_USEC == 1_500_000
    assert "after 1.500 s" in record.getMessage()


async def test_error(journal_records: Records) -> None:
    reply, backend, counts = make()
    reply.accepted()
    result = Result("so far", "exit status 3", "password is 'x'", 3)
    await reply.ended(result)
    response = backend.responses()[-1]
    assert response["status"] == "error"
    assert response["reason"] == "exit status 3: password is 'x'"
    assert response["data"] == "so far"
    assert counts["error"] == 1
    (record,) = journal_records.of(journal.TASK_ERROR)
    assert record.getMessage().endswith(": exit status 3: password is 'x'")
    assert record.NGCP_TASK_REASON == "exit status 3"
    assert record.NGCP_TASK_STDERR == "password is 'x'"


async def test_the_start_of_a_long_detail(journal_records: Records) -> None:
    reply, backend, _ = make()
    reply.accepted()
    await reply.ended(Result("", "failed", "\u20ac\n" * 600, 1))
    reason = backend.responses()[-1]["reason"]
    assert reason == "failed: " + "\u20ac\n" * 150
    (record,) = journal_records.of(journal.TASK_ERROR)
    assert record.NGCP_TASK_STDERR == "\u20ac\n" * 250
    assert record.getMessage().endswith(record.NGCP_TASK_STDERR)


async def test_no_detail(journal_records: Records) -> None:
    for result in (Result("x"), Result("", "failed"), Result("", "", "hm")):
        reply, _, _ = make()
        reply.accepted()
        await reply.ended(result)
    for kind in (journal.TASK_ERROR, journal.TASK_DONE):
        for record in journal_records.of(kind):
            assert not hasattr(record, "NGCP_TASK_STDERR")


async def test_large_output_is_sent_in_chunks() -> None:
    reply, backend, _ = make(limit=100_000)
    reply.accepted()
    await reply.ended(Result(data="x" * 300_000))
    chunks = backend.responses()[1:]
    assert [c["chunk"] for c in chunks] == [1, 2, 3, 4]
    assert "".join(c["data"] for c in chunks) == "x" * 300_000


async def test_without_an_address_it_is_only_logged(
    journal_records: Records,
) -> None:
    reply, backend, counts = make(address=None)
    reply.rejected("nowhere to send")
    assert backend.sent == []
    assert counts["rejected"] == 1
    (text,) = journal_records.texts(journal.REQUEST_REJECTED)
    assert "(no answer sent)" in text


def rejected(reply: Reply) -> None:
    reply.rejected("x")


def accepted(reply: Reply) -> None:
    reply.accepted()


@pytest.mark.parametrize("second", [rejected, accepted])
@pytest.mark.parametrize("first", [rejected, accepted])
def test_no_second_accepted(first: object, second: object) -> None:
    reply, backend, _ = make()
    first(reply)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        second(reply)  # type: ignore[operator]
    assert len(backend.sent) == 1


async def test_no_ending_before_accepted() -> None:
    reply, backend, _ = make()
    with pytest.raises(AssertionError):
        await reply.ended(Result())
    assert backend.sent == []


async def test_no_second_ending() -> None:
    reply, backend, _ = make()
    reply.accepted()
    await reply.ended(Result())
    with pytest.raises(AssertionError):
        await reply.ended(Result())
    assert backend.statuses() == ["accepted", "done"]


async def test_every_response_is_json_in_utf_8() -> None:
    reply, backend, _ = make()
    reply.accepted()
    await reply.ended(Result(data="\ufffd\0\u20ac"))
    assert json.loads(backend.sent[1][1].decode())["data"] == "\ufffd\0\u20ac"
