"""Attacks by whatever has taken the place of Redis."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import pytest

from ngcp_task_agent.client import (
    Address,
    ConnectionLost,
    Patience,
    RedisUnavailable,
    Verdict,
)
from ngcp_task_agent.client import Client as Invoker
from tests.attacks.hostile import (
    Act,
    Hostile,
    array,
    bulk,
    close,
    drip,
    endless,
    say,
    silent,
)
from tests.attacks.invoking import Measured, measured
from tests.attacks.load import PATIENCE, Pings, memory
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

Attacked = Callable[..., Daemon]
Pretend = Callable[..., Hostile]


@pytest.fixture
def pretend() -> Iterator[Pretend]:
    """Start hostile servers, and stop them at the end."""
    servers: List[Hostile] = []

    def pretend(
        script: Mapping[str, Act], path: Optional[Path] = None
    ) -> Hostile:
        servers.append(Hostile(script, path))
        return servers[-1]

    yield pretend
    for server in servers:
        server.stop()


# All commands of the agent, and the step that each belongs to.
STEPS = ("", "CLIENT", "HELLO", "SUBSCRIBE", "EVALSHA", "PING")

# An answer that is none.
NONSENSE = {
    "integer": b":1\r\n",
    "huge-integer": b":" + b"9" * 5000 + b"\r\n",
    "no-integer": b":x\r\n",
    "null": b"$-1\r\n",
    "null-array": b"*-1\r\n",
    "empty-array": b"*0\r\n",
    "negative-bulk": b"$-9\r\n",
    "negative-array": b"*-9\r\n",
    "wrong-bulk": b"$2\r\nabcdef\r\n",
    "nested": b"*1\r\n" * 5000 + b":1\r\n",
    "many": b"*3000\r\n" + b":1\r\n" * 3000,
    "message-of-numbers": b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    "message-of-nulls": b"*3\r\n$7\r\nmessage\r\n$-1\r\n$-1\r\n",
    "short-message": b"*1\r\n$7\r\nmessage\r\n",
    "map": b"%1\r\n+a\r\n+b\r\n",
    "push": b">3\r\n+message\r\n+a\r\n+b\r\n",
    "double": b",nan\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "bytes": bytes(range(256)) * 100,
    "port": bulk(b"tcp_port:" + b"9" * 5000),
    "position": bulk(b" 0 9 -9|x"),
    "long-position": bulk(b" " + b"9" * 5000),
    "nothing": b"\r\n" * 1000,
    "empty-error": b"-\r\n",
    "error-of-one-word": b"-ERR\r\n",
    "long-error": b"-ERR " + b"\x1b[2J" * 10_000 + b"\r\n",
    "broken-error": b"-\xff\xfe \xff\r\n",
}

# More than the agent may keep of it: half as much again and it would show.
HUGE = {
    "huge-bulk": endless(b"$600000000\r\n", 200),
    "huge-message": endless(
        array(b"message", CHANNEL.encode(), b"")[:-6] + b"$600000000\r\n", 200
    ),
    "impossible-bulk": endless(b"$" + b"9" * 30 + b"\r\n", 200),
    "huge-array": endless(b"*1000000000\r\n:1\r\n", 0),
    "array-of-bulks": endless(b"*1000\r\n" + b"$1048576\r\n", 200),
    "endless-status": endless(b"+", 200),
    "endless-error": endless(b"-", 200),
    "endless-number": endless(b":", 200),
    "endless-size": endless(b"$", 200),
}

SLOW = {
    "silent": silent,
    "close": close,
    "drip-status": drip(b"+O"),
    "drip-bulk": drip(b"$9999\r\n"),
    "drip-array": drip(b"*1000000\r\n:1\r\n"),
}

ERRORS = (
    b"-NOPERM this user has no permissions\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-WRONGPASS invalid username-password pair\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    b"-MISCONF Redis is configured to save RDB snapshots\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-BUSY Redis is busy running a script.\r\n",
    b"-MOVED 1 10.0.0.1:6379\r\n",
    b"-ASK 1 10.0.0.1:6379\r\n",
    b"-NOSCRIPT No matching script.\r\n",
    b"-MASTERDOWN Link with MASTER is down\r\n",
    b"-EXECABORT Transaction discarded\r\n",
    b"-ERR max number of clients reached\r\n",
)


@pytest.fixture
def beside(
    config: ConfigFolder,
    attacked: Attacked,
    pretend: Pretend,
    server: RedisServer,
) -> Callable[..., Daemon]:
    """Start the daemon with hostile servers beside an honest one.

    While they play, the honest one's clients must be answered at once.

    :param scripts: one for each server
    """

    def beside(*scripts: Mapping[str, Act], times: int = 1) -> Daemon:
        hostile = [pretend(script) for script in scripts]
        for number, one in enumerate(hostile):
            config.backend(f"evil{number}", port=one.port, ping_interval=0.2)
            config.task(f"evil{number}", "true", backend=f"evil{number}")
        daemon = attacked()
        with Pings(server) as pings:
            wait_for(lambda: all(one.played >= times for one in hostile))
        assert max(pings.seconds) < PATIENCE
        return daemon

    return beside


@pytest.mark.parametrize("step", STEPS)
def test_no_nonsense_from_a_server_harms_the_agent(
    step: str, beside: Callable[..., Daemon]
) -> None:
    daemon = beside(*(after_a_request(step, r) for r in NONSENSE.values()))
    assert memory(daemon) < 200


@pytest.mark.parametrize("step", ["", "HELLO", "SUBSCRIBE"])
def test_no_server_fills_the_memory_of_the_agent(
    step: str, beside: Callable[..., Daemon]
) -> None:
    daemon = beside(*({step: act} for act in HUGE.values()))
    assert memory(daemon) < 400


@pytest.mark.parametrize("step", STEPS)
def test_no_server_keeps_the_agent_waiting(
    step: str, beside: Callable[..., Daemon]
) -> None:
    daemon = beside(*({step: act} for act in SLOW.values()), times=2)
    if step != "EVALSHA":
        place = re.compile(r"backend evil0: \S+ is away: no answer within ")
        wait_for(lambda: place.search(daemon.text()))


@pytest.mark.parametrize("step", [*STEPS[1:], "EVAL", "PUBLISH", "*"])
def test_no_error_of_a_server_harms_the_agent(
    step: str, beside: Callable[..., Daemon]
) -> None:
    daemon = beside(*(after_a_request(step, error) for error in ERRORS))
    assert memory(daemon) < 200


def test_no_nonsense_over_a_unix_socket_harms_the_agent(
    config: ConfigFolder, attacked: Attacked, pretend: Pretend, folder: Path
) -> None:
    """There the agent asks for INFO."""
    hostile = []
    for number, reply in enumerate(NONSENSE.values()):
        path = folder / str(number)
        hostile.append(pretend({"INFO": say(reply)}, path))
        config.backend(f"evil{number}", unix_socket=str(path))
        config.task(f"evil{number}", "true", backend=f"evil{number}")
    attacked()
    wait_for(lambda: all(one.played for one in hostile))


def after_a_request(step: str, reply: bytes) -> Dict[str, Act]:
    """Reply so at a step; there is a request to answer."""
    script = {
        "SUBSCRIBE": say(
            array(b"subscribe", CHANNEL.encode(), b"1") + message("evil0")
        )
    }
    if step == "EVAL":
        script["EVALSHA"] = say(b"-NOSCRIPT No matching script.\r\n")
    elif step == "PUBLISH":
        script["EVALSHA"] = say(b"-NOPERM no\r\n")
    return {**script, step: say(reply)}


def message(task: str, channel: str = CHANNEL, **fields: Any) -> bytes:
    """Make what Redis sends to a subscriber."""
    request = {
        "uuid": str(uuid.uuid4()),
        "task": task,
        "src": "tests",
        "dst": "*",
        "options": {"feedback_channel": "f"},
        **fields,
    }
    body = json.dumps(request).encode()
    return array(b"message", channel.encode(), body)


def test_only_messages_of_subscribed_channels_are_requests(
    config: ConfigFolder,
    attacked: Attacked,
    pretend: Pretend,
    folder: Path,
) -> None:
    trap = folder / "trap"
    good = message("count")
    body = good.partition(CHANNEL.encode() + b"\r\n")[2].partition(b"\r\n")[2]
    pushed = [
        message("trap", "another"),
        message("trap", ""),
        message("trap", CHANNEL.upper()),
        message("trap", f"{CHANNEL} "),
        array(b"pmessage", b"*", CHANNEL.encode(), b"{}"),
        array(b"smessage", CHANNEL.encode(), body),
        array(b"MESSAGE", CHANNEL.encode(), body),
        array(b"message", CHANNEL.encode()),
        b"*3\r\n+message\r\n*1\r\n+x\r\n+y\r\n",
    ]
    config.shell("trap", f"touch {trap}", backend="evil")
    config.shell("count", f"echo >> {folder}/count", backend="evil")
    hostile = pretend({})
    config.backend("evil", port=hostile.port)
    daemon = attacked()
    hostile.push(b"".join(pushed))
    # To the subscription, and to the connection that only publishes; twice.
    hostile.push(good + good)
    daemon.wait_for_log("done count")
    wait_for(lambda: "duplicate request" in daemon.text())
    assert daemon.text().count("accepted count") == 1
    assert (folder / "count").read_text() == "\n"
    assert not trap.exists()
    assert "accepted trap" not in daemon.text()


@pytest.mark.parametrize(
    "tamper",
    [
        ("SET", "x"),
        ("SET", "99999999"),
        ("SET", "1 0 1 2|x"),
        ("DEL",),
        ("LPUSH", "x"),
        ("EXPIRE", "1"),
    ],
    ids=" ".join,
)
def test_whoever_writes_its_keys_cannot_stop_the_answers(
    tamper: Any,
    config: ConfigFolder,
    attacked: Attacked,
    server: RedisServer,
    client: Client,
) -> None:
    """At most those on their way are lost, and the journal says so."""
    daemon = attacked()
    assert statuses(client.ask("ping")) == ["accepted", "done"]
    redis = server.connect()
    for key in redis.keys("ngcp-task-agent:*"):
        if tamper[0] == "LPUSH":
            redis.delete(key)
        redis.execute_command(tamper[0], key, *tamper[1:])
    redis.connection_pool.disconnect()
    lost = 0
    for _ in range(5):
        request = client.send("ping")
        found: List[str] = []
        while not client.silent(1.5 if not found else 0.5):
            found.append(client.responses[-1]["status"])
        if found != ["accepted", "done"]:
            lost += 1
            assert f"request {request['uuid']}" in daemon.text()
            assert "lost" in daemon.text()
    assert lost <= 1


# The real client


CLIENT_STEPS = ("", "CLIENT", "SUBSCRIBE", "PUBLISH", "PING")
QUICK = Patience(timeout=3, answer_timeout=1)


@pytest.mark.parametrize("step", CLIENT_STEPS)
async def test_a_client_says_that_a_hostile_server_has_run_nothing(
    step: str, pretend: Pretend
) -> None:
    async def outcome(act: Act) -> str:
        hostile = pretend({step: act})
        address = Address({"port": hostile.port}, CHANNEL, "tests")
        try:
            async with Invoker(
                address, connect_timeout=1, ping_interval=0.5
            ) as invoker:
                done = await invoker.run("t", patience=QUICK)
        except (RedisUnavailable, ConnectionLost) as error:
            return str(error)
        assert done.verdict is Verdict.UNANSWERED
        return "no answer"

    acts = [say(reply) for reply in (*NONSENSE.values(), *ERRORS)]
    acts += SLOW.values()
    begin = time.monotonic()
    found = await asyncio.gather(*map(outcome, acts))
    assert time.monotonic() - begin < WITHIN
    assert all(found)


@pytest.mark.parametrize("kind", HUGE)
def test_no_server_fills_the_memory_of_a_client(
    kind: str, pretend: Pretend, folder: Path
) -> None:
    hostile = pretend({"SUBSCRIBE": HUGE[kind]})
    done = ask(folder, hostile)
    assert done.megabytes < 200, done


@pytest.mark.parametrize("reply", ["long-error", "broken-error", "http"])
def test_no_server_writes_on_the_terminal_of_a_client(
    reply: str, pretend: Pretend, folder: Path
) -> None:
    ask(folder, pretend({"SUBSCRIBE": say(NONSENSE[reply])}))
    ask(folder, pretend({"PUBLISH": say(NONSENSE[reply])}))


def ask(folder: Path, hostile: Hostile) -> Measured:
    url = f"redis://127.0.0.1:{hostile.port}"
    words = ("--url", url, "--channel", CHANNEL, "--answer-timeout", "1")
    done = measured(folder, None, "t", *words)
    # Nothing has run, and the status says so.
    assert done.status in (4, 69), done
    assert done.err.count("\n") <= 2
    assert done.err.replace("\n", "").isprintable(), ascii(done.err)
    return done
