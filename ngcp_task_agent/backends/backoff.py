"""Backoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import random
import time
from typing import Optional

_LONGEST = 30.0  # seconds
_STABLE = 5.0  # seconds


class Backoff:
    """From 1 to 30 seconds, doubling, with jitter.

    A connection that has held for a while is made anew almost at once; the
    jitter keeps a cluster's agents from coming back in the same instant.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._connected: Optional[float] = None

    def connected(self) -> None:
        """The connection stands; the one before may have held."""
        if self._has_held():
            self._failures = 0
        self._connected = time.monotonic()

    def succeeded(self) -> None:
        """It was of use: the next failure is the first one."""
        self._failures = 0

    def next(self) -> float:
        """The attempt failed or the connection broke: seconds to wait."""
        has_held = self._has_held()
        self._connected = None
        if has_held:
            self._failures = 0
            return random.uniform(0.0, 0.3)
        # Bounded: after 1,023 failures the power would be no float any more.
        self._failures = min(self._failures + 1, 10)
        return random.uniform(1.0, min(_LONGEST, 2.0**self._failures))

    def _has_held(self) -> bool:
        return (
            self._connected is not None
            and time.monotonic() - self._connected >= _STABLE
        )
