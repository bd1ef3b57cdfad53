"""The redis backend: which channels it listens on, and on which server."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.backends.redis.dial import dial_server
from ngcp_task_agent.errors import NoReplyAddress, Rejected
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import Bench, started
from tests.unit.fakes import Records, until
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")

REFUSED = b"-NOPERM no permission\r\n"


async def test_receives_and_answers(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        assert bench.backend.status == "subscribed"
        assert server.subscribed == {"a", "b"}
        server.push("a", b"one")
        server.push("b", b"two")
        await until(lambda: bench.bodies == [b"one", b"two"])
        assert [arrival.channel for arrival in bench.arrivals] == ["a", "b"]
        bench.backend.send("fb", [b"answer"], "ref")
        await until(lambda: server.published == [("fb", b"answer")])
        await bench.stop(5)
        assert bench.backend.status == "stopped"
        await until(lambda: server.clients == 0)
    (text,) = journal_records.texts(journal.BACKEND_UP)
    assert "a, b" in text


async def test_all_messages_in_their_order(server: Server) -> None:
    async with started(server) as bench:
        sent = [b"%d" % number for number in range(500)]
        for body in sent:
            server.push("a", body)
        await until(lambda: len(bench.bodies) == len(sent))
        assert bench.bodies == sent


async def test_a_channel_that_stays_is_never_left(server: Server) -> None:
    async with started(server) as bench:
        await bench.backend.listen(frozenset({"b", "c"}))
        await until(lambda: server.subscribed == {"b", "c"})
        about_b = [words[0] for words in server.commands if b"b" in words]
        assert about_b == [b"SUBSCRIBE"]
        server.push("b", b"x")
        await until(lambda: bench.bodies == [b"x"])


async def test_reconnects(server: Server, journal_records: Records) -> None:
    async with started(server) as bench:
        await server.stop()
        await until(lambda: bench.backend.status == "away")
        bench.send("kept")
        await bench.backend.listen(frozenset({"c"}))
        await server.start()
        await until(lambda: bench.backend.status == "subscribed")
        assert server.subscribed == {"c"}
        await until(lambda: server.messages == [b"kept"])
        server.push("c", b"x")
        await until(lambda: bench.bodies == [b"x"])
    # One record for each change, not for each attempt.
    assert len(journal_records.of(journal.BACKEND_UP)) <= 3
    assert len(journal_records.of(journal.BACKEND_DOWN)) <= 2
    assert not journal_records.of(journal.ANSWER_LOST)


async def test_starts_while_redis_is_away(
    server: Server, journal_records: Records
) -> None:
    async with started(server, is_there=False) as bench:
        assert bench.backend.status == "away"
        (text,) = journal_records.texts(journal.BACKEND_DOWN)
        assert text.startswith(f"backend redis: {server.path} is away: ")
        assert "No such file" in text
        await server.start()
        await until(lambda: bench.backend.status == "subscribed")


async def test_a_stalled_server_is_noticed(server: Server) -> None:
    async with started(server, ping_interval=0.2) as bench:
        await until(lambda: server.count("PING"))
        server.stalled = True
        await until(lambda: bench.backend.status == "away")
        server.stalled = False
        await until(lambda: bench.backend.status == "subscribed")


async def test_permission_to_subscribe_is_missing(
    server: Server, journal_records: Records
) -> None:
    server.replies["SUBSCRIBE"] = REFUSED
    async with started(server) as bench:
        assert bench.backend.status == "away"
        (text,) = journal_records.texts(journal.BACKEND_DOWN)
        assert "no permission" in text


async def test_a_lasting_reason_is_logged_once(
    server: Server, journal_records: Records
) -> None:
    async with started(server, is_there=False, password="wrong") as bench:
        assert bench.backend.status == "away"
        server.replies["AUTH"] = b"-WRONGPASS invalid password\r\n"
        await server.start()

        def down() -> List[str]:
            return journal_records.texts(journal.BACKEND_DOWN)

        await until(lambda: len(down()) == 2)
        assert "invalid password" in down()[1]
        # Once, however often it is tried.
        tries = server.count("AUTH")
        await until(lambda: server.count("AUTH") > tries + 2)
        assert len(down()) == 2


async def test_permission_to_name_itself_and_ping_is_missing(
    server: Server, journal_records: Records
) -> None:
    for command in ("CLIENT", "PING", "HELLO", "INFO"):
        server.replies[command] = REFUSED
    async with started(server, ping_interval=0.1) as bench:
        assert bench.backend.status == "subscribed"
        await until(lambda: server.count("PING") > 4)
        server.push("a", b"x")
        await until(lambda: bench.bodies == [b"x"])
        assert server.count("SUBSCRIBE", "a") == 1
    assert not journal_records.of(journal.BACKEND_DOWN)


async def test_only_the_event_loop_is_late(
    server: Server, journal_records: Records
) -> None:
    """An answer that is here counts, although its deadline is over."""
    async with started(server, ping_interval=0.1) as bench:
        for _ in range(10):
            pings = server.count("PING")
            while server.count("PING") == pings:
                await asyncio.sleep(0)
            time.sleep(0.2)  # its answer has been sent, but not read
        assert bench.backend.status == "subscribed"
    assert not journal_records.of(journal.BACKEND_DOWN)


ODD: List[Any] = [
    pytest.param(b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n", id="numbers"),
    pytest.param(b"*1\r\n$7\r\nmessage\r\n", id="short"),
    pytest.param(b"*3\r\n:1\r\n:1\r\n:1\r\n", id="no-kind"),
    pytest.param(b":1\r\n", id="number"),
    pytest.param(b"*0\r\n", id="nothing"),
    pytest.param(b"-ERR what\r\n", id="error"),
    pytest.param(
        b"*3\r\n$7\r\nmessage\r\n$1\r\nz\r\n$1\r\nx\r\n", id="other-channel"
    ),
]


@pytest.mark.parametrize("odd", ODD)
async def test_replies_that_are_not_messages_are_harmless(
    odd: bytes, server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.write_to("a", odd)
        server.push("a", b"x")
        await until(lambda: bench.bodies == [b"x"])
    assert not journal_records.of(journal.BUG)
    assert not journal_records.of(journal.BACKEND_DOWN)


async def test_late_messages_are_ignored(server: Server) -> None:
    async with started(server) as bench:
        server.stalled = True
        await bench.backend.stop_listening()
        server.push("a", b"late")
        server.resume()
        await until(lambda: not server.subscribed)
        assert not bench.arrivals


async def test_answers_are_sent_once_when_it_no_longer_listens(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        await bench.backend.stop_listening()
        assert bench.backend.status == "stopped"
        await until(lambda: not server.subscribed)
        # A pending reload cannot make it listen again.
        await bench.backend.listen(frozenset({"c"}))
        assert not server.subscribed
        for number, is_carried_out in enumerate((False, True)):
            server.hang_up_at("EVALSHA", is_carried_out)
            bench.send(f"{number}")
            await until(lambda n=number: len(server.published) == n + 1)
        await bench.stop(5)
        await until(lambda: server.clients == 0)
    assert server.messages == [b"0", b"1"]
    assert not journal_records.of(journal.ANSWER_LOST)


ADDRESSES: List[Any] = [
    pytest.param({"feedback_channel": "fb_ctrl_7056"}, True, id="as-usual"),
    pytest.param({"feedback_channel": "x" * 512}, True, id="longest"),
    pytest.param({"feedback_channel": "x" * 513}, False, id="too-long"),
    pytest.param({"feedback_channel": ""}, False, id="empty"),
    pytest.param({"feedback_channel": 7}, False, id="number"),
    pytest.param({"feedback_channel": ["x"]}, False, id="list"),
    pytest.param({"feedback_channel": None}, False, id="null"),
    pytest.param({"feedback_channel": "\ud800"}, False, id="half-a-pair"),
    pytest.param({}, False, id="missing"),
]


@pytest.mark.parametrize(("options", "is_good"), ADDRESSES)
async def test_reply_address(options: Any, is_good: bool) -> None:
    backend = Bench({}).backend
    if is_good:
        assert backend.reply_address(options) == options["feedback_channel"]
    else:
        with pytest.raises(NoReplyAddress, match="1 to 512"):
            backend.reply_address(options)


@pytest.mark.parametrize(("options", "is_good"), ADDRESSES)
async def test_live_address(options: Any, is_good: bool) -> None:
    backend = Bench({}).backend
    if not options:
        assert backend.live_address({}) is None
        return
    named = {"progress_channel": options["feedback_channel"]}
    if is_good:
        assert backend.live_address(named) == named["progress_channel"]
    else:
        with pytest.raises(Rejected, match="options.progress_channel must be"):
            backend.live_address(named)


def test_channel() -> None:
    assert RedisBackend.channel({"control_channel": "c"}) == "c"


# What kind of server it is.

SERVERS: List[Any] = [
    pytest.param(b"standalone", b"master", {}, "own", id="master"),
    pytest.param(b"standalone", b"replica", {}, "one way", id="replica"),
    pytest.param(
        b"standalone",
        b"replica",
        {"allow_replica": True},
        "",
        id="replica-allowed",
    ),
    pytest.param(b"cluster", b"master", {}, "", id="cluster"),
    pytest.param(b"cluster", b"replica", {}, "", id="cluster-replica"),
    pytest.param(b"", b"", {}, "", id="no-facts"),
]


@pytest.mark.parametrize(("mode", "role", "options", "kind"), SERVERS)
async def test_server(
    mode: bytes,
    role: bytes,
    options: Any,
    kind: str,
    server: Server,
    journal_records: Records,
) -> None:
    server.mode, server.role = mode, role
    async with started(server, **options) as bench:
        is_one_way = kind == "one way"
        assert bench.backend.status == "subscribed" + (
            " to a replica" if is_one_way else ""
        )
        server.push("a", b"x")
        (arrival,) = await until(lambda: bench.arrivals)
        assert arrival.via_own_server is (kind == "own")
        assert arrival.one_way is is_one_way
    notes = journal_records.texts(journal.BACKEND_NOTE)
    assert ["allow_replica" in note for note in notes] == [True] * is_one_way


HELLOS: List[Any] = [
    pytest.param(b"-ERR unknown command\r\n", id="unknown"),
    pytest.param(b"+OK\r\n", id="text"),
    pytest.param(b"*0\r\n", id="empty"),
    pytest.param(b"*1\r\n$4\r\nmode\r\n", id="odd-number"),
    pytest.param(b"*2\r\n$4\r\nmode\r\n:1\r\n", id="number"),
    pytest.param(b"*2\r\n*0\r\n*0\r\n", id="lists"),
    pytest.param(b"*2\r\n$4\r\nmode\r\n$1\r\n\xff\r\n", id="not-utf-8"),
]


@pytest.mark.parametrize("reply", HELLOS)
async def test_a_server_that_does_not_describe_itself(
    reply: bytes, server: Server
) -> None:
    server.replies["HELLO"] = reply
    async with started(server) as bench:
        assert bench.backend.status == "subscribed"
        server.push("a", b"x")
        (arrival,) = await until(lambda: bench.arrivals)
        assert not arrival.via_own_server
        assert not arrival.one_way


async def test_trouble_is_the_present_one(server: Server) -> None:
    """Not the one that began it, and none once it is over."""
    async with started(server) as bench:
        assert bench.backend.trouble == ""
        server.replies["SUBSCRIBE"] = b"-NOPERM no permissions\r\n"
        server.hang_up()
        why = "refuses to subscribe to [ab]: .*no permissions"
        await until(lambda: re.fullmatch(why, bench.backend.trouble))
        await server.stop()
        await until(
            lambda: bench.backend.trouble == "No such file or directory"
        )
        assert bench.backend.status == "away"
        del server.replies["SUBSCRIBE"]
        await server.start()
        await until(lambda: bench.backend.trouble == "")
        assert bench.backend.status == "subscribed"
    assert bench.backend.trouble == ""


async def test_answers_that_cannot_be_sent_are_a_trouble(
    server: Server,
) -> None:
    async with started(server) as bench:
        server.replies["EVALSHA"] = b"-LOADING Redis is loading\r\n"
        bench.send("1")
        await until(lambda: bench.backend.trouble)
        assert bench.backend.status == "subscribed"
        why = bench.backend.trouble
        assert why.startswith("answers cannot be sent: ")
        del server.replies["EVALSHA"]
        await until(lambda: not bench.backend.trouble)


async def test_a_sentinel_is_refused(
    server: Server, journal_records: Records
) -> None:
    server.mode = b"sentinel"
    async with started(server) as bench:
        assert bench.backend.status == "away"
        assert not server.subscribed
    (text,) = journal_records.texts(journal.BACKEND_DOWN)
    assert "Sentinel" in text


async def test_a_server_that_changes_its_role(
    server: Server, journal_records: Records
) -> None:
    async with started(server, ping_interval=0.1) as bench:
        for role, status in (
            (b"replica", "subscribed to a replica"),
            (b"master", "subscribed"),
        ):
            server.role = role
            await until(lambda s=status: bench.backend.status == s)
            bench.arrivals.clear()
            server.push("a", b"x")
            (arrival,) = await until(lambda: bench.arrivals)
            assert arrival.one_way is (role == b"replica")
        assert server.count("SUBSCRIBE", "a") == 1
    one, other = journal_records.texts(journal.BACKEND_NOTE)
    assert "is a replica" in one
    assert "no replica any more" in other


async def test_the_description_of_the_server_expires(
    server: Server,
) -> None:
    async with started(server, ping_interval=0.1) as bench:

        def is_own() -> bool:
            server.push("a", b"x")
            return bool(bench.arrivals) and bench.arrivals[-1].via_own_server

        await until(is_own)
        server.stalled_command = b"HELLO"
        await until(lambda: not is_own())
        server.resume()
        await until(is_own)


async def test_a_new_server_is_asked_before_anything_is_taken(
    server: Server,
) -> None:
    async with started(server) as bench:
        asked = server.count("HELLO")
        server.role = b"replica"
        server.stalled_command = b"HELLO"
        server.hang_up()
        await until(lambda: server.count("HELLO") > asked)
        server.push("a", b"x")
        assert not bench.arrivals
        server.resume()
        await until(lambda: "replica" in bench.backend.status)
        server.push("a", b"y")
        await until(lambda: bench.arrivals)
        assert bench.arrivals[0].one_way


async def test_takes_requests_while_nothing_can_be_published(
    server: Server,
) -> None:
    """As during CLIENT PAUSE WRITE."""
    server.stalled_command = b"EVALSHA"
    async with started(server, ping_interval=0.2) as bench:
        assert bench.backend.status == "subscribed"
        server.push("a", b"x")
        await until(lambda: bench.arrivals)
        bench.send("answer")
        server.resume()
        await until(lambda: server.published == [("fb", b"answer")])


# Which clients can reach it.


async def is_own(server: Server, dial: Any = None, **options: Any) -> bool:
    """Whether requests count as those of this machine's clients."""
    async with started(server, dial=dial, **options) as bench:
        server.push("a", b"x")
        await until(lambda: bench.arrivals)
        return bench.arrivals[0].via_own_server


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", True), ("0.0.0.0", False)]
)
async def test_a_unix_socket_whose_server_has_a_port(
    address: str, expected: bool, server: Server
) -> None:
    with socket.create_server((address, 0)) as listener:
        server.tcp_port = listener.getsockname()[1]
        assert await is_own(server) is expected


@pytest.mark.parametrize("reply", [REFUSED, b"+OK\r\n", b"$-1\r\n"])
async def test_a_unix_socket_whose_server_does_not_say(
    reply: bytes, server: Server
) -> None:
    server.replies["INFO"] = reply
    assert not await is_own(server)


async def test_a_port_on_a_loopback_address(tmp_path: Path) -> None:
    assert await is_own(Server(tmp_path, "127.0.0.1"))


async def test_a_port_on_all_addresses(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.0.0.0")

    async def dial(address: Any) -> Any:
        options = {**server.options, "host": "127.0.0.1"}
        return await dial_server(options)(None)

    assert not await is_own(server, dial)


SEEN: List[Any] = [
    pytest.param(b"+addr=10.0.0.1:5 laddr=10.0.0.2:6379 \r\n", id="tunnel"),
    pytest.param(b"+id=1 name=\r\n", id="old"),
    pytest.param(REFUSED, id="refused"),
]


@pytest.mark.parametrize("reply", SEEN)
async def test_a_port_whose_server_may_be_elsewhere(
    reply: bytes, tmp_path: Path
) -> None:
    server = Server(tmp_path, "127.0.0.1")
    server.replies["CLIENT"] = reply
    assert not await is_own(server)


async def test_answers_go_to_the_server_of_the_subscription(
    tmp_path: Path, journal_records: Records
) -> None:
    """Its name can have several addresses."""
    server = Server(tmp_path, "0.0.0.0")
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    wanted = []

    async def dial(address: Any) -> Any:
        wanted.append(address)
        options = {**server.options, "host": hosts[len(wanted) - 1]}
        return await dial_server(options)(None)

    async with started(server, dial=dial) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        assert wanted == [None, "127.0.0.1", "127.0.0.1"]
    assert not journal_records.of(journal.ANSWER_LOST)


async def test_a_missing_database_is_logged_once(
    server: Server, journal_records: Records
) -> None:
    server.replies["SELECT"] = b"-ERR DB index is out of range\r\n"
    async with started(server, db=40) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        server.hang_up()
        await until(lambda: server.count("SELECT") == 2)
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
    (note,) = journal_records.texts(journal.BACKEND_NOTE)
    assert "has no database 40" in note


async def test_a_database_is_selected(
    server: Server, journal_records: Records
) -> None:
    async with started(server, db=3):
        assert server.count("SELECT", "3") == 1
    assert not journal_records.of(journal.BACKEND_NOTE)
