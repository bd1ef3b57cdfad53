"""ngcp-invoke-task and the agents themselves: nodes, tasks, jobs, cancel."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any, Callable

import jsonschema
import pytest

from tests.crowd import JOB, Crowd, Played
from tests.integration.conftest import ConfigFolder, Scripted
from tests.invoking import Invoked, command, environment
from tests.parts import WITHIN, Daemon, RedisServer

OTHER_JOB = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def schema() -> Any:
    file = resources.files("ngcp_task_agent.client") / "output.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


@pytest.fixture
def fleet(scripted: Callable[..., Scripted]) -> Crowd:
    """Twelve nodes: roles and states differ, one is old, one is deaf."""
    nodes = [
        Played(
            f"prx{number:02}{half}",
            roles=["proxy"],
            state="active" if half == "a" else "inactive",
            labels={"site": "vienna"},
        )
        for number in range(1, 5)
        for half in "ab"
    ]
    nodes += [
        Played("lb01a", roles=["lb"], tasks={"reload": "", "drain": ""}),
        Played("lb01b", roles=["lb"], state="inactive", is_old=True),
        Played("db01a", roles=["db"], jobs=[JOB]),
        Played("db01b", roles=["db"], ends="deaf"),
    ]
    crowd = Crowd(*nodes)
    scripted(crowd.answers)
    return crowd


@pytest.fixture
def ask(
    server: RedisServer, folder: Path, fleet: Crowd
) -> Callable[..., Invoked]:
    """Call the command with some arguments."""

    def ask(*arguments: str, **more: Any) -> Invoked:
        url = f"redis://127.0.0.1:{server.port}"
        return Invoked(
            subprocess.run(
                command("--url", url, "--answer-timeout", "2", *arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(XDG_CACHE_HOME=str(folder / "cache")),
                timeout=2 * WITHIN,
                **more,
            )
        )

    return ask


Ask = Callable[..., Invoked]

NAMES = [f"prx{number:02}{half}" for number in range(1, 5) for half in "ab"]
THERE = ["db01a", "lb01a", "lb01b", *NAMES]


def test_nodes(ask: Ask) -> None:
    done = ask("--nodes")
    assert (done.status, done.err) == (0, "")
    heads, *rows = done.out.splitlines()
    assert heads.split() == (
        "NODE ROLES STATE STATUS VERSION UPTIME RUNNING QUEUED NOTE".split()
    )
    assert [row.split()[0] for row in rows] == THERE
    assert "db01a" in rows[0]
    assert re.search(
        r"db01a +db +active +online +1\.6\.0 +2 h 3 min +1 +0", rows[0]
    )
    # It does not know what it is asked, but it lives.
    assert rows[2].split(None, 1)[1] == "unknown task 'ngcp.ping'"
    # The columns are aligned.
    assert len({row.find("proxy") for row in rows[3:]}) == 1


def test_names_are_the_next_destination(ask: Ask) -> None:
    done = ask("--nodes", "-q", "--dst", "prx*|state=active")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == ["prx01a", "prx02a", "prx03a", "prx04a"]
    dst = ",".join(done.out.splitlines())
    done = ask("reload", "--dst", dst, "--output", "json")
    assert done.status == 0
    assert {node["node"] for node in done.json()["nodes"]} == set(
        dst.split(",")
    )


def test_names_that_mean_others_are_no_destination(
    ask: Ask, fleet: Crowd
) -> None:
    for name in ("*", "a,b", "x|y", "p?", "[ab]", "localhost", "\x1b[2J"):
        fleet.nodes.append(Played(name))
    done = ask("--nodes", "-q", "--dst", "*")
    assert done.out.splitlines() == THERE
    # They are there nevertheless, but cannot control a terminal.
    done = ask("--nodes")
    assert len(done.out.splitlines()) == 1 + 7 + len(THERE)
    assert "\x1b" not in done.out


def test_nodes_as_json(ask: Ask, schema: Any) -> None:
    done = ask("--nodes", "--dst", "prx01a,lb01b,db01b", "--output", "json")
    document = done.json()
    schema.validate(document)
    assert done.status == document["exit_status"] == 5
    assert document["missing"] == ["db01b"]
    assert [node["name"] for node in document["nodes"]] == ["lb01b", "prx01a"]
    old, new = document["nodes"]
    assert (old["version"], old["reason"]) == ("", "unknown task 'ngcp.ping'")
    assert new["labels"] == {"site": "vienna"}
    assert new["roles"] == ["proxy"]
    done = ask("--nodes", "--output", "jsonl")
    lines = done.lines()
    for line in lines:
        schema.validate(line)
    assert [line["name"] for line in lines] == THERE


def test_missing_node_is_named(ask: Ask) -> None:
    done = ask("--nodes", "--dst", "prx01a,DB01B")
    assert (done.status, done.err) == (
        5,
        "ngcp-invoke-task: DB01B: no answer\n",
    )
    assert "prx01a" in done.out
    # Of those that a pattern may mean, nobody knows who is missing.
    assert ask("--nodes", "--dst", "db*").status == 0
    none = ask("--nodes", "--dst", "db01b", "-q")
    assert (none.status, none.out, none.err) == (4, "", "")


def test_tasks(ask: Ask, schema: Any) -> None:
    done = ask("--tasks")
    assert done.status == 3
    assert done.err == (
        "ngcp-invoke-task: lb01b: rejected: unknown task 'ngcp.describe'\n"
    )
    heads, *rows = done.out.splitlines()
    assert heads.split() == ["TASK", "NODES", "DESCRIPTION"]
    assert [re.split("  +", row) for row in rows] == [
        ["drain", "lb01a"],
        [
            "reload",
            "db01a, prx01a, prx01b, and 6 more",
            "Load the routes again.",
        ],
        ["reload", "lb01a"],
    ]
    done = ask("--tasks", "--dst", "lb*", "--output", "json")
    document = done.json()
    schema.validate(document)
    assert [task["name"] for task in document["tasks"]] == ["drain", "reload"]
    assert document["refused"] == [
        {"node": "lb01b", "reason": "unknown task 'ngcp.describe'"}
    ]


def test_jobs(ask: Ask, schema: Any) -> None:
    done = ask("--jobs", "--dst", "prx*,db01a")
    assert (done.status, done.err) == (0, "")
    heads, row = done.out.splitlines()
    assert heads.split() == "NODE REQUEST TASK FROM STATE FOR PID".split()
    assert re.match(
        rf"db01a  {JOB}  reload  web01  running  6\d s  4711$", row
    )
    done = ask("--jobs", "--dst", "db*", "--output", "jsonl")
    (line,) = done.lines()
    schema.validate(line)
    assert (line["node"], line["uuid"], line["pid"]) == ("db01a", JOB, 4711)
    # None is no failure.
    done = ask("--jobs", "--dst", "prx*")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_cancel(ask: Ask, schema: Any, fleet: Crowd) -> None:
    fleet.nodes[0].jobs.append(JOB)
    done = ask("--cancel", JOB)
    assert done.status == 0
    assert done.out == "db01a: cancelled\nprx01a: cancelled\n"
    done = ask("--cancel", JOB, "--dst", "prx*")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "ngcp-invoke-task: none of the nodes that answered has a request "
        f"'{JOB}' that runs or waits\n"
    )
    fleet.nodes[0].jobs.append(JOB)
    done = ask("--cancel", JOB, "--dst", "prx*", "--output", "json")
    document = done.json()
    schema.validate(document)
    assert document["cancelled"] == [{"node": "prx01a"}]
    assert ask("--cancel", JOB, "--dst", "nobody").status == 4


def test_missing_node_may_have_what_is_to_be_cancelled(ask: Ask) -> None:
    done = ask("--cancel", JOB, "--dst", "db01a,db01b")
    assert (done.status, done.out) == (5, "db01a: cancelled\n")
    assert done.err == "ngcp-invoke-task: db01b: no answer\n"


def test_missing_node_of_a_task(ask: Ask, schema: Any) -> None:
    done = ask("reload", "--dst", "prx01a,db01b", "--output", "json")
    document = done.json()
    schema.validate(document)
    assert done.status == document["exit_status"] == 5
    assert document["status"] == "unfinished"
    assert document["missing"] == ["db01b"]
    assert done.err == "ngcp-invoke-task: db01b: no answer\n"
    done = ask("reload", "--dst", "prx01a,db01b", "-q")
    assert (done.status, done.err) == (5, "")


def test_two_nodes_of_one_name(ask: Ask, schema: Any, fleet: Crowd) -> None:
    fleet.nodes.append(Played("prx01a"))
    for arguments in (("reload",), ("--nodes",)):
        done = ask(*arguments, "--dst", "prx01*")
        assert done.status == 1
        assert done.err == (
            "ngcp-invoke-task: several nodes call themselves 'prx01a': node "
            "names must be unique\n"
        )
    done = ask("reload", "--dst", "prx01*", "--output", "json")
    document = done.json()
    schema.validate(document)
    doubled = {node["node"]: node["doubled"] for node in document["nodes"]}
    assert doubled == {"prx01a": True, "prx01b": False}


def test_task_as_an_argument(ask: Ask, fleet: Crowd) -> None:
    fleet.nodes[0].data = "it is done\n"
    for words in (["reload"], ["reload", "--task", "reload"]):
        done = ask(*words, "--dst", "prx01a")
        assert (done.status, done.out, done.err) == (0, "it is done\n", "")


def test_label_and_gathered(ask: Ask, fleet: Crowd) -> None:
    for node in fleet.nodes[:4]:
        node.data = "five\nroutes\n"
    fleet.nodes[4].ends = "error"
    fleet.nodes[4].reason = "ended with exit status 3: no database"
    done = ask("reload", "--dst", "prx01*", "--label")
    assert sorted(done.out.splitlines()) == [
        "prx01a: five",
        "prx01a: routes",
        "prx01b: five",
        "prx01b: routes",
    ]
    done = ask("reload", "--dst", "prx*,lb01b,db01b", "--output", "gathered")
    assert done.status == 1
    assert done.out == (
        "prx01a, prx01b, prx02a, prx02b (4):\n"
        "five\n"
        "routes\n"
        "\n"
        "lb01b, prx03b, prx04a, prx04b (4): no output\n"
        "\n"
        "prx03a: error: ended with exit status 3: no database\n"
        "\n"
        "db01b: no answer\n"
    )


def test_real_agent(
    ask: Ask,
    config: ConfigFolder,
    start: Callable[..., Daemon],
    wait_for_slow: Callable[[], None],
) -> None:
    config.shell("other", "true", description="Take no time.")
    start()
    words = command("--config-dir", str(config.path), "slow", "--dst", "sp1")
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        wait_for_slow()
        (job,) = ask("--jobs", "--dst", "sp1", "--output", "jsonl").lines()
        assert (job["task"], job["state"]) == ("slow", "running")
        (node,) = ask("--nodes", "--dst", "sp1", "--output", "jsonl").lines()
        assert (node["name"], node["running"]) == ("sp1", 1)
        tasks = ask("--tasks", "--dst", "sp1")
        assert re.search(r"other +sp1 +Take no time\.", tasks.out)
        done = ask("--cancel", job["uuid"])
        assert done.out == "sp1: cancelled\n"
        assert process.stderr
        assert "cancelled by" in process.stderr.read()
        assert process.wait(WITHIN) == 1


def test_what_was_shown_is_completed(ask: Ask, folder: Path) -> None:
    ask("--nodes")
    ask("--tasks")
    ask("--jobs")
    # Of a part of the nodes, only the jobs are kept.
    ask("--nodes", "--dst", "prx01a")
    ask("--tasks", "--dst", "prx01a")
    (file,) = (folder / "cache").iterdir()
    kept = json.loads(file.read_text())
    assert kept["nodes"] == THERE
    assert kept["tasks"] == ["drain", "reload"]
    assert kept["jobs"] == [JOB]
    assert {"role=proxy", "state=inactive", "site=vienna"} <= set(
        kept["options"]
    )
