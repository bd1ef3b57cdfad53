"""Live output has a lane of its own, which refuses what is too much."""

from __future__ import annotations

import asyncio
from typing import List

import pytest

from ngcp_task_agent.backends.redis import live_lane
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import Bench, lost, started
from tests.unit.fakes import Records, until
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")


def send(bench: Bench, *messages: bytes, channel: str = "live") -> List[bool]:
    return [
        bench.backend.send_live(channel, lambda m=message: m)  # type: ignore[misc]
        for message in messages
    ]


async def test_published_in_order(server: Server) -> None:
    async with started(server) as bench:
        before = server.clients
        assert all(send(bench, *(b"%d" % number for number in range(300))))
        await until(lambda: len(server.published) == 300)
        assert server.published == [
            ("live", b"%d" % number) for number in range(300)
        ]
        assert server.clients == before + 1  # since there is live output


async def test_no_connection_without_live_output(server: Server) -> None:
    async with started(server) as bench:
        before = server.clients
        bench.send("answer")
        await until(lambda: server.published)
        assert server.clients == before


async def test_a_connection_before_the_first_line(server: Server) -> None:
    async with started(server) as bench:
        before = server.clients
        for _ in range(3):
            bench.backend.expect_live()
            await until(lambda: server.clients == before + 1)
        assert send(bench, b"line") == [True]
        await until(lambda: server.messages == [b"line"])
        assert server.clients == before + 1


async def test_before_the_answer_that_follows(server: Server) -> None:
    async with started(server) as bench:
        send(bench, b"first")
        await until(lambda: server.published)
        for number in range(20):
            send(bench, b"live %d" % number)
            bench.send(f"answer {number}")
            await until(lambda n=number: len(server.published) == 2 * n + 3)
        assert server.messages[1:] == [
            word % number
            for number in range(20)
            for word in (b"live %d", b"answer %d")
        ]


async def test_answers_do_not_wait_for_it(server: Server) -> None:
    """Not while live output is stalled, nor when much of it waits."""
    server.stalled_command = b"PUBLISH"
    async with started(server) as bench:
        message = b"x" * 100_000
        while send(bench, message) == [True]:
            await asyncio.sleep(0)
        for number in range(100):
            bench.send(f"{number}")
        await until(lambda: len(server.published) == 100)
        assert server.messages == [b"%d" % number for number in range(100)]


async def test_no_more_waits_than_there_is_room_for(server: Server) -> None:
    server.stalled_command = b"PUBLISH"
    made = 0

    def encode() -> bytes:
        nonlocal made
        made += 1
        return b"x" * 100_000

    async with started(server) as bench:
        for _ in range(1000):
            bench.backend.send_live("live", encode)
            await asyncio.sleep(0)
    # One message more than the limit, and what is on its way.
    most = live_lane.QUEUED + (256 << 10) + 2 * 100_000
    assert 0 < made * 100_000 <= most


async def test_room_again(server: Server) -> None:
    async with started(server) as bench:
        sent = 0
        while send(bench, b"x" * 100_000) == [True]:
            sent += 1
        await until(lambda: len(server.published) == sent)
        assert send(bench, b"y") == [True]
        await until(lambda: server.messages[-1] == b"y")


async def test_dropped_while_the_server_is_away(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        send(bench, b"before")
        await until(lambda: server.published)
        await server.stop()
        await until(lambda: send(bench, b"lost") == [False])
        await server.start()
        await until(lambda: send(bench, b"after") == [True])
        await until(lambda: server.messages[-1] == b"after")
        assert b"before" in server.messages
    assert not lost(journal_records)


async def test_a_connection_that_breaks_is_replaced(server: Server) -> None:
    async with started(server) as bench:
        send(bench, b"before")
        await until(lambda: server.published)
        server.hang_up()
        await until(lambda: send(bench, b"x") and b"x" in server.messages)


async def test_a_refusal_is_said_once(
    server: Server, journal_records: Records
) -> None:
    server.forbidden = {b"no"}
    async with started(server) as bench:
        for number in range(5):
            send(bench, b"%d" % number, channel="no")
            send(bench, b"%d" % number)
            await until(lambda n=number: len(server.published) == n + 1)
    (text,) = [
        text
        for text in journal_records.texts(journal.BACKEND_NOTE)
        if "live output" in text
    ]
    assert "Redis refuses live output: " in text


async def test_nothing_is_sent_after_the_stop(server: Server) -> None:
    async with started(server) as bench:
        await bench.stop(0)
        assert send(bench, b"late") == [False]
