"""Outbox: the answers that are still to be published, in their order.

Large answers have a lane of their own, in which they leave no faster than a
subscriber can take them: Redis drops a client that has 32 MB waiting, and
what was sent to it is lost.  No small answer waits behind them.  They are
made into messages only when their turn comes, one at a time: that takes six
times their size.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Sequence, Tuple

# What is kept while Redis is away.
KEEP = 1000
KEEP_BYTES = 64 << 20
KEEP_SECONDS = 60.0

# What is published at once: enough to be fast, little enough to have its
# answer in time over a slow network.
_BATCH = 100
_BATCH_BYTES = 1 << 20

_LARGE_RATE = 32 << 20  # bytes a second
_REMEMBER = 10_000  # requests of which an answer was dropped

Encode = Callable[[], Sequence[bytes]]
_numbers = itertools.count()


class Answer:
    """One answer to a request: a message, or several chunks.

    :ivar ref: the request's uuid
    :ivar number: of answers, in their order
    :ivar since: when it was put here, on the monotonic clock
    :ivar messages: what is left to be taken
    :ivar encode: makes the messages of a large one, until that is done
    :ivar size: bytes that are kept of it now
    :ivar is_lost: it is given up, or a part of it
    """

    def __init__(
        self,
        channel: str,
        ref: Optional[str],
        size: int,
        messages: Sequence[bytes] = (),
        encode: Optional[Encode] = None,
    ) -> None:
        self.channel = channel
        self.ref = ref
        self.number = next(_numbers)
        self.since = time.monotonic()
        self.messages = deque(messages)
        self.encode = encode
        self.is_large = encode is not None
        self.size = size
        self.is_lost = False


# A message, and the answer that it is of.
Part = Tuple[Answer, bytes]


class Outbox:
    """Two lanes of answers, each first in, first out."""

    def __init__(self) -> None:
        self._small: Deque[Answer] = deque()
        self._large: Deque[Answer] = deque()
        self._bytes = 0
        self._next_large = 0.0
        # The requests of which an answer was dropped, the oldest first.
        self._cut_off: Dict[Optional[str], None] = {}

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def put(self, answer: Answer) -> bool:
        """Put an answer behind the others.

        :returns: False for one that must not be sent: an answer before it
            was dropped, and an ending without its beginning tells nothing
        """
        if answer.ref in self._cut_off:
            answer.is_lost = True
            return False
        self._lane(answer).append(answer)
        self._bytes += answer.size
        return True

    def to_encode(self) -> Optional[Answer]:
        """The large answer whose turn it is, if it is no messages yet."""
        if self._large and not self._large[0].messages:
            return self._large[0]
        return None

    def encoded(self, answer: Answer, messages: Sequence[bytes]) -> None:
        """These are the messages of to_encode()."""
        answer.encode = None
        if not answer.is_lost:
            answer.messages.extend(messages)
            self._grow(answer, sum(map(len, messages)) - answer.size)

    def pause(self) -> Optional[float]:
        """Seconds until something can be taken; None for nothing."""
        if self._small:
            return 0.0
        if self._large and self._large[0].messages:
            return max(0.0, self._next_large - time.monotonic())
        return None

    def take(self) -> List[Part]:
        """What can be published now, at once."""
        now = time.monotonic()
        if self._is_next(now):
            batch = [self._take(self._large)]
            self._next_large = now + len(batch[0][1]) / _LARGE_RATE
            return batch
        batch = []
        size = 0
        while self._small and len(batch) < _BATCH and size < _BATCH_BYTES:
            batch.append(self._take(self._small))
            size += len(batch[-1][1])
        return batch

    def put_back(self, batch: Sequence[Part]) -> List[Answer]:
        """What was taken and could not be published is the first again.

        :returns: those that must not be sent: meanwhile others to the same
            request were dropped
        """
        dropped = []
        for answer, message in reversed(batch):
            if answer.is_lost:
                continue
            if answer.ref in self._cut_off:
                answer.is_lost = True
                dropped.append(answer)
                continue
            if not answer.messages:
                self._lane(answer).appendleft(answer)
            answer.messages.appendleft(message)
            self._grow(answer, len(message))
        return dropped

    def discard(self, answer: Answer) -> None:
        """Give up what is left of an answer."""
        answer.is_lost = True
        if answer.messages:
            self._lane(answer).remove(answer)
            self._bytes -= answer.size

    def drop_excess(self) -> List[Answer]:
        """Take the oldest out while too many, too large or too old wait.

        With an answer go the later ones to the same request.
        """
        dropped: List[Answer] = []
        oldest = time.monotonic() - KEEP_SECONDS
        while self:
            lane = self._oldest_lane()
            if (
                len(self) <= KEEP
                and self._bytes <= KEEP_BYTES
                and lane[0].since >= oldest
            ):
                break
            dropped.append(self._drop(lane.popleft()))
        if dropped:
            for lane in (self._small, self._large):
                for _ in range(len(lane)):
                    answer = lane.popleft()
                    if answer.ref in self._cut_off:
                        dropped.append(self._drop(answer))
                    else:
                        lane.append(answer)
        while len(self._cut_off) > _REMEMBER:
            del self._cut_off[next(iter(self._cut_off))]
        return dropped

    def clear(self) -> List[Answer]:
        """Take everything out."""
        rest = [*self._small, *self._large]
        self._small.clear()
        self._large.clear()
        self._bytes = 0
        for answer in rest:
            answer.is_lost = True
        return rest

    def _lane(self, answer: Answer) -> Deque[Answer]:
        return self._large if answer.is_large else self._small

    def _oldest_lane(self) -> Deque[Answer]:
        if not self._small or not self._large:
            return self._small or self._large
        return min(self._small, self._large, key=lambda lane: lane[0].number)

    def _is_next(self, now: float) -> bool:
        """Whether a large answer may go: it overtakes nothing."""
        if not self._large or not self._large[0].messages:
            return False
        first = self._large[0].number
        overtakes = self._small and self._small[0].number < first
        return now >= self._next_large and not overtakes

    def _take(self, lane: Deque[Answer]) -> Part:
        answer = lane[0]
        message = answer.messages.popleft()
        if not answer.messages:
            lane.popleft()
        self._grow(answer, -len(message))
        return answer, message

    def _drop(self, answer: Answer) -> Answer:
        answer.is_lost = True
        self._bytes -= answer.size
        if answer.ref is not None:
            self._cut_off[answer.ref] = None
        return answer

    def _grow(self, answer: Answer, size: int) -> None:
        answer.size += size
        self._bytes += size
