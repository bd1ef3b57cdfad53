"""Replies that no Redis sends, but whoever took its port may."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from ngcp_task_agent.client import Address, Client, ConnectionLost, Patience
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import CHANNELS, Bench, started
from tests.unit.fakes import WITHIN, Records, until
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")

PATIENCE = Patience(timeout=WITHIN, answer_timeout=WITHIN, settle=0.05)
LARGEST = 64 << 20  # bytes of a reply
LITTLE = 32 << 20  # bytes of memory, most of it the replies in this process
REPLIES: List[Any] = [
    pytest.param(b"$600000000\r\n", "reply of more than 64 MiB", id="bulk"),
    pytest.param(
        b"$%d\r\n" % (LARGEST + 1), "more than 64 MiB", id="one-more"
    ),
    pytest.param(
        b"*9\r\n$4\r\nmany\r\n$%d\r\n" % LARGEST,
        "more than 64 MiB",
        id="together",
    ),
    pytest.param(b"+" + b"x" * (4 << 20), "sends an endless line", id="line"),
    pytest.param(b"*1\r\n" * 500_000, "more than 200 items", id="deep"),
    pytest.param(
        b"*500000\r\n" + b"*0\r\n" * 500_000, "more than 200 items", id="wide"
    ),
    pytest.param(b"$-x\r\n", "does not speak RESP", id="size"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n", "speak RESP", id="http"),
]


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < LITTLE


@pytest.mark.parametrize("command", ["AUTH", "HELLO", "SUBSCRIBE"])
@pytest.mark.parametrize(("reply", "why"), REPLIES)
async def test_the_agent_while_it_connects(
    command: str,
    reply: bytes,
    why: str,
    server: Server,
    journal_records: Records,
    little_memory: None,
) -> None:
    server.replies[command] = reply
    await server.start()
    bench = Bench({**server.options, "password": "x", "ping_interval": 60})
    await bench.backend.start(CHANNELS)
    await bench.stop(0)
    await server.stop()
    assert why in journal_records.texts(journal.BACKEND_DOWN)[0]


@pytest.mark.parametrize(("reply", "why"), REPLIES)
async def test_the_agent_while_it_is_subscribed(
    reply: bytes,
    why: str,
    server: Server,
    journal_records: Records,
    little_memory: None,
) -> None:
    async with started(server, ping_interval=60) as bench:
        server.write_to("a", reply)
        await until(lambda: journal_records.texts(journal.BACKEND_DOWN))
        await until(lambda: bench.backend.status == "subscribed")
        server.push("a", b"next")
        await until(lambda: bench.bodies)
    assert why in journal_records.texts(journal.BACKEND_DOWN)[0]
    assert bench.bodies == [b"next"]


@pytest.mark.parametrize(("reply", "why"), REPLIES)
async def test_the_client(
    reply: bytes, why: str, server: Server, little_memory: None
) -> None:
    await server.start()
    async with Client(Address(server.options, "a", "me")) as client:
        task = asyncio.ensure_future(client.run("t", "*", patience=PATIENCE))
        await until(lambda: server.published)
        server.write_to(client.feedback_channel, reply)
        with pytest.raises(ConnectionLost, match=why):
            await asyncio.wait_for(task, WITHIN)
    await server.stop()


async def test_a_long_error_is_cut(
    server: Server, journal_records: Records
) -> None:
    server.replies["AUTH"] = b"-ERR " + b"x" * 60_000 + b"\r\n"
    await server.start()
    bench = Bench({**server.options, "password": "x"})
    await bench.backend.start(CHANNELS)
    await bench.stop(0)
    await server.stop()
    (text,) = journal_records.texts(journal.BACKEND_DOWN)
    assert "x" * 900 in text
    assert len(text) < 1500


async def test_the_largest_message(server: Server) -> None:
    body = bytes(LARGEST - len("message" + "a"))
    async with started(server, ping_interval=60) as bench:
        server.push("a", body)
        await until(lambda: bench.bodies)
    assert bench.bodies == [body]


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


@pytest.mark.parametrize(
    "positions",
    [b" 7", b" 0 1", b" " + b"9" * 9999],
    ids=["other", "more", "huge"],
)
async def test_refusals_of_messages_that_were_not_sent(
    positions: bytes, server: Server
) -> None:
    empty = bulk(b"")
    server.replies["EVALSHA"] = [empty, empty, bulk(positions + b"|ERR no")]
    async with started(server) as bench:
        bench.send("one")
        await until(lambda: b"one" in server.messages)


@pytest.mark.parametrize(
    "port", [b"99999", b"9" * 9999, b"-1"], ids=["large", "huge", "negative"]
)
async def test_a_port_that_is_none(port: bytes, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.replies["INFO"] = bulk(b"# Server\r\ntcp_port:%b\r\n" % port)
    async with started(server) as bench:
        server.push("a", b"x")
        (arrival,) = await until(lambda: bench.arrivals)
    assert not arrival.via_own_server
