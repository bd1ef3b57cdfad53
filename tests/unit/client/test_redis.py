"""The client with a given redis-py client: here, one of fakeredis."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, List

import fakeredis
import pytest

from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.client import (
    Address,
    Client,
    Patience,
    Status,
    Verdict,
    run_task,
)
from tests.unit.fake_redis import FakeServer
from tests.unit.fakes import CHANNEL, WITHIN

PATIENCE = Patience(timeout=WITHIN, answer_timeout=WITHIN, settle=0.05)


def answers(request: Dict[str, Any], node: str, *statuses: str) -> List[bytes]:
    return [
        json.dumps(
            {
                "uuid": f"{number}",
                "ref": request["uuid"],
                "src": node,
                "status": status,
                "reason": "",
                "data": request["data"] if status == "done" else None,
            }
        ).encode()
        for number, status in enumerate(statuses)
    ]


@contextlib.asynccontextmanager
async def nodes(server: FakeServer, *names: str) -> AsyncIterator[None]:
    """Nodes that return each request's data."""

    def receive(name: str) -> Callable[[Arrival], None]:
        def take(arrival: Arrival) -> None:
            request = json.loads(arrival.body)
            backend = arrival.backend
            channel = backend.reply_address(request["options"])
            for answer in answers(request, name, "accepted", "done"):
                backend.send(channel, [answer], request["uuid"])

        return take

    made = [
        RedisBackend("redis", {}, receive(name), server.dial) for name in names
    ]
    for backend in made:
        await backend.start(frozenset({CHANNEL}))
    try:
        yield
    finally:
        for backend in made:
            await backend.stop(WITHIN)


async def test_run() -> None:
    server = FakeServer()
    async with nodes(server, "sp1", "sp2"):
        async with Client(
            Address(channel=CHANNEL), redis=server.client()
        ) as client:
            outcome = await client.run("t", "*", "echo", patience=PATIENCE)
    assert outcome.verdict is Verdict.DONE
    assert {n.node: (n.status, n.data) for n in outcome.nodes} == {
        "sp1": (Status.DONE, "echo"),
        "sp2": (Status.DONE, "echo"),
    }


async def test_send() -> None:
    server = FakeServer()
    async with nodes(server, "sp1"):
        async with Client(redis=server.client()) as client:
            call = client.send("t", channel=CHANNEL, patience=PATIENCE)
            statuses = [response.status async for response in call]
    assert statuses == [Status.ACCEPTED, Status.DONE]
    assert call.outcome.succeeded


async def test_several_requests_at_once() -> None:
    server = FakeServer()
    address = Address(channel=CHANNEL)
    async with nodes(server, "sp1"):
        async with Client(address, redis=server.client()) as client:
            outcomes = await asyncio.gather(
                *(
                    client.run("t", "*", f"{number}", patience=PATIENCE)
                    for number in range(20)
                )
            )
    found = [outcome.nodes[0].data for outcome in outcomes]
    assert found == [f"{number}" for number in range(20)]


async def test_no_node_answers() -> None:
    patience = Patience(answer_timeout=0.05)
    async with Client(redis=FakeServer().client()) as client:
        outcome = await client.run("t", patience=patience)
    assert outcome.verdict is Verdict.UNANSWERED


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_of_either_protocol(protocol: int) -> None:
    """If redis-py supports it: 3 is the default of 8.1."""
    server = FakeServer()
    redis = server.client()
    keys = redis.connection_pool.connection_kwargs
    if "protocol" not in keys:
        pytest.skip("this redis-py knows one protocol")
    keys["protocol"] = protocol
    async with nodes(server, "sp1"):
        async with Client(Address(channel=CHANNEL), redis=redis) as client:
            outcome = await client.run("t", patience=PATIENCE)
    assert outcome.succeeded


def made_before(make: Callable[..., Any], *options: Any, **keys: Any) -> Any:
    """A client made outside of a loop, for a script.

    With Python 3.9, redis-py can only make one inside of a loop.
    """

    async def made() -> Any:
        return make(*options, **keys)

    return asyncio.run(made())


def test_a_client_that_decodes_is_refused() -> None:
    redis = made_before(FakeServer().client, decode_responses=True)
    with pytest.raises(TypeError, match="decode_responses: messages are b"):
        Client(redis=redis)
    with pytest.raises(TypeError, match="decode_responses"):
        run_task("t", redis=redis)


@pytest.mark.parametrize(
    "redis",
    [
        pytest.param("redis://localhost", id="url"),
        pytest.param(object(), id="object"),
        pytest.param(fakeredis.FakeServer(), id="fake-server"),
    ],
)
def test_anything_else_is_refused(redis: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a redis\.asyncio\.Redis"):
        Client(redis=redis)
    with pytest.raises(TypeError, match=r"must be a redis\.asyncio\.Redis"):
        run_task("t", redis=redis)


def test_one_server_is_enough() -> None:
    redis = made_before(FakeServer().client)
    with pytest.raises(TypeError, match="not both"):
        run_task("t", redis=redis, url="redis://localhost")


def test_run_task_in_a_script(tmp_path: Path) -> None:
    server = FakeServer()

    def answer(body: bytes) -> None:
        request = json.loads(body)
        for text in answers(request, "sp1", "accepted", "done"):
            server.publish(request["options"]["feedback_channel"], text)

    # No file has to say where Redis is.
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends/redis.yml").write_text("port: nonsense")
    redis = made_before(server.client_beside, CHANNEL, answer)
    outcome = run_task(
        "t",
        "*",
        {"key": "value"},
        patience=PATIENCE,
        channel=CHANNEL,
        config_dir=tmp_path,
        redis=redis,
    )
    assert outcome.verdict is Verdict.DONE
    (node,) = outcome.nodes
    assert (node.node, node.status) == ("sp1", Status.DONE)
    assert json.loads(node.data or "") == {"key": "value"}


async def test_run_task_is_refused_in_a_loop() -> None:
    with pytest.raises(RuntimeError, match="use Client"):
        run_task("t", redis=FakeServer().client())
