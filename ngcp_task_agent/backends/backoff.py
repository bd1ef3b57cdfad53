"""Backoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import random
import time

_LONGEST = 30.0  # seconds
_STABLE = 5.0  # seconds


class Backoff:
    """From 1 to 30 seconds, doubling, with jitter.

    A connection that has held for a while is made anew almost at once; the
    jitter keeps a cluster's agents from coming back in the same instant.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._connected = float("-inf")

    def connected(self) -> None:
        """The connection stands."""
        self._connected = time.monotonic()

    def next(self) -> float:
        """The attempt failed or the connection broke: seconds to wait."""
        held = time.monotonic() - self._connected
        if self._connected > float("-inf") and held >= _STABLE:
            self._failures = 0
            self._connected = float("-inf")
            return random.uniform(0.0, 0.3)
        self._connected = float("-inf")
        # Bounded: after 1,023 failures the power would be no float any more.
        self._failures = min(self._failures + 1, 10)
        return random.uniform(1.0, min(_LONGEST, 2.0**self._failures))
