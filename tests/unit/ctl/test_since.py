"""Times on the command line."""

from __future__ import annotations

import datetime

import pytest

from ngcp_task_agent.ctl import since

NOW = datetime.datetime(2026, 11, 27, 15, 30, 20).timestamp()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-11-27 15:30:20"),
        ("today", "2026-11-27 00:00:00"),
        ("yesterday", "2026-11-26 00:00:00"),
        ("-1h", "2026-11-27 14:30:20"),
        ("-1h30min", "2026-11-27 14:00:20"),
        ("-20", "2026-11-27 15:30:00"),
        ("-2 days", "2026-11-25 15:30:20"),
        ("1h 30min ago", "2026-11-27 14:00:20"),
        ("1 week ago", "2026-11-20 15:30:20"),
        ("10:00", "2026-11-27 10:00:00"),
        ("10:00:07", "2026-11-27 10:00:07"),
        ("2026-11-20", "2026-11-20 00:00:00"),
        ("2026-11-20 10:00", "2026-11-20 10:00:00"),
        ("2026-11-20T10:00:07", "2026-11-20 10:00:07"),
    ],
)
def test_time(text: str, meant: str) -> None:
    moment = datetime.datetime.fromisoformat(meant)
    assert since.parse(text, NOW) == moment.timestamp()


def test_unix_time() -> None:
    assert since.parse("@1700000000", NOW) == 1700000000.0


@pytest.mark.parametrize(
    "text",
    [
        *"x - -x -1y -1.5h -１h ago @ @x 25:00 2026-13-01 tomorrow".split(),
        *("", "-1h x", "x ago", "1 2", "27.11.2026"),
        *(f"-{'9' * 400}w", f"@{'9' * 400}"),
    ],
)
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as -1h"):
        since.parse(text, NOW)
