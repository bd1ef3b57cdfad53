"""A Redis server that dies, stalls, restarts or refuses."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import pytest

from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    ROOT,
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
Connect = Callable[..., Client]

AWAY = " is away: "
PAUSE = ("CLIENT", "PAUSE", "1500", "WRITE")
BACK = "subscribed at"


def slow_task(config: ConfigFolder) -> Path:
    """Add a task that ends when the returned file exists."""
    go = config.path / "go"
    config.shell("slow", f"until [ -e {go} ]; do sleep 0.05; done; echo out")
    return go


def subscribed_again(server: RedisServer) -> None:
    wait_for(lambda: server.subscribers(CHANNEL), 60)


def test_killed_subscription_is_restored(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    # A connection that lasted a second is worth an immediate attempt.
    time.sleep(1)
    with server.connect() as redis:
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        redis.connection_pool.disconnect()
    subscribed_again(server)
    again = Client(server)
    assert statuses(again.ask("true")) == ["accepted", "done"]
    again.close()
    log = daemon.wait_for_log(BACK, 2)
    assert log.count(AWAY) == 1


def test_killed_writer_loses_no_answer(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    go = slow_task(config)
    start()
    client.send("slow")
    assert client.next()["status"] == "accepted"
    with server.connect() as redis:
        for connection in redis.client_list():
            if connection["sub"] == "0" and connection["name"]:
                redis.client_kill(connection["addr"])
        redis.connection_pool.disconnect()
    go.touch()
    assert client.next()["data"] == "out\n"
    assert client.silent()


def run_at_once(server: RedisServer, *commands: Sequence[Any]) -> None:
    """Run commands between which Redis does nothing else."""
    with server.connect() as redis:
        pipeline = redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()
        redis.connection_pool.disconnect()


def kill_writer(server: RedisServer, and_reader: bool = False) -> None:
    """Close the connection on which the agent publishes."""
    with server.connect() as redis:
        ids = [
            connection["id"]
            for connection in redis.client_list()
            if connection["name"] == "ngcp-task-agent"
            and (and_reader or connection["sub"] == "0")
        ]
        redis.connection_pool.disconnect()
    run_at_once(server, *(("CLIENT", "KILL", "ID", number) for number in ids))


def answers_of(client: Client, requests: List[Any]) -> List[List[str]]:
    """Return the answers to each request, once all have ended."""
    endings = 0
    while endings < len(requests):
        client.ending()
        endings = sum(r["status"] != "accepted" for r in client.responses)
    assert client.silent()
    answers: Dict[str, List[str]] = {r["uuid"]: [] for r in requests}
    for response in client.responses:
        answers[response["ref"]].append(response["status"])
    return list(answers.values())


@pytest.mark.parametrize("status", ["accepted", "done"])
def test_unsent_answers_of_a_killed_writer_are_sent(
    status: str,
    config: ConfigFolder,
    start: Start,
    server: RedisServer,
    client: Client,
) -> None:
    """Redis has read the answers but not processed them, and drops them."""
    go = slow_task(config)
    daemon = start()
    requests = [client.request("slow") for _ in range(5)]
    publish = [("PUBLISH", CHANNEL, json.dumps(r)) for r in requests]
    if status == "accepted":
        run_at_once(server, *publish, PAUSE)
    else:
        run_at_once(server, *publish)
        for _ in requests:
            assert client.next()["status"] == "accepted"
        run_at_once(server, PAUSE)
    go.touch()
    daemon.wait_for_log("done slow", 5)
    kill_writer(server)
    assert answers_of(client, requests) == [["accepted", "done"]] * 5
    assert "an answer to" not in daemon.text()


def test_with_both_connections_killed_nothing_is_lost(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    go = slow_task(config)
    daemon = start()
    requests = [client.request("slow") for _ in range(5)]
    publish = [("PUBLISH", CHANNEL, json.dumps(r)) for r in requests]
    run_at_once(server, *publish, PAUSE)
    daemon.wait_for_log("accepted slow", 5)
    kill_writer(server, and_reader=True)
    go.touch()
    assert answers_of(client, requests) == [["accepted", "done"]] * 5
    assert "an answer to" not in daemon.text()


def test_the_users_of_the_manual_page_have_all_rights(
    config: ConfigFolder, start: Start, server: RedisServer, connect: Connect
) -> None:
    page = (ROOT / "man" / "ngcp-task-agent.8").read_text()
    for user in ("agent", "web"):
        (line,) = re.findall(rf"(?m)^user {user} (.*)", page)
        line = line.replace("\\", "").replace("&fb_*", "&feedback_*")
        run_at_once(server, ("ACL", "SETUSER", user, *line.split()))
    client = connect(username="web", password="secret2")
    config.backend(username="agent", password="secret1")
    config.task("true", "true")
    daemon = start()
    request = client.request("true")
    publish = ("PUBLISH", CHANNEL, json.dumps(request))
    run_at_once(server, publish, PAUSE)
    daemon.wait_for_log("done true")
    kill_writer(server)
    assert answers_of(client, [request]) == [["accepted", "done"]]
    # Its src is not a name of the node: +client|info identifies the client.
    assert statuses(client.ask("true", dst="local"))[-1] == "done"
    assert "refuses" not in daemon.text()


def test_killed_writers_lose_and_repeat_no_answer(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """However often, and at whatever moment."""
    config.task("true", "true", max_queued=1000)
    daemon = start()
    requests = []
    for number in range(60):
        requests += [client.send("true") for _ in range(10)]
        time.sleep(number % 10 * 0.001)
        kill_writer(server)
        # It must publish before it is killed again: otherwise it waits longer
        # each time, as for a server that only answers HELLO.
        client.ending()
    assert answers_of(client, requests) == [["accepted", "done"]] * 600
    assert "an answer to" not in daemon.text()


def test_others_do_not_wait_for_a_large_answer(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """Even if the large answer has a slow connection."""
    line = Line(server.port, 1 << 20)
    config.backend(port=line.port)
    config.shell("large", "head -c 5000000 /dev/zero | tr '\\0' x")
    config.task("true", "true")
    start()
    large = client.send("large")
    assert client.next()["status"] == "accepted"
    assert line.is_held.wait(WITHIN)
    assert statuses(client.ask("true")) == ["accepted", "done"]
    line.release()
    ending = client.next()
    assert (ending["ref"], ending["status"]) == (large["uuid"], "done")
    assert ending["data"] == "x" * 5_000_000
    line.close()


def test_restarted_server(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    go = slow_task(config)
    daemon = start()
    request = client.send("slow")
    assert client.next()["status"] == "accepted"
    server.kill()
    daemon.wait_for_log(AWAY)
    go.touch()
    daemon.wait_for_log("done slow")
    server.start()
    again = Client(server)
    again.listen_too(client.channel)
    ending = again.next(60)
    assert (ending["ref"], ending["data"]) == (request["uuid"], "out\n")
    assert again.silent()
    subscribed_again(server)
    assert statuses(again.ask("slow")) == ["accepted", "done"]
    again.close()
    log = daemon.text()
    # One line per change, regardless of the number of attempts.
    assert (log.count(AWAY), log.count(BACK)) == (1, 2)
    assert "Traceback" not in log


def test_stalled_server_is_noticed(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    go = slow_task(config)
    daemon = start()
    client.send("slow")
    assert client.next()["status"] == "accepted"
    server.signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        daemon.wait_for_log(AWAY)
        # Twice the ping interval of 1 s, plus the delay of a busy machine.
        assert time.monotonic() - begin < 2 + 3
        go.touch()
        daemon.wait_for_log("done slow")
    finally:
        server.signal(signal.SIGCONT)
    subscribed_again(server)
    assert client.next(60)["data"] == "out\n"
    assert statuses(client.ask("slow")) == ["accepted", "done"]
    assert client.silent()


def test_idle_connection_is_kept(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    config.task("true", "true")
    config.backend(ping_interval=0.2)
    daemon = start()
    time.sleep(3)
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert AWAY not in daemon.text()


def test_server_that_starts_after_the_agent(
    config: ConfigFolder, start: Start, server: RedisServer
) -> None:
    config.task("true", "true")
    server.kill()
    daemon = start()
    assert "has started" in daemon.text()
    server.start()
    subscribed_again(server)
    client = Client(server)
    assert statuses(client.ask("true")) == ["accepted", "done"]
    client.close()


def test_queue_is_bounded_and_losses_are_logged(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    go = config.path / "go"
    config.shell(
        "slow",
        f"until [ -e {go} ]; do sleep 0.1; done",
        max_running=1,
        max_queued=1100,
    )
    config.agent(node={"name": "sp1"}, stop_timeout=0)
    daemon = start(log_level="info")
    sent: List[str] = []
    for _ in range(1050):
        sent.append(client.send("slow")["uuid"])
        assert client.next()["status"] == "accepted"
    server.kill()
    daemon.wait_for_log(AWAY)
    # Now all end at once: 1,050 answers for 1,000 places.
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(WITHIN) == 0
    lost = [line for line in daemon.text().splitlines() if "is lost" in line]
    assert len(lost) == len(sent)
    assert sum("away for too long" in line for line in lost) == 50
    assert all(any(ref in line for line in lost) for ref in sent[:10])


def test_unknown_database_is_logged_once(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    config.backend(db=40)
    config.task("true", "true")
    daemon = start()
    assert statuses(client.ask("true")) == ["accepted", "done"]
    server.kill()
    daemon.wait_for_log(AWAY)
    server.start()
    subscribed_again(server)
    assert daemon.text().count("has no database 40") == 1


def test_unix_socket(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    config.backend(unix_socket=str(server.socket))
    config.task("true", "true")
    daemon = start()
    assert str(server.socket) in daemon.text()
    assert statuses(client.ask("true")) == ["accepted", "done"]


@pytest.mark.parametrize("in_file", [False, True])
def test_password(
    in_file: bool, config: ConfigFolder, start: Start, folder: Path
) -> None:
    server = RedisServer(config.path, "--requirepass", "s3cret")
    server.start()
    config.task("true", "true")
    keys: Any = {"port": server.port}
    if in_file:
        secret = folder / "secret"
        secret.write_text("s3cret\n")
        keys["password_file"] = str(secret)
    else:
        keys["password"] = "s3cret"
    try:
        config.backend(**keys)
        daemon = start()
        client = Client(server, password="s3cret")
        assert statuses(client.ask("true")) == ["accepted", "done"]
        client.close()
        assert "s3cret" not in daemon.text()
    finally:
        server.stop()


def test_wrong_password_is_logged(
    config: ConfigFolder, start: Start, folder: Path
) -> None:
    server = RedisServer(config.path, "--requirepass", "s3cret")
    server.start()
    try:
        config.backend(port=server.port, password="wr0ng")
        daemon = start()
        line = daemon.wait_for_log(AWAY).splitlines()[0]
        assert "invalid" in line
        assert "wr0ng" not in daemon.text()
    finally:
        server.stop()


@pytest.mark.parametrize("what", ["ALL", "WRITE"])
def test_a_paused_server_loses_no_answer(
    what: str,
    config: ConfigFolder,
    start: Start,
    server: RedisServer,
    client: Client,
) -> None:
    config.backend(ping_interval=0.2)
    config.task("sleep", "sleep", broker_args="0.3")
    daemon = start()
    requests = [client.send("sleep") for _ in range(5)]
    with server.connect() as redis:
        redis.execute_command("CLIENT", "PAUSE", "1500", what)
        redis.connection_pool.disconnect()
    for _ in requests:
        client.ending()
    for request in requests:
        answers = [r for r in client.responses if r["ref"] == request["uuid"]]
        assert statuses(answers) == ["accepted", "done"]
    assert "an answer to" not in daemon.text()


def test_a_server_without_memory_loses_no_answer(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """Redis then refuses the script, which must store a number."""
    config.task("true", "true")
    daemon = start()
    run_at_once(server, ("CONFIG", "SET", "maxmemory", "1"))
    assert statuses(client.ask("true")) == ["accepted", "done"]
    run_at_once(server, ("CONFIG", "SET", "maxmemory", "0"))
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert client.silent()
    assert "an answer to" not in daemon.text()


def test_local_works_while_answers_cannot_be_sent(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    assert statuses(client.ask("true", dst="local"))[-1] == "done"
    client.responses.clear()
    request = client.request("true", dst="local")
    redis = server.connect()
    # No new connection is accepted, not even the agent's writer.
    redis.config_set("maxclients", len(redis.client_list()) - 1)
    for connection in redis.client_list():
        if (connection["name"], connection["sub"]) == ("ngcp-task-agent", "0"):
            redis.client_kill_filter(_id=connection["id"])
    daemon.wait_for_log("answers cannot be sent")
    redis.publish(CHANNEL, json.dumps(request))
    daemon.wait_for_log("done true", 2)
    redis.config_set("maxclients", 1000)
    redis.connection_pool.disconnect()
    assert answers_of(client, [request]) == [["accepted", "done"]]


MINIMAL = (
    "on >s3cret resetchannels &ngcp-task-agent-redis &feedback_* +subscribe "
    "+unsubscribe +publish"
)


def test_minimal_user(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """It works even without rights that a user should have, such as PING."""
    with server.connect() as redis:
        redis.execute_command("ACL", "SETUSER", "agent", *MINIMAL.split())
        redis.connection_pool.disconnect()
    config.backend(username="agent", password="s3cret")
    config.task("true", "true")
    daemon = start()
    assert statuses(client.ask("true")) == ["accepted", "done"]
    daemon.wait_for_log("answers leave at most once")
    # Answers to a channel without permission are lost, and logged.
    client.send("true", options={"feedback_channel": "elsewhere"})
    daemon.wait_for_log("an answer to request", 2)
    assert statuses(client.ask("true")) == ["accepted", "done"]


def test_a_lost_rejection_keeps_back_no_answer(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """Whoever reads a request can have a copy of it rejected."""
    with server.connect() as redis:
        redis.execute_command("ACL", "SETUSER", "agent", *MINIMAL.split())
        redis.connection_pool.disconnect()
    config.backend(username="agent", password="s3cret")
    go = slow_task(config)
    daemon = start()
    request = client.send("slow")
    assert client.next()["status"] == "accepted"
    client.publish({**request, "options": {"feedback_channel": "elsewhere"}})
    daemon.wait_for_log(f"an answer to request {request['uuid']} is lost")
    go.touch()
    assert client.next()["status"] == "done"


def test_user_without_permission_to_subscribe(
    config: ConfigFolder, start: Start, server: RedisServer
) -> None:
    with server.connect() as redis:
        redis.execute_command(
            "ACL",
            *("SETUSER", "agent", "on", ">s3cret", "resetchannels"),
            "+@all",
        )
        redis.connection_pool.disconnect()
    config.backend(username="agent", password="s3cret")
    config.task("true", "true")
    daemon = start()
    daemon.wait_for_log(AWAY)
    time.sleep(2)
    log = daemon.text()
    assert log.count(AWAY) == 1
    assert "permissions" in log


def test_local_on_a_replica_needs_the_source(
    config: ConfigFolder, start: Start, server: RedisServer, connect: Connect
) -> None:
    """The replicas' agents receive what is published on the master."""
    config.task("true", "true")
    daemon = start()
    client = connect()
    # This server is a master on this machine: only its clients were received.
    assert statuses(client.ask("true", dst="localhost", src="x"))[1] == "done"
    replica = RedisServer(
        config.path, "--replicaof", "127.0.0.1", str(server.port)
    )
    replica.start()
    try:
        config.backend(port=replica.port)
        daemon.reload()
        replicated = Client(replica)
        wait_for(replica.is_linked)
        replicated.publish(client.request("true", dst="local", src="x"))
        daemon.wait_for_log("ignored true from x")
        request = replicated.request("true", dst="local", src="SP1")
        replicated.publish(request)
        assert replicated.ending()["status"] == "done"
        replicated.close()
    finally:
        replica.stop()


def test_tls(
    config: ConfigFolder, start: Start, certificate: Path, folder: Path
) -> None:
    port = free_port()
    server = RedisServer(
        config.path,
        *("--tls-port", str(port)),
        *("--tls-cert-file", str(certificate / "server.pem")),
        *("--tls-key-file", str(certificate / "server.key")),
        *("--tls-ca-cert-file", str(certificate / "ca.pem")),
    )
    server.start()
    tls = {
        "ca": str(certificate / "ca.pem"),
        "cert": str(certificate / "server.pem"),
        "key": str(certificate / "server.key"),
    }
    try:
        config.backend(host="localhost", port=port, tls=tls)
        config.task("true", "true")
        daemon = start()
        client = Client(server)
        assert statuses(client.ask("true")) == ["accepted", "done"]
        client.close()
        # A certificate for another name is refused.
        config.backend(host="127.0.0.1", port=port, tls=tls)
        daemon.reload()
        assert "certificate" in daemon.wait_for_log(AWAY)
    finally:
        server.stop()
