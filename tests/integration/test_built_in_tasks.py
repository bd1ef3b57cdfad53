"""What clients ask the agent itself, and the end of a request's wait."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ngcp_task_agent import __version__
from tests.integration.conftest import ConfigFolder
from tests.parts import CHANNEL, Client, Daemon, is_running, wait_for

Start = Callable[..., Daemon]
Connect = Callable[..., Client]

# An agent that does not wait for what sleeps.
NODE: Dict[str, Any] = {"node": {"name": "sp1"}, "stop_timeout": 0}
NAMES = ("ngcp.ping", "ngcp.describe", "ngcp.jobs", "ngcp.cancel")

# Its child ignores TERM, and so does it.
STUBBORN = "trap '' TERM; sleep 600 & echo $$ $! >{pids}; wait; wait"


def asked(client: Client, task: str, **fields: Any) -> Dict[str, Any]:
    """Return what a task has answered, as an object."""
    responses = client.ask(task, **fields)
    assert [r["status"] for r in responses] == ["accepted", "done"], responses
    answer: Dict[str, Any] = json.loads(responses[-1]["data"])
    return answer


def running(client: Client, task: str, **fields: Any) -> Dict[str, Any]:
    """Send a request; return it when it is accepted."""
    request = client.send(task, **fields)
    assert client.next()["status"] == "accepted"
    return request


def wait_for_jobs(
    client: Client, states: List[str], **fields: Any
) -> List[Any]:
    """Wait until the jobs have these states, and return them."""

    def jobs() -> Any:
        found = asked(client, "ngcp.jobs", **fields)["jobs"]
        return [j["state"] for j in found] == states and [found]

    (found,) = wait_for(jobs)
    return list(found)


def test_ping(config: ConfigFolder, start: Start, client: Client) -> None:
    config.agent(
        node={
            "name": "SP1",
            "aliases": ["Other"],
            "roles": ["proxy", "lb"],
            "state": "standby",
            "status": "inactive",
            "labels": {"site": "vienna"},
        }
    )
    config.task("one", "true")
    start()
    answer = asked(client, "ngcp.ping")
    assert answer.pop("uptime") >= 0
    node = answer.pop("node")
    assert {"other"} <= {*node.pop("aliases")}
    assert node == {
        "name": "SP1",
        "roles": ["lb", "proxy"],
        "state": "standby",
        "status": "inactive",
        "labels": {"site": "vienna"},
    }
    assert answer == {"version": __version__, "running": 0, "queued": 0}


def test_describe(config: ConfigFolder, start: Start, client: Client) -> None:
    schema = {"type": "object"}
    config.task(
        "one",
        "true",
        description="It is \u00fcseful",
        broker_extra_args=True,
        broker_timeout=7,
        max_running=3,
        data_schema=schema,
    )
    config.task("two", "true")
    config.task("elsewhere", "true", channel="another")
    start()
    answer = asked(client, "ngcp.describe")
    assert answer["version"] == __version__
    assert answer["node"]["name"] == "sp1"
    assert answer["tasks"] == [
        {
            "name": "one",
            "description": "It is \u00fcseful",
            "broker": "command",
            "data_schema": schema,
            "extra_args": True,
            "timeout": 7,
            "max_running": 3,
            "running": 0,
            "queued": 0,
        },
        {
            "name": "two",
            "description": "",
            "broker": "command",
            "data_schema": None,
            "extra_args": False,
            "timeout": 300,
            "max_running": 8,
            "running": 0,
            "queued": 0,
        },
    ]


def test_a_full_agent_answers(
    config: ConfigFolder, start: Start, connect: Connect, client: Client
) -> None:
    config.agent(**NODE, max_running=1)
    config.task("long", "sleep", broker_args="600", max_queued=1)
    start()
    first = running(client, "long", src="who")
    second = running(client, "long")
    assert client.ask("long")[0]["reason"].startswith("busy: ")
    other = connect()
    long, waiting = wait_for_jobs(other, ["running", "queued"])
    assert (long["uuid"], waiting["uuid"]) == (first["uuid"], second["uuid"])
    assert (long["task"], long["src"]) == ("long", "who")
    assert is_running(long["pid"])
    assert "pid" not in waiting
    ping = asked(other, "ngcp.ping")
    assert (ping["running"], ping["queued"]) == (1, 1)
    (task,) = asked(other, "ngcp.describe")["tasks"]
    assert (task["running"], task["queued"]) == (1, 1)


def test_cancel_ends_the_whole_group(
    config: ConfigFolder,
    start: Start,
    connect: Connect,
    client: Client,
    folder: Path,
) -> None:
    pids = folder / "pids"
    config.agent(**NODE)
    config.shell("stubborn", STUBBORN.format(pids=pids))
    daemon = start()
    request = running(client, "stubborn")
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    data = {"ref": request["uuid"].upper()}
    answer = asked(connect(), "ngcp.cancel", data=data, src="me\x1b[2J")
    # It has ended by then, and so has its child.
    assert answer == {"cancelled": 1}
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())
    ending = client.ending()
    assert ending["ref"] == request["uuid"]
    assert ending["status"] == "error"
    assert ending["reason"] == r"cancelled by me\x1b[2J"
    assert "cancelled by me" in daemon.text()
    again = asked(client, "ngcp.cancel", data={"ref": request["uuid"]})
    assert again == {"cancelled": 0}


def test_cancel_of_what_waits(
    config: ConfigFolder, start: Start, connect: Connect, client: Client
) -> None:
    config.agent(**NODE)
    config.task("long", "sleep", broker_args="600", max_running=1)
    start()
    running(client, "long")
    waiting = connect()
    request = running(waiting, "long")
    other = connect()
    assert asked(other, "ngcp.cancel", data={"ref": request["uuid"]}) == {
        "cancelled": 1
    }
    ending = waiting.ending()
    assert ending["reason"] == "cancelled by tests; nothing was run"
    wait_for_jobs(other, ["running"])


def test_other_channels_and_backends_are_apart(
    config: ConfigFolder, start: Start, connect: Connect, client: Client
) -> None:
    config.agent(**NODE)
    config.backend("second")
    config.task("long", "sleep", broker_args="600")
    config.task("far", "sleep", broker_args="600", channel="another")
    config.task("second", "true", backend="second")
    config.task("third", "true", backend="second", channel="third")
    start()
    request = client.send("long")
    # The other backend has no such task.
    answers = sorted(client.next()["status"] for _ in range(2))
    assert answers == ["accepted", "rejected"]
    data = {"ref": request["uuid"]}
    other = connect()
    for channel in ("another", "third"):
        for task in ("ngcp.ping", "ngcp.jobs", "ngcp.cancel"):
            other.send(task, channel=channel, data=data)
            answer = json.loads(other.ending()["data"])
            jobs = answer.get("jobs", [])
            assert not jobs
            assert not answer.get("running", 0)
            assert not answer.get("cancelled", 0)
    # Both backends listen on this one: each answers for its own jobs.
    other.send("ngcp.jobs")
    both = [json.loads(other.ending()["data"])["jobs"] for _ in range(2)]
    assert sorted(len(jobs) for jobs in both) == [0, 1]


@pytest.mark.parametrize(
    "data", [None, {}, [], "", 1, {"ref": 1}, {"ref": "x"}, {"ref": None}]
)
def test_malformed_cancel(
    config: ConfigFolder, start: Start, client: Client, data: Any
) -> None:
    config.task("one", "true")
    start()
    (answer,) = client.ask("ngcp.cancel", data=data)
    assert answer["status"] == "rejected"
    assert answer["reason"] == (
        'data must be an object such as {"ref": UUID}, with the uuid of the '
        "request to cancel"
    )


def test_a_cancel_does_not_cancel_itself(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("one", "true")
    start()
    own = str(uuid.uuid4())
    answer = asked(client, "ngcp.cancel", uuid=own, data={"ref": own})
    assert answer == {"cancelled": 0}


def test_who_has_them_and_who_may(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("one", "true")
    daemon = start()
    unknown = "unknown task 'ngcp.ping'"
    node = {"name": "sp1"}
    config.agent(node=node, built_in_tasks=False)
    daemon.reload()
    assert client.ask("ngcp.ping")[0]["reason"] == unknown
    config.agent(node=node, built_in_tasks=["ngcp.jobs"])
    daemon.reload()
    assert client.ask("ngcp.ping")[0]["reason"] == unknown
    assert asked(client, "ngcp.jobs") == {"jobs": []}
    config.agent(node=node, built_in_allow_src=["web*"])
    daemon.reload()
    refusal = "allow_src: 'tests' may not request this task"
    for name in NAMES:
        assert client.ask(name)[0]["reason"] == refusal
    assert asked(client, "ngcp.ping", src="web1")["running"] == 0
    config.task("ngcp.ping", "echo", broker_args="mine")
    daemon.reload()
    assert client.ask("ngcp.ping")[-1]["data"] == "mine\n"


def test_a_file_can_have_another_name_for_one(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.write(
        "tasks/mine.yml",
        {
            "name": "mine",
            "backend": "redis",
            "backend_options": {"control_channel": CHANNEL},
            "broker": "agent",
            "broker_options": {"answer": "describe"},
        },
    )
    start()
    (task,) = asked(client, "mine")["tasks"]
    assert (task["name"], task["broker"]) == ("mine", "agent")
    assert (task["timeout"], task["extra_args"]) == (None, False)


def test_thousands_of_tasks(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    for number in range(1000):
        config.task(f"t{number}", "true", description="x" * 1000)
    config.agent(node={"name": "sp1"}, max_response="64K")
    start()
    client.send("ngcp.describe")
    chunks = [client.ending()]
    chunks += [client.ending() for _ in range(1, chunks[0]["chunks"])]
    assert len(chunks) > 10
    answer = json.loads("".join(chunk["data"] for chunk in chunks))
    assert len(answer["tasks"]) == 1000


def test_the_end_of_a_wait(
    config: ConfigFolder,
    start: Start,
    connect: Connect,
    client: Client,
    folder: Path,
) -> None:
    mark = folder / "mark"
    config.agent(**NODE, max_running=1)
    config.task("long", "sleep", broker_args="600")
    config.task("one", "touch", broker_args=str(mark), max_wait=0.3)
    config.task("two", "touch", broker_args=str(mark))
    daemon = start()
    request = running(client, "long")
    other = connect()
    (_, error) = other.ask("one")
    assert error["status"] == "error"
    assert error["reason"] == "waited more than 0.3 s"
    options = {"feedback_channel": other.channel}
    for task in ("one", "two"):
        (_, error) = other.ask(task, options={**options, "expires": 0.1})
        assert error["reason"] == "waited more than 0.1 s"
    (_, error) = other.ask("one", options={**options, "expires": 10**6})
    assert error["reason"] == "waited more than 0.3 s"
    wait_for_jobs(other, ["running"])
    assert "waited more than 0.3 s" in daemon.text()
    for wrong in (0, -1, "1", True, None, [], {}):
        (answer,) = other.ask("two", options={**options, "expires": wrong})
        assert answer["reason"] == (
            "options.expires must be a number of seconds greater than 0"
        )
    asked(other, "ngcp.cancel", data={"ref": request["uuid"]})
    assert not os.path.exists(mark)
    # What need not wait does not expire.
    (_, done) = other.ask("one", options={**options, "expires": 1e-9})
    assert done["status"] == "done"
