"""The redis backend with fakeredis: all that needs no real connection."""

from __future__ import annotations

import contextlib
import json
from typing import Any, AsyncIterator, List

import pytest

from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import CHANNELS, Bench
from tests.unit.fake_redis import FakeServer
from tests.unit.fakes import Records, until


class Listener:
    """Records what a channel receives, with a redis-py client."""

    def __init__(self, server: FakeServer, channel: str) -> None:
        self.client = server.client()
        self.pubsub = self.client.pubsub()
        self.channel = channel

    async def __aenter__(self) -> Listener:
        await self.pubsub.subscribe(self.channel)
        # The reply.
        assert await self.pubsub.get_message(timeout=30)
        return self

    async def __aexit__(self, *error: object) -> None:
        for it in (self.pubsub, self.client):
            # Its name before redis-py 5.
            await (it.aclose() if hasattr(it, "aclose") else it.close())

    async def take(self, count: int) -> List[bytes]:
        found: List[bytes] = []
        while len(found) < count:
            message = await self.pubsub.get_message(timeout=30)
            if message:
                found.append(message["data"])
        return found


@contextlib.asynccontextmanager
async def started(server: FakeServer, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench(options, server.dial)
    await bench.backend.start(CHANNELS)
    try:
        yield bench
    finally:
        await bench.stop(5)


async def test_receives_and_answers(journal_records: Records) -> None:
    server = FakeServer()
    async with Listener(server, "fb") as listener:
        async with started(server) as bench:
            assert bench.backend.status == "subscribed"
            assert server.publish("a", b"one") == 1
            assert server.publish("b", b"two") == 1
            await until(lambda: bench.bodies == [b"one", b"two"])
            channels = [arrival.channel for arrival in bench.arrivals]
            assert channels == ["a", "b"]
            assert {a.backend for a in bench.arrivals} == {bench.backend}
            bench.backend.send("fb", [b"accepted"], "ref")
            bench.backend.send("fb", [b"done 1", b"done 2"], "ref")
            assert await listener.take(3) == [
                b"accepted",
                b"done 1",
                b"done 2",
            ]
        assert bench.backend.status == "stopped"
        server.publish("a", b"late")
        assert bench.bodies == [b"one", b"two"]
    (up,) = journal_records.texts(journal.BACKEND_UP)
    assert up == "backend redis: subscribed at 127.0.0.1:6379: a, b"
    # No script there: this is logged once.
    (note,) = journal_records.texts(journal.BACKEND_NOTE)
    assert "answers leave at most once" in note
    assert not journal_records.of(journal.ANSWER_LOST)
    assert not journal_records.of(journal.BACKEND_DOWN)


async def test_says_that_there_is_no_task(journal_records: Records) -> None:
    bench = Bench({}, FakeServer().dial)
    await bench.backend.start(frozenset())
    await bench.stop(5)
    (up,) = journal_records.texts(journal.BACKEND_UP)
    assert up.endswith(" 127.0.0.1:6379: no channel, as no task uses it")


async def test_the_channels_can_change() -> None:
    server = FakeServer()
    async with started(server) as bench:
        await bench.backend.listen(frozenset({"b", "c"}))
        await until(lambda: server.publish("a", b"left") == 0)
        assert server.publish("b", b"stays") == 1
        assert server.publish("c", b"new") == 1
        await until(lambda: len(bench.bodies) >= 2)
        assert bench.bodies[-2:] == [b"stays", b"new"]
        await bench.backend.listen(frozenset())
        await until(lambda: server.publish("b", b"left") == 0)


async def test_all_in_their_order() -> None:
    server = FakeServer()
    async with Listener(server, "fb") as listener:
        async with started(server) as bench:
            sent = [b"%d" % number for number in range(200)]
            for body in sent:
                server.publish("a", body)
            await until(lambda: len(bench.bodies) == len(sent))
            assert bench.bodies == sent
            for body in sent:
                bench.backend.send("fb", [body], "ref")
            assert await listener.take(len(sent)) == sent


async def test_large_answers() -> None:
    server = FakeServer()
    async with Listener(server, "fb") as listener:
        async with started(server) as bench:
            chunks = [b"x" * 300_000, b"end"]
            bench.send("accepted")
            await bench.backend.send_large(
                "fb", lambda: chunks, 300_003, "ref"
            )
            assert await listener.take(3) == [b"accepted", *chunks]


@pytest.mark.parametrize("body", [b"", b"\xff\x00\r\n", b"x" * 100_000])
async def test_any_bytes_arrive(body: bytes) -> None:
    server = FakeServer()
    async with started(server) as bench:
        server.publish("a", body)
        await until(lambda: bench.bodies == [body])


async def test_other_channels_are_not_received() -> None:
    server = FakeServer()
    async with started(server) as bench:
        for channel in ("c", "A", "a*", ""):
            assert server.publish(channel, b"x") == 0
        server.publish("a", b"y")
        await until(lambda: bench.bodies == [b"y"])


async def test_the_server_is_unknown() -> None:
    server = FakeServer()
    async with started(server) as bench:
        server.publish("a", b"x")
        (arrival,) = await until(lambda: bench.arrivals)
        assert not arrival.via_own_server
        assert not arrival.one_way


async def test_two_backends_on_one_server() -> None:
    server = FakeServer()
    async with started(server) as one, started(server) as other:
        assert server.publish("a", json.dumps({}).encode()) == 2
        await until(lambda: one.bodies and other.bodies)
