"""Backoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import random

LONGEST_WAIT = 30.0  # seconds
SHORTEST_WAIT = 0.1


class Backoff:
    """No delay first, then longer ones after each failure, with jitter.

    The jitter keeps the agents of a cluster from reconnecting all at once.
    """

    def __init__(self) -> None:
        self._failures = 0

    def succeeded(self) -> None:
        """Record a working connection: the next attempt is immediate."""
        self._failures = 0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self._failures += 1
        if self._failures == 1:
            return 0.0
        # Bounded: after 1,023 failures the power would overflow a float.
        longest = SHORTEST_WAIT * 2.0 ** min(self._failures - 1, 20)
        return random.uniform(0.5, 1.0) * min(LONGEST_WAIT, longest)
