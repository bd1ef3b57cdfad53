"""The outcome: node by node, and as a verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

import pytest

from ngcp_task_agent.client import NodeOutcome, Outcome, Request, Verdict
from ngcp_task_agent.client.client import MAX_DATA
from ngcp_task_agent.client.outcome import Tally
from ngcp_task_agent.client.responses import Message, Status


def say(
    node: str, status: str, data: str = "out", chunk: int = 1, chunks: int = 1
) -> Message:
    return Message(
        f"{node}-{status}",
        "r",
        node,
        Status(status),
        "why" if status in ("rejected", "error") else "",
        data if status in ("done", "error") else None,
        chunk,
        chunks,
    )


def outcome(
    *statuses: Tuple[str, str], expected: Optional[int] = None
) -> Outcome:
    nodes = tuple(NodeOutcome(n, Status(s)) for n, s in statuses)
    return Outcome(Request("t", "s"), nodes, expected, 1.0)


@pytest.mark.parametrize(
    ("statuses", "expected", "verdict"),
    [
        ([], None, Verdict.UNANSWERED),
        ([], 2, Verdict.UNANSWERED),
        (["done"], None, Verdict.DONE),
        (["done", "done"], 2, Verdict.DONE),
        (["done", "done", "done"], 2, Verdict.DONE),
        (["done", "accepted"], 1, Verdict.DONE),
        (["done"], 2, Verdict.UNFINISHED),
        (["done", "accepted"], 2, Verdict.UNFINISHED),
        (["done", "accepted"], None, Verdict.UNFINISHED),
        (["rejected", "accepted"], None, Verdict.UNFINISHED),
        (["rejected"], 2, Verdict.UNFINISHED),
        (["rejected"], None, Verdict.REJECTED),
        (["rejected", "done"], None, Verdict.REJECTED),
        (["rejected", "done"], 2, Verdict.REJECTED),
        (["error"], None, Verdict.ERROR),
        (["error", "accepted"], None, Verdict.ERROR),
        (["error", "rejected", "done"], 9, Verdict.ERROR),
    ],
)
def test_verdict(
    statuses: List[str], expected: Optional[int], verdict: Verdict
) -> None:
    named = [(f"n{i}", status) for i, status in enumerate(statuses)]
    found = outcome(*named, expected=expected)
    assert found.verdict is verdict
    assert found.succeeded is (verdict is Verdict.DONE)


def test_no_answer_is_not_all_rejected() -> None:
    nobody = outcome()
    refused = outcome(("a", "rejected"), ("b", "rejected"))
    mixed = outcome(("a", "rejected"), ("b", "done"))
    assert (nobody.nobody_answered, nobody.all_rejected) == (True, False)
    assert (refused.nobody_answered, refused.all_rejected) == (False, True)
    assert (mixed.nobody_answered, mixed.all_rejected) == (False, False)


def test_nodes_by_outcome() -> None:
    found = outcome(
        ("a", "done"), ("b", "error"), ("c", "rejected"), ("d", "accepted")
    )
    assert [n.node for n in found.done] == ["a"]
    assert [n.node for n in found.failed] == ["b"]
    assert [n.node for n in found.rejected] == ["c"]
    assert [n.node for n in found.unfinished] == ["d"]


def test_accepted_then_done() -> None:
    tally = Tally(1 << 20)
    accepted = tally.take(say("a", "accepted"), 0.1)
    assert accepted
    assert (accepted.status, accepted.data) == (Status.ACCEPTED, None)
    assert (tally.running, tally.concluded) == (1, 0)
    done = tally.take(say("a", "done"), 0.5)
    assert done
    assert (done.data, done.seconds) == ("out", 0.5)
    assert (tally.running, tally.concluded) == (0, 1)
    assert tally.nodes == (NodeOutcome("a", Status.DONE, "", "out", 0.1, 0.5),)


@pytest.mark.parametrize(
    ("statuses", "news", "final"),
    [
        # An error without an accepted is still an ending.
        (["error"], 1, "error"),
        (["done", "accepted"], 1, "done"),
        (["accepted", "accepted", "done", "done"], 2, "done"),
        # Several nodes of one name: the worst counts.
        (["accepted", "done", "error"], 3, "error"),
        (["error", "done"], 2, "error"),
        (["rejected", "rejected"], 1, "rejected"),
        # One agent, several backends: one of them has the task.
        (["rejected", "accepted", "done"], 3, "done"),
        (["accepted", "rejected", "done"], 2, "done"),
        (["accepted", "done", "rejected"], 2, "done"),
    ],
)
def test_answers_outside_of_the_protocol(
    statuses: List[str], news: int, final: str
) -> None:
    tally = Tally(1 << 20)
    found = [tally.take(say("a", status), 1.0) for status in statuses]
    assert sum(response is not None for response in found) == news
    assert [node.status.value for node in tally.nodes] == [final]


def of(uuid: str, status: str, data: str = "out") -> Message:
    return say("a", status, data)._replace(uuid=uuid)


@pytest.mark.parametrize(
    ("messages", "final", "is_doubled"),
    [
        (["1 accepted", "2 done"], "done", False),
        (["1 accepted", "1 accepted", "2 done", "2 done"], "done", False),
        (["1 rejected", "2 rejected", "3 accepted", "4 done"], "done", False),
        (["1 accepted", "2 done", "3 rejected"], "done", False),
        (["1 done", "2 accepted"], "done", False),
        (["1 accepted", "2 accepted"], "accepted", True),
        (["1 accepted", "2 accepted", "3 done"], "accepted", True),
        (["1 accepted", "2 accepted", "3 done", "4 done"], "done", True),
        (["1 accepted", "2 done", "3 accepted", "4 done"], "done", True),
        (["1 accepted", "2 accepted", "3 error", "4 done"], "error", True),
        (["1 accepted", "2 accepted", "3 done", "4 error"], "error", True),
        (["1 accepted", "2 done", "3 done"], "done", True),
        (["1 error", "2 error"], "error", True),
    ],
)
def test_two_nodes_of_one_name(
    messages: List[str], final: str, is_doubled: bool
) -> None:
    tally = Tally(1 << 20)
    for number, message in enumerate(messages):
        uuid, status = message.split()
        tally.take(of(uuid, status, f"{number}"), number)
    (node,) = tally.nodes
    assert (node.status.value, node.doubled) == (final, is_doubled)
    assert tally.running == (final == "accepted")
    found = Outcome(Request("t", "s"), tally.nodes, None, 1.0)
    if is_doubled:
        assert found.verdict is Verdict.ERROR


def test_worst_of_two_nodes_of_one_name_keeps_its_data() -> None:
    tally = Tally(1 << 20)
    for message in ("1 accepted", "2 accepted", "3 error", "4 done"):
        uuid, status = message.split()
        tally.take(of(uuid, status, f"of {uuid}"), 1.0)
    (node,) = tally.nodes
    assert (node.reason, node.data) == ("why", "of 3")


def test_chunks_are_of_one_node() -> None:
    tally = Tally(1 << 20)
    tally.take(say("a", "accepted"), 0.1)
    for chunk in (1, 2, 3, 1, 3):
        tally.take(say("a", "done", f"{chunk}", chunk, 3), 0.2)
    (node,) = tally.nodes
    assert (node.data, node.doubled) == ("123", False)


def test_data_that_is_not_used() -> None:
    tally = Tally(1 << 20)
    tally.take(say("a", "accepted"), 0.1)
    done = tally.take(say("a", "done")._replace(unused=True), 0.2)
    assert done
    assert done.unused
    assert tally.nodes[0].unused


def test_expected_names() -> None:
    tally = Tally(1 << 20, ["Sp1", "sp2"])
    tally.take(say("other", "accepted"), 0.1)
    tally.take(say("sp1", "accepted"), 0.1)
    tally.take(say("SP1", "accepted"), 0.1)
    assert tally.missing == ("sp2",)
    tally.found("SP2")
    assert tally.missing == ()


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([], Verdict.UNANSWERED),
        (["done"], Verdict.UNFINISHED),
        (["rejected"], Verdict.UNFINISHED),
        (["error"], Verdict.ERROR),
    ],
)
def test_missing_nodes_are_unfinished(
    statuses: List[str], verdict: Verdict
) -> None:
    named = [(f"n{i}", status) for i, status in enumerate(statuses)]
    found = replace(outcome(*named), missing_nodes=("x",))
    assert found.verdict is verdict


def test_answer_that_is_too_large_becomes_an_error() -> None:
    tally = Tally(10_000)
    tally.take(say("a", "accepted"), 0.1)
    tally.take(say("b", "accepted"), 0.1)
    assert tally.take(say("a", "done", "x" * 4000, 1, 3), 1.0) is None
    dropped = tally.take(say("a", "done", "x" * 4000, 2, 3), 1.0)
    assert dropped
    assert dropped.status is Status.ERROR
    assert "10000 bytes" in dropped.reason
    assert dropped.data == ""
    # The rest of it is ignored; others have room.
    assert tally.take(say("a", "done", "x" * 4000, 3, 3), 1.0) is None
    assert tally.take(say("b", "done", "x" * 4000), 1.0)


def test_two_large_answers_with_rare_characters_fit() -> None:
    # A thousandth of a large answer, 50 MB, and of the limit.
    size = 50_000
    data = ("x" * 99 + "\U0001f600\n") * (size // 101)
    tally = Tally(MAX_DATA * size // 50_000_000)
    for node in ("a", "b"):
        tally.take(say(node, "accepted"), 0.1)
        tally.take(say(node, "done", data), 1.0)
    assert [node.data for node in tally.nodes] == [data, data]


def test_flood_of_nodes_is_bounded() -> None:
    tally = Tally(100_000)
    for number in range(10_000):
        tally.take(say(f"n{number}", "accepted"), 0.1)
        tally.take(say(f"m{number}", "done"), 0.1)
    assert 10 < len(tally.nodes) < 100
