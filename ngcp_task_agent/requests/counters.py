"""Counters: what has become of requests, in total and by task."""

from __future__ import annotations

import collections
from typing import AbstractSet, Counter, Dict, Iterator, Tuple

#: A request is ignored, rejected or accepted; done and error are the endings
#: of accepted ones.  Busy and duplicates are also among rejected.
COUNTED = (
    "ignored",
    "rejected",
    "accepted",
    "done",
    "error",
    "busy",
    "duplicates",
)


class Counters:
    """Requests since the start.

    :ivar total: of all messages, by one of COUNTED
    """

    def __init__(self) -> None:
        self.total: Counter[str] = collections.Counter()
        self._tasks: Dict[str, Counter[str]] = {}

    def of(self, task: str) -> Counter[str]:
        """Return what to count with, for tasks of this name."""
        if task not in self._tasks:
            self._tasks[task] = collections.Counter()
        return self._tasks[task]

    def keep(self, tasks: AbstractSet[str]) -> None:
        """Forget the counters of all other tasks."""
        for name in self._tasks.keys() - tasks:
            del self._tasks[name]

    def totals(self) -> Dict[str, int]:
        return _complete(self.total)

    def by_task(self) -> Iterator[Tuple[str, Dict[str, int]]]:
        """Return the counters of each task that has had requests."""
        for name, one in [*self._tasks.items()]:
            yield name, _complete(one)


def _complete(counted: Counter[str]) -> Dict[str, int]:
    """Add ``received``, and zeros."""
    received = sum(counted[n] for n in ("ignored", "rejected", "accepted"))
    return {"received": received, **{n: counted[n] for n in COUNTED}}
