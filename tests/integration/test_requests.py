"""Requests to the real daemon, answered as the protocol says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    is_running,
    statuses,
    wait_for,
)
from tests.unit.test_man import PROTOCOL, literals, part

Start = Callable[..., Daemon]


def test_accepted_then_done(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("echo", "echo", broker_args="hello world")
    start()
    request = client.send("echo")
    accepted, done = client.next(), client.next()
    for response in (accepted, done):
        assert response["ref"] == request["uuid"]
        assert response["task"] == "echo"
        assert response["src"] == "sp1"
        assert response["dst"] == "tests"
        assert (response["chunk"], response["chunks"]) == (1, 1)
        assert response["reason"] == ""
    assert (accepted["status"], accepted["data"]) == ("accepted", None)
    assert (done["status"], done["data"]) == ("done", "hello world\n")
    assert accepted["uuid"] != done["uuid"]
    assert accepted["timestamp"] <= done["timestamp"]
    assert client.silent()
    assert statuses(client.responses) == ["accepted", "done"]


def test_ref_is_repeated_letter_for_letter(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    start()
    shouted = str(uuid.uuid4()).upper()
    accepted, done = client.ask("true", uuid=shouted)
    assert accepted["ref"] == done["ref"] == shouted


# What to replace in a valid request, and what the reason must name.
REJECTED = [
    pytest.param({"uuid": None}, "uuid", id="no-uuid"),
    pytest.param({"uuid": "x"}, "uuid", id="no-such-uuid"),
    pytest.param({"uuid": 7}, "uuid", id="uuid-of-wrong-type"),
    pytest.param({"task": None}, "task", id="no-task"),
    pytest.param({"task": "x" * 129}, "task", id="task-too-long"),
    pytest.param({"src": ""}, "src", id="src-empty"),
    pytest.param({"src": "x" * 256}, "src", id="src-too-long"),
    pytest.param({"dst": ["*"]}, "dst", id="dst-of-wrong-type"),
    pytest.param({"dst": "*" * 4097}, "dst", id="dst-too-long"),
    pytest.param({"dst": "sp1,,sp2"}, "target 2", id="dst-empty-target"),
    pytest.param({"dst": "*|state"}, "'state'", id="dst-without-equals"),
    pytest.param({"dst": "*|=x"}, "'=x'", id="dst-without-key"),
    pytest.param({"dst": "*|role=a+"}, "'role=a+'", id="dst-without-value"),
    pytest.param({"task": "nope"}, "unknown task 'nope'", id="unknown-task"),
]


@pytest.mark.parametrize(("fields", "reason"), REJECTED)
def test_rejected(
    fields: Dict[str, Any],
    reason: str,
    config: ConfigFolder,
    start: Start,
    client: Client,
) -> None:
    config.task("true", "true")
    start()
    request = {**client.request("true"), **fields}
    client.publish(request)
    response = client.next()
    assert response["status"] == "rejected"
    assert reason in response["reason"]
    assert response["data"] is None
    sent = request["uuid"]
    assert response["ref"] == (sent if isinstance(sent, str) else None)
    assert client.silent()


SALVAGED = [
    pytest.param(lambda m: m[:-1], "not JSON", id="cut-off"),
    pytest.param(lambda m: m[:-1] + b',"x":NaN}', "not JSON", id="nan"),
    pytest.param(lambda m: m[:-1] + b',"x":"\xff"}', "UTF-8", id="not-utf8"),
    pytest.param(
        lambda m: m[:-1] + b',"x":' + b"[" * 45000 + b"]" * 45000 + b"}",
        "nested",
        id="deep",
    ),
    pytest.param(
        lambda m: m[:-1] + b',"x":"' + b"x" * (1 << 20) + b'"}',
        "limit",
        id="large",
    ),
]


@pytest.mark.parametrize(("spoil", "reason"), SALVAGED)
def test_unreadable_message_is_rejected_where_an_answer_can_go(
    spoil: Callable[[bytes], bytes],
    reason: str,
    config: ConfigFolder,
    start: Start,
    client: Client,
) -> None:
    config.task("true", "true")
    start()
    request = client.request("true")
    client.publish(spoil(json.dumps(request).encode()))
    response = client.next()
    assert response["status"] == "rejected"
    assert reason in response["reason"]
    assert response["ref"] == request["uuid"]


@pytest.mark.parametrize(
    "message", [b"", b"[]", b"null", b"\xff\xfe", b'"x"', b"{}"]
)
def test_message_without_address_is_only_logged(
    message: bytes, config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    client.publish(message)
    daemon.wait_for_log("rejected a message from an unknown client")
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("channel", [None, "", 7, "x" * 513, CHANNEL], ids=str)
def test_bad_feedback_channel_is_only_logged(
    channel: Any, config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    client.send("true", options={"feedback_channel": channel})
    log = daemon.wait_for_log("rejected true from tests")
    assert "(no answer sent)" in log
    assert client.silent()


def test_duplicate_is_rejected(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    start()
    responses = client.ask("true")
    again = client.ask("true", uuid=responses[0]["ref"])
    assert statuses(again) == ["rejected"]
    assert again[0]["reason"] == "duplicate request"


def test_request_for_another_node_is_ignored_even_if_unknown(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    client.send("nope", dst="sp2")
    client.send("nope", dst="sp2", options={})
    daemon.wait_for_log("ignored nope", 2)
    assert client.silent()


def test_unknown_fields_and_options_are_ignored(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    start()
    options = {"feedback_channel": client.channel, "headers": {"x": 1}}
    responses = client.ask("true", options=options, more=[1], timestamp="x")
    assert statuses(responses) == ["accepted", "done"]


def test_allow_src(config: ConfigFolder, start: Start, client: Client) -> None:
    config.task("true", "true", allow_src=["web*"])
    start()
    (rejected,) = client.ask("true")
    assert "allow_src" in rejected["reason"]
    assert statuses(client.ask("true", src="WEB01a"))[-1] == "done"


def test_warnings_of_python_are_no_records(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """Past the log, they would be unbounded and could block."""
    config.task("true", "true", data_schema={"format": "regex"})
    daemon = start()
    for number in range(3):
        client.ask("true", data=f"x{number}[[a]")
    assert "Warning" not in daemon.text()


def test_data_schema(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task(
        "true",
        "true",
        data_schema={
            "type": "object",
            "properties": {"n": {"type": "integer"}},
        },
    )
    daemon = start()
    (rejected,) = client.ask("true", data={"n": "a secret"})
    assert "data_schema" in rejected["reason"]
    assert "properties/n/type" in rejected["reason"]
    assert "a secret" not in rejected["reason"] + daemon.text()
    assert statuses(client.ask("true", data={"n": 1}))[-1] == "done"
    large = {"n": 1, "more": ["x"] * 10000}
    assert statuses(client.ask("true", data=large))[-1] == "done"
    large["n"] = "x"
    assert statuses(client.ask("true", data=large)) == ["rejected"]


def test_large_answers_do_not_fill_the_memory(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    # Eight of these may run at once; together they are 480 MB.
    config.shell("much", "head -c 8000000 /dev/zero | tr '\\0' x")
    daemon = start()
    for number in range(60):
        # Each channel has its own rate.
        options = {"feedback_channel": f"nobody-{number}"}
        client.send("much", options=options)
    daemon.wait_for_log("done much", 60)
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) < 300_000


def test_task_that_is_not_enabled_is_unknown(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("off", "true", enabled=False)
    config.task("on", "true")
    start()
    assert client.ask("off")[0]["reason"] == "unknown task 'off'"


def test_large_output_comes_in_chunks_in_their_order(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.agent(node={"name": "sp1"}, max_response=20000)
    script = 'for i in $(seq 6000); do printf \'%s\\n\' "\\\\é😀\\"$i"; done'
    config.shell("much", script)
    start()
    client.send("much")
    assert client.next()["status"] == "accepted"
    first = client.next()
    chunks = [first] + [client.next() for _ in range(first["chunks"] - 1)]
    assert len(chunks) > 3
    assert [c["chunk"] for c in chunks] == list(range(1, len(chunks) + 1))
    assert {c["uuid"] for c in chunks} == {first["uuid"]}
    assert {c["status"] for c in chunks} == {"done"}
    data = "".join(c["data"] for c in chunks)
    assert data == "".join(f'\\é😀"{i}\n' for i in range(1, 6001))
    assert client.silent()


def test_tasks_of_several_backends_and_channels_at_once(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.backend("second")
    config.task("one", "echo", broker_args="1")
    config.task("two", "echo", broker_args="2", channel="another")
    config.task("three", "echo", broker_args="3", backend="second")
    start()
    client.send("one")
    # Two backends listen on that channel; one of them has the task.
    endings = [client.ending(), client.ending()]
    assert sorted(statuses(endings)) == ["done", "rejected"]
    client.send("two", channel="another")
    assert client.ending()["data"] == "2\n"
    client.send("one", channel="another")
    assert client.ending()["reason"] == "unknown task 'one'"


def test_many_tasks_share_one_subscription(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    for number in range(20):
        config.task(f"t{number}", "true")
    daemon = start()
    log = daemon.text()
    subscribed = [line for line in log.splitlines() if "subscribed" in line]
    assert subscribed[0].endswith(f": {CHANNEL}")
    assert statuses(client.ask("t19")) == ["accepted", "done"]
    assert client.silent(), "a second subscription would reject a duplicate"


def test_busy(config: ConfigFolder, start: Start, client: Client) -> None:
    go = config.path / "go"
    config.shell(
        "slow",
        f"until [ -e {go} ]; do sleep 0.05; done",
        max_running=2,
        max_queued=1,
    )
    start()
    for _ in range(3):
        client.send("slow")
        assert client.next()["status"] == "accepted"
    client.send("slow")
    busy = client.next()
    assert busy["status"] == "rejected"
    assert busy["reason"] == (
        "busy: 2 running and 1 waiting, of at most 2 and 1"
    )
    go.touch()
    assert [client.ending()["status"] for _ in range(3)] == ["done"] * 3


def test_agent_wide_limit(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    go = config.path / "go"
    script = (
        f"echo >> {config.path}/on; until [ -e {go} ]; do sleep 0.05; done"
    )
    config.agent(node={"name": "sp1"}, max_running=1)
    config.shell("one", script, max_queued=0)
    config.shell("two", script, max_queued=1)
    start()
    client.send("one")
    assert client.next()["status"] == "accepted"
    wait_for((config.path / "on").exists)
    client.send("two")
    assert client.next()["status"] == "accepted"
    client.send("one")
    assert "busy" in client.next()["reason"]
    assert (config.path / "on").read_text() == "\n"
    go.touch()
    assert [client.ending()["status"] for _ in range(2)] == ["done"] * 2


def test_a_client_cancels_a_command_that_ignores_it(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    pids = config.path / "pids"
    config.shell(
        "stubborn",
        f"trap '' TERM; echo out; echo $$ >> {pids};"
        f" sh -c 'echo $$ >> {pids}; while :; do sleep 1; done' &"
        " while :; do sleep 1; done",
    )
    start()
    stubborn = client.send("stubborn")
    assert client.next()["status"] == "accepted"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    jobs = json.loads(client.ask("ngcp.jobs")[-1]["data"])["jobs"]
    assert [job["uuid"] for job in jobs] == [stubborn["uuid"]]
    assert str(jobs[0]["pid"]) in pids.read_text().split()
    cancel = client.send("ngcp.cancel", data={"ref": stubborn["uuid"]})
    endings = {}
    while len(endings) < 2:
        response = client.next()
        if response["status"] != "accepted":
            endings[response["ref"]] = response
    ending = endings[stubborn["uuid"]]
    assert (ending["status"], ending["data"]) == ("error", "out\n")
    assert ending["reason"] == "cancelled by tests"
    assert endings[cancel["uuid"]]["data"] == '{"cancelled": 1}'
    for pid in pids.read_text().split():
        assert not is_running(int(pid))
    assert client.silent()


def test_a_request_that_may_not_wait_long(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    go = config.path / "go"
    config.shell(
        "waits", f"until [ -e {go} ]; do sleep 0.05; done", max_running=1
    )
    start()
    client.send("waits")
    assert client.next()["status"] == "accepted"
    options = {"feedback_channel": client.channel, "expires": 0.2}
    accepted, ending = client.ask("waits", options=options)
    assert (accepted["status"], ending["status"]) == ("accepted", "error")
    assert ending["reason"] == "waited more than 0.2 s"
    go.touch()
    assert client.ending()["status"] == "done"


def test_500_at_once(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true", max_queued=500)
    start(log_level="info")
    sent = [client.send("true")["uuid"] for _ in range(500)]
    seen: Dict[str, list[str]] = {}
    for _ in range(1000):
        response = client.next()
        seen.setdefault(response["ref"], []).append(response["status"])
    assert sorted(seen) == sorted(sent)
    assert all(got == ["accepted", "done"] for got in seen.values())
    assert client.silent()


def test_the_example_in_python(
    config: ConfigFolder, start: Callable[..., Daemon], server: RedisServer
) -> None:
    """It ends when the task has, and prints both answers."""
    (text,) = literals(part(PROTOCOL, "EXAMPLES", "In Python"))
    config.task("ping_127_0_0_1", "true")
    start()
    text = text.replace("redis.Redis()", f"redis.Redis(port={server.port})")
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        timeout=WITHIN / 2,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert statuses(answers) == ["accepted", "done"]
