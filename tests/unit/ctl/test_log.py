"""``log``, on journal files as journald writes them."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Counter, Dict, Iterator, List

import pytest

from ngcp_task_agent.brokers.base import Result
from ngcp_task_agent.ctl import reader
from ngcp_task_agent.ctl.cli import main
from ngcp_task_agent.ctl.reader import AgentJournal, Wanted
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Origin
from ngcp_task_agent.requests.reply import Reply
from tests.journal_file import JournalFile
from tests.unit.fakes import FakeBackend

TRUSTED = {
    "_SYSTEMD_UNIT": "ngcp-task-agent.service",
    "_UID": 0,
    "_COMM": "ngcp-task-agent",
}
NOON = 1795780800.0
ONE, TWO = (f"{digit * 8}-0000-4000-8000-00000000000b" for digit in "ab")


def fields(kind: journal.Kind, status: str = "", **more: Any) -> Any:
    """Return the fields of an agent's record about the request ONE."""
    about: Dict[str, Any] = {
        "task": "ping",
        "task_uuid": ONE,
        "task_src": "sp1",
        "task_status": status or None,
        **more,
    }
    return {
        "MESSAGE": f"{status} …",
        "MESSAGE_ID": kind.message_id,
        "PRIORITY": 6,
        **{f"NGCP_{n.upper()}": v for n, v in about.items() if v is not None},
        **TRUSTED,
    }


class Journal:
    """A folder with a journal file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = JournalFile(folder)

    def add(self, after: float, kind: journal.Kind, *a: Any, **b: Any) -> None:
        """Add a record of the agent, so many seconds after noon."""
        self.file.add(NOON + after, fields(kind, *a, **b))

    def rotate(self) -> None:
        number = self.file.next_number
        self.file.close(archive=True)
        self.file = JournalFile(self.folder, first=number)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.file.close()


Shown = Callable[..., str]


@pytest.fixture
def shown(written: Journal, capfd: pytest.CaptureFixture[str]) -> Shown:
    """Return what ``log`` prints."""

    def shown(*words: str, status: int = 0) -> str:
        argv = ["log", "--directory", str(written.folder), *words]
        assert main(argv) == status
        out, err = capfd.readouterr()
        assert not (err and out)
        return out or err

    return shown


def decided(text: str) -> List[List[str]]:
    """Return the words of each decision, after the time."""
    lines = [line for line in text.splitlines() if line[:1] == " "]
    return [line.split()[2:] for line in lines]


async def test_a_story_as_the_agent_logs_it(
    written: Journal, shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "ngcp_task_agent")
    origin = Origin(ONE, "ping", "sp1")
    for result in (
        Result("out", exit_status=0),
        Result("", "exit status 3", "broken", 3),
    ):
        reply = Reply(
            FakeBackend(), "feedback", origin, "sp1", 1 << 20, Counter()
        )
        reply.accepted()
        await reply.ended(result)
    for record in caplog.records:
        own = {n: v for n, v in vars(record).items() if n.isupper()}
        message = {"MESSAGE": record.getMessage()}
        written.file.add(NOON, {**message, **own, **TRUSTED})
    text = shown()
    assert text.splitlines()[0] == f"{ONE}  ping from sp1"
    accepted, done, again, error = decided(text)
    assert (accepted, again) == (["accepted"], ["accepted"])
    assert done[0] == "done"
    assert done[2] == "s"
    assert error[0] == "error"
    assert error[3:] == ["exit", "status", "3:", "broken"]


def test_only_what_the_agent_wrote(written: Journal, shown: Shown) -> None:
    true = fields(journal.REQUEST_ACCEPTED, "accepted")
    for forged in (
        {"_UID": 1000},
        {"_COMM": "logger"},
        {"_SYSTEMD_UNIT": "user@1000.service"},
        {"MESSAGE_ID": journal.NODE_CHANGED.message_id},
    ):
        written.file.add(NOON, {**true, **forged})
    assert "no record of a request" in shown()
    written.file.add(NOON, true)
    assert decided(shown()) == [["accepted"]]


def test_an_agent_that_is_not_root(written: Journal, shown: Shown) -> None:
    written.file.add(
        NOON, {**fields(journal.REQUEST_ACCEPTED, "accepted"), "_UID": 1}
    )
    assert decided(shown("--service-user", "1")) == [["accepted"]]
    assert decided(shown("--service-user", "daemon")) == [["accepted"]]


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        (ONE, ONE),
        (ONE, ONE.upper()),
        (ONE.upper(), ONE),
        (ONE.title(), ONE),
        (ONE, ONE.replace("-", "")),
        ("not a uuid\x1b é", "not a uuid\x1b é"),
    ],
)
def test_one_request(
    sent: str, asked: str, written: Journal, shown: Shown
) -> None:
    written.add(0, journal.REQUEST_ACCEPTED, "accepted", task_uuid=TWO)
    written.add(1, journal.REQUEST_ACCEPTED, "accepted", task_uuid=sent)
    written.add(2, journal.TASK_STDERR, task_stderr="hm", task_uuid=sent)
    written.add(3, journal.TASK_DONE, "done", task_uuid=sent)
    assert decided(shown(asked)) == [["accepted"], ["stderr", "hm"], ["done"]]


@pytest.mark.parametrize("words", [[], [ONE], ["--task", "ping"]])
def test_a_request_that_an_agent_never_ended(
    words: List[str], written: Journal, shown: Shown
) -> None:
    written.add(0, journal.REQUEST_ACCEPTED, "accepted")
    nothing = {"task": None, "task_uuid": None, "task_src": None}
    written.add(1, journal.STARTED, **nothing)
    assert "    no end in the journal: a new agent at " in shown(*words)


def test_an_unknown_request(written: Journal, shown: Shown) -> None:
    written.add(0, journal.REQUEST_ACCEPTED, "accepted")
    assert shown(TWO, status=1) == (
        f"ngcp-task-agentctl: the journal has no record of a request '{TWO}'\n"
    )
    # It is not of this task, or older.
    assert "of the task 'x'" in shown(ONE, "--task", "x", status=1)
    assert " since 2" in shown(ONE, "--since", "2200-01-01", status=1)


def test_one_task(written: Journal, shown: Shown) -> None:
    """Also the records of its requests that do not name it."""
    for number, task in ((ONE, "ping"), (TWO, "pong")):
        name = {"task": task, "task_uuid": number}
        lost = {"task": None, "task_src": None, "task_uuid": number}
        written.add(0, journal.REQUEST_ACCEPTED, "accepted", **name)
        written.add(1, journal.TASK_DONE, "done", **name)
        written.add(2, journal.ANSWER_LOST, **lost, MESSAGE="away")
    text = shown("--task", "pong")
    assert text.splitlines()[0] == f"{TWO}  pong from sp1"
    assert [words[0] for words in decided(text)] == [
        "accepted",
        "done",
        "answer",
    ]


def test_since(written: Journal, shown: Shown) -> None:
    now = time.time()
    for hours in (50, 3, 1):
        age = NOON - (now - 3600 * hours)
        written.add(-age, journal.REQUEST_REJECTED, "rejected", task_uuid=None)
    assert len(decided(shown())) == 3
    assert len(decided(shown("--since", "-2h"))) == 1
    assert len(decided(shown("--since", "4h ago"))) == 2
    assert len(decided(shown("--since=@1"))) == 3


def test_records_of_files_that_were_rotated(
    written: Journal, shown: Shown
) -> None:
    written.add(0, journal.REQUEST_ACCEPTED, "accepted")
    written.rotate()
    written.add(1, journal.TASK_DONE, "done")
    assert decided(shown()) == [["accepted"], ["done"]]


def test_what_the_records_leave_out(written: Journal, shown: Shown) -> None:
    written.file.add(
        NOON,
        {
            "MESSAGE": "9 more rejected requests",
            "MESSAGE_ID": journal.RECORDS_LEFT_OUT.message_id,
            **TRUSTED,
        },
    )
    assert shown().endswith(" 9 more rejected requests\n")


def test_a_record_of_an_older_agent(written: Journal, shown: Shown) -> None:
    """Its reason is only in the message."""
    written.add(0, journal.REQUEST_REJECTED, "rejected")
    assert decided(shown()) == [["rejected", "rejected", "…"]]


def test_json(written: Journal, shown: Shown) -> None:
    written.add(0, journal.REQUEST_ACCEPTED, "accepted", task_src="\x7f\x1b")
    written.add(
        *(1, journal.TASK_ERROR, "error"),
        task_reason="exit status 3",
        task_stderr="broken",
        task_exit_status=3,
        task_duration_usec=1_500_000,
    )
    text = shown("--json")
    assert text.isprintable() or text.replace("\n", "").isprintable()
    accepted, error = map(json.loads, text.splitlines())
    assert accepted["src"] == "\x7f\x1b"
    assert accepted["seconds"] is None
    assert error == {
        "time": "2026-11-27T12:00:01.000000+00:00",
        "status": "error",
        "uuid": ONE,
        "task": "ping",
        "src": "sp1",
        "seconds": 1.5,
        "exit_status": 3,
        "reason": "exit status 3",
        "stderr": "broken",
    }


def test_odd_fields(written: Journal, shown: Shown) -> None:
    """Whatever they hold, a record is shown."""
    written.add(
        *(0, journal.TASK_DONE, "done"),
        task=b"\xff\xfe",
        task_duration_usec="x",
        task_exit_status="",
        task_src="a" * 100_000,
    )
    assert r"\xff\xfe from aaaa" in shown()


def test_a_folder_that_is_not_there(shown: Shown, tmp_path: Path) -> None:
    text = shown("--directory", str(tmp_path / "x"), status=1)
    assert text.endswith("x does not exist\n")


def test_an_empty_folder(shown: Shown, tmp_path: Path) -> None:
    assert "no record" in shown("--directory", str(tmp_path))


def test_a_user_who_may_not_read_the_journal(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "0123" / "system.journal"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(reader, "_FOLDERS", (tmp_path, tmp_path / "none"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["log"]) == 77
    assert "the group systemd-journal" in capfd.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--since", "x"],
        ["--since"],
        ["--service-user", "no such user"],
        ["--nope"],
        [ONE, TWO],
    ],
    ids=" ".join,
)
def test_wrong_usage(argv: List[str], shown: Shown) -> None:
    assert "usage: " in shown(*argv, status=2)


# Following: the reader, as the command does not end.


def test_follow(written: Journal) -> None:
    for number in range(15):
        written.add(number, journal.REQUEST_REJECTED, "rejected")
    with AgentJournal(Wanted(folder=written.folder)) as followed:
        followed.watch()
        whens = [record.when - NOON for record in followed.last(10)]
        assert whens == list(range(5, 15))
        written.add(20, journal.TASK_DONE, "done")
        assert next_record(followed).when == NOON + 20
        written.rotate()
        written.add(21, journal.TASK_DONE, "done")
        assert next_record(followed).when == NOON + 21
        written.add(22, journal.TASK_DONE, "done")
        assert next_record(followed).when == NOON + 22


def test_follow_before_there_is_a_record(written: Journal) -> None:
    written.add(0, journal.NODE_CHANGED)
    with AgentJournal(Wanted(folder=written.folder)) as followed:
        followed.watch()
        assert followed.last(10) == []
        written.add(1, journal.TASK_DONE, "done")
        assert next_record(followed).when == NOON + 1


def test_follow_with_few_records(written: Journal) -> None:
    written.add(0, journal.TASK_DONE, "done")
    with AgentJournal(Wanted(folder=written.folder)) as followed:
        followed.watch()
        assert len(followed.last(10)) == 1
        written.add(1, journal.TASK_DONE, "done")
        assert next_record(followed).when == NOON + 1


def test_follow_until_nobody_reads(written: Journal) -> None:
    read, write = os.pipe()
    with AgentJournal(Wanted(folder=written.folder)) as followed:
        followed.watch()
        followed.seek(None)
        os.close(read)
        try:
            while followed.wait(write):
                assert not list(followed.read())
        finally:
            os.close(write)


def next_record(followed: AgentJournal) -> Any:
    """Return the next record, as soon as it is there."""
    with open(os.devnull, "w") as sink:
        while True:
            for record in followed.read():
                return record
            assert followed.wait(sink.fileno())


def test_all_requests_of_a_large_journal(
    written: Journal, shown: Shown
) -> None:
    for number in range(2000):
        name = str(uuid.UUID(int=number))
        written.add(
            number, journal.REQUEST_ACCEPTED, "accepted", task_uuid=name
        )
        written.add(number, journal.TASK_DONE, "done", task_uuid=name)
    text = shown()
    assert text.count(" from sp1\n") == 2000
    assert len(decided(text)) == 4000
