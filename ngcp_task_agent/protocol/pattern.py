"""fnmatch patterns, matched without case and in bounded time.

Python's fnmatch compiles a regular expression for each pattern, which is slow,
and keeps the last 32,768 of them.  Any client may send patterns.
"""

from __future__ import annotations

import re
from typing import Callable, Iterable, Iterator, Optional

_SPECIAL = re.compile(r"[*?[]")
_RANGE = re.compile(r"(.)-(.)|(.)", re.S)

# Tests one character; None is a star.
_Test = Optional[Callable[[str], bool]]


class Pattern:
    """A pattern of ``*``, ``?``, ``[ab]``, ``[a-c]`` and ``[!ab]``.

    A ``[`` without its ``]`` stands for itself, as in fnmatch(3).

    :ivar is_plain: it has none of these, and matches only itself
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._lower = text.lower()
        # Most are plain names, and a request can hold 2,048 of them.
        self.is_plain = not _SPECIAL.search(text)
        if not self.is_plain:
            self._tests = [*_parse(self._lower), "".__eq__]

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def matches_any(self, texts: Iterable[str]) -> bool:
        return any(map(self.matches, texts))

    def matches(self, text: str) -> bool:
        """Whether the whole text matches, ignoring case.

        Backtracks only to the last star: letting an earlier one match more
        never helps.  So the work is at most the text's length times that of
        the longest part between two stars.
        """
        text = text.lower()
        if self.is_plain:
            return text == self._lower
        tests = self._tests
        at = number = 0
        star = star_end = -1
        while at < len(text):
            test = tests[number]
            if test is None:
                star, star_end = number, at
                number += 1
            elif test(text[at]):
                number += 1
                at += 1
            elif star >= 0:
                star_end += 1
                number, at = star + 1, star_end
            else:
                return False
        return not any(tests[number:-1])


def _parse(text: str) -> Iterator[_Test]:
    at = 0
    last = text.rfind("]")
    while at < len(text):
        letter = text[at]
        at += 1
        if letter == "[":
            inside = at + text.startswith("!", at)
            if inside < last:
                end = text.index("]", inside + 1)
                yield _one_of(text[inside:end], inside > at)
                at = end + 1
                continue
        if letter == "*":
            yield None
        else:
            yield bool if letter == "?" else letter.__eq__


def _one_of(inside: str, negated: bool) -> Callable[[str], bool]:
    """Return the test for what is in brackets, without the ``!``."""
    ranges = [
        (low or single, high or single)
        for low, high, single in _RANGE.findall(inside)
    ]
    return lambda letter: (
        negated != any(low <= letter <= high for low, high in ranges)
    )
