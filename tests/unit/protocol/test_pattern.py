"""Patterns: those of fnmatch, ignoring case, in bounded time."""

from __future__ import annotations

import fnmatch
import re
import sys
import warnings
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ngcp_task_agent.protocol.pattern import Pattern

MATCHES = [
    pytest.param("prx01a", "prx01a", True, id="plain"),
    pytest.param("prx01a", "prx01b", False, id="another"),
    pytest.param("prx01a", "prx01", False, id="shorter"),
    pytest.param("prx01a", "prx01aa", False, id="longer"),
    pytest.param("PRX01a", "prx01A", True, id="case"),
    pytest.param("*", "", True, id="star-nothing"),
    pytest.param("*", "anything", True, id="star"),
    pytest.param("prx*", "prx01a", True, id="star-end"),
    pytest.param("*a", "prx01a", True, id="star-begin"),
    pytest.param("p*a", "prx01a", True, id="star-between"),
    pytest.param("p*0*a", "prx01a", True, id="stars"),
    pytest.param("p**a", "pa", True, id="two-stars"),
    pytest.param("ab*ba", "aba", False, id="ends-must-not-overlap"),
    pytest.param("*ab*ab*", "aab", False, id="segments-must-not-overlap"),
    pytest.param("*ab*ab*", "abab", True, id="segments-side-by-side"),
    pytest.param("db01?", "db01a", True, id="question"),
    pytest.param("db01?", "db01", False, id="question-needs-a-letter"),
    pytest.param("db0[12]a", "db02a", True, id="class"),
    pytest.param("db0[12]a", "db03a", False, id="not-in-class"),
    pytest.param("db0[!12]a", "db03a", True, id="negated"),
    pytest.param("db0[!12]a", "db02a", False, id="in-negated"),
    pytest.param("db0[1-3]a", "db02a", True, id="range"),
    pytest.param("db0[1-3]a", "db04a", False, id="outside-range"),
    pytest.param("[3-1]", "2", False, id="range-backwards-is-empty"),
    pytest.param("[!3-1]", "2", True, id="negated-empty-range"),
    pytest.param("[]a]", "]", True, id="bracket-in-class"),
    pytest.param("[!]a]", "]", False, id="bracket-in-negated"),
    pytest.param("[a-]", "-", True, id="hyphen-at-the-end"),
    pytest.param("[-a]", "-", True, id="hyphen-at-the-begin"),
    pytest.param("[ab", "[ab", True, id="bracket-without-end"),
    pytest.param("[", "[", True, id="only-a-bracket"),
    pytest.param("[]", "[]", True, id="empty-brackets"),
    pytest.param("[!]", "[!]", True, id="negated-empty-brackets"),
    pytest.param("*[ab]*[cd]", "xaxd", True, id="classes-between-stars"),
    pytest.param("*?[ab]?*", "xbx", True, id="tests-between-stars"),
    pytest.param("a.b", "axb", False, id="dot-is-a-dot"),
    pytest.param("a\\b", "a\\b", True, id="backslash-is-itself"),
    pytest.param("", "", True, id="empty"),
    pytest.param("", "a", False, id="empty-matches-nothing-else"),
    pytest.param("Ä*", "äh", True, id="not-only-ascii"),
    pytest.param("a\nb*", "a\nbc", True, id="line-feed"),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), MATCHES)
def test_matches(pattern: str, text: str, expected: bool) -> None:
    assert Pattern(pattern).matches(text) is expected


@given(
    st.text("ab-!][?*^\\", max_size=10),
    st.text("ab-!]^\\[", max_size=8),
)
@example("[a-b-c]", "-")
@example("[!!]", "!")
@example("[[]", "[")
@example("[b-a]", "b")
@example("[a-b-]", "-")
@example("*[ab]b*a?[!b]*", "abbabaab")
def test_agrees_with_fnmatch(pattern: str, text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = fnmatch.fnmatchcase(text, pattern)
    except re.error:
        # Before Python 3.10, fnmatch failed for "[b-a]".
        return
    assert Pattern(pattern).matches(text) == expected


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=16))
def test_stars_agree_with_fnmatch(pattern: str, text: str) -> None:
    expected = fnmatch.fnmatchcase(text, pattern)
    assert Pattern(pattern).matches(text) == expected


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_pattern_can_be_matched_with_any_text(
    pattern: str, text: str
) -> None:
    assert Pattern(pattern).matches(text) in (True, False)


@pytest.mark.parametrize("text", ["lb*", "", "'"])
def test_repr_shows_the_pattern(text: str) -> None:
    assert repr(text) in repr(Pattern(text))
    assert Pattern(text).text == text


class _Counter:
    """Counts the lines of Python that run."""

    def __init__(self) -> None:
        self.lines = 0

    def __enter__(self) -> _Counter:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.lines += event == "line"
        return self._trace


HOSTILE = [
    pytest.param("*a", id="star-letter"),
    pytest.param("?*", id="question-star"),
    pytest.param("*?", id="star-question"),
    pytest.param("[", id="brackets"),
    pytest.param("[!", id="negated-brackets"),
    pytest.param("[]", id="pairs"),
    pytest.param("[a-z]*", id="classes"),
    pytest.param("*[ab]", id="star-class"),
    pytest.param("*", id="stars"),
    pytest.param("?", id="questions"),
    pytest.param("a", id="letters"),
]


@pytest.mark.parametrize("part", HOSTILE)
def test_work_grows_with_the_length_alone(part: str) -> None:
    def work(size: int) -> int:
        pattern = (part * size)[:size]
        with _Counter() as counter:
            # A host name may have 64.
            Pattern(pattern).matches("a" * 64)
        return counter.lines

    small, large = work(1024), work(4096)
    assert large <= 4 * small + 1000


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_pattern_against_long_text(part: str) -> None:
    """A src can have 255 characters; a pattern never backtracks far."""
    pattern = Pattern((part * 256)[:256] + "c")
    with _Counter() as counter:
        assert not pattern.matches("a" * 255)
    assert counter.lines < 256 * 256 * 4
