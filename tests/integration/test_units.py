"""Tasks of the broker systemd, run by the real daemon."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, Callable, Dict, Iterator

import pytest

from tests.bus import PrivateBus
from tests.fake_systemd import FakeSystemd
from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    Client,
    Daemon,
    RedisServer,
    statuses,
    wait_for,
)

Start = Callable[..., Daemon]

# Ignores SIGTERM, and so does a process that has left its session.
STUBBORN = """
trap '' TERM
(setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &)
echo begun
while :; do sleep 1; done
"""


@pytest.fixture
def systemd(bus: PrivateBus) -> Iterator[FakeSystemd]:
    fake = FakeSystemd(bus, bus.socket.parent)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def agent(
    systemd: FakeSystemd, bus: PrivateBus, start: Start
) -> Callable[[], Daemon]:
    def agent(**keys: Any) -> Daemon:
        return start(env={"DBUS_SYSTEM_BUS_ADDRESS": bus.address}, **keys)

    return agent


def add(config: ConfigFolder, name: str, **options: Any) -> None:
    """Add a task of the broker."""
    task = {
        "name": name,
        "backend": "redis",
        "backend_options": {"control_channel": CHANNEL},
        "broker": "systemd",
        "broker_options": options,
    }
    config.write(f"tasks/{name}.yml", json.dumps(task))


def shell(config: ConfigFolder, script: str, **options: Any) -> None:
    add(config, "sh", run="sh", args=["-c", script, "sh"], **options)


def ask(client: Client, name: str, **fields: Any) -> Dict[str, Any]:
    responses = client.ask(name, **fields)
    assert statuses(responses)[:-1] == ["accepted"]
    return responses[-1]


def test_a_command(config: ConfigFolder, agent: Start, client: Client) -> None:
    shell(
        config,
        'cat; echo " $1 $NGCP_TASK_SRC"; echo why >&2; exit 3',
        stdin="data",
        extra_args=True,
    )
    agent()
    ending = ask(
        client, "sh", src="cl\u00efent", data={"extra_args": ["\u20ac"]}
    )
    assert ending["reason"] == "the command ended with exit status 3: why"
    assert ending["data"] == '{"extra_args": ["\\u20ac"]} \u20ac cl\u00efent\n'


def test_a_unit(
    config: ConfigFolder, systemd: FakeSystemd, agent: Start, client: Client
) -> None:
    then = {"ActiveState": "active", "SubState": "running"}
    systemd.has(**{"web.service": {"RestartUnit": {"then": then}}})
    add(config, "web", unit="web", verb="restart")
    add(config, "none", unit="none", verb="restart")
    agent()
    ending = ask(client, "web")
    assert (ending["status"], ending["data"]) == ("done", "active (running)")
    ending = ask(client, "none")
    assert ending["reason"] == "restart none.service: there is no such unit"


def test_fifty_at_once(
    config: ConfigFolder, systemd: FakeSystemd, agent: Start, client: Client
) -> None:
    shell(config, 'echo "$NGCP_TASK_UUID"')
    path = config.path / "tasks/sh.yml"
    task = json.loads(path.read_text())
    path.write_text(json.dumps({**task, "max_running": 50}))
    agent()
    sent = {client.send("sh")["uuid"] for _ in range(50)}
    endings = [client.ending() for _ in range(50)]
    assert {ending["status"] for ending in endings} == {"done"}
    assert {ending["data"].strip() for ending in endings} == sent
    assert not systemd.processes()


def test_stop_of_the_agent(
    config: ConfigFolder, systemd: FakeSystemd, agent: Start, client: Client
) -> None:
    config.agent(stop_timeout=0)
    shell(config, STUBBORN, properties={"TimeoutStopSec": 0.2})
    daemon = agent()
    client.send("sh")
    wait_for(lambda: len(systemd.processes()) >= 2)
    assert daemon.stop() == 0
    ending = client.ending()
    assert "the agent is stopping" in ending["reason"]
    assert ending["data"] == "begun\n"
    assert not systemd.processes()


def test_a_killed_agent_and_the_next(
    config: ConfigFolder,
    server: RedisServer,
    systemd: FakeSystemd,
    agent: Start,
    client: Client,
) -> None:
    shell(config, STUBBORN, properties={"TimeoutStopSec": 0.2})
    daemon = agent()
    client.send("sh")
    wait_for(systemd.processes)
    daemon.stop(signal.SIGKILL)
    assert client.next()["status"] == "accepted"
    assert systemd.processes()
    add(config, "true", run="true")
    agent()
    wait_for(lambda: server.subscribers(CHANNEL))
    assert ask(client, "true")["status"] == "done"
    assert not systemd.processes()


def test_the_bus_is_restarted(
    config: ConfigFolder,
    bus: PrivateBus,
    systemd: FakeSystemd,
    agent: Start,
    client: Client,
) -> None:
    shell(config, "sleep 2; echo late; exit 3")
    add(config, "true", run="true")
    agent()
    assert ask(client, "true")["status"] == "done"
    client.send("sh")
    wait_for(systemd.processes)
    bus.stop()
    bus.start()
    ending = client.ending()
    assert ending["data"] == "late\n"
    assert ending["reason"] == "the command ended with exit status 3"
    assert ask(client, "true")["status"] == "done"


def test_a_reload_leaves_what_runs_alone(
    config: ConfigFolder, systemd: FakeSystemd, agent: Start, client: Client
) -> None:
    shell(config, "sleep 1; echo done")
    daemon = agent()
    client.send("sh")
    wait_for(systemd.processes)
    assert client.next()["status"] == "accepted"
    add(config, "true", run="true")
    daemon.reload()
    assert ask(client, "true")["status"] == "done"
    assert client.ending()["data"] == "done\n"


def test_without_a_bus(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    add(config, "true", run="true")
    start(env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"})
    ending = ask(client, "true")
    assert ending["reason"].startswith(
        "the command cannot be started: the system bus cannot be reached"
    )


def test_no_descriptor_is_left(
    config: ConfigFolder, agent: Start, client: Client
) -> None:
    shell(config, "cat", stdin="data")
    daemon = agent()

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    ask(client, "sh")
    before = descriptors()
    for _ in range(20):
        ask(client, "sh")
    wait_for(lambda: descriptors() <= before)
