"""Records are written, or lost and counted; nobody waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from typing import Any, Dict, Iterator, List

import pytest

from ngcp_task_agent import logwriter
from ngcp_task_agent.logwriter import (
    ErrorWriter,
    JournalWriter,
    LogWriter,
    Parts,
)


def record(text: str, **fields: Any) -> logging.LogRecord:
    made = logging.getLogger("a.logger").makeRecord(
        "a.logger", logging.INFO, "/a/file.py", 7, text, (), None, "function"
    )
    vars(made).update(fields)
    return made


class Slow(LogWriter):
    """Writes when it is let; loses what comes before it works."""

    def __init__(self) -> None:
        super().__init__(self.tell)
        self.go = threading.Event()
        self.works = True
        self.done: List[bytes] = []

    def tell(self, count: int) -> None:
        self.handle(record(f"{count} lost"))

    def render(self, record: logging.LogRecord) -> Parts:
        return [record.getMessage().encode()]

    def write(self, what: Parts) -> None:
        assert self.go.wait(60)
        if not self.works:
            raise OSError
        self.done += what


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.go.set()


def test_order(slow: Slow) -> None:
    texts = [str(number) for number in range(1000)]
    for text in texts:
        slow.handle(record(text))
    slow.drain(0.01)  # in vain
    slow.go.set()
    slow.drain(30)
    assert [what.decode() for what in slow.done] == texts


def test_lost_when_too_many_wait(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logwriter, "_KEEP", 30)
    for number in range(10):
        slow.handle(record(f"record {number:03}"))
    slow.go.set()
    slow.drain(30)
    slow.handle(record("next"))
    slow.drain(30)
    assert slow.done == [
        *(b"record 000", b"record 001", b"record 002"),
        *(b"7 lost", b"next"),
    ]


def test_lost_while_it_does_not_work(slow: Slow) -> None:
    slow.go.set()
    slow.works = False
    for number in range(3):
        slow.handle(record(str(number)))
        slow.drain(30)
    slow.works = True
    for text in ("works", "next", "last"):
        slow.handle(record(text))
        slow.drain(30)
    assert slow.done == [b"works", b"3 lost", b"next", b"last"]


def test_a_record_that_cannot_be_rendered_is_lost(slow: Slow) -> None:
    slow.go.set()
    broken = record("x")
    broken.args = (1,)  # one too many for the text
    slow.handle(broken)
    for text in ("works", "next"):
        slow.handle(record(text))
        slow.drain(30)
    assert b"1 lost" in slow.done


def test_no_thread(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    slow.go.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        slow.handle(record("lost"))
        slow.drain(30)
    for text in ("works", "next"):
        slow.handle(record(text))
        slow.drain(30)
    assert slow.done == [b"works", b"1 lost", b"next"]


@contextlib.contextmanager
def piped() -> Iterator[int]:
    """Standard error is a pipe; this is its other end."""
    before = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    try:
        yield read
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(read)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads(blocking: bool) -> None:
    texts = [f"{number} " + "x" * 1000 for number in range(300)]
    got = b""
    with piped() as pipe:
        os.set_blocking(2, blocking)
        writer = ErrorWriter(lambda count: None)
        for text in texts:
            writer.handle(record(text))
        while got.count(b"\n") < len(texts):
            assert select.select([pipe], [], [], 30)[0]
            got += os.read(pipe, 65536)
        writer.drain(30)
    assert got.decode().splitlines() == texts


def test_a_pipe_without_another_end() -> None:
    with piped() as pipe:
        os.dup2(2, pipe)
        writer = ErrorWriter(lambda count: None)
        writer.handle(record("x"))
        writer.drain(30)


class Journal:
    """In the place of the library's function.

    :ivar records: the fields of each
    """

    def __init__(self) -> None:
        self.records: List[Dict[str, str]] = []
        self.is_there = True
        self.told: List[int] = []
        self.writer = JournalWriter(self.told.append, "agent", self.send)

    def send(self, *parts: bytes) -> None:
        if not self.is_there:
            raise ConnectionRefusedError
        fields = [part.decode().partition("=")[::2] for part in parts]
        assert len(dict(fields)) == len(fields)
        self.records.append(dict(fields))

    def log(self, text: str, **fields: Any) -> None:
        self.writer.handle(record(text, **fields))
        self.writer.drain(30)


def test_fields() -> None:
    journal = Journal()
    journal.log(
        "two\nlines \ud800 =\u20ac",
        MESSAGE_ID="a" * 32,
        NGCP_TASK="x=y",
        NGCP_TASK_DURATION_USEC=1234,
    )
    assert journal.records == [
        {
            "MESSAGE": "two\nlines \\ud800 =\u20ac",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "agent",
            "LOGGER": "a.logger",
            "CODE_FILE": "/a/file.py",
            "CODE_LINE": "7",
            "CODE_FUNC": "function",
            "MESSAGE_ID": "a" * 32,
            "NGCP_TASK": "x=y",
            "NGCP_TASK_DURATION_USEC": "1234",
        }
    ]


def test_a_traceback() -> None:
    journal = Journal()
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        bug = record("a bug")
        bug.exc_info = type(error), error, error.__traceback__
    journal.writer.handle(bug)
    journal.writer.drain(30)
    message = journal.records[0]["MESSAGE"].splitlines()
    assert message[:2] == ["a bug", "Traceback (most recent call last):"]
    assert message[-1] == "ZeroDivisionError: by nothing"


def test_a_message_that_is_too_long() -> None:
    journal = Journal()
    journal.log("x" * 1_000_000)
    assert set(journal.records[0]["MESSAGE"]) == {"x"}
    assert len(journal.records[0]["MESSAGE"]) < 100_000


LEVELS = [
    *((logging.CRITICAL, "2"), (logging.ERROR, "3"), (logging.WARNING, "4")),
    *((logging.INFO, "6"), (logging.DEBUG, "7"), (15, "7")),
]


@pytest.mark.parametrize(("level", "priority"), LEVELS)
def test_priorities(level: int, priority: str) -> None:
    journal = Journal()
    journal.log("x", levelno=level)
    assert journal.records[0]["PRIORITY"] == priority


def test_a_journal_that_starts_again() -> None:
    journal = Journal()
    journal.log("here")
    journal.is_there = False
    for _ in range(2):
        journal.log("lost")
    journal.is_there = True
    journal.log("back")
    journal.log("next")
    texts = [fields["MESSAGE"] for fields in journal.records]
    assert texts == ["here", "back", "next"]
    assert journal.told == [2]
