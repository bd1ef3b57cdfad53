"""The journal: kinds, fields, and lines that cannot be forged."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Iterator, List, Type

import pytest

from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.handlers import ErrorWriter, JournalWriter, LogWriter
from tests.unit.fakes import Records, until

KINDS = {
    name: kind
    for name, kind in vars(journal).items()
    if isinstance(kind, journal.Kind)
}


def written(capfd: pytest.CaptureFixture[str]) -> str:
    journal.drain(30)
    return capfd.readouterr().err


def test_message_ids_are_128_random_bits() -> None:
    ids = [kind.message_id for kind in KINDS.values()]
    assert len(set(ids)) == len(ids)
    for message_id in ids:
        assert len(message_id) == 32
        assert set(message_id) <= set("0123456789abcdef")


def test_fields(journal_records: Records) -> None:
    journal.record(
        journal.TASK_DONE, "done", task="x", task_exit_status=0, task_src=None
    )
    (record,) = journal_records.of(journal.TASK_DONE)
    assert record.MESSAGE_ID == journal.TASK_DONE.message_id
    assert record.NGCP_TASK == "x"
    assert record.NGCP_TASK_EXIT_STATUS == 0
    # Unknown fields are left out.
    assert not hasattr(record, "NGCP_TASK_SRC")
    assert record.getMessage() == "done"
    assert not record.args


def test_a_message_is_not_a_format(journal_records: Records) -> None:
    journal.record(journal.TASK_DONE, "100 %s %(x)d")
    assert journal_records.texts(journal.TASK_DONE) == ["100 %s %(x)d"]


def test_only_a_bug_has_a_traceback(journal_records: Records) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        journal.record(journal.TASK_ERROR, "x")
        journal.record(journal.BUG, "x", bug=True)
    assert not journal_records.of(journal.TASK_ERROR)[0].exc_info
    assert journal_records.of(journal.BUG)[0].exc_info


def test_levels(
    agent_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.set_up("warning")
    journal.record(journal.TASK_DONE, "an info")
    journal.record(journal.TASK_ERROR, "a warning")
    logging.getLogger("another.library").info("chatter")
    lines = written(capfd).splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(" WARNING a warning")


def test_one_line_each(
    agent_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.set_up("debug")
    forged = (
        "x\n2026-01-01 INFO accepted\r\x1b[2J\x85\u2028\u202e\ud800 \u20ac"
    )
    journal.record(journal.TASK_ERROR, forged)
    error = written(capfd)
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert "x\\n2026-01-01 INFO accepted\\r\\x1b[2J\\x85\\u2028" in error
    assert "\u20ac" in error


def test_records_of_libraries_are_one_line_too(
    agent_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.set_up("debug")
    logging.getLogger("redis").warning("lost %s", "x\n2026-01-01 INFO x\x1b[m")
    (line,) = written(capfd).splitlines()
    assert line.endswith("WARNING lost x\\n2026-01-01 INFO x\\x1b[m")


async def test_records_of_strangers_are_bounded(
    agent_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those of other kinds are all there; the stop reports the rest."""
    journal.set_up("debug")
    for number in range(1000):
        journal.record(journal.REQUEST_REJECTED, f"rejected {number}")
        journal.record(journal.REQUEST_IGNORED, "ignored")
        journal.record(journal.REJECTION_LOST, "lost")
        for kind in (journal.REQUEST_ACCEPTED, journal.TASK_ERROR):
            journal.record(kind, f"{kind.message_id} {number}")
    lines = written(capfd).splitlines()
    for kind in (journal.REQUEST_ACCEPTED, journal.TASK_ERROR):
        found = [line for line in lines if kind.message_id in line]
        assert len(found) == 1000
    found = [line for line in lines if "WARNING rejected " in line]
    assert [int(line.rpartition(" ")[2]) for line in found] == [
        *range(journal.MOST)
    ]
    assert [line[24:] for line in lines[-3:]] == [
        "WARNING 900 more rejected requests within 60 s are not logged",
        "WARNING 900 more ignored requests within 60 s are not logged",
        "WARNING 900 more lost answers to rejected requests within 60 s are "
        "not logged",
    ]


async def test_the_count_comes_although_nothing_else_does(
    agent_logger: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "WINDOW", 0.05)
    journal.set_up("info")
    for _ in range(journal.MOST + 1):
        journal.record(journal.REQUEST_REJECTED, "x")
    seen = ""

    def is_told() -> bool:
        nonlocal seen
        seen += capfd.readouterr().err
        return " 1 more rejected requests" in seen

    await until(is_told)


STREAMS: List[Any] = [
    pytest.param(None, ErrorWriter, id="not-set"),
    pytest.param("", ErrorWriter, id="empty"),
    pytest.param("x", ErrorWriter, id="nonsense"),
    pytest.param("1:2", ErrorWriter, id="another"),
    pytest.param("own", JournalWriter, id="ours"),
]


@pytest.mark.parametrize(("stream", "writer"), STREAMS)
def test_the_journal_if_standard_error_goes_there(
    stream: Any,
    writer: Type[LogWriter],
    agent_logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream == "own":
        status = os.fstat(2)
        stream = f"{status.st_dev}:{status.st_ino}"
    if stream is not None:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    journal.set_up("info")
    (handler,) = agent_logger.handlers
    assert type(handler) is writer
    handler.close()


def test_no_standard_error(agent_logger: logging.Logger) -> None:
    before = os.dup(2)
    os.close(2)
    try:
        journal.set_up("info")
        journal.record(journal.TASK_DONE, "lost")
        journal.drain(30)
    finally:
        os.dup2(before, 2)
        os.close(before)
    assert isinstance(agent_logger.handlers[0], ErrorWriter)


def test_lost_records_are_reported(
    agent_logger: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(writer: ErrorWriter, parts: object, wait: float) -> bool:
        raise OSError

    journal.set_up("info")
    with monkeypatch.context() as patched:
        patched.setattr(ErrorWriter, "write", fails)
        for _ in range(3):
            journal.record(journal.TASK_DONE, "lost")
        journal.drain(30)
    journal.record(journal.TASK_DONE, "works")
    journal.drain(30)
    journal.record(journal.TASK_DONE, "next")
    lines = written(capfd).splitlines()
    assert [line.partition(" earlier records ")[0][24:] for line in lines] == [
        "INFO    works",
        "WARNING 3",
        "INFO    next",
    ]


@pytest.fixture
def in_journal(
    agent_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> Iterator[List[List[bytes]]]:
    """Log to the journal; yields what is written."""
    found: List[List[bytes]] = []

    def write(writer: JournalWriter, parts: List[bytes], wait: float) -> bool:
        found.append(parts)
        return True

    status = os.fstat(2)
    stream = f"{status.st_dev}:{status.st_ino}"
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    monkeypatch.setattr(JournalWriter, "write", write)
    journal.set_up("info")
    yield found
    agent_logger.handlers[0].close()


def test_what_the_journal_gets(in_journal: List[List[bytes]]) -> None:
    kind = journal.TASK_ERROR
    journal.record(journal.NODE_CHANGED, "one")
    journal.record(
        kind, "t\nwo\u20ac", task="x\n", task_exit_status=7, task_src=None
    )
    assert in_journal[0][0] == b"MESSAGE=one"
    assert sorted(in_journal[1]) == sorted(
        [
            *("MESSAGE=t\\nwo\u20ac".encode(), b"PRIORITY=4"),
            *(b"SYSLOG_IDENTIFIER=ngcp-task-agent", b"LOGGER=ngcp_task_agent"),
            *(f"MESSAGE_ID={kind.message_id}".encode(), b"NGCP_TASK=x\n"),
            b"NGCP_TASK_EXIT_STATUS=7",
        ]
    )


def test_bugs_in_the_journal(in_journal: List[List[bytes]]) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        journal.record(journal.BUG, "x", bug=True, task="y")
    (parts,) = in_journal
    fields = dict(part.split(b"=", 1) for part in parts)
    assert fields[b"MESSAGE"] == b"x"
    assert fields[b"NGCP_TASK"] == b"y"
    assert fields[b"NGCP_TRACEBACK"].endswith(b"\nZeroDivisionError")


def test_a_level_in_the_journal(in_journal: List[List[bytes]]) -> None:
    journal.record(journal.REQUEST_IGNORED, "a debug line")
    assert not in_journal


async def test_answers_leave_before_records(
    in_journal: List[List[bytes]],
) -> None:
    """And the records of a moment are written one after the other."""
    journal.record(journal.REQUEST_ACCEPTED, "1")
    asyncio.get_running_loop().call_soon(
        lambda: in_journal.append([b"another callback"])
    )
    journal.record(journal.REQUEST_ACCEPTED, "2")
    assert not in_journal
    await asyncio.sleep(0)
    assert [parts[0] for parts in in_journal] == [
        *(b"MESSAGE=1", b"MESSAGE=2", b"another callback")
    ]


async def test_records_of_the_last_moment(
    in_journal: List[List[bytes]],
) -> None:
    journal.record(journal.STOPPED, "1")
    journal.drain(30)
    assert [parts[0] for parts in in_journal] == [b"MESSAGE=1"]
    await asyncio.sleep(0)
    journal.record(journal.STOPPED, "2")
    await asyncio.sleep(0)
    assert len(in_journal) == 2
