"""The recipes of SECURITY in ngcp-task-agent(8), as they are printed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, List

import pytest
import yaml
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.integration.cluster import command
from tests.integration.conftest import ConfigFolder
from tests.invoking import command as invoking
from tests.invoking import environment, invoke
from tests.parts import CHANNEL, WITHIN, Client, Daemon, RedisServer
from tests.unit.test_man import DAEMON, literals, part

Start = Callable[..., Daemon]

TASK = "clear_call_counters"
ONE = ("--dst", "sp1", "--expect", "1", "--answer-timeout", str(WITHIN))
NOBODY, GROUP = 65534, 1


def recipe(name: str) -> List[str]:
    return literals(part(DAEMON, "SECURITY", name))


def test_users_of_redis(
    config: ConfigFolder, start: Start, folder: Path, server: RedisServer
) -> None:
    """They are enough for the agent, for clients and for the administrator."""
    users, login, script = recipe("Users of Redis")
    *lines, last = users.splitlines()
    secrets = {}
    for line in lines:
        kind, name, *rules = line.split()
        assert kind == "user"
        command(server, "ACL", "SETUSER", name, *rules)
        (secrets[name],) = (rule[1:] for rule in rules if rule[0] == ">")
    assert last == "user default off"
    admin = {"username": "admin", "password": secrets["admin"]}
    command(server, "ACL", "SETUSER", "default", "off", **admin)

    secret = folder / "secret"
    secret.write_text(secrets["agent"])
    keys = yaml.safe_load(login)
    config.backend(**{**keys, "password_file": str(secret)})
    config.task(TASK, "echo", broker_args="hello")
    daemon = start()
    # Whoever may read the agent's configuration,
    done = invoke(config.path, TASK, *ONE)
    assert (done.status, done.out, done.err) == (0, "hello\n", "")
    # another account,
    (folder / "redis.password").write_text(f"{secrets['web']}\n")
    script = script.replace("127.0.0.1", f"127.0.0.1:{server.port}")
    script = script.replace("ngcp-invoke-task", shlex.join(invoking()), 1)
    run = subprocess.run(
        ["bash", "-c", script],
        env=environment(HOME=str(folder)),
        capture_output=True,
        timeout=2 * WITHIN,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "hello\n", "")
    # a client with other feedback channels,
    web = {"username": "web", "password": secrets["web"]}
    connection = server.connect(**web)
    pubsub = connection.pubsub()
    pubsub.subscribe("fb_ctrl_1")
    assert pubsub.get_message(timeout=WITHIN)["type"] == "subscribe"
    pubsub.close()
    connection.connection_pool.disconnect()
    # but nobody else.
    url = ("--url", f"redis://127.0.0.1:{server.port}", "--channel", CHANNEL)
    done = invoke(None, TASK, *url, *ONE)
    assert done.status == 69
    assert "Authentication required" in done.err
    log = daemon.text().lower()
    assert "permission" not in log
    assert "at most once" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_a_unix_socket_for_a_group(start: Start, folder: Path) -> None:
    place = folder / "place"
    settings, backend = (
        block.replace("/run/redis/redis-server.sock", f"{place}/redis.sock")
        for block in recipe("A Unix socket for a group")
    )
    words = (line.split() for line in settings.splitlines())
    options = [[f"--{name}", value] for name, value in words]
    folder.chmod(0o755)
    place.mkdir()
    server = RedisServer(place, *sum(options, []))
    server.start()
    try:
        os.chown(server.socket, NOBODY, GROUP)
        config = ConfigFolder(place / "config", 0)
        config.write("backends/redis.yml", backend)
        config.task(TASK, "echo", broker_args="hello")
        daemon = start(config=config)

        def ask(*identity: str) -> subprocess.CompletedProcess[str]:
            arguments = ("--config-dir", str(config.path), "--task", TASK)
            return subprocess.run(
                ["setpriv", *identity, *invoking(*arguments, *ONE)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(PYTHONDONTWRITEBYTECODE="1"),
                timeout=2 * WITHIN,
                text=True,
            )

        other = ("--reuid=1", "--regid=2")
        python = ("setpriv", *other, "--clear-groups", sys.executable, "-V")
        if subprocess.run(python, check=False).returncode != 0:
            pytest.skip("other users may not run this Python")
        member = ask(*other, f"--groups={GROUP}")
        if "Permission denied" in member.stderr:
            pytest.skip("other users may not read these files")
        assert (member.returncode, member.stdout) == (0, "hello\n"), member
        with pytest.raises(RedisConnectionError):
            command(server, "PING")
        stranger = ask(*other, "--clear-groups")
        assert stranger.returncode == 69
        assert f"{server.socket} cannot be reached: Perm" in stranger.stderr
        daemon.stop()
    finally:
        server.stop()


def test_settings_against_a_flood(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """The agent receives a request behind far more than Redis' usual limit."""
    (settings,) = recipe("Load")
    for line in settings.splitlines():
        name, value = line.split(maxsplit=1)
        command(server, "CONFIG", "SET", name, value)
    config.task("true", "true")
    daemon = start()
    other = json.dumps(client.request("true", dst="sp2", data="x" * 200_000))
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        with server.connect() as connection:
            for _ in range(250):
                connection.publish(CHANNEL, other)
        request = client.send("true")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert client.ending()["ref"] == request["uuid"]
    assert " is away: " not in daemon.text()
