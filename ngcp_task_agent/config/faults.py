"""Faults: what is wrong in a file, where, and what it must be instead.

explain.py words them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Tuple, Union

Schema = Mapping[str, Any]
# The keys and indexes that lead to a value.
Steps = Tuple[Union[str, int], ...]
# The steps to a value, and what is wrong with it.
Finding = Tuple[Steps, str]

#: Replaces a value that already has a fault.
FAULTY = object()


class Unshown(str):
    """A key that no fault repeats: it may be a value that lacks its key."""


class Fault(NamedTuple):
    """What is wrong in a file.

    :ivar line: counted from 1; 0 for the file as a whole
    :ivar where: the path of keys to the value, such as ``node.name``
    """

    path: Path
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else f"{self.path}"
        return ": ".join(filter(None, (place, self.where, self.what)))


def meant(name: str, known: Iterable[str]) -> str:
    """Return a hint about an unknown name: the closest known one."""
    import difflib  # only faults need it

    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def in_quotes(letter: str) -> str:
    return f"if the {letter} begins a string, put it in quotes"
