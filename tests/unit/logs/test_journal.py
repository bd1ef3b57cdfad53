"""The journal: kinds, fields, and lines that nobody can forge."""

from __future__ import annotations

import logging
import os
from typing import Any, List

import pytest

from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.handlers import ErrorWriter, JournalWriter
from tests.unit.fakes import Records

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
    # What is not known is not there.
    assert not hasattr(record, "NGCP_TASK_SRC")
    assert record.getMessage() == "done"
    assert not record.args
    assert record.filename == "test_journal.py"


def test_a_message_is_no_format(journal_records: Records) -> None:
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
    journal.record(journal.REQUEST_REJECTED, forged)
    error = written(capfd)
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert "x\\n2026-01-01 INFO accepted\\r\\x1b[2J\\x85\\u2028" in error
    assert "\u20ac" in error


def test_a_traceback_may_have_lines(
    agent_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.set_up("debug")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        journal.record(journal.BUG, "x", bug=True)
    assert "Traceback" in written(capfd)


def stream_of(fd: int) -> str:
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"


STREAMS: List[Any] = [
    pytest.param(None, False, id="not-set"),
    pytest.param("", False, id="empty"),
    pytest.param("x", False, id="nonsense"),
    pytest.param("1:2", False, id="another"),
    pytest.param("own", True, id="ours"),
]


@pytest.mark.parametrize(("stream", "expected"), STREAMS)
def test_is_journal(
    stream: Any, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    try:
        if stream is None:
            monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        else:
            text = stream_of(write) if stream == "own" else stream
            monkeypatch.setenv("JOURNAL_STREAM", text)
        assert journal._is_journal(write) is expected
    finally:
        os.close(read)
        os.close(write)
    assert not journal._is_journal(write)


def test_the_journal_if_it_is_there(
    agent_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_journal, kind in ((True, JournalWriter), (False, ErrorWriter)):
        monkeypatch.setattr(
            journal, "_is_journal", lambda fd, is_=is_journal: is_
        )
        journal.set_up("info")
        assert [type(h) for h in agent_logger.handlers] == [kind]
        agent_logger.handlers[0].close()


def test_lost_records_are_told(
    agent_logger: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(writer: ErrorWriter, what: object) -> None:
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
    assert [line.partition(" records ")[0][24:] for line in lines] == [
        "INFO    works",
        "WARNING 3",
        "INFO    next",
    ]
