"""Text for people: tables, lists and times."""

from __future__ import annotations

from typing import List

import pytest

from ngcp_task_agent import display

HEADINGS = ("Task", "Description", "Running")
ROWS = [["reload", "Load the routes of all calls again.", "3"]]
ROWS += [["dump\x1b", "", "10"]]


def drawn(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    return display.table(HEADINGS, ROWS, right=(2,), is_drawn=True)


def test_columns_where_there_is_no_terminal() -> None:
    assert display.table(HEADINGS, ROWS, right=(2,), is_drawn=False) == (
        "TASK      DESCRIPTION                          RUNNING\n"
        "reload    Load the routes of all calls again.        3\n"
        "dump\\x1b                                            10\n"
    )


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(80, monkeypatch) == (
        "┏━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┓\n"
        "┃ Task     ┃ Description                         ┃ Running ┃\n"
        "┡━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━┩\n"
        "│ reload   │ Load the routes of all calls again. │       3 │\n"
        "│ dump\\x1b │                                     │      10 │\n"
        "└──────────┴─────────────────────────────────────┴─────────┘\n"
    )


def test_long_text_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(50, monkeypatch).splitlines()
    assert max(map(len, lines)) <= 50
    assert "│ reload   │ Load the routes of all    │       3 │" in lines
    assert "│          │ calls again.              │         │" in lines


UUID = "cb88ac76-f348-4614-866f-43877b893e7e"


@pytest.mark.parametrize("width", range(20, 100))
def test_words_are_never_divided(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    row = [UUID, "restart", "Restart the proxy and all that depends on it."]
    headings = ("Request", "Task", "Description")
    shown = display.table(headings, [row], is_drawn=True)
    assert UUID in shown
    assert {"restart", "depends"} <= set(shown.split())


def test_list_where_a_table_is_too_wide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert drawn(40, monkeypatch) == (
        "Task:        reload\n"
        "Description: Load the routes of all calls again.\n"
        "Running:     3\n"
        "\n"
        "Task:        dump\\x1b\n"
        "Running:     10\n"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3.0, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7384.5, "2 h 3 min"),
        (47 * 3600, "47 h 0 min"),
        (49 * 3600, "2 d 1 h"),
    ],
)
def test_span(seconds: float, shown: str) -> None:
    assert display.span(seconds) == shown


@pytest.mark.parametrize(
    "names",
    [["n1", "N2", "n10", "n10a", "n10b"], ["1", "2", "a", "a1"], ["", "x"]],
)
def test_order_of_names(names: List[str]) -> None:
    backwards = names[::-1]
    assert sorted(backwards, key=display.in_order) == names
