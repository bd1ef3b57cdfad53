"""Reload under traffic, and a stop with answers for all."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from tests.integration.conftest import ConfigFolder
from tests.parts import (
    Client,
    Daemon,
    RedisServer,
    is_running,
    statuses,
    wait_for,
)

Start = Callable[..., Daemon]


def test_dropped_file_is_a_task_after_reload(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("one", "true")
    daemon = start()
    config.task("two", "echo", broker_args="2", channel="another")
    assert client.ask("two")[0]["status"] == "rejected"
    daemon.reload()
    client.send("two", channel="another")
    assert client.ending()["data"] == "2\n"
    (config.path / "tasks/two.yml").unlink()
    daemon.reload()
    assert client.ask("two")[0]["reason"] == "unknown task 'two'"
    assert statuses(client.ask("one")) == ["accepted", "done"]


def test_faulty_file_keeps_its_last_good_version(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    file = config.task("one", "echo", broker_args="good")
    config.task("two", "echo", broker_args="old")
    daemon = start()
    file.write_text("name: one\nbackend: redis\nbroker: [\n")
    config.task("two", "echo", broker_args="new")
    config.backend(port=0)
    config.write("agent.yml", "node: {nam: sp2}\n")
    log = daemon.reload()
    assert f"{file}:4: not YAML" in log
    assert "backends/redis.yml:2: port: must be a port number" in log
    assert "agent.yml:1: node.nam: unknown key; did you mean 'name'?" in log
    assert client.ask("one")[-1]["data"] == "good\n"
    two = client.ask("two")[-1]
    assert (two["data"], two["src"]) == ("new\n", "sp1")


def test_running_task_ends_as_it_began(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    go = config.path / "go"
    script = f"until [ -e {go} ]; do sleep 0.05; done; echo"
    config.shell("task", f"{script} old")
    daemon = start()
    client.send("task")
    assert client.next()["status"] == "accepted"
    config.shell("task", "echo new")
    daemon.reload()
    assert client.ask("task")[-1]["data"] == "new\n"
    (config.path / "tasks/task.yml").unlink()
    daemon.reload()
    go.touch()
    assert client.ending()["data"] == "old\n"


def test_running_requests_count_after_a_reload(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """A task that never runs twice at once does not after a reload either."""
    folder = config.path / "lock"
    script = f"mkdir {folder} && sleep 0.5 && rmdir {folder}"
    config.shell("alone", script, max_running=1)
    daemon = start()
    client.send("alone")
    wait_for(folder.exists)
    config.shell("alone", script, max_running=1, description="changed")
    daemon.reload()
    client.send("alone")
    assert [client.ending()["reason"] for _ in "12"] == ["", ""]


def test_node_changes_at_a_reload(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true")
    daemon = start()
    node = {"name": "sp2", "roles": ["lb"], "labels": {"site": "vienna"}}
    config.agent(node=node)
    daemon.reload()
    responses = client.ask("true", dst="sp2|role=lb;site=vie*")
    assert {response["src"] for response in responses} == {"sp2"}


def test_replaced_backend_still_delivers(
    config: ConfigFolder, start: Start, client: Client, server: RedisServer
) -> None:
    go = config.path / "go"
    config.shell("task", f"until [ -e {go} ]; do sleep 0.05; done; echo out")
    daemon = start()
    client.send("task")
    assert client.next()["status"] == "accepted"
    config.backend(unix_socket=str(server.socket))
    daemon.reload()
    go.touch()
    assert client.next()["data"] == "out\n"
    assert client.ask("task")[-1]["data"] == "out\n"
    # The old connections are closed.
    wait_for(lambda: server.clients_of("ngcp-task-agent") == 2)


def test_replaced_backend_delivers_all_large_answers(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """They take longer to send than small ones, and hold their slots."""
    config.agent(node={"name": "sp1"}, max_response="64M")
    config.shell("much", "head -c 4000000 /dev/zero", max_running=2)
    daemon = start()
    requests = [client.send("much") for _ in range(8)]
    daemon.wait_for_log("accepted much", 8)
    config.backend(ping_interval=2)
    daemon.reload()
    answers: Dict[str, List[str]] = {}
    for _ in range(16):
        answer = client.next()
        answers.setdefault(answer["ref"], []).append(answer["status"])
    assert answers == {r["uuid"]: ["accepted", "done"] for r in requests}
    assert "lost" not in daemon.text()


def test_lost_answers_of_a_replaced_backend_are_logged(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """Even if the agent stops before the backend would have given up."""
    go = config.path / "go"
    config.shell("slow", f"until [ -e {go} ]; do sleep 0.05; done")
    daemon = start()
    requests = [client.send("slow") for _ in range(5)]
    for _ in requests:
        assert client.next()["status"] == "accepted"
    server.kill()
    daemon.wait_for_log(" is away: ")
    go.touch()
    daemon.wait_for_log("done slow", 5)
    config.backend(ping_interval=2)
    daemon.reload()
    assert daemon.stop() == 0
    lost = [line for line in daemon.text().splitlines() if " is lost" in line]
    for request in requests:
        assert sum(request["uuid"] in line for line in lost) == 1


def test_reload_under_traffic_loses_nothing(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("true", "true", max_queued=2000)
    daemon = start(log_level="info")
    stop = threading.Event()
    reloads = 0

    def reload() -> None:
        nonlocal reloads
        while not stop.is_set():
            reloads += 1
            # Each time, the task itself and another one are new.
            config.task("true", "true", max_queued=2000 + reloads)
            config.task(f"t{reloads}", "true", channel=f"c{reloads % 3}")
            daemon.reload()

    thread = threading.Thread(target=reload)
    thread.start()
    seen: Dict[str, List[str]] = {}
    sent = []
    try:
        for _ in range(1500):
            sent.append(client.send("true")["uuid"])
            time.sleep(0.002)
        while sum(map(len, seen.values())) < 2 * len(sent):
            response = client.next()
            seen.setdefault(response["ref"], []).append(response["status"])
    finally:
        stop.set()
        thread.join()
    assert reloads >= 5
    assert sorted(seen) == sorted(sent)
    assert all(got == ["accepted", "done"] for got in seen.values())
    assert client.silent()


def test_stop_waits_for_running_tasks(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell("task", "sleep 1; echo out")
    daemon = start()
    client.send("task")
    assert client.next()["status"] == "accepted"
    daemon.process.send_signal(signal.SIGTERM)
    assert client.next()["data"] == "out\n"
    assert daemon.stop() == 0
    assert "1 accepted, 1 done, 0 error" in daemon.text()


def test_stop_ends_and_answers_slow_tasks(
    config: ConfigFolder, start: Start, client: Client, folder: Path
) -> None:
    pid = folder / "pid"
    config.agent(node={"name": "sp1"}, stop_timeout=1)
    config.shell(
        "task",
        f"echo out; sleep 1000 & echo $! > {pid}; wait",
        max_running=1,
    )
    daemon = start()
    running = client.send("task")
    waiting = client.send("task")
    wait_for(lambda: pid.exists() and pid.read_text())
    daemon.process.send_signal(signal.SIGTERM)
    endings: Dict[str, Any] = {}
    while len(endings) < 2:
        ending = client.ending()
        endings[ending["ref"]] = ending
    assert daemon.stop() == 0
    assert {ending["status"] for ending in endings.values()} == {"error"}
    assert "nothing was run" in endings[waiting["uuid"]]["reason"]
    assert "has ended the command" in endings[running["uuid"]]["reason"]
    assert endings[running["uuid"]]["data"] == "out\n"
    wait_for(lambda: not is_running(int(pid.read_text())))
    assert client.silent()


def test_second_signal_does_not_wait(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.agent(node={"name": "sp1"}, stop_timeout=3600)
    config.shell("task", "exec sleep 1000")
    daemon = start()
    client.send("task")
    assert client.next()["status"] == "accepted"
    daemon.process.send_signal(signal.SIGINT)
    daemon.wait_for_log("stopping")
    daemon.process.send_signal(signal.SIGINT)
    assert client.next()["status"] == "error"
    assert daemon.stop() == 0


def test_request_after_the_signal_is_not_taken(
    config: ConfigFolder, start: Start, client: Client, server: RedisServer
) -> None:
    config.shell("task", "sleep 1")
    daemon = start()
    client.send("task")
    assert client.next()["status"] == "accepted"
    daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not server.subscribers("ngcp-task-agent-redis"))
    client.send("task")
    assert client.next()["status"] == "done"
    assert client.silent()
