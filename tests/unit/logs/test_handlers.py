"""Records are written, or lost and counted; logging never blocks."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, List, Sequence

import pytest

from ngcp_task_agent.logs.handlers import ErrorWriter, JournalWriter, LogWriter


def record(text: str, **fields: Any) -> logging.LogRecord:
    made = logging.getLogger("a.logger").makeRecord(
        "a.logger", logging.INFO, "/a/file.py", 7, text, (), None, "function"
    )
    vars(made).update(fields)
    return made


class Slow(LogWriter):
    """Writes only when allowed to; loses everything before it works."""

    def __init__(self) -> None:
        super().__init__(self.report)
        self.go = threading.Event()
        self.works = True
        self.done: List[bytes] = []

    def report(self, count: int) -> None:
        self.handle(record(f"{count} lost"))

    def render(self, record: logging.LogRecord) -> Sequence[bytes]:
        return (record.getMessage().encode(),)

    def write(self, parts: Sequence[bytes], wait: float) -> bool:
        if not self.go.wait(wait):
            return False
        if not self.works:
            raise OSError
        self.done.extend(parts)
        return True


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


def test_lost_when_too_many_wait(slow: Slow) -> None:
    slow.max_queued = 30
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


def test_lost_while_writing_fails(slow: Slow) -> None:
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
    broken.args = (1,)  # one argument too many
    slow.handle(broken)
    for text in ("works", "next"):
        slow.handle(record(text))
        slow.drain(30)
    assert b"1 lost" in slow.done


def test_thread_cannot_be_started(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        slow.handle(record("lost"))
        slow.drain(30)
    slow.go.set()
    for text in ("works", "next"):
        slow.handle(record(text))
        slow.drain(30)
    assert slow.done == [b"works", b"1 lost", b"next"]


@contextlib.contextmanager
def standard_error(read: int, write: int) -> Iterator[int]:
    """Use ``write`` as standard error; close both ends afterwards."""
    before = os.dup(2)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield read
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(read)


def piped() -> ContextManager[int]:
    """Use a pipe as standard error; return its other end."""
    return standard_error(*os.pipe())


def on_terminal() -> ContextManager[int]:
    """Use a terminal as standard error; return its other end."""
    return standard_error(*os.openpty())


@pytest.mark.parametrize("blocking", [True, False])
def test_an_unread_pipe(blocking: bool) -> None:
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


def test_an_unread_terminal() -> None:
    texts = [f"{number} " + "x" * 1000 for number in range(300)]
    got = b""
    with on_terminal() as terminal:
        writer = ErrorWriter(lambda count: None)
        for text in texts:
            writer.handle(record(text))
        while got.count(b"\n") < len(texts):
            assert select.select([terminal], [], [], 30)[0]
            got += os.read(terminal, 65536)
        writer.drain(30)
    assert got.decode().splitlines() == texts


def test_a_line_is_written_at_once() -> None:
    """Without a thread, which costs more than writing."""
    with piped() as pipe:
        writer = ErrorWriter(lambda count: None)
        before = threading.active_count()
        writer.handle(record("x" * 4000))
        assert threading.active_count() == before
        assert os.read(pipe, 65536) == b"x" * 4000 + b"\n"


def test_a_closed_pipe() -> None:
    with piped() as pipe:
        os.dup2(2, pipe)
        writer = ErrorWriter(lambda count: None)
        writer.handle(record("x"))
        writer.drain(30)


class Journal:
    """Journald's end of the journal's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)

    def read(self) -> Dict[str, str]:
        """Return the fields of the next record."""
        fields: Dict[str, str] = {}
        for field in self._socket.recv(1 << 20).split(b"\0"):
            name, _, value = field.decode().partition("=")
            assert name not in fields
            fields[name] = value
        return fields

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    # A socket's path must be short.
    before = os.getcwd()
    os.chdir(tmp_path)
    yield Path("journal")
    os.chdir(before)


@pytest.fixture
def reported() -> List[int]:
    return []


class Sender:
    """Sends fields like ``systemd.journal.sendv``, to another socket.

    Its send buffer never fills up, like that of libsystemd as root.

    :ivar blocked: how often it would have blocked the interpreter
    """

    def __init__(self, path: Path) -> None:
        self.blocked = 0
        self._path = str(path)

    def send(self, *fields: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(b"\0".join(fields), self._path)
            except BlockingIOError:
                self.blocked += 1
                raise


@pytest.fixture
def sender(path: Path) -> Iterator[Sender]:
    sender = Sender(path)
    yield sender
    assert not sender.blocked


@pytest.fixture
def writer(
    path: Path, reported: List[int], sender: Sender
) -> Iterator[JournalWriter]:
    writer = JournalWriter(reported.append, "agent", sender.send, str(path))
    yield writer
    writer.drain(30)
    writer.close()


def test_fields(path: Path, writer: JournalWriter) -> None:
    journal = Journal(path)
    writer.handle(
        record(
            "two\nlines \ud800 =\u20ac",
            MESSAGE_ID="a" * 32,
            NGCP_TASK="x=y\n\x1b\u202e\xa0",
            NGCP_TASK_DURATION_USEC=1234,
        )
    )
    assert journal.read() == {
        "MESSAGE": "two\\nlines \\ud800 =\u20ac",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "agent",
        "LOGGER": "a.logger",
        "MESSAGE_ID": "a" * 32,
        "NGCP_TASK": "x=y\n\x1b\u202e\xa0",
        "NGCP_TASK_DURATION_USEC": "1234",
    }
    journal.close()


FORGED = "by\nnothing\n2026-01-01 INFO accepted\r\x1b[2J\u202e"


def a_bug(cause: str = FORGED) -> logging.LogRecord:
    try:
        raise ZeroDivisionError(cause)
    except ZeroDivisionError as error:
        bug = record("a\nbug")
        bug.exc_info = type(error), error, error.__traceback__
    return bug


def test_a_traceback(path: Path, writer: JournalWriter) -> None:
    """It has a field of its own, whose lines are printable."""
    journal = Journal(path)
    writer.handle(a_bug())
    fields = journal.read()
    assert fields["MESSAGE"] == "a\\nbug"
    lines = fields["NGCP_TRACEBACK"].split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3:] == [
        "ZeroDivisionError: by",
        "nothing",
        "2026-01-01 INFO accepted\\r\\x1b[2J\\u202e",
    ]
    journal.close()


def test_a_traceback_on_standard_error() -> None:
    """None of its lines looks like a record."""
    with piped() as pipe:
        ErrorWriter(lambda count: None).handle(a_bug())
        first, *lines = os.read(pipe, 65536).decode().rstrip("\n").split("\n")
    assert first == "a\\nbug"
    assert all(line.startswith("    ") for line in lines)
    assert lines[-1] == "    2026-01-01 INFO accepted\\r\\x1b[2J\\u202e"


LONG = [
    pytest.param("x" * 10_000_000, "x" * 16384, id="ascii"),
    pytest.param("x" + "\u20ac" * 9000, "x" + "\u20ac" * 5461, id="cut"),
    pytest.param("\n" * 10_000_000, "\\n" * 8192, id="escaped"),
]


@pytest.mark.parametrize(("text", "expected"), LONG)
def test_a_message_that_is_too_long(
    text: str, expected: str, path: Path, writer: JournalWriter
) -> None:
    """It is cut between two characters, on every handler."""
    journal = Journal(path)
    writer.handle(record(text))
    assert journal.read()["MESSAGE"] == expected
    journal.close()
    with piped() as pipe:
        error = ErrorWriter(lambda count: None)
        error.handle(record(text))
        error.drain(30)
        assert os.read(pipe, 65536).decode() == f"{expected}\n"


def test_a_traceback_that_is_too_long(
    path: Path, writer: JournalWriter
) -> None:
    journal = Journal(path)
    writer.handle(a_bug("x\n" * 1_000_000))
    fields = journal.read()
    assert fields["MESSAGE"] == "a\\nbug"
    assert "test_handlers.py" in fields["NGCP_TRACEBACK"]
    assert 16000 < len(fields["NGCP_TRACEBACK"]) < 16384
    journal.close()


LEVELS = [
    *((logging.CRITICAL, "2"), (logging.ERROR, "3"), (logging.WARNING, "4")),
    *((logging.INFO, "6"), (logging.DEBUG, "7"), (15, "7")),
]


@pytest.mark.parametrize(("level", "priority"), LEVELS)
def test_priorities(
    level: int, priority: str, path: Path, writer: JournalWriter
) -> None:
    journal = Journal(path)
    writer.handle(record("x", levelno=level))
    assert journal.read()["PRIORITY"] == priority
    journal.close()


def test_a_journal_that_hangs(
    path: Path, writer: JournalWriter, reported: List[int]
) -> None:
    journal = Journal(path)
    texts = [str(number) for number in range(3000)]
    for text in texts:
        writer.handle(record(text))
    assert [journal.read()["MESSAGE"] for _ in texts] == texts
    # It works as before.
    writer.drain(30)
    writer.handle(record("last"))
    assert journal.read()["MESSAGE"] == "last"
    assert not reported
    journal.close()


def test_a_journal_that_restarts(
    path: Path, writer: JournalWriter, reported: List[int]
) -> None:
    for _ in range(2):
        journal = Journal(path)
        writer.handle(record("here"))
        assert journal.read()["MESSAGE"] == "here"
        journal.close()
        writer.handle(record("lost"))
        writer.handle(record("lost"))
    journal = Journal(path)
    writer.handle(record("here"))
    writer.handle(record("next"))
    assert [journal.read()["MESSAGE"] for _ in "12"] == ["here", "next"]
    assert reported == [2, 2]
    journal.close()


def test_a_journal_that_ends_while_it_hangs(
    path: Path, writer: JournalWriter, reported: List[int]
) -> None:
    journal = Journal(path)
    for number in range(3000):
        writer.handle(record(str(number)))
    journal.close()
    writer.drain(30)
    journal = Journal(path)
    for text in ("here", "next"):
        writer.handle(record(text))
        assert journal.read()["MESSAGE"] == text
    (lost,) = reported
    assert 0 < lost < 3000
    journal.close()


def test_another_journal_while_one_hangs(
    path: Path, writer: JournalWriter
) -> None:
    hanging = Journal(path)
    texts = [str(number) for number in range(3000)]
    for text in texts:
        writer.handle(record(text))
    path.unlink()
    journal = Journal(path)
    waited = texts.index(journal.read()["MESSAGE"])
    assert waited > 0
    for text in texts[waited + 1 :]:
        assert journal.read()["MESSAGE"] == text
    journal.close()
    hanging.close()
