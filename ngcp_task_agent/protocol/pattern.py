"""fnmatch patterns, matched without case and in bounded time.

The standard library's fnmatch builds a regular expression for each pattern
and keeps up to 32,768 of them.  Patterns come from whoever may publish, so
here nothing is kept, and matching cannot backtrack: the text between two
stars is searched for once, from left to right, and taken where it is first
found, which is always right for such patterns.
"""

from __future__ import annotations

import re
from typing import Callable, Iterable, List, Sequence, Tuple, Union

_SPECIAL = re.compile(r"[*?[]")

# One character of a pattern that is more than a letter: a test of a letter.
_Test = Callable[[str], bool]
# What stands between two stars: plain text, or a test for each character.
_Segment = Union[str, Tuple[_Test, ...]]


class Pattern:
    """A pattern of ``*``, ``?``, ``[ab]``, ``[a-c]`` and ``[!ab]``.

    A ``[`` without its ``]`` stands for itself, as in fnmatch(3).
    """

    def __init__(self, text: str) -> None:
        self.text = text
        text = text.lower()
        if _SPECIAL.search(text):
            self._segments = _parse(text)
            self._shortest = sum(map(len, self._segments))
        else:
            # Most are plain names, and a request can hold 2,048 of them.
            self._segments = [text]
            self._shortest = len(text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def matches_any(self, texts: Iterable[str]) -> bool:
        """Whether any of the texts fits."""
        for text in texts:
            if self.matches(text):
                return True
        return False

    def matches(self, text: str) -> bool:
        """Whether the whole text, in any case, fits the pattern."""
        text = text.lower()
        first, last = self._segments[0], self._segments[-1]
        if len(text) < self._shortest:
            return False
        if len(self._segments) == 1:
            if isinstance(first, str):
                return text == first
            return len(text) == len(first) and _stands(first, text, 0)
        start, end = len(first), len(text) - len(last)
        if not (_stands(first, text, 0) and _stands(last, text, end)):
            return False
        for segment in self._segments[1:-1]:
            found = _find(segment, text, start, end)
            if found < 0:
                return False
            start = found + len(segment)
        return True


def _stands(segment: _Segment, text: str, at: int) -> bool:
    """Whether the segment stands in the text at this place."""
    if isinstance(segment, str):
        return text.startswith(segment, at)
    return all(test(text[at + i]) for i, test in enumerate(segment))


def _find(segment: _Segment, text: str, start: int, end: int) -> int:
    """The first place of the segment in text[start:end], or -1."""
    if isinstance(segment, str):
        return text.find(segment, start, end)
    for at in range(start, end - len(segment) + 1):
        if _stands(segment, text, at):
            return at
    return -1


def _parse(text: str) -> List[_Segment]:
    """The segments between the stars; one more than there are stars."""
    segments: List[_Segment] = []
    plain: List[str] = []
    tests: List[_Test] = []

    def close() -> None:
        # Plain text is kept as text: str.find is fast.
        if len(plain) == len(tests):
            segments.append("".join(plain))
        else:
            segments.append(tuple(tests))
        plain.clear()
        tests.clear()

    at = 0
    last = text.rfind("]")
    while at < len(text):
        letter = text[at]
        at += 1
        if letter == "*":
            # Two stars in a row are one.
            if segments and not tests:
                continue
            close()
            continue
        if letter == "?":
            tests.append(_any)
            continue
        if letter == "[":
            inside = at + (text[at : at + 1] == "!") + 1
            # A text of brackets alone is not searched to its end each time.
            end = text.find("]", inside) if inside <= last else -1
            if end >= 0:
                tests.append(_one_of(text[at:end]))
                at = end + 1
                continue
        plain.append(letter)
        tests.append(letter.__eq__)
    close()
    return segments


def _any(letter: str) -> bool:
    return True


def _one_of(inside: str) -> _Test:
    """The test for what stands between brackets."""
    negated = inside.startswith("!")
    letters: Sequence[str] = inside[1:] if negated else inside
    ranges: List[Tuple[str, str]] = []
    at = 0
    while at < len(letters):
        if at + 2 < len(letters) and letters[at + 1] == "-":
            ranges.append((letters[at], letters[at + 2]))
            at += 3
        else:
            ranges.append((letters[at], letters[at]))
            at += 1

    def test(letter: str) -> bool:
        return negated != any(low <= letter <= high for low, high in ranges)

    return test
