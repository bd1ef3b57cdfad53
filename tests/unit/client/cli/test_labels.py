"""Whose output is it: labels, headings and groups."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from ngcp_task_agent.client import (
    NodeOutcome,
    Outcome,
    Request,
    Response,
    Status,
)
from ngcp_task_agent.client.cli import labels
from ngcp_task_agent.client.cli.output import Form, as_json
from ngcp_task_agent.client.progress import LiveLine

# Node, status, reason, data.
Answer = Tuple[str, Status, str, Optional[str]]

ACCEPTED, DONE = Status.ACCEPTED, Status.DONE
ERROR, REJECTED = Status.ERROR, Status.REJECTED


def shown(
    form: Form, *answers: Answer, missing: Tuple[str, ...] = ()
) -> List[str]:
    """Return what a form writes at each answer, and at the end."""
    nodes: Dict[str, NodeOutcome] = {}
    written = []
    for node, status, reason, data in answers:
        written.append(form.response(Response(node, status, reason, data, 1)))
        ended = None if status is ACCEPTED else 1.0
        nodes[node] = NodeOutcome(node, status, reason, data, 0.5, ended)
    outcome = Outcome(
        Request("t", "s", "*"), tuple(nodes.values()), None, 2.0, missing
    )
    return [*written, form.end(as_json(outcome, "done", 0))]


def test_label_before_each_line() -> None:
    assert shown(
        labels.Labelled(),
        ("n1", ACCEPTED, "", None),
        ("n1", DONE, "", "one\ntwo\n"),
        ("n2", ERROR, "broken", "no end"),
        ("n3", DONE, "", ""),
        ("n4", DONE, "", "\n\n"),
        ("n\x1b5", DONE, "", "\x1b"),
    ) == [
        "",
        "n1: one\nn1: two\n",
        "n2: no end\n",
        "",
        "n4: \nn4: \n",
        "n\\x1b5: \x1b\n",
        "",
    ]


def test_live_lines() -> None:
    form = labels.Followed()
    lines = [
        LiveLine("n1", "stdout", "one"),
        LiveLine("n\x1b2", "stderr", "\x1b"),
        LiveLine("n1", "stdout", "", 7),
        LiveLine("n1", "stdout", "two", 8),
        LiveLine("n1", "stdout", ""),
    ]
    assert "".join(map(form.line, lines)) == (
        "n1: one\n"
        "n\\x1b2: \x1b\n"
        "n1: … 7 bytes left out\n"
        "n1: … 8 bytes left out\n"
        "n1: two\n"
        "n1: \n"
    )
    # All of it has come as lines.
    assert shown(form, ("n1", DONE, "", "one\n")) == ["", ""]


def test_heading_for_each_of_several_nodes() -> None:
    assert shown(
        labels.Headed(),
        ("n1", ACCEPTED, "", None),
        ("n2", ACCEPTED, "", None),
        ("n\x1b3", ACCEPTED, "", None),
        ("n2", DONE, "", "two"),
        ("n1", DONE, "", ""),
        ("n\x1b3", DONE, "", "three\n\n"),
    ) == ["", "", "", "n2:\ntwo\n", "", "\nn\\x1b3:\nthree\n\n", ""]


def test_no_heading_for_a_single_node() -> None:
    answers: Any = (("n1", ACCEPTED, "", None), ("n1", DONE, "", "one"))
    assert shown(labels.Headed(), *answers) == ["", "", "one"]
    # Until there is a second one.
    assert shown(
        labels.Headed(), *answers, ("n2", REJECTED, "busy", None)
    ) == ["", "", "n1:\none\n", ""]
    assert shown(labels.Headed(), ("n1", DONE, "", "")) == ["", ""]


def test_gathered() -> None:
    *nothing, end = shown(
        labels.Gathered(),
        ("n3", DONE, "", "other"),
        ("n10", DONE, "", "same\nlines\n"),
        ("n9", DONE, "", "same\nlines\n"),
        ("n\x1b4", ERROR, "exit status 3: \x1b", "some"),
        ("n5", REJECTED, "busy", None),
        ("n6", DONE, "", ""),
        ("n7", ACCEPTED, "", None),
        ("n8", ACCEPTED, "", None),
        ("n11", ACCEPTED, "", None),
        missing=("x1", "x2"),
    )
    assert nothing == [""] * 9
    assert end == (
        "n7, n8, n11 (3): has not ended\n"
        "\n"
        "n9, n10 (2):\nsame\nlines\n"
        "\n"
        "x1, x2 (2): no answer\n"
        "\n"
        "n3:\nother\n"
        "\n"
        "n\\x1b4: error: exit status 3: \\x1b\nsome\n"
        "\n"
        "n5: rejected: busy\n"
        "\n"
        "n6: no output\n"
    )


def test_gathered_nothing() -> None:
    assert shown(labels.Gathered()) == [""]


def test_very_many_nodes_of_a_group_are_not_all_named() -> None:
    answers: Any = [(f"n{i}", DONE, "", "x") for i in range(5000)]
    end = shown(labels.Gathered(), *answers)[-1]
    assert end.startswith("n0, n1, n2, n3,")
    assert end.endswith("n98, n99, and 4900 more (5000):\nx\n")
