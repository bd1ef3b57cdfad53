"""A call: when it ends, without Redis."""

from __future__ import annotations

import asyncio
import json
import time
from types import MappingProxyType
from typing import Any, List, Mapping, Optional, Sequence

import pytest

from ngcp_task_agent.client import (
    Call,
    ConnectionLost,
    InvalidRequest,
    NodeOutcome,
    Outcome,
    Patience,
    RedisUnavailable,
    Request,
    Status,
    Verdict,
    waiting,
)
from ngcp_task_agent.client.inbox import Inbox
from ngcp_task_agent.client.inquiry import Ask
from ngcp_task_agent.client.outcome import Tally
from ngcp_task_agent.client.responses import Message
from ngcp_task_agent.protocol import destination

LONG = 60.0  # seconds; no test waits this long


class Wire:
    """What a call needs from a connection; answers on request."""

    def __init__(self, failure: Optional[Exception] = None) -> None:
        self.lost: asyncio.Future[str] = (
            asyncio.get_running_loop().create_future()
        )
        self.published = 0
        self.failure = failure
        self.inbox = Inbox(self._deliver, 1 << 20)
        self.call: Optional[Call] = None

    async def publish(self, timeout: float) -> None:
        if self.failure:
            raise self.failure
        self.published += 1

    def make(
        self,
        dst: str = "*",
        limit: Optional[float] = None,
        ask: Optional[Ask] = None,
        **patience: Any,
    ) -> Call:
        request = Request("t", "me", dst)
        self.call = Call(
            request,
            Patience(**{"settle": 0.05, "timeout": LONG, **patience}),
            Tally(1 << 28, destination.parse(dst).names),
            self.publish,
            self.lost,
            self.inbox.drain,
            limit,
            ask,
        )
        return self.call

    def answer(
        self, node: str, status: str, data: str = "", uuid: str = ""
    ) -> None:
        assert self.call
        message = {
            "uuid": uuid or f"{node}{status}",
            "ref": self.call.request.uuid,
            "src": node,
            "status": status,
            "reason": "",
            "data": data,
        }
        self.inbox.put(json.dumps(message).encode())

    def _deliver(self, message: Message) -> None:
        assert self.call
        self.call.take(message)


async def statuses(call: Call) -> List[str]:
    return [f"{r.node} {r.status.value}" async for r in call]


def later(seconds: float, what: Any, *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(seconds, what, *arguments)


async def test_ends_when_all_have_ended_and_no_more_nodes_answer() -> None:
    wire = Wire()
    call = wire.make()
    later(0.00, wire.answer, "a", "accepted")
    later(0.01, wire.answer, "a", "done")
    # Within the settling time after the first has ended.
    later(0.03, wire.answer, "b", "accepted")
    # Later, but this node has accepted and is waited for.
    later(0.20, wire.answer, "b", "done")
    assert await statuses(call) == [
        "a accepted",
        "a done",
        "b accepted",
        "b done",
    ]
    assert call.outcome.succeeded
    assert 0.2 < call.outcome.seconds < LONG
    # Later answers change nothing.
    before = call.outcome
    wire.answer("c", "error")
    assert call.outcome == before
    assert wire.published == 1


async def test_no_answer() -> None:
    call = Wire().make(answer_timeout=0.1)
    assert await statuses(call) == []
    assert call.outcome.verdict is Verdict.UNANSWERED
    assert call.outcome.seconds < LONG


async def test_timeout_bounds_the_wait_for_any_answer() -> None:
    call = Wire().make(answer_timeout=LONG, timeout=0.1)
    assert await statuses(call) == []
    assert call.outcome.verdict is Verdict.UNANSWERED


async def test_node_that_never_ends_is_named() -> None:
    wire = Wire()
    call = wire.make(timeout=0.2)
    later(0.01, wire.answer, "a", "accepted")
    later(0.02, wire.answer, "b", "accepted")
    later(0.03, wire.answer, "b", "done")
    await statuses(call)
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert [n.node for n in call.outcome.unfinished] == ["a"]


async def test_all_reject() -> None:
    wire = Wire()
    call = wire.make()
    later(0.01, wire.answer, "a", "rejected")
    later(0.02, wire.answer, "b", "rejected")
    await statuses(call)
    assert call.outcome.all_rejected


async def test_ends_at_once_when_the_expected_nodes_have_ended() -> None:
    wire = Wire()
    call = wire.make(expect=2, settle=LONG)
    for node in ("a", "b", "c"):
        later(0.01, wire.answer, node, "accepted")
    later(0.02, wire.answer, "a", "done")
    later(0.03, wire.answer, "b", "done")
    await statuses(call)
    assert call.outcome.verdict is Verdict.DONE
    assert [n.node for n in call.outcome.unfinished] == ["c"]


async def test_rejected_counts_as_expected() -> None:
    wire = Wire()
    call = wire.make(expect=2)
    later(0.01, wire.answer, "a", "rejected")
    # Much later than the settling time.
    later(0.20, wire.answer, "b", "rejected")
    await statuses(call)
    assert call.outcome.missing == 0
    assert len(call.outcome.nodes) == 2


async def test_fewer_nodes_than_expected() -> None:
    wire = Wire()
    call = wire.make(expect=2, timeout=0.2)
    later(0.01, wire.answer, "a", "accepted")
    later(0.02, wire.answer, "a", "done")
    await statuses(call)
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert call.outcome.missing == 1


async def test_stop_ends_the_iteration() -> None:
    wire = Wire()
    call = wire.make()
    later(0.01, wire.answer, "a", "accepted")
    later(0.05, call.stop)
    assert await statuses(call) == ["a accepted"]
    assert call.outcome.verdict is Verdict.UNFINISHED


async def test_call_stopped_before_it_is_sent() -> None:
    wire = Wire()
    call = wire.make()
    call.stop()
    assert await statuses(call) == []
    assert wire.published == 0
    assert call.outcome.seconds == 0


async def test_lost_connection_after_a_response() -> None:
    wire = Wire()
    call = wire.make()
    later(0.01, wire.answer, "a", "accepted")
    later(0.02, wire.lost.set_result, "it is gone")
    assert (await call.__anext__()).node == "a"
    with pytest.raises(ConnectionLost, match="it is gone"):
        await call.__anext__()
    assert [n.node for n in call.outcome.unfinished] == ["a"]


async def test_responses_before_the_loss_count() -> None:
    wire = Wire()
    call = wire.make(expect=1)
    later(0.01, wire.answer, "a", "accepted")

    def last_words() -> None:
        # Large: the inbox parses it only in a pause.
        wire.answer("a", "done", "x" * 100_000)
        wire.lost.set_result("it is gone")

    later(0.02, last_words)
    assert await statuses(call) == ["a accepted", "a done"]
    assert call.outcome.succeeded
    await wire.inbox.close()


async def test_responses_while_the_process_was_stopped_count() -> None:
    wire = Wire()
    call = wire.make(timeout=0.1, answer_timeout=0.1)

    def stand_still() -> None:
        later(0, wire.answer, "a", "accepted")
        later(0, wire.answer, "a", "done")
        time.sleep(0.2)

    later(0.05, stand_still)
    assert await statuses(call) == ["a accepted", "a done"]


async def test_timeout_holds_in_a_flood_of_responses() -> None:
    wire = Wire()
    call = wire.make(timeout=0.2)
    number = 0

    def flow() -> None:
        nonlocal number
        if call.outcome.seconds < LONG / 2:
            wire.answer(f"n{number}", "accepted")
            number += 1
            later(0, flow)

    later(0, flow)
    assert await asyncio.wait_for(statuses(call), LONG / 2)
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert call.outcome.seconds < LONG / 2


async def test_large_message_counts_in_a_flood_of_responses() -> None:
    wire = Wire()
    call = wire.make(timeout=0.2)

    def flow(number: int) -> None:
        # So often that the inbox has no pause.
        wire.answer(f"n{number}", "done", "x" * 40_000)
        if call.outcome.seconds < 0.2:
            later(0.01, flow, number + 1)

    later(0, flow, 0)
    await asyncio.wait_for(statuses(call), LONG / 2)
    assert call.outcome.done
    await wire.inbox.close()


async def test_other_tasks_run_in_a_flood_of_responses() -> None:
    wire = Wire()
    call = wire.make(timeout=LONG)

    def burst() -> None:
        for number in range(1000):
            wire.answer(f"n{number}", "done")

    later(0, burst)
    taken = at_the_other = 0

    def other() -> None:
        nonlocal at_the_other
        at_the_other = taken

    async for _ in call:
        taken += 1
        if taken == 1:
            later(0, other)
    assert taken == 1000
    assert 0 < at_the_other < 1000


async def test_failure_to_send() -> None:
    call = Wire(RedisUnavailable("away")).make()
    with pytest.raises(RedisUnavailable, match="away"):
        await statuses(call)
    assert await statuses(call) == []
    assert call.outcome.nobody_answered


async def test_named_nodes_are_waited_for() -> None:
    wire = Wire()
    call = wire.make("SP1,sp2,sp3|state=active,lb*", answer_timeout=LONG)
    later(0.01, wire.answer, "sp1", "rejected")
    # Much later than the settling time.
    later(0.30, wire.answer, "sp2", "rejected")
    await statuses(call)
    assert call.outcome.missing_nodes == ()
    assert call.outcome.verdict is Verdict.REJECTED
    assert call.outcome.seconds < LONG


async def test_missing_nodes_are_named_as_in_the_dst() -> None:
    wire = Wire()
    call = wire.make("Sp1,sp2 , SP2,localhost", answer_timeout=0.1)
    later(0.01, wire.answer, "me", "accepted")
    later(0.02, wire.answer, "me", "done")
    await statuses(call)
    assert call.outcome.missing_nodes == ("Sp1", "sp2")
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert 0.1 <= call.outcome.seconds < LONG


async def test_nobody_at_all_is_unanswered() -> None:
    call = Wire().make("sp1,sp2", answer_timeout=0.05, expect=1)
    await statuses(call)
    assert call.outcome.verdict is Verdict.UNANSWERED
    assert call.outcome.missing_nodes == ("sp1", "sp2")


async def test_missing_nodes_do_not_matter_if_enough_have_ended() -> None:
    wire = Wire()
    call = wire.make("sp1,sp2", answer_timeout=LONG, expect=1)
    later(0.01, wire.answer, "sp1", "done")
    await statuses(call)
    assert call.outcome.missing_nodes == ()
    assert call.outcome.succeeded


async def test_wait_ends_if_fewer_than_expected_answer() -> None:
    wire = Wire()
    call = wire.make(expect=3, answer_timeout=0.1)
    later(0.01, wire.answer, "a", "accepted")
    later(0.02, wire.answer, "b", "accepted")
    assert len(await statuses(call)) == 2
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert call.outcome.seconds < LONG


async def test_as_many_as_expected_have_answered() -> None:
    wire = Wire()
    call = wire.make(expect=2, answer_timeout=0.05)
    later(0.01, wire.answer, "a", "accepted")
    later(0.02, wire.answer, "b", "accepted")
    later(0.20, wire.answer, "a", "done")
    later(0.21, wire.answer, "b", "done")
    await statuses(call)
    assert call.outcome.succeeded


class Agents:
    """Answers the questions of a call.

    :param ping: the nodes that have a name
    :param timeouts: what nodes say of the task
    """

    def __init__(
        self,
        ping: Mapping[str, Sequence[str]] = MappingProxyType({}),
        timeouts: Mapping[str, Any] = MappingProxyType({}),
        failure: Optional[Exception] = None,
    ) -> None:
        self.asked: List[str] = []
        self._ping = ping
        self._timeouts = timeouts
        self._failure = failure

    async def __call__(
        self, task: str, dst: str, patience: Patience
    ) -> Outcome:
        self.asked.append(f"{task} {dst}")
        await asyncio.sleep(0.01)
        if self._failure:
            raise self._failure
        nodes = [
            NodeOutcome(node, Status.REJECTED)
            for node in self._ping.get(dst, ())
        ]
        if task == "ngcp.describe":
            nodes = [
                NodeOutcome(
                    node,
                    Status.DONE,
                    data=json.dumps(
                        {"tasks": [{"name": "t", "timeout": timeout}]}
                    ),
                )
                for node, timeout in self._timeouts.items()
            ]
        return Outcome(Request(task, "me", dst), tuple(nodes), None, 0.0)


async def test_node_that_answers_by_another_of_its_names() -> None:
    wire, agents = Wire(), Agents({"alias": ["sp1"]})
    call = wire.make("alias,sp2", ask=agents, answer_timeout=LONG)
    later(0.01, wire.answer, "sp1", "rejected")
    later(0.02, wire.answer, "sp2", "rejected")
    await statuses(call)
    assert agents.asked == ["ngcp.ping alias"]
    assert call.outcome.missing_nodes == ()
    assert call.outcome.verdict is Verdict.REJECTED
    assert call.outcome.seconds < LONG


async def test_node_that_only_answers_a_ping_is_missing() -> None:
    wire, agents = Wire(), Agents({"alias": ["sp3"]})
    call = wire.make("alias,sp2", ask=agents, answer_timeout=0.3)
    later(0.01, wire.answer, "sp1", "rejected")
    await statuses(call)
    assert agents.asked == ["ngcp.ping alias", "ngcp.ping sp2"]
    assert call.outcome.missing_nodes == ("alias", "sp2")


async def test_node_that_is_given_by_two_of_its_names() -> None:
    wire, agents = Wire(), Agents({"alias": ["sp1"]})
    call = wire.make("sp1,alias", ask=agents, answer_timeout=LONG)
    later(0.01, wire.answer, "sp1", "rejected")
    await statuses(call)
    assert call.outcome.missing_nodes == ()
    assert call.outcome.seconds < LONG


async def test_nobody_is_asked_while_no_node_has_answered() -> None:
    agents = Agents()
    call = Wire().make("sp1,sp2", ask=agents, answer_timeout=0.2)
    await statuses(call)
    assert agents.asked == []
    assert call.outcome.missing_nodes == ("sp1", "sp2")


async def test_question_that_fails_changes_nothing() -> None:
    wire, agents = Wire(), Agents(failure=RedisUnavailable("away"))
    call = wire.make("alias", ask=agents, answer_timeout=0.2)
    later(0.01, wire.answer, "sp1", "rejected")
    await statuses(call)
    assert agents.asked
    assert call.outcome.missing_nodes == ("alias",)


async def test_names_are_asked_for_a_few_times_only() -> None:
    wire, agents = Wire(), Agents()
    call = wire.make("alias", ask=agents, answer_timeout=1.0)
    for number in range(8):
        later(0.1 * number, wire.answer, f"n{number}", "rejected")
    await statuses(call)
    assert 2 <= len(agents.asked) <= 3


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for half a second by default."""
    monkeypatch.setattr(waiting, "TIMEOUT", 0.5)
    monkeypatch.setattr(waiting, "LONGER", 0.1)


async def ending_after(
    seconds: float, ask: Optional[Ask], limit: Optional[float] = None
) -> Outcome:
    """Return the outcome of a task that runs for so long."""
    wire = Wire()
    call = wire.make(timeout=None, limit=limit, ask=ask)
    later(0.01, wire.answer, "a", "accepted")
    later(seconds, wire.answer, "a", "done")
    await statuses(call)
    return call.outcome


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("limit", [None, 0.1])
async def test_default_timeout(limit: Optional[float]) -> None:
    outcome = await ending_after(LONG, Agents(), limit)
    assert outcome.verdict is Verdict.UNFINISHED
    assert 0.5 <= outcome.seconds < LONG


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("limit", [2.0, 0])
async def test_task_may_run_as_long_as_its_file_says(limit: float) -> None:
    agents = Agents()
    assert (await ending_after(0.9, agents, limit)).succeeded
    assert agents.asked == []


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("timeout", [2.0, 0])
async def test_task_may_run_as_long_as_its_agent_says(timeout: float) -> None:
    agents = Agents(timeouts={"a": timeout, "b": 7})
    assert (await ending_after(0.9, agents)).succeeded
    assert agents.asked == ["ngcp.describe a"]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "agents",
    [
        Agents(timeouts={"a": 0.1}),
        Agents(timeouts={"a": None}),
        Agents(timeouts={"b": 100}),
        Agents(failure=RedisUnavailable("away")),
    ],
)
async def test_agents_that_do_not_say_more(agents: Agents) -> None:
    outcome = await ending_after(LONG, agents)
    assert outcome.verdict is Verdict.UNFINISHED
    assert agents.asked == ["ngcp.describe a"]


async def test_given_timeout_is_exact() -> None:
    wire, agents = Wire(), Agents(timeouts={"a": 100})
    call = wire.make(timeout=0.2, limit=100, ask=agents)
    later(0.01, wire.answer, "a", "accepted")
    await statuses(call)
    assert call.outcome.verdict is Verdict.UNFINISHED
    assert agents.asked == []


async def test_two_nodes_of_one_name_are_waited_for() -> None:
    wire = Wire()
    call = wire.make()
    later(0.01, wire.answer, "a", "accepted", "", "1")
    later(0.02, wire.answer, "a", "accepted", "", "2")
    later(0.03, wire.answer, "a", "done", "one", "3")
    later(0.20, wire.answer, "a", "error", "two", "4")
    assert len(await statuses(call)) == 4
    (node,) = call.outcome.nodes
    assert node.doubled
    assert (node.status, node.data) == (Status.ERROR, "two")


@pytest.mark.parametrize(
    "values",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"timeout": 10**400},
        {"answer_timeout": 0},
        {"settle": -0.1},
        {"expect": 0},
        {"expect": "2"},
        {"expect": 1.5},
    ],
)
def test_patience_has_limits(values: Any) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(values))):
        Patience(**values)


async def test_inbox_parses_large_messages_in_pauses() -> None:
    delivered: List[int] = []
    inbox = Inbox(lambda m: delivered.append(m.chunk), 1 << 20)

    def message(chunk: int, size: int) -> bytes:
        fields = {"ref": "r", "src": "a", "status": "done", "chunks": 9}
        fields.update(chunk=chunk, data="x" * size)
        return json.dumps(fields).encode()

    for chunk in (1, 2, 3):
        inbox.put(message(chunk, 100_000))
    inbox.put(message(4, 10))
    assert delivered == [4]
    while len(delivered) < 4:
        await asyncio.sleep(0.01)
    assert delivered == [4, 1, 2, 3]
    inbox.put(message(5, 100_000))
    await inbox.drain()
    assert delivered[-1] == 5
    # Beyond its limit it does not wait for a pause.
    for chunk in range(1, 9):
        inbox.put(message(chunk, 200_000))
    assert delivered[5:] == [1, 2, 3]
    await inbox.close()
