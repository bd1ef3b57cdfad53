"""What agents say of themselves, and what else may come."""

from __future__ import annotations

import json
from typing import Any, Dict

import pytest

from ngcp_task_agent.client import (
    FleetJob,
    FleetNode,
    FleetTask,
    NodeOutcome,
    Outcome,
    Request,
    Status,
    fleet,
)

PING: Dict[str, Any] = {
    "version": "1.6.0",
    "node": {
        "name": "sp1",
        "aliases": ["sp1.example.org"],
        "roles": ["proxy"],
        "state": "active",
        "status": "online",
        "labels": {"site": "vienna"},
    },
    "uptime": 7.5,
    "running": 2,
    "queued": 0,
}
TASK: Dict[str, Any] = {
    "name": "reload",
    "description": "Load it again.",
    "broker": "command",
    "data_schema": {"type": "object"},
    "extra_args": True,
    "timeout": 0,
    "max_running": 8,
    "running": 1,
    "queued": 0,
}
JOB: Dict[str, Any] = {
    "uuid": "u",
    "task": "reload",
    "src": "web01",
    "state": "running",
    "since": 1.5,
    "pid": 7,
}


def outcome(*nodes: NodeOutcome) -> Outcome:
    return Outcome(Request("t", "me"), nodes, None, 1.0)


def said(data: Any) -> Outcome:
    text = data if isinstance(data, str) else json.dumps(data)
    return outcome(NodeOutcome("sp1", Status.DONE, data=text))


def test_node() -> None:
    assert fleet.nodes_of(said({**PING, "later": 1})) == [
        FleetNode(
            "sp1",
            ("sp1.example.org",),
            ("proxy",),
            "active",
            "online",
            {"site": "vienna"},
            "1.6.0",
            7.5,
            2,
            0,
        )
    ]


def test_task_and_job() -> None:
    described = said({**PING, "tasks": [TASK]})
    assert fleet.tasks_of(described) == [FleetTask("sp1", **TASK)]
    assert fleet.jobs_of(said({"jobs": [JOB]})) == [FleetJob("sp1", **JOB)]


@pytest.mark.parametrize(("count", "nodes"), [(1, ["sp1"]), (0, [])])
def test_cancelled(count: int, nodes: Any) -> None:
    assert fleet.cancelled_on(said({"cancelled": count})) == nodes


def test_nodes_that_do_not_say_more() -> None:
    nodes = fleet.nodes_of(
        outcome(
            NodeOutcome("old", Status.REJECTED, "unknown task 'ngcp.ping'"),
            NodeOutcome("slow", Status.ACCEPTED),
            NodeOutcome("broken", Status.DONE, data="{"),
        )
    )
    assert [node.name for node in nodes] == ["old", "slow", "broken"]
    assert not any(node.version for node in nodes)
    assert nodes[0].reason == "unknown task 'ngcp.ping'"
    assert all(node.reason for node in nodes)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[" * 100_000,
        "null",
        "[]",
        {},
        {"version": 1, "node": 7, "uptime": "x", "running": True},
        {"version": None, "node": {"roles": "x", "labels": [1], "state": 7}},
        {"tasks": 7, "jobs": {}, "cancelled": "yes"},
        {"tasks": [7, {}, {"name": 7}], "jobs": [None, {"uuid": []}]},
        '{"uptime": 1e999, "running": -1, "cancelled": NaN}',
    ],
)
def test_malformed_answers(data: Any) -> None:
    (node,) = fleet.nodes_of(said(data))
    assert (node.name, node.version, node.uptime) == ("sp1", "", None)
    assert (node.roles, node.labels, node.running) == ((), {}, None)
    assert node.reason
    assert fleet.tasks_of(said(data)) == []
    assert fleet.jobs_of(said(data)) == []
    assert fleet.cancelled_on(said(data)) == []


@pytest.mark.parametrize(
    "schema",
    ["[" * 900 + "]" * 900, "NaN", "1e999"],
    ids=["deep", "NaN", "too large"],
)
def test_schema_that_cannot_be_written_as_json(schema: str) -> None:
    task = f'{{"name": "reload", "data_schema": {schema}}}'
    assert fleet.tasks_of(said(f'{{"tasks": [{task}]}}')) == []


@pytest.mark.parametrize(
    ("schema", "taken"),
    [("text", None), (5, None), ([{}], None), (True, True), (False, False)],
)
def test_schema_of_a_wrong_type(schema: Any, taken: Any) -> None:
    tasks = [{**TASK, "data_schema": schema}]
    (task,) = fleet.tasks_of(said({"tasks": tasks}))
    assert task.data_schema is taken


@pytest.mark.parametrize("timeout", [None, "x", -1])
def test_timeout_that_is_not_said(timeout: Any) -> None:
    (task,) = fleet.tasks_of(said({"tasks": [{**TASK, "timeout": timeout}]}))
    assert task.timeout is None


def test_answers_are_bounded() -> None:
    (task,) = fleet.tasks_of(said({"tasks": [{"name": "x" * 100_000}]}))
    assert len(task.name) < 10_000
    many = fleet.tasks_of(said({"tasks": [{"name": "t"}] * 20_000}))
    assert len(many) == 10_000
    huge = said({**PING, "more": "x" * (5 << 20)})
    assert fleet.nodes_of(huge)[0].version == ""
