"""The client and more nodes than one machine could run."""

from __future__ import annotations

from typing import Callable

from ngcp_task_agent.client import Address, Client, Patience, Verdict
from tests.crowd import Crowd, Played
from tests.integration.conftest import Scripted
from tests.parts import WITHIN, RedisServer

COUNT = 5000
PATIENT = Patience(timeout=2 * WITHIN, answer_timeout=WITHIN)


def crowd() -> Crowd:
    return Crowd(
        *(Played(f"n{n:04}", data=f"{n}\n") for n in range(COUNT)),
    )


async def test_answers_of_5000_nodes(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    nodes = crowd()
    nodes["n0815"].ends = "error"
    scripted(nodes.answers)
    async with Client(Address({"port": server.port})) as client:
        outcome = await client.run("t", "n*", patience=PATIENT)
    assert {n.node: n.data for n in outcome.nodes} == {
        node.name: node.data for node in nodes.nodes
    }
    assert len(outcome.done) == COUNT - 1
    assert [n.node for n in outcome.failed] == ["n0815"]
    assert outcome.verdict is Verdict.ERROR
    assert not outcome.unfinished


async def test_batches_over_5000_nodes(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    """The failure is in the last batch but one."""
    nodes = crowd()
    nodes["n4400"].ends = "rejected"
    scripted(nodes.answers)
    async with Client(Address({"port": server.port})) as client:
        batches = client.batches("t", "n*", size="10%", patience=PATIENT)
        outcomes = [outcome async for outcome in batches]
    assert [len(outcome.nodes) for outcome in outcomes] == [500] * 9
    assert len(set(nodes.ran)) == len(nodes.ran) == 4500
    assert batches.failures == {"n4400": Verdict.REJECTED}
    assert len(batches.not_reached) == 500
    assert batches.verdict is Verdict.REJECTED
