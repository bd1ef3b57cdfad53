"""Backoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import random

_LONGEST = 30.0  # seconds
_SHORTEST = 0.1


class Backoff:
    """At once, then longer after each failure, with jitter.

    The jitter keeps the agents of a cluster from coming back together.
    """

    def __init__(self) -> None:
        self._failures = 0

    def succeeded(self) -> None:
        """The connection was of use: after it the first attempt is at once."""
        self._failures = 0

    def next(self) -> float:
        """An attempt is due: seconds to wait before it."""
        self._failures += 1
        if self._failures == 1:
            return 0.0
        # Bounded: after 1,023 failures the power would be no float any more.
        longest = _SHORTEST * 2.0 ** min(self._failures - 1, 20)
        return random.uniform(0.5, 1.0) * min(_LONGEST, longest)
