"""Answers leave exactly once, or at most once where Redis does not help."""

from __future__ import annotations

import asyncio
from typing import Any, List

import pytest

from ngcp_task_agent.backends import outbox
from ngcp_task_agent.backends.redis import publisher
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import lost, started
from tests.unit.fakes import Records, until
from tests.unit.resp import Server

quick = pytest.mark.usefixtures("quick_backoff")

REFUSED = b"-NOPERM no permission\r\n"
BUSY = b"-BUSY Redis is busy\r\n"


@quick
async def test_the_script_is_sent_once(server: Server) -> None:
    async with started(server) as bench:
        for number in range(3):
            bench.send(f"{number}")
            await until(lambda n=number: len(server.published) == n + 1)
    assert server.count("EVAL") == 1
    assert not server.count("PUBLISH")


CARRIED_OUT = pytest.mark.parametrize(
    "is_carried_out",
    [
        pytest.param(True, id="published"),
        pytest.param(False, id="not-published"),
    ],
)


@quick
@CARRIED_OUT
async def test_a_batch_without_a_reply_is_published_once(
    is_carried_out: bool, server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.hang_up_at("EVALSHA", is_carried_out)
        bench.send("1", "2")
        bench.send("3")
        await until(lambda: len(server.published) >= 3)
        bench.send("4")
        await until(lambda: b"4" in server.messages)
        assert server.messages == [b"1", b"2", b"3", b"4"]
        # It was sent again, and not only once because it was not.
        assert server.count_of("1") == 2
    assert not lost(journal_records)


@quick
async def test_connections_may_break_again_and_again(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.hang_up_at("EVALSHA", False, False, True, True)
        bench.send("1", "2")
        await until(lambda: not server.is_to_hang_up)
        bench.send("3")
        await until(lambda: b"3" in server.messages)
        assert server.messages == [b"1", b"2", b"3"]
    assert not lost(journal_records)


@quick
async def test_a_delayed_copy_is_not_published(
    server: Server, journal_records: Records
) -> None:
    async with started(server, ping_interval=0.1) as bench:
        server.stall_these()
        bench.send("1")
        # Over another connection.
        await until(lambda: server.messages == [b"1"])
        bench.send("2")
        await until(lambda: b"2" in server.messages)
        server.resume()
        bench.send("3")
        await until(lambda: b"3" in server.messages)
        assert server.messages == [b"1", b"2", b"3"]
    assert not lost(journal_records)


@quick
async def test_a_stalled_server_resumes_where_it_stopped(
    server: Server, journal_records: Records
) -> None:
    async with started(server, ping_interval=0.1) as bench:
        server.stalled = True
        bench.send("accepted")
        # It is noticed, and other connections are tried, in vain.
        await until(lambda: bench.backend.status == "away")
        await until(lambda: server.count("CLIENT") > 6)
        bench.send("done")
        server.resume()
        await until(lambda: b"done" in server.messages)
        await until(lambda: bench.backend.status == "subscribed")
        assert server.messages == [b"accepted", b"done"]
    assert not lost(journal_records)


async def test_a_slow_line_does_not_count_as_dead(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "SLOWEST", 1)
    async with started(server, ping_interval=0.05) as bench:
        server.stalled_command = b"EVALSHA"
        bench.send("large")
        await until(lambda: server.count_of("large"))
        # Longer than a small one may take.
        await asyncio.sleep(0.3)
        server.resume()
        await until(lambda: server.messages == [b"large"])
        assert server.count_of("large") == 1


@quick
async def test_a_refused_answer_delays_no_other(
    server: Server, journal_records: Records
) -> None:
    server.forbidden.add(b"elsewhere")
    async with started(server) as bench:
        bench.send("1")
        bench.backend.send("elsewhere", [b"x"], "ref-x")
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
        await until(lambda: lost(journal_records))
        # Nor does the next batch.
        bench.send("3")
        await until(lambda: server.messages == [b"1", b"2", b"3"])
    (text,) = journal_records.texts(journal.ANSWER_LOST)
    assert "ref-x is lost: Redis refuses it" in text
    assert not journal_records.of(journal.BACKEND_DOWN)


@quick
@CARRIED_OUT
async def test_a_refusal_is_known_after_a_broken_connection(
    is_carried_out: bool, server: Server, journal_records: Records
) -> None:
    server.forbidden.add(b"elsewhere")
    async with started(server) as bench:
        server.hang_up_at("EVALSHA", is_carried_out)
        bench.send("1")
        bench.backend.send("elsewhere", [b"x"], "ref-x")
        bench.send("2")
        await until(lambda: lost(journal_records))
    assert server.messages == [b"1", b"2"]
    assert lost(journal_records) == ["ref-x"]


# The server has forgotten.


@quick
async def test_a_server_that_has_forgotten_the_producer_loses_nothing(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        server.forget()
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
    assert not lost(journal_records)
    assert not journal_records.of(journal.BACKEND_NOTE)


@quick
@CARRIED_OUT
async def test_answers_in_doubt_may_be_lost_when_it_has_forgotten(
    is_carried_out: bool, server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        if is_carried_out:
            server.stalled_command = b"EVALSHA"
            bench.send("1")
            await until(lambda: server.count_of("1"))
            server.stalled_command = b""
            server.published.append(("fb", b"1"))
            server.forget()
            server.hang_up()
        else:
            server.forget()
            server.hang_up_at("EVALSHA", False)
            bench.send("1")
        await until(lambda: lost(journal_records))
        bench.send("2")
        await until(lambda: b"2" in server.messages)
    assert server.messages == [b"1"] * is_carried_out + [b"2"]
    (text,) = journal_records.texts(journal.ANSWER_LOST)
    assert "ref-1 may be lost" in text
    assert "forgotten" in text


# The server refuses.

SCRIPT_ERRORS: List[Any] = [
    pytest.param(b"OOM command not allowed", id="no-memory"),
    pytest.param(b"MISCONF cannot persist", id="no-disk"),
    pytest.param(b"NOPERM no permissions for key", id="not-allowed"),
]


@quick
@pytest.mark.parametrize("error", SCRIPT_ERRORS)
async def test_a_key_that_cannot_be_written(
    error: bytes, server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.script_errors[b"SET"] = error
        bench.send("1", "2")
        await until(lambda: server.messages == [b"1", b"2"])
        bench.send("3")
        await until(lambda: server.messages == [b"1", b"2", b"3"])
        assert server.count("PUBLISH") == 3
    assert not lost(journal_records)
    (note,) = journal_records.texts(journal.BACKEND_NOTE)
    assert "at most once" in note
    assert error.decode() in note


@quick
@pytest.mark.parametrize("lasts", [True, False])
async def test_a_key_that_cannot_be_written_when_it_is_in_doubt(
    lasts: bool, server: Server, journal_records: Records
) -> None:
    """It can be read: so it is known that the batch was not published."""
    error = b"OOM command not allowed"
    async with started(server) as bench:
        server.script_errors[b"SET"] = error if lasts else [error]
        server.hang_up_at("EVALSHA", False)
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
        assert server.count("PUBLISH") == (2 if lasts else 0)
    assert not lost(journal_records)


@quick
async def test_answers_published_before_the_key_cannot_be_written(
    server: Server, journal_records: Records
) -> None:
    async with started(server, ping_interval=0.1) as bench:
        server.stall_these()
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        server.script_errors[b"SET"] = b"OOM command not allowed"
        bench.send("2")
        await until(lambda: b"2" in server.messages)
        server.resume()
        bench.send("3")
        await until(lambda: b"3" in server.messages)
        assert server.messages == [b"1", b"2", b"3"]
    assert not lost(journal_records)


@quick
async def test_a_key_that_cannot_be_read_when_it_is_in_doubt(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.script_errors[b"GET"] = b"NOPERM no permissions for key"
        server.hang_up_at("EVALSHA", False)
        bench.send("1")
        await until(lambda: lost(journal_records))
        bench.send("2")
        await until(lambda: server.messages == [b"2"])
    (text,) = journal_records.texts(journal.ANSWER_LOST)
    assert "ref-1 may be lost" in text


REFUSALS: List[Any] = [
    pytest.param("EVALSHA", REFUSED, id="evalsha"),
    pytest.param("EVAL", REFUSED, id="eval"),
    pytest.param("EVALSHA", b"-ERR unknown command\r\n", id="unknown"),
    pytest.param("EVALSHA", b"-READONLY a replica\r\n", id="read-only"),
    pytest.param("EVALSHA", b"-NOREPLICAS too few\r\n", id="no-replicas"),
]


@quick
@pytest.mark.parametrize(("command", "error"), REFUSALS)
async def test_without_the_script_answers_leave_at_most_once(
    command: str, error: bytes, server: Server, journal_records: Records
) -> None:
    server.replies[command] = error
    server.forbidden.add(b"elsewhere")
    async with started(server) as bench:
        bench.send("1")
        bench.backend.send("elsewhere", [b"x"], "ref-x")
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
        await until(lambda: lost(journal_records))
        server.hang_up_at("PUBLISH", True)
        bench.send("3")
        await until(lambda: len(lost(journal_records)) == 2)
        bench.send("4")
        await until(lambda: b"4" in server.messages)
    assert server.messages == [b"1", b"2", b"3", b"4"]
    refused, broken = journal_records.texts(journal.ANSWER_LOST)
    assert "ref-x is lost: Redis refuses it" in refused
    assert "No permissions" in refused
    assert "ref-3 may be lost: the connection broke" in broken
    (note,) = journal_records.texts(journal.BACKEND_NOTE)
    assert "at most once" in note
    assert error.split()[1].decode() in note


@quick
async def test_a_script_that_is_refused_while_something_is_in_doubt(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.replies["EVALSHA"] = REFUSED
        server.hang_up_at("EVALSHA", False)
        bench.send("1")
        await until(lambda: lost(journal_records))
        bench.send("2")
        await until(lambda: server.messages == [b"2"])
    (text,) = journal_records.texts(journal.ANSWER_LOST)
    assert "ref-1 may be lost" in text
    assert "no permission" in text


@quick
async def test_a_withdrawn_right_loses_nothing(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        server.replies["EVALSHA"] = REFUSED
        bench.send("2")
        await until(lambda: server.messages == [b"1", b"2"])
    assert not lost(journal_records)


@quick
async def test_a_restored_right_is_used(
    server: Server, journal_records: Records
) -> None:
    server.replies["EVALSHA"] = REFUSED

    def notes() -> List[str]:
        return journal_records.texts(journal.BACKEND_NOTE)

    async with started(server) as bench:
        # It is asked for with each batch, and said once.
        for number in range(3):
            tries = server.count("EVALSHA")
            bench.send(f"{number}")
            await until(lambda n=number: len(server.published) == n + 1)
            assert server.count("EVALSHA") > tries
        assert len(notes()) == 1
        del server.replies["EVALSHA"]
        bench.send("3")
        await until(lambda: b"3" in server.messages)
        server.hang_up_at("EVALSHA", True)
        bench.send("4")
        await until(lambda: not server.is_to_hang_up)
        bench.send("5")
        await until(lambda: b"5" in server.messages)
        assert server.messages == [b"%d" % number for number in range(6)]
    assert len(notes()) == 2
    assert "exactly once again" in notes()[1]
    assert not lost(journal_records)


@quick
async def test_a_restored_right_is_used_while_idle(
    server: Server, journal_records: Records
) -> None:
    server.replies["EVALSHA"] = REFUSED
    async with started(server, ping_interval=0.1):
        tries = server.count("EVALSHA")
        await until(lambda: server.count("EVALSHA") > tries + 3)
        del server.replies["EVALSHA"]
        await until(lambda: len(journal_records.of(journal.BACKEND_NOTE)) > 1)
    _, note = journal_records.texts(journal.BACKEND_NOTE)
    assert "exactly once again" in note


@quick
async def test_expiry_on_the_server_in_a_pause_loses_nothing(
    server: Server, journal_records: Records
) -> None:
    """The producer is kept known; where it is not, there is another."""
    async with started(server, ping_interval=0.1) as bench:
        for number in range(2):
            known = dict(server.producers)
            await until(lambda k=known: server.producers != k)
            server.forget()
            await until(lambda: server.producers)
            bench.send(f"{number}")
            await until(lambda n=number: len(server.published) == n + 1)
    assert not lost(journal_records)
    assert not journal_records.of(journal.BACKEND_NOTE)


# A cluster, where a key belongs to one of the nodes.


@quick
@pytest.mark.parametrize("moved", [1, 5, 31])
async def test_another_id_is_drawn_until_one_belongs_to_this_node(
    moved: int, server: Server, journal_records: Records
) -> None:
    server.moved = moved
    async with started(server) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        assert len(server.producers) == 1
        assert not server.count("PUBLISH")
    assert not journal_records.of(journal.BACKEND_NOTE)


@quick
async def test_gives_up_after_32_ids(
    server: Server, journal_records: Records
) -> None:
    server.moved = 1000
    async with started(server) as bench:
        bench.send("1")
        await until(lambda: server.messages == [b"1"])
        # With a new connection; then one with each batch.
        assert server.count("EVALSHA") == 32 + 1
    (note,) = journal_records.texts(journal.BACKEND_NOTE)
    assert "at most once" in note
    assert "cluster" in note


@quick
@pytest.mark.parametrize("is_in_doubt", [False, True])
async def test_an_id_that_moves_to_another_node(
    is_in_doubt: bool, server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.moved = 1
        if is_in_doubt:
            server.hang_up_at("EVALSHA", False)
        bench.send("1")
        if is_in_doubt:
            await until(lambda: lost(journal_records))
        bench.send("2")
        await until(lambda: b"2" in server.messages)
    assert server.messages == ([b"2"] if is_in_doubt else [b"1", b"2"])
    assert lost(journal_records) == ["ref-1"] * is_in_doubt
    assert not journal_records.of(journal.BACKEND_NOTE)


# What passes.

HOW: List[Any] = [
    pytest.param({"EVALSHA": BUSY}, {}, id="script"),
    pytest.param({"PUBLISH": BUSY}, {"EVALSHA": REFUSED}, id="plain"),
]


@quick
@pytest.mark.parametrize(("passing", "lasting"), HOW)
async def test_a_busy_server_is_tried_again(
    passing: Any, lasting: Any, server: Server, journal_records: Records
) -> None:
    server.replies.update(lasting)
    async with started(server) as bench:
        server.replies.update(passing)
        bench.send("1", "2")
        (command,) = passing
        tries = server.count(command)
        await until(lambda: server.count(command) > tries + 3)
        bench.send("3")
        del server.replies[command]
        await until(lambda: b"3" in server.messages)
        assert server.messages == [b"1", b"2", b"3"]
    assert not lost(journal_records)


@quick
async def test_failure_to_send_is_logged_once(
    server: Server, journal_records: Records
) -> None:
    server.replies["EVALSHA"] = BUSY
    async with started(server) as bench:
        bench.send("1")
        await until(lambda: journal_records.of(journal.BACKEND_DOWN))
        bench.send("2")
        tries = server.count("EVALSHA")
        await until(lambda: server.count("EVALSHA") > tries + 3)
        del server.replies["EVALSHA"]
        await until(lambda: len(server.published) == 2)
    (down,) = journal_records.texts(journal.BACKEND_DOWN)
    assert "answers cannot be sent: BUSY" in down
    _, up = journal_records.texts(journal.BACKEND_UP)
    assert "answers can be sent again, 2 were kept" in up


@quick
async def test_missing_replies_are_logged_while_subscribed(
    server: Server, journal_records: Records
) -> None:
    """As while CLIENT PAUSE WRITE is in force."""
    async with started(server, ping_interval=0.1) as bench:
        server.stalled_command = b"EVALSHA"
        bench.send("1")
        await until(lambda: journal_records.of(journal.BACKEND_DOWN))
        server.resume()
        await until(lambda: server.messages == [b"1"])
        await until(lambda: len(journal_records.of(journal.BACKEND_UP)) == 2)
    (down,) = journal_records.texts(journal.BACKEND_DOWN)
    assert "answers cannot be sent: no answer within" in down


@quick
async def test_a_busy_server_while_something_is_in_doubt(
    server: Server, journal_records: Records
) -> None:
    async with started(server) as bench:
        server.replies["EVALSHA"] = BUSY
        server.hang_up_at("EVALSHA", False)
        bench.send("1")
        tries = server.count("EVALSHA")
        await until(lambda: server.count("EVALSHA") > tries + 3)
        clients = server.clients
        assert not server.published
        del server.replies["EVALSHA"]
        await until(lambda: server.messages == [b"1"])
        # Over the same connection.
        assert server.clients == clients
    assert not lost(journal_records)


async def test_a_busy_server_is_retried_with_a_backoff(
    server: Server,
) -> None:
    async with started(server) as bench:
        server.replies["EVALSHA"] = BUSY
        tries = server.count("EVALSHA")
        bench.send("1")
        await until(lambda: server.count("EVALSHA") >= tries + 3)
        begun = server.count("EVALSHA")
        await asyncio.sleep(0.1)
        assert server.count("EVALSHA") <= begun + 1


@quick
async def test_nothing_is_resent_after_its_successor(
    server: Server, journal_records: Records
) -> None:
    """Without the script Redis can refuse the first of two alone."""
    server.replies["EVALSHA"] = REFUSED
    async with started(server) as bench:
        server.replies["PUBLISH"] = [BUSY]
        bench.send("1", "2")
        await until(lambda: lost(journal_records))
        bench.send("3")
        await until(lambda: server.messages == [b"2", b"3"])
    assert lost(journal_records) == ["ref-1"]


@quick
@pytest.mark.parametrize("is_in_doubt", [False, True])
async def test_answers_that_cannot_be_sent_for_too_long_are_lost(
    is_in_doubt: bool,
    server: Server,
    journal_records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "KEEP_SECONDS", 0.0)
    async with started(server) as bench:
        if is_in_doubt:
            server.hang_up_at("EVALSHA", False)
        else:
            server.replies["EVALSHA"] = BUSY
        bench.send("1")
        await until(lambda: lost(journal_records))
        server.replies.clear()
        bench.send("2")
        await until(lambda: server.messages == [b"2"])
    (text,) = journal_records.texts(journal.ANSWER_LOST)
    assert f"ref-1 {'may be' if is_in_doubt else 'is'} lost: " in text
