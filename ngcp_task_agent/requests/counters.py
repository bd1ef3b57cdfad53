"""Counters: what has become of requests, in total and by task."""

from __future__ import annotations

import bisect
import collections
from typing import AbstractSet, Counter, Dict, Iterator, List, Tuple

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

#: The longest duration of each bucket but the last, in seconds.
BUCKETS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)


class Durations:
    """How long requests have taken, from their arrival to their end.

    :ivar counts: how many are in each bucket
    :ivar total: their sum, in seconds
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Counters:
    """Requests since the start.

    :ivar total: of all messages, by one of COUNTED
    """

    def __init__(self) -> None:
        self.total: Counter[str] = collections.Counter()
        self._tasks: Dict[str, Counter[str]] = {}
        self._durations: Dict[str, Durations] = {}

    def of(self, task: str) -> Counter[str]:
        """Return what to count with, for tasks of this name."""
        if task not in self._tasks:
            self._tasks[task] = collections.Counter()
        return self._tasks[task]

    def durations_of(self, task: str) -> Durations:
        """Return what to count durations with, for tasks of this name."""
        if task not in self._durations:
            self._durations[task] = Durations()
        return self._durations[task]

    def keep(self, tasks: AbstractSet[str]) -> None:
        """Forget the counters of all other tasks."""
        for known in (self._tasks, self._durations):
            for name in known.keys() - tasks:
                del known[name]

    def totals(self) -> Dict[str, int]:
        return _complete(self.total)

    def by_task(self) -> Iterator[Tuple[str, Dict[str, int]]]:
        """Return the counters of each task that has had requests."""
        for name, one in [*self._tasks.items()]:
            yield name, _complete(one)

    def durations(self) -> Iterator[Tuple[str, List[int], float]]:
        """Return counts and total of each task that has had requests."""
        for name, one in [*self._durations.items()]:
            yield name, [*one.counts], one.total


def _complete(counted: Counter[str]) -> Dict[str, int]:
    """Add ``received``, and zeros."""
    received = sum(counted[n] for n in ("ignored", "rejected", "accepted"))
    return {"received": received, **{n: counted[n] for n in COUNTED}}
