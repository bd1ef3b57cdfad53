"""Standard error in the journal: complete lines, bounded, with fields."""

from __future__ import annotations

from typing import Any, List

import pytest

from ngcp_task_agent.brokers.stderr import StderrLog
from ngcp_task_agent.logs import journal
from tests.unit.fakes import Records, request, until


def lines(records: Records) -> List[str]:
    found = records.of(journal.TASK_STDERR)
    return [record.NGCP_TASK_STDERR for record in found]


WRITTEN: List[Any] = [
    pytest.param([b"a\nb\n"], ["a", "b"], id="lines"),
    pytest.param([b"a", b"b\nc", b"\n"], ["ab", "c"], id="pieces"),
    pytest.param([b"a\nb"], ["a", "b"], id="no-newline-at-the-end"),
    pytest.param([b"\na\n\n"], ["", "a", ""], id="empty-lines"),
    pytest.param([b"\xe2\x82", b"\xac\n"], ["\u20ac"], id="split-character"),
    pytest.param([b"a\xffb\n"], ["a\ufffdb"], id="not-utf-8"),
    pytest.param([b"a\x1b\r\n"], ["a\x1b\r"], id="exact"),
    pytest.param([b"x" * 5000 + b"\ny\n"], ["x" * 1000, "y"], id="long"),
    pytest.param([b"x" * 700] * 9 + [b"\ny"], ["x" * 1000, "y"], id="grows"),
    pytest.param([b"x" * 5000], ["x" * 1000], id="long-last"),
    pytest.param(
        ["x\u20ac".encode() * 500], ["x\u20ac" * 250], id="cut-at-a-character"
    ),
    pytest.param(
        ["\u20ac".encode() * 500], ["\u20ac" * 333], id="not-in-a-character"
    ),
    pytest.param(
        [b"x" + "\U0001f600".encode() * 500],
        ["x" + "\U0001f600" * 249],
        id="not-in-a-long-character",
    ),
    pytest.param([], [], id="nothing"),
]


@pytest.mark.parametrize(("pieces", "expected"), WRITTEN)
async def test_lines(
    pieces: List[bytes], expected: List[str], journal_records: Records
) -> None:
    log = StderrLog(request())
    for piece in pieces:
        log.write(piece)
    log.write(b"")
    assert lines(journal_records) == expected
    assert not journal_records.of(journal.RECORDS_LEFT_OUT)


async def test_fields(journal_records: Records) -> None:
    asked = request(task="ban", src="web01a")
    log = StderrLog(asked)
    log.write(b"accepted x\n" * 101)
    log.write(b"")
    for kind in (journal.TASK_STDERR, journal.RECORDS_LEFT_OUT):
        record = journal_records.of(kind)[0]
        assert record.NGCP_TASK == "ban"
        assert record.NGCP_TASK_UUID == asked.uuid
        assert record.NGCP_TASK_SRC == "web01a"
        # No line looks like another record.
        assert record.getMessage().startswith(
            f"stderr of ban, request {asked.uuid}: "
        )


async def test_so_many_lines_a_second(journal_records: Records) -> None:
    """The others are counted, also if no more come."""
    log = StderrLog(request())
    log.write(b"".join(b"%d\n" % number for number in range(99)))
    log.write(b"99\n" + b"x\n" * 899 + b"y")
    assert lines(journal_records) == [str(number) for number in range(100)]
    await until(lambda: journal_records.of(journal.RECORDS_LEFT_OUT))
    (text,) = journal_records.texts(journal.RECORDS_LEFT_OUT)
    assert text.endswith(": 899 more lines within 1 s are not logged")
    log.write(b"\n")
    log.write(b"")
    assert lines(journal_records)[100:] == ["y"]


async def test_the_rest_is_counted_at_the_end(
    journal_records: Records,
) -> None:
    log = StderrLog(request())
    log.write(b"x\n" * 200 + b"y")
    log.write(b"")
    (text,) = journal_records.texts(journal.RECORDS_LEFT_OUT)
    assert ": 101 more lines" in text
