"""Runs in batches: who is reached, and what stops them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, AsyncIterator, Dict, List, Tuple

import pytest

from ngcp_task_agent.client import (
    Address,
    Client,
    InvalidRequest,
    Outcome,
    Patience,
    Verdict,
)
from ngcp_task_agent.client.batches import Batches
from tests.crowd import Crowd, Played
from tests.unit.fake_redis import FakeServer
from tests.unit.fakes import CHANNEL, WITHIN

# Silent nodes are waited for.
PATIENCE = Patience(timeout=WITHIN, answer_timeout=0.3, settle=0.05)


def five(**keys: Any) -> Crowd:
    return Crowd(*(Played(f"n{number}", **keys) for number in range(1, 6)))


@contextlib.asynccontextmanager
async def client_of(crowd: Crowd, **address: Any) -> AsyncIterator[Client]:
    server = FakeServer()

    def take(message: bytes) -> None:
        request = json.loads(message)
        channel = request["options"]["feedback_channel"]
        for answer in crowd.answers(request):
            server.publish(channel, json.dumps(answer).encode())

    async with Client(
        Address(channel=CHANNEL, **address),
        redis=server.client_beside(CHANNEL, take),
    ) as client:
        yield client


async def run(
    crowd: Crowd, dst: str = "*", **keys: Any
) -> Tuple[Batches, List[Outcome]]:
    """Run it to the end; return the outcome of each batch."""
    keys.setdefault("patience", PATIENCE)
    async with client_of(crowd) as client:
        batches = client.batches("t", dst, **keys)
        outcomes = [outcome async for outcome in batches]
    return batches, outcomes


def names(outcomes: List[Outcome]) -> List[List[str]]:
    return [sorted(n.node for n in outcome.nodes) for outcome in outcomes]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [["n1"], ["n2"], ["n3"], ["n4"], ["n5"]]),
        (2, [["n1", "n2"], ["n3", "n4"], ["n5"]]),
        ("40%", [["n1", "n2"], ["n3", "n4"], ["n5"]]),
        ("41%", [["n1", "n2", "n3"], ["n4", "n5"]]),
        ("1%", [["n1"], ["n2"], ["n3"], ["n4"], ["n5"]]),
        ("100%", [["n1", "n2", "n3", "n4", "n5"]]),
        (7, [["n1", "n2", "n3", "n4", "n5"]]),
    ],
)
async def test_batch_after_batch(size: Any, expected: List[List[str]]) -> None:
    crowd = five(data="hello")
    batches, outcomes = await run(crowd, size=size)
    assert names(outcomes) == expected
    assert {n.data for outcome in outcomes for n in outcome.nodes} == {"hello"}
    assert crowd.ran == ["n1", "n2", "n3", "n4", "n5"] == list(batches.names)
    assert len({request["uuid"] for request in crowd.requests}) == len(
        expected
    )
    assert (batches.failures, batches.not_reached) == ({}, ())
    assert batches.verdict is Verdict.DONE


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ("error", Verdict.ERROR),
        ("rejected", Verdict.REJECTED),
        ("silent", Verdict.UNFINISHED),
        ("never", Verdict.UNFINISHED),
    ],
)
async def test_failure_stops_the_rest(ends: str, verdict: Verdict) -> None:
    crowd = five()
    crowd["n3"].ends = ends
    patience = Patience(timeout=1, answer_timeout=0.3)
    batches, outcomes = await run(crowd, size=2, patience=patience)
    assert len(outcomes) == 2
    assert crowd.ran == ["n1", "n2", "n3", "n4"]
    assert batches.failures == {"n3": verdict}
    assert batches.not_reached == ("n5",)
    assert batches.verdict is verdict


async def test_silent_node_does_not_cut_the_wait_for_others_short() -> None:
    crowd = five()
    crowd["n1"].ends = "silent"
    crowd["n2"].ends = "never"
    patience = Patience(timeout=1, answer_timeout=0.1)
    batches, (outcome,) = await run(crowd, size=3, patience=patience)
    assert outcome.seconds >= 1
    assert outcome.missing_nodes == ("n1",)
    assert outcome.verdict is Verdict.UNFINISHED
    assert set(batches.failures) == {"n1", "n2"}


async def test_batch_ends_when_all_its_nodes_have() -> None:
    patience = Patience(answer_timeout=WITHIN, settle=0.05)
    crowd = Crowd(Played("a"), Played("b", ends="rejected"))
    _, (outcome,) = await run(crowd, size=2, patience=patience)
    assert outcome.seconds < WITHIN
    assert outcome.verdict is Verdict.REJECTED


async def test_failures_up_to_the_limit_do_not() -> None:
    crowd = five()
    crowd["n1"].ends = "rejected"
    crowd["n2"].ends = "error"
    crowd["n4"].ends = "error"
    batches, _ = await run(crowd, max_failures=2)
    assert crowd.ran == ["n1", "n2", "n3", "n4"]
    assert batches.not_reached == ("n5",)
    assert batches.verdict is Verdict.ERROR
    batches, _ = await run(crowd, max_failures=3)
    assert batches.not_reached == ()
    assert set(batches.failures) == {"n1", "n2", "n4"}
    assert batches.verdict is Verdict.ERROR


async def test_node_that_is_no_longer_active_stays_silent() -> None:
    crowd = Crowd(
        Played("db01a"), Played("db01b", state="standby"), Played("db02a")
    )
    async with client_of(crowd) as client:
        batches = client.batches("t", "db*|state=active", patience=PATIENCE)
        await batches.__anext__()
        assert batches.names == ("db01a", "db02a")
        crowd["db02a"].state = "standby"
        await batches.__anext__()
    assert crowd.ran == ["db01a"]
    assert batches.failures == {"db02a": Verdict.UNFINISHED}


async def test_each_name_keeps_its_own_options() -> None:
    crowd = Crowd(Played("a"), Played("b"), Played("c", state="standby"))
    async with client_of(crowd) as client:
        batches = client.batches(
            "t", "a,b|state=active,c|state=standby", patience=PATIENCE
        )
        await batches.__anext__()
        crowd["b"].state = "standby"
        await batches.__anext__()
        assert batches.failures == {"b": Verdict.UNFINISHED}
        with pytest.raises(StopAsyncIteration):
            await batches.__anext__()
    assert crowd.ran == ["a"]
    assert [r["dst"] for r in crowd.requests] == ["a", "b|state=active"]
    assert batches.not_reached == ("c",)


async def test_targets_without_wildcards_are_expected() -> None:
    crowd = five()
    batches, outcomes = await run(crowd, "N1,gone,n2,lost|state=active")
    assert (outcomes, crowd.ran) == ([], [])
    assert batches.missing == ("gone",)
    assert batches.failures == {"gone": Verdict.UNFINISHED}
    assert batches.not_reached == ("n1", "n2")
    assert batches.verdict is Verdict.UNFINISHED
    batches, _ = await run(crowd, "N1,gone,n2", max_failures=1)
    assert crowd.ran == ["n1", "n2"]
    assert batches.verdict is Verdict.UNFINISHED


async def test_nobody_is_there() -> None:
    batches, outcomes = await run(Crowd(), "prx*")
    assert outcomes == []
    assert batches.verdict is Verdict.UNANSWERED
    batches, _ = await run(Crowd(), "prx01a")
    assert batches.verdict is Verdict.UNANSWERED
    assert batches.missing == ("prx01a",)


async def test_older_agents_take_part() -> None:
    crowd = Crowd(Played("a"), Played("b", ("b.example.org",), is_old=True))
    await run(crowd, "a*,b.example.*|state=active")
    assert crowd.ran == ["a", "b"]
    assert crowd.requests[1]["dst"] == "b|state=active"


async def test_two_nodes_of_one_name_are_left_out() -> None:
    crowd = Crowd(Played("a"), Played("b"), Played("b"), Played("c"))
    batches, outcomes = await run(crowd)
    assert (outcomes, batches.failures) == ([], {"b": Verdict.ERROR})
    assert batches.not_reached == ("a", "c")
    assert batches.verdict is Verdict.ERROR
    batches, outcomes = await run(crowd, max_failures=1)
    assert crowd.ran == ["a", "c"]
    assert batches.verdict is Verdict.ERROR


async def test_case_does_not_tell_two_nodes_apart() -> None:
    crowd = Crowd(Played("a"), Played("B"), Played("b"))
    batches, _ = await run(crowd, max_failures=2)
    assert crowd.ran == ["a"]
    assert batches.failures == {"B": Verdict.ERROR, "b": Verdict.ERROR}


async def test_node_that_answers_before_its_turn_does_not_run_twice() -> None:
    """One of its aliases is the name of another."""
    crowd = Crowd(Played("a"), Played("b"), Played("c", ("a",)))
    batches, _ = await run(crowd, max_failures=1)
    assert crowd.ran == ["a", "c", "b"]
    assert batches.failures == {"c": Verdict.ERROR}
    batches, _ = await run(crowd)
    assert batches.not_reached == ("b",)


async def test_order_of_names() -> None:
    crowd = Crowd(*(Played(name) for name in ("web10", "WEB2", "web1", "a")))
    batches, _ = await run(crowd)
    assert batches.names == ("a", "web1", "WEB2", "web10")


async def test_limit() -> None:
    crowd = five()
    batches, outcomes = await run(crowd, limit=3, size="100%")
    assert len(outcomes) == 1
    assert sorted(crowd.ran) == list(batches.names)
    assert len(crowd.ran) == 3
    await run(crowd, limit=9)
    assert crowd.ran[3:] == ["n1", "n2", "n3", "n4", "n5"]


async def test_limit_chooses_at_random() -> None:
    crowd = Crowd(*(Played(f"n{number:03}") for number in range(200)))
    await run(crowd, limit=100, size="100%")
    # Once in 10^58 it is.
    assert crowd.ran != [node.name for node in crowd.nodes[:100]]
    assert crowd.ran == sorted(crowd.ran)


async def test_local_is_addressed_as_local() -> None:
    crowd = Crowd(Played("Here"), Played("there"))
    async with client_of(crowd, src="here") as client:
        batches = client.batches("t", "local,t*|state=active")
        async for _ in batches:
            pass
    assert [r["dst"] for r in crowd.requests] == [
        "local",
        "there|state=active",
    ]


async def test_several_local_nodes_take_their_turns() -> None:
    """Agents can share a Redis that only their machine can reach."""
    crowd = Crowd(Played("a", ("me",)), Played("b", ("me",)))
    async with client_of(crowd, src="me") as client:
        async for _ in client.batches("t", "localhost|state=active"):
            pass
    assert [r["dst"] for r in crowd.requests] == [
        "a|state=active",
        "b|state=active",
    ]


async def test_batch_is_as_large_as_a_request_can_name() -> None:
    crowd = Crowd(*(Played(f"{n:0100}") for n in range(100)))
    batches, outcomes = await run(crowd, size="100%")
    assert len(outcomes) == 3
    assert len(set(crowd.ran)) == len(crowd.ran) == 100
    assert max(len(request["dst"]) for request in crowd.requests) <= 4096
    assert batches.verdict is Verdict.DONE


async def test_node_that_no_request_can_name() -> None:
    crowd = Crowd(Played("a" * 255, roles=("r",)), Played("b"))
    dst = "b,*|role=" + "r+" + "x" * 4050
    with pytest.raises(InvalidRequest, match="aaa"):
        await run(crowd, dst)
    assert crowd.ran == []


async def test_names_with_special_characters() -> None:
    crowd = Crowd(*(Played(name) for name in ("*", "[a]", "a,b", "local")))
    await run(crowd)
    assert crowd.ran == ["*", "[a]", "a,b", "local"]


@pytest.mark.parametrize(
    "keys",
    [
        {"size": 0},
        {"size": -1},
        {"size": "0%"},
        {"size": "101%"},
        {"size": "1.5%"},
        {"size": "2"},
        {"size": 1.5},
        {"max_failures": -1},
        {"limit": 0},
        {"pause": -0.1},
        {"pause": float("nan")},
        {"pause": float("inf")},
        {"patience": Patience(expect=2)},
        {"dst": "a,,b"},
        {"dst": ",".join(f"*|role=r{n}" for n in range(33))},
        {"data": {1, 2}},
        {"options": "none"},
    ],
    ids=lambda keys: "-".join(keys),
)
async def test_what_cannot_be_run(keys: Dict[str, Any]) -> None:
    async with client_of(five()) as client:
        with pytest.raises(InvalidRequest):
            client.batches("t", **keys)


async def test_pause_between_batches() -> None:
    crowd = five()
    async with client_of(crowd) as client:
        batches = client.batches("t", pause=WITHIN, patience=PATIENCE)
        await batches.__anext__()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batches.__anext__(), 0.1)
    assert crowd.ran == ["n1"]
    assert batches.not_reached == ("n2", "n3", "n4", "n5")
    assert batches.verdict is Verdict.UNFINISHED
