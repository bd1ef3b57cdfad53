"""Records of several requests, each request's under one heading."""

from __future__ import annotations

import datetime
from typing import Any, List

from ngcp_task_agent.ctl import stories
from ngcp_task_agent.ctl.records import Record
from ngcp_task_agent.ctl.stories import LINGER, Stories

NOON = datetime.datetime(2026, 11, 27, 12).timestamp()
ONE, TWO = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "12")


def record(after: float, status: str, **fields: Any) -> Record:
    """Return one so many seconds after noon."""
    fields = {"uuid": ONE, "task": "ping", "src": "sp1", **fields}
    return Record(NOON + after, status, **fields)


def told(*records: Record, **options: Any) -> List[str]:
    """Return the stories, those written before the end first."""
    written: List[str] = []
    made = Stories(written.append, **options)
    for one in records:
        made.add(one)
    made.end()
    return written


def test_one_heading_for_each_request() -> None:
    written = told(
        record(0, "accepted"),
        record(1, "accepted", uuid=TWO, task="pong"),
        record(1.5, "stderr", stderr="hm"),
        record(2, "done", seconds=2.0),
        record(3, "error", uuid=TWO, seconds=2.0, reason="bad", stderr="why"),
    )
    assert written == [
        f"{ONE}  ping from sp1\n"
        "    2026-11-27 12:00:00.000  accepted\n"
        "    2026-11-27 12:00:01.500  stderr              hm\n"
        "    2026-11-27 12:00:02.000  done       2.000 s\n",
        f"{TWO}  pong from sp1\n"
        "    2026-11-27 12:00:01.000  accepted\n"
        "    2026-11-27 12:00:03.000  error      2.000 s  bad: why\n",
    ]


def test_a_story_is_written_a_while_after_its_end() -> None:
    written: List[str] = []
    made = Stories(written.append)
    made.add(record(0, "accepted"))
    made.add(record(1, "done"))
    late = record(LINGER, "answer lost", task=None, src=None, reason="away")
    made.add(late)
    assert not written
    # It has ended, but another one runs on.
    made.add(record(1 + LINGER, "accepted", uuid=TWO))
    (text,) = written
    assert text.startswith(f"{ONE}  ping from sp1\n")
    assert text.split()[-3:] == ["answer", "lost", "away"]


def test_a_second_request_with_the_uuid_of_one_that_runs() -> None:
    (text,) = told(
        record(0, "accepted"),
        record(1, "rejected", reason="again"),
        record(1000, "done"),
    )
    assert [line.split()[2] for line in text.splitlines()[1:]] == [
        "accepted",
        "rejected",
        "done",
    ]


def test_a_request_accepted_at_last() -> None:
    (text,) = told(
        record(0, "rejected", reason="busy"),
        record(1, "accepted"),
        record(1000, "done"),
    )
    assert text.count("\n") == 4


def test_a_heading_from_the_first_record_that_names_the_task() -> None:
    (text,) = told(
        record(0, "answer lost", task=None, src=None, reason="away"),
        record(1, "rejected", reason="busy"),
    )
    assert text.startswith(f"{ONE}  ping from sp1\n")


def test_requests_that_an_agent_never_ended() -> None:
    one, two = told(
        record(0, "accepted"),
        record(1, "started", uuid=None, task=None, src=None),
        record(2, "accepted", uuid=TWO),
    )
    assert one.endswith(
        "    no end in the journal: a new agent at 2026-11-27 12:00:01.000\n"
    )
    assert "no end" not in two


def test_records_without_uuid() -> None:
    about_all, message = told(
        record(0, "left out", uuid=None, task=None, src=None, reason="9 more"),
        record(
            1, "rejected", uuid=None, task=None, src=None, reason="not JSON"
        ),
    )
    assert about_all.startswith("2026-11-27 12:00:00.000  left out ")
    assert about_all.endswith(" 9 more\n")
    assert message.startswith("no uuid  a message from an unknown client\n")
    assert message.endswith(" not JSON\n")


def test_strangers_texts_are_escaped() -> None:
    (text,) = told(
        record(0, "rejected", task="\x1b[2J", src="a\nb", reason="\u202e")
    )
    assert r"\x1b[2J from a\nb" in text
    assert text.endswith("\\u202e\n")
    assert text.count("\n") == 2


def test_what_waits_is_bounded() -> None:
    """A story that grows for ever is written in parts; others stay whole."""
    made_of = [record(0, "accepted", uuid=TWO)]
    for second in range(1000):
        made_of.append(record(second, "stderr", stderr="x" * 1000))
    longest = 100_000
    written = told(*made_of, record(1000, "done"), most_held=longest)
    assert len(written) > 5
    assert all(len(text) < longest for text in written)
    heading = f"{ONE}  ping from sp1\n"
    parts = [text for text in written if text.startswith(heading)]
    lines = "".join(part[len(heading) :] for part in parts).splitlines()
    assert len(lines) == 1001
    assert lines == sorted(lines)


def test_many_requests_that_never_end() -> None:
    written: List[str] = []
    made = Stories(written.append)
    for number in range(100_000):
        made.add(record(0, "accepted", uuid=f"{number}"))
    held = 100_000 - len(written)
    assert 0 < held * 300 < stories.MOST_HELD
    made.end()
    assert len(written) == 100_000
