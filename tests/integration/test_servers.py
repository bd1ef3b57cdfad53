"""What an agent does on each kind of Redis server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
import redis

from tests.integration.cluster import AT_ONCE, Cluster, command, node
from tests.integration.conftest import ConfigFolder
from tests.integration.test_daemon import Systemd
from tests.parts import (
    WITHIN,
    Client,
    Daemon,
    Line,
    RedisServer,
    free_port,
    statuses,
    wait_for,
)

Start = Callable[..., Daemon]
Serve = Callable[..., RedisServer]

AWAY = " is away: "
OTHER = "another address of this machine"
NO_HELLO = ("--rename-command", "HELLO", "")
# Newer clients send HELLO themselves.
WITHOUT_HELLO: Dict[str, Any] = (
    {} if redis.__version__.startswith("4.") else {"protocol": 2}
)


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """Start servers with more options, and stop them at the end."""
    servers: List[RedisServer] = []

    def serve(*options: str) -> RedisServer:
        place = folder / f"server{len(servers)}"
        place.mkdir()
        servers.append(RedisServer(place, *options))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in reversed(servers):
        server.stop()


@pytest.fixture
def replica(serve: Serve, server: RedisServer) -> RedisServer:
    """A replica of ``server``."""
    command(server, "CONFIG", "SET", *AT_ONCE)
    replica = serve("--replicaof", "127.0.0.1", str(server.port))
    wait_for(replica.is_linked)
    return replica


@pytest.fixture
def listener(replica: RedisServer) -> Iterator[Client]:
    """A client of the replica: it receives what is published there."""
    with closing(Client(replica)) as client:
        yield client


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def another_address() -> str:
    found = subprocess.run(
        ["hostname", "-I"], capture_output=True, check=True, text=True
    ).stdout.split()
    addresses = [address for address in found if ":" not in address]
    if not addresses:
        pytest.skip("this machine has no address but the loopback one")
    return addresses[0]


def is_taken(client: Client, **fields: Any) -> bool:
    """Whether a request is taken, and answered in full.

    The agent's decision is certain once it has answered a later request from
    its own node, which it always takes.
    """
    before = len(client.responses)
    request = client.send("true", **fields)
    last = client.send("true", src="sp1")
    ended = set()
    while last["uuid"] not in ended:
        ended.add(client.ending()["ref"])

    def answers() -> List[str]:
        found = client.responses[before:]
        return statuses([r for r in found if r["ref"] == request["uuid"]])

    if not answers():
        return False
    while request["uuid"] not in ended:
        ended.add(client.ending()["ref"])
    assert answers() == ["accepted", "done"]
    return True


def notes(daemon: Daemon, text: str, but: str = "\n") -> List[str]:
    """Return the backend's records with one text and without the other."""
    return [
        line
        for line in daemon.text().splitlines()
        if "backend redis" in line and text in line and but not in line
    ]


@pytest.mark.parametrize(
    ("is_local", "by_socket", "options"),
    [
        (True, False, ["--bind", "127.0.0.1"]),
        (True, False, ["--bind", "127.0.0.1", "-::1"]),
        (False, False, ["--bind", "127.0.0.1", OTHER]),
        (False, False, ["--bind", "0.0.0.0"]),
        (False, False, ["--bind", "*", "-::*"]),
        (True, True, ["--port", "0"]),
        (True, True, ["--bind", "127.0.0.1"]),
        (False, True, ["--bind", "127.0.0.1", OTHER]),
        (False, True, ["--bind", "0.0.0.0"]),
        (False, False, NO_HELLO),
        (False, True, NO_HELLO),
    ],
)
def test_local_means_the_machine_of_the_client(
    is_local: bool,
    by_socket: bool,
    options: List[str],
    serve: Serve,
    config: ConfigFolder,
    start: Start,
) -> None:
    """Other machines' clients can send through a server on the network."""
    server = serve(*(another_address() if o == OTHER else o for o in options))
    path = str(server.socket)
    if by_socket:
        config.backend(unix_socket=path)
    else:
        config.backend(port=server.port)
    config.task("true", "true")
    daemon = start()
    connection = {**WITHOUT_HELLO, "unix_socket_path": path}
    with closing(Client(server, **connection)) as client:
        for dst in ("local", "localhost"):
            assert is_taken(client, dst=dst, src="web01") == is_local
            assert is_taken(client, dst=dst, src=dst) == is_local
            assert is_taken(client, dst=dst, src="SP1")
        assert is_taken(client, src="web01")
    ignored = daemon.text().count("ignored true from web01")
    assert ignored == (0 if is_local else 2)


def test_local_on_a_replica(
    replica: RedisServer,
    config: ConfigFolder,
    start: Start,
    listener: Client,
) -> None:
    """It forwards requests from clients on other machines."""
    config.backend(port=replica.port, allow_replica=True)
    config.task("true", "true")
    start()
    assert not is_taken(listener, dst="local", src="web01")
    assert is_taken(listener, dst="local", src="SP1")


def test_local_on_a_node_of_a_cluster(
    folder: Path, config: ConfigFolder, start: Start
) -> None:
    server = node(folder / "node")
    config.backend(port=server.port)
    config.task("true", "true")
    server.start()
    try:
        start()
        with closing(Client(server)) as client:
            assert not is_taken(client, dst="local", src="web01")
            assert is_taken(client, dst="local", src="SP1")
    finally:
        server.stop()


def test_local_through_a_tunnel(
    server: RedisServer, config: ConfigFolder, start: Start, client: Client
) -> None:
    """It starts at a loopback address, but can end anywhere."""
    line = Line(server.port, sys.maxsize)
    config.backend(port=line.port)
    config.task("true", "true")
    start()
    assert not is_taken(client, dst="local", src="web01")
    assert is_taken(client, dst="local", src="SP1")
    line.close()


def test_a_server_without_hello(
    serve: Serve, config: ConfigFolder, start: Start
) -> None:
    server = serve(*NO_HELLO)
    config.backend(port=server.port)
    config.task("true", "true")
    daemon = start()
    with closing(Client(server, **WITHOUT_HELLO)) as client:
        assert statuses(client.ask("true")) == ["accepted", "done"]
    assert notes(daemon, "at most once") == []


def test_an_agent_on_a_replica_takes_requests_from_its_own_node(
    folder: Path,
    replica: RedisServer,
    config: ConfigFolder,
    start: Start,
    client: Client,
    listener: Client,
) -> None:
    """Its answers could not reach the clients of other nodes."""
    config.backend(port=replica.port, ping_interval=0.2)
    config.task("true", "true")
    with closing(Systemd(folder / "notify")) as systemd:
        daemon = start(env={"NOTIFY_SOCKET": str(systemd.path)})
        own = listener.request("true", src="SP1")
        # On the master, as for all other clients.
        client.publish(listener.request("true", src="web01"))
        client.publish(own)
        assert listener.ending()["status"] == "done"
        assert {r["ref"] for r in listener.responses} == {own["uuid"]}
        daemon.wait_for_log("ignored true from web01")
        assert listener.silent()
        systemd.wait_for("replica")
    assert len(notes(daemon, "replica", but="at most once")) == 1


def test_an_agent_on_a_replica_takes_all_requests_if_configured(
    replica: RedisServer,
    config: ConfigFolder,
    start: Start,
    listener: Client,
) -> None:
    config.backend(port=replica.port, allow_replica=True)
    config.task("true", "true")
    start()
    assert is_taken(listener, src="web01")


def test_a_replica_becomes_a_master_and_a_replica_again(
    server: RedisServer,
    replica: RedisServer,
    config: ConfigFolder,
    start: Start,
    listener: Client,
) -> None:
    """Redis closes no connection then."""
    config.backend(port=replica.port, ping_interval=0.2)
    config.task("true", "true")
    daemon = start()

    def role_notes() -> int:
        return len(notes(daemon, "replica", but="at most once"))

    assert not is_taken(listener, src="web01")
    assert role_notes() == 1
    command(replica, "REPLICAOF", "NO", "ONE")
    wait_for(lambda: is_taken(listener, src="web01"))
    assert role_notes() == 2
    wait_for(lambda: is_taken(listener, dst="local", src="web01"))
    command(replica, "REPLICAOF", "127.0.0.1", str(server.port))
    wait_for(lambda: not is_taken(listener, src="web01"))
    assert role_notes() == 3
    assert daemon.text().count("subscribed at") == 1
    assert AWAY not in daemon.text()


def test_a_sentinel_carries_no_requests(
    folder: Path, config: ConfigFolder, start: Start
) -> None:
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    assert program
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n")
    sentinel = subprocess.Popen(
        [program, str(settings), "--sentinel"], stdout=subprocess.DEVNULL
    )
    try:
        with socket.socket() as sock:
            wait_for(lambda: sock.connect_ex(("127.0.0.1", port)) == 0)
        config.backend(port=port)
        daemon = start()
        daemon.wait_for_log(AWAY)
        (record,) = notes(daemon, AWAY)
        assert "sentinel" in record.lower()
    finally:
        sentinel.terminate()
        sentinel.wait(WITHIN)


def test_a_cluster(
    folder: Path, cluster: Cluster, config: ConfigFolder, start: Start
) -> None:
    """Each agent answers each request once, wherever it is published."""
    agents: Dict[str, Daemon] = {}
    for number, server in enumerate(cluster.nodes):
        name = f"sp{number}"
        config = ConfigFolder(folder / name, server.port)
        config.agent(node={"name": name})
        config.backend(ping_interval=0.2)
        config.task("true", "true")
        agents[name] = start(config=config)
    for server in cluster.nodes:
        with closing(Client(server)) as client:
            for _ in range(3):
                client.send("true")
            for _ in range(3 * len(agents)):
                client.ending()
            assert client.silent()
            answers: Dict[Any, List[str]] = {}
            for r in client.responses:
                answers.setdefault((r["src"], r["ref"]), []).append(
                    r["status"]
                )
        assert len(answers) == 3 * len(agents)
        assert set(map(tuple, answers.values())) == {("accepted", "done")}
    at_most_once = [len(notes(a, "at most once")) for a in agents.values()]
    assert at_most_once == [0, 0, 0, 1]
    assert all(AWAY not in agent.text() for agent in agents.values())
