"""Live output: to whom it is wanted, as it comes, in nobody's way."""

from __future__ import annotations

import signal
import socket
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    statuses,
    wait_for,
)

Start = Callable[..., Daemon]

# Writes a line whenever the test has made the next file, and then ends.
STEPS = """
i=0
while [ $i -lt 3 ]; do
    until [ -e {0}/$i ]; do sleep 0.02; done
    echo "line $i"; echo "error $i" >&2
    i=$((i + 1))
done
until [ -e {0}/end ]; do sleep 0.02; done
printf rest
"""


def options(client: Client, channel: str) -> Dict[str, Any]:
    return {
        "feedback_channel": client.channel,
        "progress_channel": channel,
    }


@pytest.fixture
def live(connect: Callable[..., Client]) -> Client:
    """Listens for live output, on a connection of its own."""
    return connect()


def test_line_by_line_before_the_ending(
    config: ConfigFolder,
    start: Start,
    client: Client,
    live: Client,
    folder: Path,
) -> None:
    steps = folder / "steps"
    steps.mkdir()
    config.shell("steps", STEPS.format(steps), live_output=True)
    start()
    request = client.send("steps", options=options(client, live.channel))
    assert client.next()["status"] == "accepted"
    assert live.silent()
    number = 0
    for step in range(3):
        (steps / f"{step}").touch()
        lines = {}
        for message in (live.next(), live.next()):
            number += 1
            lines[message.pop("stream")] = message.pop("data")
            assert message == {
                "ref": request["uuid"],
                "task": "steps",
                "src": "sp1",
                "number": number,
            }
        assert lines == {
            "stdout": f"line {step}\n",
            "stderr": f"error {step}\n",
        }
    # Nothing of it disturbs who waits for answers.
    assert client.silent(0.1)
    (steps / "end").touch()
    ending = client.next()
    assert ending["status"] == "done"
    assert ending["data"] == "line 0\nline 1\nline 2\nrest"
    assert live.next()["data"] == "rest"
    assert live.silent()


def test_only_where_task_and_request_want_it(
    config: ConfigFolder, start: Start, client: Client, live: Client
) -> None:
    config.shell("live", "echo out", live_output=True)
    config.shell("quiet", "echo out")
    start()
    asked = options(client, live.channel)
    assert client.ask("quiet", options=asked)[-1]["data"] == "out\n"
    assert client.ask("live")[-1]["data"] == "out\n"
    assert live.silent()
    assert client.ask("live", options=asked)[-1]["data"] == "out\n"
    assert live.next()["data"] == "out\n"


BAD: List[Any] = [None, 7, "", "x" * 513, ["x"], CHANNEL]


@pytest.mark.parametrize("channel", BAD, ids=repr)
def test_a_channel_that_cannot_be(
    channel: Any, config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell("live", "echo out", live_output=True)
    daemon = start()
    asked = options(client, channel)
    (answer,) = client.ask("live", options=asked)
    assert answer["status"] == "rejected"
    assert "options.progress_channel" in answer["reason"]
    # It can be corrected, and nothing became a request.
    uuid_ = answer["ref"]
    answers = client.ask("live", uuid=uuid_)
    assert statuses(answers) == ["accepted", "done"]
    assert daemon.text().count("rejected") == 1


def deaf_subscriber(server: RedisServer, channel: str) -> socket.socket:
    """Subscribe as the second one, and never read what comes."""
    deaf = socket.create_connection(("127.0.0.1", server.port), WITHIN)
    deaf.sendall(f"SUBSCRIBE {channel}\r\n".encode())
    wait_for(lambda: server.subscribers(channel) == 2)
    return deaf


def test_a_flood_delays_nobody(
    config: ConfigFolder,
    start: Start,
    client: Client,
    connect: Callable[..., Client],
    server: RedisServer,
) -> None:
    """Others are accepted and end while commands write all they can.

    One subscriber reads it, another does not.
    """
    # Of standard error, the agent itself keeps only the end.
    config.shell("yes", "yes >&2", live_output=True, broker_max_output="999G")
    config.task("ping", "echo", broker_args="pong")
    config.agent(node={"name": "sp1"}, stop_timeout=0)
    daemon = start()
    channel = f"live_{uuid.uuid4()}"
    live = connect()
    live.listen_too(channel)
    with deaf_subscriber(server, channel):
        flooding = connect()
        for _ in range(4):
            flooding.send("yes", options=options(flooding, channel))
        for _ in range(4):
            assert flooding.next()["status"] == "accepted"
        for _ in range(60):
            assert live.next()["data"].startswith("y\ny\n")
            answers = client.ask("ping")
            assert statuses(answers) == ["accepted", "done"]
            assert answers[-1]["data"] == "pong\n"
        # All of them still write.
        assert statuses(flooding.responses) == ["accepted"] * 4
        daemon.process.send_signal(signal.SIGTERM)
        for _ in range(4):
            assert flooding.next()["status"] == "error"
    assert "lost" not in daemon.text()


def test_what_is_left_out_is_counted(
    config: ConfigFolder, start: Start, client: Client, live: Client
) -> None:
    lines = 3_000_000
    config.shell(
        "much", f"seq {lines}; sleep 0.5; echo end", live_output=True,
        broker_max_output="64M",
    )  # fmt: skip
    start()
    client.send("much", options=options(client, live.channel))
    messages: List[Dict[str, Any]] = []
    while not messages or not messages[-1]["data"].endswith("end\n"):
        messages.append(live.next())
    whole = "".join(f"{n}\n" for n in range(1, lines + 1)) + "end\n"
    at = 0
    for number, message in enumerate(messages, 1):
        assert message["number"] == number
        at += message.get("omitted", 0)
        data = message["data"]
        assert len(data) <= 65536
        assert data.endswith("\n")
        assert whole.startswith(data, at)
        at += len(data)
    assert at == len(whole)
    assert any(message.get("omitted") for message in messages)
    assert client.next()["status"] == "accepted"


def test_redis_is_away_for_a_while(
    config: ConfigFolder,
    start: Start,
    client: Client,
    connect: Callable[..., Client],
    server: RedisServer,
    folder: Path,
) -> None:
    steps = folder / "steps"
    steps.mkdir()
    config.shell("steps", STEPS.format(steps), live_output=True)
    daemon = start()
    channel = f"live_{uuid.uuid4()}"
    client.send("steps", options=options(client, channel))
    assert client.next()["status"] == "accepted"
    before = connect()
    before.listen_too(channel)
    (steps / "0").touch()
    before.next(), before.next()
    server.kill()
    daemon.wait_for_log("is away")
    server.start()
    wait_for(lambda: server.subscribers(CHANNEL))
    after = connect()
    after.listen_too(channel)
    after.listen_too(client.channel)
    (steps / "1").touch()
    assert {after.next()["data"], after.next()["data"]} == {
        "line 1\n",
        "error 1\n",
    }
    for name in ("2", "end"):
        (steps / name).touch()
    while "status" not in (last := after.next()):
        pass
    assert last["data"].endswith("rest")
