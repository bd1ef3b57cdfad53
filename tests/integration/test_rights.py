"""Redis refuses some of the agent's commands."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
from redis.exceptions import ResponseError

from tests.integration.cluster import AT_ONCE, command
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

LOGIN = {"username": "agent", "password": "s3cret"}
AWAY = " is away: "
PLAIN = "at most once"
PREFIX = "ngcp-task-agent:*"


def user(*rights: str) -> Tuple[str, ...]:
    """Return the command that changes the agent's user."""
    return ("ACL", "SETUSER", "agent", *rights)


ALL_RIGHTS = user("on", ">s3cret", f"~{PREFIX}", "&*", "+@all")


def setting(name: str, value: str) -> Tuple[str, ...]:
    return ("CONFIG", "SET", name, value)


def cannot_save(server: RedisServer, folder: Path) -> None:
    """Make Redis refuse all writes: MISCONF."""
    # Even root, as which the tests may run, cannot write to it.
    (folder / "dump.rdb").mkdir()
    command(server, *setting("save", "3600 1"))
    command(server, "BGSAVE")

    def has_failed() -> bool:
        info = command(server, "INFO", "persistence")
        return bool(info["rdb_last_bgsave_status"] == "err")

    wait_for(has_failed)


CAN_SAVE = setting("save", "")

# A refusal: the commands that cause and end it, and a word from the record of
# its reason.
CAUSES = {
    "script": (user("-eval", "-evalsha"), user("+eval", "+evalsha"), "eval"),
    "SET": (user("-set"), user("+set"), "set"),
    "GET": (user("-get"), user("+get"), "get"),
    "key": (user("resetkeys"), user(f"~{PREFIX}"), "key"),
    "memory": (setting("maxmemory", "1"), setting("maxmemory", "0"), "memory"),
    "replicas": (
        setting("min-replicas-to-write", "1"),
        setting("min-replicas-to-write", "0"),
        "replicas",
    ),
    "MISCONF": ((), CAN_SAVE, "rdb"),
}


def cause(what: str, server: RedisServer, folder: Path) -> None:
    if what == "MISCONF":
        cannot_save(server, folder)
    else:
        command(server, *CAUSES[what][0])


def producers(server: RedisServer) -> Dict[bytes, bytes]:
    """Return the agents' keys in Redis, which all expire."""
    with closing(server.connect()) as redis:
        found = {key: redis.get(key) for key in redis.scan_iter(PREFIX)}
        assert all(redis.ttl(key) > 0 for key in found)
        redis.connection_pool.disconnect()
    return found


def notes(daemon: Daemon, text: str) -> List[str]:
    return [line for line in daemon.text().splitlines() if text in line]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("what", CAUSES)
def test_refused_scripts(
    what: str,
    is_late: bool,
    config: ConfigFolder,
    start: Start,
    folder: Path,
    server: RedisServer,
    client: Client,
) -> None:
    """Answers are still sent, and the journal says what is missing."""
    command(server, *ALL_RIGHTS)
    config.backend(**LOGIN, ping_interval=0.2)
    config.task("true", "true")
    _, end, word = CAUSES[what]

    def is_answered() -> bool:
        return statuses(client.ask("true")) == ["accepted", "done"]

    try:
        if not is_late:
            cause(what, server, folder)
        daemon = start()
        if is_late:
            assert is_answered()
            assert producers(server)
            assert not notes(daemon, PLAIN)
            cause(what, server, folder)
        assert is_answered()
        daemon.wait_for_log(PLAIN)
        assert is_answered()
        before = producers(server)
        assert bool(before) == is_late
        assert client.silent()
        assert is_answered()
    finally:
        # Redis does not even stop while it cannot save.
        command(server, *end)
    wait_for(lambda: is_answered() and producers(server) != before)
    assert is_answered()
    assert client.silent()
    (note,) = notes(daemon, PLAIN)
    assert word in note.lower()
    assert AWAY not in daemon.text()
    assert "an answer to" not in daemon.text()


def test_renamed_scripts(
    config: ConfigFolder, start: Start, folder: Path
) -> None:
    place = folder / "renamed"
    place.mkdir()
    server = RedisServer(
        place,
        *("--rename-command", "EVAL", ""),
        *("--rename-command", "EVALSHA", ""),
    )
    server.start()
    try:
        config.backend(port=server.port, ping_interval=0.2)
        config.task("true", "true")
        daemon = start()
        with closing(Client(server)) as client:
            for _ in range(3):
                assert statuses(client.ask("true")) == ["accepted", "done"]
                assert client.silent()
        (note,) = notes(daemon, PLAIN)
        assert "eval" in note.lower()
    finally:
        server.stop()


def test_a_denied_channel_loses_only_its_own_answers(
    config: ConfigFolder, start: Start, server: RedisServer, client: Client
) -> None:
    channels = ("resetchannels", "&feedback_*", f"&{CHANNEL}")
    command(server, *ALL_RIGHTS)
    command(server, *user(*channels))
    config.backend(**LOGIN, ping_interval=0.2)
    config.task("true", "true")
    daemon = start()
    elsewhere: Dict[str, Any] = {"feedback_channel": "elsewhere"}
    for _ in range(3):
        denied = client.request("true", options=elsewhere)
        others = [client.request("true") for _ in range(2)]
        with closing(server.connect()) as redis:
            pipeline = redis.pipeline(transaction=True)
            for request in (others[0], denied, others[1]):
                pipeline.publish(CHANNEL, json.dumps(request))
            pipeline.execute()
            redis.connection_pool.disconnect()
        lost = f"an answer to request {denied['uuid']} is lost"
        daemon.wait_for_log(lost, 2)
        refs = [client.ending()["ref"] for _ in others]
        assert sorted(refs) == sorted(r["uuid"] for r in others)
    assert client.silent()
    assert statuses(client.responses).count("accepted") == 6
    log = daemon.text()
    assert log.count("an answer to") == 6
    assert PLAIN not in log
    assert producers(server)


@pytest.mark.parametrize("error", ["NOPERM", "MISCONF", "MASTERDOWN"])
def test_an_error_is_an_answer_to_a_ping(
    error: str,
    config: ConfigFolder,
    start: Start,
    folder: Path,
    server: RedisServer,
) -> None:
    """The connection stays open, and carries requests."""
    login: Dict[str, Any] = {}
    place = folder / "asked"
    place.mkdir()
    more: Tuple[str, ...] = ()
    if error == "MASTERDOWN":
        command(server, "CONFIG", "SET", *AT_ONCE)
        more = (
            *("--replicaof", "127.0.0.1", str(server.port)),
            *("--replica-serve-stale-data", "no"),
        )
    asked = RedisServer(place, *more)
    asked.start()
    try:
        if error == "NOPERM":
            command(asked, *ALL_RIGHTS)
            command(asked, *user("-ping"))
            login = LOGIN
        elif error == "MISCONF":
            cannot_save(asked, place)
        else:
            wait_for(asked.is_linked)
            server.kill()
            wait_for(lambda: not asked.is_linked())
        with pytest.raises(ResponseError):
            command(asked, "PING", **login)
        config.backend(port=asked.port, ping_interval=0.2, **login)
        config.task("true", "true")
        daemon = start()
        with closing(Client(asked)) as client:
            for _ in range(4):
                # Pings are sent only while idle.
                time.sleep(0.7)
                answers = client.ask("true", src="sp1")
                assert statuses(answers) == ["accepted", "done"]
        log = daemon.text()
        assert (log.count("subscribed at"), log.count(AWAY)) == (1, 0)
    finally:
        command(asked, *CAN_SAVE)
        asked.stop()
