"""Bound: how many of a kind of record are written in a time."""

from __future__ import annotations

import asyncio
import functools
from typing import Callable, Dict, Optional


class Bound:
    """Lets so many pass in a window of time, and counts the others.

    Only for the thread of the event loop.

    :param most: how many pass
    :param window: seconds; a window begins with the first one in it
    :param report: called with the count at the end of a window, if there were
        others
    """

    def __init__(
        self, most: int, window: float, report: Callable[[int], None]
    ) -> None:
        self._most, self._window, self._report = most, window, report
        self._passed = 0
        self._others = 0
        self._timer: Optional[asyncio.TimerHandle] = None

    def take(self, count: int = 1) -> int:
        """Return how many of these pass, the first of them."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._window, self.end)
        passing = min(count, self._most - self._passed)
        self._passed += passing
        self._others += count - passing
        return passing

    def end(self) -> None:
        """End the window now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        others, self._passed, self._others = self._others, 0, 0
        if others:
            self._report(others)


class Bounds:
    """A bound for each kind of record.

    :param report: called with the kind and the count
    """

    def __init__(
        self, most: int, window: float, report: Callable[[str, int], None]
    ) -> None:
        self._most, self._window, self._report = most, window, report
        self._bounds: Dict[str, Bound] = {}

    def let_pass(self, kind: str) -> bool:
        """Count one of a kind; return whether it passes."""
        if kind not in self._bounds:
            report = functools.partial(self._report, kind)
            self._bounds[kind] = Bound(self._most, self._window, report)
        return self._bounds[kind].take() > 0

    def end(self) -> None:
        """End all windows now."""
        for bound in self._bounds.values():
            bound.end()
