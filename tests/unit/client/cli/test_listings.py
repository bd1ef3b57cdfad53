"""What agents say of themselves: tables, names, JSON, words to complete."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List

import pytest

from ngcp_task_agent.client import NodeOutcome, Outcome, Request, Status
from ngcp_task_agent.client.cli.listings import LISTINGS, names
from ngcp_task_agent.client.fleet import FleetNode

UUID = "cb88ac76-f348-4614-866f-43877b893e7e"


def outcome(**answers: Any) -> Outcome:
    """Return an outcome with what these nodes have said, or why not."""
    nodes = [
        NodeOutcome(name, Status.REJECTED, answer, None, None, 1.0)
        if isinstance(answer, str)
        else NodeOutcome(name, Status.DONE, "", json.dumps(answer), 0.5, 1.0)
        for name, answer in answers.items()
    ]
    return Outcome(Request("t", "s", "*"), tuple(nodes), None, 1.0)


def shown(kind: str, whole: Outcome) -> List[str]:
    """Return the lines where standard output is no terminal."""
    listing = LISTINGS[kind]
    return listing.shown(listing.found(whole)).splitlines()


def about(**more: Any) -> Dict[str, Any]:
    node = {
        "roles": ["proxy", "lb"],
        "state": "active",
        "status": "online",
        "labels": {"site": "vienna"},
    }
    return {
        "version": "1.6.0",
        "uptime": 180_000,
        "running": 2,
        "queued": 1,
        "node": {**node, **more},
    }


NODES = outcome(prx10=about(), prx9=about(state="x\x1b", roles=[]))
MIXED = outcome(prx01=about(), old01="unknown task 'ngcp.ping'")


def test_nodes() -> None:
    heads = "NODE   ROLES      STATE   STATUS  VERSION   UPTIME  RUNNING"
    assert shown("nodes", NODES) == [
        f"{heads}  QUEUED",
        r"prx9              x\x1b   online  1.6.0    2 d 2 h        2       1",
        "prx10  proxy, lb  active  online  1.6.0    2 d 2 h        2       1",
    ]


def test_note_about_a_node_that_does_not_say() -> None:
    heads, old, new = shown("nodes", MIXED)
    assert heads.endswith("  QUEUED  NOTE")
    assert old.split(None, 1) == ["old01", "unknown task 'ngcp.ping'"]
    assert new.startswith("prx01  proxy, lb  active")
    assert heads.index("NOTE") == old.index("unknown")


@pytest.mark.parametrize("kind", ["nodes", "tasks", "jobs"])
def test_long_texts_are_cut(kind: str) -> None:
    long = "x" * 100_000
    answer = {
        **about(name=long, roles=[long] * 9, state=long, status=long),
        "version": long,
        "tasks": [{"name": long, "description": long}],
        "jobs": [{"uuid": long, "task": long, "src": long, "state": long}],
    }
    (_, line) = shown(kind, outcome(prx1=answer))
    assert len(line) < 5_000


def test_words_of_nodes() -> None:
    listing = LISTINGS["nodes"]
    assert listing.seen(listing.found(MIXED)) == {
        "nodes": ["old01", "prx01"],
        "options": [
            *("role=lb", "role=proxy", "site=vienna"),
            *("state=active", "status=online"),
        ],
    }


@pytest.mark.parametrize(
    "name",
    ["*", "a,b", "a|b", "a?", "a[b]", " a", "a\n", "LocalHost", "local", "-q"],
)
def test_name_that_means_others_is_left_out(name: str) -> None:
    assert names([FleetNode(name), FleetNode("prx01a")]) == "prx01a\n"


def test_tasks_of_many_nodes_are_one_row() -> None:
    task = {"name": "reload", "description": "Load\x1b again."}
    other = {"name": "reload", "description": "Do something else."}
    whole = outcome(
        **{f"n{number}": {"tasks": [task]} for number in range(1, 41)},
        x={"tasks": [other, {"name": "drain"}, "malformed"]},
        broken=[],
    )
    assert shown("tasks", whole) == [
        "TASK    NODES                    DESCRIPTION",
        "drain   x",
        r"reload  n1, n2, n3, and 37 more  Load\x1b again.",
        "reload  x                        Do something else.",
    ]
    listing = LISTINGS["tasks"]
    assert listing.seen(listing.found(whole)) == {"tasks": ["drain", "reload"]}


def test_jobs() -> None:
    job = {"uuid": UUID, "task": "reload", "src": "web\x1b", "pid": 7}
    job = {**job, "state": "running"}
    now = time.time()
    whole = outcome(
        n2={"jobs": [{**job, "since": now - 3600}]},
        n1={"jobs": [{**job, "since": now - 7200, "pid": None}]},
        n3={"jobs": []},
    )
    assert shown("jobs", whole) == [
        f"NODE  {'REQUEST':36}  TASK    FROM     STATE          FOR  PID",
        rf"n1    {UUID}  reload  web\x1b  running  2 h 0 min    -",
        rf"n2    {UUID}  reload  web\x1b  running     60 min    7",
    ]
    listing = LISTINGS["jobs"]
    found = listing.found(whole)
    assert listing.seen(found) == {"jobs": [UUID]}
    assert listing.as_json(found[1])["pid"] == 7


def test_cancelled() -> None:
    whole = outcome(
        n10={"cancelled": 1},
        n9={"cancelled": 1},
        n8={"cancelled": 0},
        n7="unknown task 'ngcp.cancel'",
    )
    assert shown("cancel", whole) == ["n9: cancelled", "n10: cancelled"]
