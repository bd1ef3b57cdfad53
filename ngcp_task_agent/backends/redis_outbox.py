"""Outbox: the answers that are still to be published, in their order.

Large answers have a lane of their own, in which they leave no faster than a
subscriber can take them: Redis drops a client that has 32 MB waiting, and
what was sent to it is lost.  No small answer waits behind them.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Deque, List, Optional, Sequence

# What is kept while Redis is away.
KEEP = 1000
KEEP_BYTES = 64 << 20
KEEP_SECONDS = 60.0

# What is published at once: enough to be fast, little enough to have its
# answer in time over a slow network.
_BATCH = 100
_BATCH_BYTES = 1 << 20

_LARGE = 1 << 20  # bytes of an answer, all chunks together
_LARGE_RATE = 32 << 20  # bytes a second


@dataclass(frozen=True)
class Answer:
    """One message to be published.

    :ivar ref: the request's uuid
    :ivar since: when it was put here, on the monotonic clock
    """

    channel: str
    message: bytes
    ref: Optional[str]
    since: float


class Outbox:
    """Two lanes, each first in, first out."""

    def __init__(self) -> None:
        self._small: Deque[Answer] = deque()
        self._large: Deque[Answer] = deque()
        self._bytes = 0
        self._next_large = 0.0

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def put(
        self, channel: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Put one answer, in its chunks, behind the others."""
        size = sum(map(len, messages))
        lane = self._large if size > _LARGE else self._small
        now = time.monotonic()
        lane.extend(Answer(channel, m, ref, now) for m in messages)
        self._bytes += size

    def pause(self) -> Optional[float]:
        """Seconds until something can be taken; None while it is empty."""
        if self._small:
            return 0.0
        if self._large:
            return max(0.0, self._next_large - time.monotonic())
        return None

    def take(self) -> List[Answer]:
        """What can be published now, at once."""
        batch: List[Answer] = []
        size = 0
        while self._small and len(batch) < _BATCH and size < _BATCH_BYTES:
            batch.append(self._small.popleft())
            size += len(batch[-1].message)
        now = time.monotonic()
        if self._large and not batch and now >= self._next_large:
            batch.append(self._large.popleft())
            size = len(batch[0].message)
            self._next_large = now + size / _LARGE_RATE
        self._bytes -= size
        return batch

    def put_back(self, batch: Sequence[Answer]) -> None:
        """What was taken and could not be published is the first again."""
        # As the oldest it is the first to go, whichever lane it was in.
        self._small.extendleft(reversed(batch))
        self._bytes += sum(len(answer.message) for answer in batch)

    def drop_excess(self) -> List[Answer]:
        """Take the oldest out while too many, too large or too old wait."""
        dropped = []
        oldest = time.monotonic() - KEEP_SECONDS
        while self:
            lane = self._oldest_lane()
            if (
                len(self) <= KEEP
                and self._bytes <= KEEP_BYTES
                and lane[0].since >= oldest
            ):
                break
            dropped.append(lane.popleft())
            self._bytes -= len(dropped[-1].message)
        return dropped

    def clear(self) -> List[Answer]:
        """Take everything out."""
        rest = [*self._small, *self._large]
        self._small.clear()
        self._large.clear()
        self._bytes = 0
        return rest

    def _oldest_lane(self) -> Deque[Answer]:
        if not self._small or not self._large:
            return self._small or self._large
        return min(self._small, self._large, key=lambda lane: lane[0].since)
