"""The redis backend, against a server of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent import journal
from ngcp_task_agent.backends import backoff
from ngcp_task_agent.backends import redis as redis_module
from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.errors import NoReplyAddress
from tests.unit.fakes import Records, until
from tests.unit.resp import Server


class AtOnce:
    """A backoff that does not wait."""

    def connected(self) -> None:
        """The connection stands."""

    def next(self) -> float:
        return 0.01


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "Backoff", AtOnce)


class Bench:
    """A backend and what has arrived from it."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.arrivals: List[Arrival] = []
        self.backend = RedisBackend(
            "redis", {**server.options, **options}, self.arrivals.append
        )

    def bodies(self) -> List[bytes]:
        return [arrival.body for arrival in self.arrivals]


CHANNELS = frozenset({"a", "b"})


async def test_receives_and_answers(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "subscribed"
    assert server.subscribed == {"a", "b"}
    server.push("a", b"one")
    server.push("b", b"two")
    await until(lambda: bench.bodies() == [b"one", b"two"])
    assert [arrival.channel for arrival in bench.arrivals] == ["a", "b"]
    bench.backend.send("fb", [b"answer"], "ref")
    await until(lambda: server.published == [("fb", b"answer")])
    await bench.backend.stop(5)
    assert bench.backend.status == "stopped"
    await until(lambda: server.clients == 0)
    await server.stop()
    (text,) = journal_records.texts(journal.BACKEND_UP)
    assert "a, b" in text


async def test_one_subscription_per_channel_and_changes(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    await bench.backend.listen(frozenset({"b", "c"}))
    await until(lambda: server.subscribed == {"b", "c"})
    # The channel that stays was never left.
    _receipts, *subscribed = (
        words[1:] for words in server.commands if words[0] == b"SUBSCRIBE"
    )
    assert subscribed == [[b"a", b"b"], [b"c"]]
    server.push("b", b"x")
    await until(lambda: bench.bodies() == [b"x"])
    await bench.backend.stop(5)
    await server.stop()


async def test_comes_back(tmp_path: Path, journal_records: Records) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    await server.stop()
    await until(lambda: bench.backend.status == "away")
    bench.backend.send("fb", [b"kept"], "ref")
    await bench.backend.listen(frozenset({"c"}))
    await server.start()
    await until(lambda: bench.backend.status == "subscribed")
    assert server.subscribed == {"c"}
    await until(lambda: ("fb", b"kept") in server.published)
    # One record for each change of state, not for each attempt.
    kinds = (journal.BACKEND_UP, journal.BACKEND_DOWN)
    counts = [len(journal_records.of(kind)) for kind in kinds]
    assert counts[0] <= 3
    assert counts[1] <= 2
    await bench.backend.stop(5)
    await server.stop()


async def test_starts_while_redis_is_away(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "away"
    assert "No such file" in journal_records.texts(journal.BACKEND_DOWN)[0]
    await server.start()
    await until(lambda: bench.backend.status == "subscribed")
    await bench.backend.stop(5)
    await server.stop()


async def test_a_stalled_server_is_noticed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server, ping_interval=0.2)
    await bench.backend.start(CHANNELS)
    await until(lambda: "PING" in server.names())
    server.stalled = True
    await until(lambda: bench.backend.status == "away")
    server.stalled = False
    await until(lambda: bench.backend.status == "subscribed")
    await bench.backend.stop(5)
    await server.stop()


async def test_may_not_subscribe(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    server.replies["SUBSCRIBE"] = b"-NOPERM no permission\r\n"
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "away"
    assert "no permission" in journal_records.texts(journal.BACKEND_DOWN)[0]
    await bench.backend.stop(5)
    await server.stop()


async def test_what_waiting_does_not_mend_is_told_when_it_comes_up(
    tmp_path: Path,
    journal_records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "_LONGEST", 1.0)
    server = Server(tmp_path)
    bench = Bench(server, password="wrong")
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "away"
    server.replies["AUTH"] = b"-WRONGPASS invalid password\r\n"
    await server.start()
    down = journal_records.texts
    await until(lambda: len(down(journal.BACKEND_DOWN)) == 2)
    assert "invalid password" in down(journal.BACKEND_DOWN)[1]
    # Once, however often it is tried.
    tries = server.names().count("AUTH")
    await until(lambda: server.names().count("AUTH") > tries)
    assert len(down(journal.BACKEND_DOWN)) == 2
    await bench.backend.stop(5)
    await server.stop()


async def test_may_neither_name_itself_nor_ping(tmp_path: Path) -> None:
    server = Server(tmp_path)
    for command in ("CLIENT", "PING", "ROLE"):
        server.replies[command] = b"-NOPERM no permission\r\n"
    await server.start()
    bench = Bench(server, ping_interval=0.1)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "subscribed"
    begin = server.names().count("SUBSCRIBE")
    await until(lambda: server.names().count("PING") > 4)
    server.push("a", b"x")
    await until(lambda: bench.bodies() == [b"x"])
    assert server.names().count("SUBSCRIBE") == begin == 1
    await bench.backend.stop(5)
    await server.stop()


ODD: List[Any] = [
    pytest.param(b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n", id="numbers"),
    pytest.param(b"*1\r\n$7\r\nmessage\r\n", id="short"),
    pytest.param(b"*3\r\n:1\r\n:1\r\n:1\r\n", id="no-kind"),
    pytest.param(b":1\r\n", id="number"),
    pytest.param(b"*0\r\n", id="nothing"),
]


@pytest.mark.parametrize("odd", ODD)
async def test_what_is_no_message_does_no_harm(
    odd: bytes, tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    server.write_to("a", odd)
    server.push("a", b"x")
    await until(lambda: b"x" in bench.bodies())
    await bench.backend.stop(5)
    await server.stop()
    assert not journal_records.of(journal.BUG)
    assert not journal_records.of(journal.BACKEND_DOWN)


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


@pytest.mark.parametrize(("options", "good"), ADDRESSES)
def test_reply_address(options: Any, good: bool) -> None:
    # Without its loop a backend only knows addresses.
    reply_address = RedisBackend.reply_address
    if good:
        found = reply_address(None, options)  # type: ignore[arg-type]
        assert found == options["feedback_channel"]
    else:
        with pytest.raises(NoReplyAddress, match="1 to 512"):
            reply_address(None, options)  # type: ignore[arg-type]


def test_channel() -> None:
    assert RedisBackend.channel({"control_channel": "c"}) == "c"


async def test_answers_leave_once_when_it_does_not_listen_any_longer(
    tmp_path: Path, journal_records: Records
) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    await bench.backend.stop_listening()
    assert bench.backend.status == "stopped"
    await until(lambda: not server.subscribed)
    await until(lambda: bench.backend._writer._publishers[0]._proves)
    # A reload that was on its way cannot make it listen again.
    await bench.backend.listen(CHANNELS)
    assert not server.subscribed
    server.hang_up_at("EXEC", False)
    bench.backend.send("fb", [b"0"], "ref")
    await until(lambda: len(server.published) == 1)
    server.hang_up_at("EXEC", True)
    bench.backend.send("fb", [b"1"], "ref")
    await until(lambda: len(server.published) == 2)
    await bench.backend.stop(5)
    await until(lambda: server.clients == 0)
    assert server.published == [("fb", b"0"), ("fb", b"1")]
    assert not journal_records.of(journal.ANSWER_LOST)
    await server.stop()


async def test_what_comes_too_late_is_ignored(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    server.stalled = True
    await bench.backend.stop_listening()
    server.push("a", b"late")
    server.resume()
    await until(lambda: not server.subscribed)
    assert not bench.arrivals
    await bench.backend.stop(5)
    await server.stop()


async def test_is_ready_while_nobody_may_publish(tmp_path: Path) -> None:
    """As while CLIENT PAUSE WRITE is in force."""
    server = Server(tmp_path)
    server.stalled_command = b"PUBLISH"
    await server.start()
    bench = Bench(server)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "subscribed"
    server.push("a", b"x")
    await until(lambda: bench.arrivals)
    assert bench.arrivals[0].via_own_server
    bench.backend.send("fb", [b"answer"], "ref")
    server.resume()
    await until(lambda: server.published == [("fb", b"answer")])
    await bench.backend.stop(5)
    await server.stop()
