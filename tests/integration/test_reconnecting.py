"""How the agent connects, and reconnects, to its server."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set

import pytest

from tests.integration.cluster import command
from tests.integration.conftest import ConfigFolder
from tests.parts import Client, Daemon, RedisServer, statuses, wait_for

Start = Callable[..., Daemon]
Connect = Callable[..., Client]

AWAY = " is away: "
BACK = "subscribed at"
NAME = "redis.test"
# From <sched.h> and <sys/mount.h>.
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18

needs_root = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="only root can give the agent an /etc/hosts of its own",
)


@pytest.fixture
def server(
    request: pytest.FixtureRequest, folder: Path
) -> Iterator[RedisServer]:
    """A server, with the options that the test sets."""
    server = RedisServer(folder, *getattr(request, "param", ()))
    server.start()
    yield server
    server.stop()


def with_options(*options: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [options], indirect=True)


def agents_connections(
    server: RedisServer, **login: str
) -> List[Dict[str, Any]]:
    with contextlib.closing(server.connect(**login)) as redis:
        found = redis.client_list()
        redis.connection_pool.disconnect()
    return [c for c in found if c["name"] == "ngcp-task-agent"]


def kill(server: RedisServer, number: str, **login: str) -> None:
    command(server, "CLIENT", "KILL", "ID", number, **login)


def in_hosts(file: Path, *addresses: str) -> None:
    """Make the server's name resolve to these addresses."""
    file.write_text("".join(f"{address} {NAME}\n" for address in addresses))


def with_hosts(file: Path) -> Callable[[], None]:
    """Make a new process see that file as ``/etc/hosts``; for its start."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes, target: bytes, flags: int) -> None:
        flag_word = ctypes.c_ulong(flags)
        if libc.mount(source, target, None, flag_word, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def enter() -> None:
        if libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        mount(b"none", b"/", MS_REC | MS_PRIVATE)
        mount(os.fsencode(file), b"/etc/hosts", MS_BIND)

    return enter


@contextlib.contextmanager
def dropping(address: str, port: int) -> Iterator[None]:
    """Drop connection requests to an address.

    Linux drops them while a listener's queue is full.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(100):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.5)
            try:
                filler.connect((address, port))
            except socket.timeout:
                break
        else:
            raise AssertionError("it does not fill up")
        yield


@needs_root
@with_options("--bind", "127.0.0.2")
def test_an_address_that_does_not_answer_delays_no_other(
    config: ConfigFolder, start: Start, folder: Path, server: RedisServer
) -> None:
    hosts = folder / "hosts"
    in_hosts(hosts, "127.0.0.1", "127.0.0.2")
    enter = with_hosts(hosts)
    found = subprocess.run(
        ["getent", "ahostsv4", NAME],
        capture_output=True,
        check=True,
        preexec_fn=enter,
        text=True,
    ).stdout.split()
    assert found[0] == "127.0.0.1", found
    assert "127.0.0.2" in found
    config.backend(host=NAME)
    config.task("true", "true")
    with dropping("127.0.0.1", server.port):
        daemon = start(preexec_fn=enter)
        with contextlib.closing(Client(server, host="127.0.0.2")) as client:
            assert statuses(client.ask("true")) == ["accepted", "done"]
    assert AWAY not in daemon.text()


@needs_root
@with_options("--bind", "127.0.0.1", "127.0.0.2")
def test_a_name_is_looked_up_for_each_connection(
    config: ConfigFolder,
    start: Start,
    folder: Path,
    server: RedisServer,
    client: Client,
) -> None:
    def addresses() -> Set[str]:
        """Return the addresses of the agent's connections at the server."""
        connections = agents_connections(server)
        return {c["laddr"].rpartition(":")[0] for c in connections}

    hosts = folder / "hosts"
    in_hosts(hosts, "127.0.0.1")
    config.backend(host=NAME)
    config.task("true", "true")
    start(preexec_fn=with_hosts(hosts))
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert addresses() == {"127.0.0.1"}
    in_hosts(hosts, "127.0.0.2")
    for connection in agents_connections(server):
        kill(server, connection["id"])
    wait_for(lambda: addresses() == {"127.0.0.2"})
    wait_for(lambda: server.subscribers("ngcp-task-agent-redis"))
    assert statuses(client.ask("true")) == ["accepted", "done"]


@with_options("--requirepass", "old")
def test_the_password_file_is_read_for_each_connection(
    config: ConfigFolder,
    start: Start,
    folder: Path,
    server: RedisServer,
    connect: Connect,
) -> None:
    secret = folder / "secret"
    secret.write_text("old\n")
    config.backend(password_file=str(secret))
    config.task("true", "true")
    daemon = start()
    client = connect(password="old")
    assert statuses(client.ask("true")) == ["accepted", "done"]
    secret.write_text("new\n")
    command(server, "CONFIG", "SET", "requirepass", "new", password="old")
    for connection in agents_connections(server, password="new"):
        kill(server, connection["id"], password="new")
    daemon.wait_for_log(BACK, 2)
    assert statuses(client.ask("true")) == ["accepted", "done"]


def test_a_killed_subscription_is_restored_at_once(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    """It does not back off, as it would after a failed attempt."""
    names = [f"redis{number}" for number in range(12)]
    (config.path / "backends" / "redis.yml").unlink()
    for name in names:
        config.backend(name)
        config.task(name, "true", backend=name, channel=name)
    start()

    def all_have_held() -> List[Dict[str, Any]]:
        """Return the subscriptions; early breaks would count as failures."""
        found = [c for c in agents_connections(server) if c["sub"] != "0"]
        have_held = [c for c in found if int(c["age"]) >= 2]
        return have_held if len(have_held) == len(names) else []

    def lost(redis: Any) -> int:
        """Kill each once; return how many requests found no agent."""
        lost = 0
        for number, connection in enumerate(wait_for(all_have_held)):
            redis.client_kill_filter(_id=connection["id"])
            time.sleep(0.05 + 0.1 * number / len(names))
            # It is not known which backend it was.  Rejecting is the least
            # work.
            request = client.request("unknown")
            message = json.dumps(request)
            heard = sum(redis.publish(name, message) for name in names)
            for _ in range(heard):
                assert client.next()["ref"] == request["uuid"]
            lost += len(names) - heard
        return lost

    with contextlib.closing(server.connect()) as redis:
        # A busy machine may be late, but not each time; with random backoff,
        # some always are.
        is_in_time = any(lost(redis) == 0 for _ in range(5))
        redis.connection_pool.disconnect()
    assert is_in_time
