"""Standard output, its schema, and text for people."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any, Dict, List, Optional

import jsonschema
import pytest

from ngcp_task_agent import display
from ngcp_task_agent.client import (
    NodeOutcome,
    Outcome,
    Request,
    Response,
    Status,
)
from ngcp_task_agent.client.cli import labels, output, text
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.logs.lines import printable


@pytest.fixture(scope="module")
def schema() -> Any:
    text = (
        resources.files("ngcp_task_agent.client")
        .joinpath("output.schema.json")
        .read_text()
    )
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


NASTY = "\x1b[2Jcleared\r\u202eesrever\u2028\x9b1m\x7f\ud800é😀"

NODES = (
    NodeOutcome("sp1", Status.DONE, "", "one\ntwo\n", 0.001, 0.5),
    NodeOutcome("sp2", Status.ERROR, "exit 3: " + NASTY, NASTY, 0.1, 0.7),
    NodeOutcome("sp3", Status.REJECTED, "unknown task 'x'", None, None, 0.1),
    NodeOutcome(NASTY, Status.ACCEPTED, accepted=0.2),
)
OUTCOME = Outcome(Request("t", "s", "*"), NODES, 4, 2.0)


def responses() -> List[Response]:
    found = []
    for node in NODES:
        if node.accepted is not None:
            found.append(
                Response(node.node, Status.ACCEPTED, "", None, node.accepted)
            )
        if node.ended is not None:
            found.append(
                Response(
                    node.node, node.status, node.reason, node.data, node.ended
                )
            )
    return found


def shown(name: str) -> str:
    """Return all that a form writes."""
    form = labels.FORMS[name]()
    text = "".join(map(form.response, responses()))
    return text + form.end(output.as_json(OUTCOME, "error", 1))


def test_text_is_the_unchanged_data() -> None:
    assert shown("text") == "one\ntwo\n" + NASTY


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (["a", "b"], "a\nb"),
        (["a\n", "b\n"], "a\nb\n"),
        (["a", "", None, "b"], "a\nb"),
        (["\n", "b"], "\nb"),
        ([""], ""),
    ],
)
def test_text_of_each_node_starts_on_a_new_line(
    data: List[Optional[str]], written: str
) -> None:
    form = output.Text()
    assert written == "".join(
        form.response(Response(f"n{number}", Status.DONE, "", one, 1.0))
        for number, one in enumerate(data)
    )


def test_json(schema: Any) -> None:
    written = shown("json")
    document = json.loads(written)
    schema.validate(document)
    assert written.isascii()
    # Pure ASCII, on a terminal too.
    assert display.for_terminal(written) == written
    assert (document["status"], document["exit_status"]) == ("error", 1)
    assert document["expected"] == 4
    assert [n["data"] for n in document["nodes"]] == [n.data for n in NODES]
    assert document["nodes"][0]["ended"] == 0.5
    assert document["nodes"][3]["ended"] is None


def test_json_lines(schema: Any) -> None:
    written = shown("jsonl")
    lines = [json.loads(line) for line in written.splitlines()]
    for line in lines:
        schema.validate(line)
    assert written.isascii()
    assert len(lines) == len(responses()) + 1
    assert lines[1]["data"] == "one\ntwo\n"
    assert lines[-1]["status"] == "error"
    assert all("data" not in node for node in lines[-1]["nodes"])


def test_json_line_of_live_output(schema: Any) -> None:
    written = output.JsonLines().line(LiveLine("n1", "stderr", NASTY, 3))
    assert written.isascii()
    line = json.loads(written)
    schema.validate(line)
    assert line == {
        "node": "n1",
        "stream": "stderr",
        "text": NASTY,
        "omitted": 3,
    }


def test_table() -> None:
    written = shown("table")
    lines = written.splitlines()
    assert lines[0].split() == (
        "NODE STATUS SECONDS REASON OR FIRST LINE OF DATA".split()
    )
    assert len(lines) == 5
    assert lines[1].split() == ["sp1", "done", "0.500", "one", "…"]
    assert lines[3].endswith("unknown task 'x'")
    assert lines[4].endswith("0.200  has not ended")
    assert "\x1b" not in written
    # The columns are aligned.
    assert lines[1].index("done") == lines[2].index("error")


@pytest.mark.parametrize(
    "spoil",
    [
        {"status": "well"},
        {"exit_status": 2},
        {"nodes": [{"node": "a"}]},
        {"more": 1},
    ],
)
def test_schema_refuses(schema: Any, spoil: Dict[str, Any]) -> None:
    document = output.as_json(OUTCOME, "error", 1)
    schema.validate(document)
    assert not schema.is_valid({**document, **spoil})


def test_plain_text_cannot_control_a_terminal() -> None:
    plain = printable(NASTY)
    assert plain.isprintable()
    assert plain == (r"\x1b[2Jcleared\r\u202eesrever\u2028\x9b1m\x7f\ud800é😀")


def test_text_for_a_terminal_keeps_its_lines() -> None:
    data = "a\tb\n\nÄ €😀\x1b[1m\r\n\x7f\u202e"
    assert display.for_terminal(data) == (
        "a\tb\n\nÄ €😀" + r"\x1b[1m\r" + "\n" + r"\x7f\u202e"
    )


def test_line_about_a_response() -> None:
    lines = [text.of_response(response) for response in responses()]
    assert lines[0] == "sp1: accepted after 0.001 s"
    assert lines[1] == "sp1: done after 0.500 s"
    assert lines[4] == "sp3: rejected: unknown task 'x'"
    assert all(line.isprintable() for line in lines)


def outcome(*nodes: NodeOutcome, expected: Optional[int] = None) -> Outcome:
    return Outcome(Request("t", "s", "x\x1b"), nodes, expected, 20.04)


def test_problems_of_a_fleet() -> None:
    twice = replace(NODES[0], doubled=True)
    whole = replace(outcome(twice), missing_nodes=("prx01a", "x\x1b"))
    assert text.of_problems(whole) == [
        "several nodes call themselves 'sp1': node names must be unique",
        "prx01a: no answer",
        r"x\x1b: no answer",
    ]
    many = tuple(f"n{number}" for number in range(5000))
    lines = text.of_problems(replace(outcome(NODES[0]), missing_nodes=many))
    assert lines[-2:] == ["n99: no answer", "4900 more: no answer"]


def test_unused_data() -> None:
    assert text.of_unused(outcome(*NODES)) == []
    unused = [replace(node, unused=True) for node in NODES[:2]]
    (line,) = text.of_unused(outcome(*unused))
    assert line.startswith("sp1, sp2: the task could not use --data")
    assert "'stdin: data'" in line


def test_problems() -> None:
    assert text.of_problems(outcome()) == [
        r"no node answered within 20.0 s: no agent listens there (-v shows "
        r"where the request went), no agent there matches 'x\x1b', or its "
        r"answer cannot reach this client (see the agent's journal)"
    ]
    done, running = NODES[0], NODES[3]
    assert text.of_problems(outcome(done)) == []
    (unfinished,) = text.of_problems(outcome(done, running))
    assert unfinished.startswith(
        "accepted but not ended after 20.0 s (running or queued): "
    )
    assert unfinished.isprintable()
    # Once the expected node has ended, the other does not matter.
    assert text.of_problems(outcome(done, running, expected=1)) == []
    assert len(text.of_problems(outcome(done, running, expected=2))) == 2
    (few,) = text.of_problems(outcome(done, expected=3))
    assert few == "ended or rejected within 20.0 s: only 1 of the 3 expected"


def test_very_many_nodes_and_very_long_reasons() -> None:
    nodes = [NodeOutcome(f"n{i}", Status.ACCEPTED) for i in range(5000)]
    (unfinished,) = text.of_problems(outcome(*nodes))
    assert unfinished.endswith("n98, n99, and 4900 more")
    long = Response("n", Status.ERROR, "x" * 10_000, "", 1.0)
    assert text.of_response(long) == f"n: error after 1.000 s: {'x' * 499}…"


def test_first_line() -> None:
    assert text.first_line("", 9) == ""
    assert text.first_line("\none\n", 9) == "one"
    assert text.first_line("one\ntwo", 9) == "one …"
    assert text.first_line("0123456789", 9) == "01234567…"
