"""The redis backend: what it listens to, and at what server."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.backends.redis.dial import dial_server
from ngcp_task_agent.errors import NoReplyAddress
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import Bench, started
from tests.unit.fakes import Records, until
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")

REFUSED = b"-NOPERM no permission\r\n"


async def test_receives_and_answers(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
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


async def test_all_messages_in_their_order(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with started(server) as bench:
        sent = [b"%d" % number for number in range(500)]
        for body in sent:
            server.push("a", body)
        await until(lambda: len(bench.bodies) == len(sent))
        assert bench.bodies == sent


async def test_a_channel_that_stays_is_never_left(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with started(server) as bench:
        await bench.backend.listen(frozenset({"b", "c"}))
        await until(lambda: server.subscribed == {"b", "c"})
        about_b = [words[0] for words in server.commands if b"b" in words]
        assert about_b == [b"SUBSCRIBE"]
        server.push("b", b"x")
        await until(lambda: bench.bodies == [b"x"])


async def test_comes_back(tmp_path: Path, journal_records: Records) -> None:
    server = Server(tmp_path)
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
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    async with started(server, is_there=False) as bench:
        assert bench.backend.status == "away"
        (text,) = journal_records.texts(journal.BACKEND_DOWN)
        assert text.startswith(f"backend redis: {server.path} is away: ")
        assert "No such file" in text
        await server.start()
        await until(lambda: bench.backend.status == "subscribed")


async def test_a_stalled_server_is_noticed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with started(server, ping_interval=0.2) as bench:
        await until(lambda: server.count("PING"))
        server.stalled = True
        await until(lambda: bench.backend.status == "away")
        server.stalled = False
        await until(lambda: bench.backend.status == "subscribed")


async def test_may_not_subscribe(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    server.replies["SUBSCRIBE"] = REFUSED
    async with started(server) as bench:
        assert bench.backend.status == "away"
        (text,) = journal_records.texts(journal.BACKEND_DOWN)
        assert "no permission" in text


async def test_a_reason_that_does_not_pass_is_said_when_it_comes_up(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
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


async def test_may_neither_name_itself_nor_ping(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    for command in ("CLIENT", "PING", "HELLO", "INFO"):
        server.replies[command] = REFUSED
    async with started(server, ping_interval=0.1) as bench:
        assert bench.backend.status == "subscribed"
        await until(lambda: server.count("PING") > 4)
        server.push("a", b"x")
        await until(lambda: bench.bodies == [b"x"])
        assert server.count("SUBSCRIBE", "a") == 1
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
async def test_what_is_no_message_does_no_harm(
    odd: bytes, tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    async with started(server) as bench:
        server.write_to("a", odd)
        server.push("a", b"x")
        await until(lambda: bench.bodies == [b"x"])
    assert not journal_records.of(journal.BUG)
    assert not journal_records.of(journal.BACKEND_DOWN)


async def test_what_comes_too_late_is_ignored(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with started(server) as bench:
        server.stalled = True
        await bench.backend.stop_listening()
        server.push("a", b"late")
        server.resume()
        await until(lambda: not server.subscribed)
        assert not bench.arrivals


async def test_answers_leave_once_when_it_does_not_listen_any_more(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    async with started(server) as bench:
        await bench.backend.stop_listening()
        assert bench.backend.status == "stopped"
        await until(lambda: not server.subscribed)
        # A reload that was on its way cannot make it listen again.
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


def test_channel() -> None:
    assert RedisBackend.channel({"control_channel": "c"}) == "c"


# What server it is.

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
    tmp_path: Path,
    journal_records: Records,
) -> None:
    server = Server(tmp_path)
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
async def test_a_server_that_says_nothing_of_itself_proves_nothing(
    reply: bytes, tmp_path: Path
) -> None:
    server = Server(tmp_path)
    server.replies["HELLO"] = reply
    async with started(server) as bench:
        assert bench.backend.status == "subscribed"
        server.push("a", b"x")
        (arrival,) = await until(lambda: bench.arrivals)
        assert not arrival.via_own_server
        assert not arrival.one_way


async def test_a_sentinel_is_refused(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    server.mode = b"sentinel"
    async with started(server) as bench:
        assert bench.backend.status == "away"
        assert not server.subscribed
    (text,) = journal_records.texts(journal.BACKEND_DOWN)
    assert "Sentinel" in text


async def test_a_server_that_changes_its_role(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
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


async def test_what_it_has_said_is_not_believed_for_ever(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path)
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
    tmp_path: Path,
) -> None:
    server = Server(tmp_path)
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
    tmp_path: Path,
) -> None:
    """As while CLIENT PAUSE WRITE is in force."""
    server = Server(tmp_path)
    server.stalled_command = b"EVALSHA"
    async with started(server, ping_interval=0.2) as bench:
        assert bench.backend.status == "subscribed"
        server.push("a", b"x")
        await until(lambda: bench.arrivals)
        bench.send("answer")
        server.resume()
        await until(lambda: server.published == [("fb", b"answer")])


# Who can reach it.

LISTENERS: List[Any] = [
    pytest.param(["127.0.0.1"], True, id="loopback"),
    pytest.param(["127.1.2.3"], True, id="another-loopback"),
    pytest.param(["::1"], True, id="loopback-6"),
    pytest.param(["127.0.0.1", "::1"], True, id="both"),
    pytest.param(["::ffff:127.0.0.1"], True, id="mapped"),
    pytest.param(["0.0.0.0"], False, id="any"),
    pytest.param(["::"], False, id="any-6"),
    pytest.param(["127.0.0.1", "::"], False, id="loopback-and-any"),
    pytest.param([], False, id="nothing-listens"),
]


@contextlib.contextmanager
def listeners(addresses: List[str]) -> Iterator[int]:
    """Sockets that listen on one port; the port."""
    port = 0
    with contextlib.ExitStack() as stack:
        # Without an address it is bound, and does not listen.
        for address in addresses or [""]:
            is_6 = ":" in address
            sock = stack.enter_context(
                socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET)
            )
            if is_6:
                sock.setsockopt(
                    socket.IPPROTO_IPV6,
                    socket.IPV6_V6ONLY,
                    not address.startswith("::ffff:"),
                )
            try:
                sock.bind((address, port))
            except OSError as error:
                pytest.skip(f"{address}: {error}")
            port = sock.getsockname()[1]
            if address:
                sock.listen()
        yield port


async def is_own(server: Server, dial: Any = None, **options: Any) -> bool:
    """Whether requests are taken for those of this machine's clients."""
    async with started(server, dial=dial, **options) as bench:
        server.push("a", b"x")
        await until(lambda: bench.arrivals)
        return bench.arrivals[0].via_own_server


@pytest.mark.parametrize(("addresses", "expected"), LISTENERS)
async def test_a_unix_socket_whose_server_has_a_port(
    addresses: List[str], expected: bool, tmp_path: Path
) -> None:
    server = Server(tmp_path)
    with listeners(addresses) as server.tcp_port:
        assert await is_own(server) is expected


@pytest.mark.parametrize("reply", [REFUSED, b"+OK\r\n", b"$-1\r\n"])
async def test_a_unix_socket_whose_server_does_not_say(
    reply: bytes, tmp_path: Path
) -> None:
    server = Server(tmp_path)
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


async def test_answers_go_to_the_server_to_which_it_has_subscribed(
    tmp_path: Path, journal_records: Records
) -> None:
    """Its name can stand for several."""
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


async def test_a_missing_database_is_noted_once(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
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
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    async with started(server, db=3):
        assert server.count("SELECT", "3") == 1
    assert not journal_records.of(journal.BACKEND_NOTE)
