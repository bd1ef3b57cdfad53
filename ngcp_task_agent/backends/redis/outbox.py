"""Outbox: answers that are still to be published, the oldest first.

While Redis is away, it keeps the newest of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Sequence

# What is kept while Redis is away.
KEEP = 1000
KEEP_BYTES = 64 << 20
KEEP_SECONDS = 60.0

# What is published at once: enough to be fast, little enough to have its
# reply in time over a slow network.
_BATCH = 100
_BATCH_BYTES = 256 << 10

_REMEMBER = 10_000  # requests of which an answer is lost


class Loss(NamedTuple):
    """How an answer is lost."""

    why: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{'is' if self.is_certain else 'may be'} lost: {self.why}"


class Answer:
    """One answer to a request: a message, or several chunks.

    :param encode: makes the messages
    :param size: bytes that are kept until then
    :param ref: the request's uuid
    :param after: done when it may leave: what it must not overtake has left
    :ivar since: when it was made, on the monotonic clock
    :ivar settled: done when it has left, or is lost
    """

    def __init__(
        self,
        channel: str,
        encode: Callable[[], Sequence[bytes]],
        size: int,
        ref: Optional[str],
        after: Optional[asyncio.Future[None]] = None,
    ) -> None:
        self.channel = channel
        self.encode = encode
        self.size = size
        self.ref = ref
        self.after = after
        self.since = time.monotonic()
        self.settled: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )


class CutOff:
    """The requests of which an answer is lost for certain.

    No later answer to them may be sent: clients cannot use an ending without
    its beginning.
    """

    def __init__(self) -> None:
        self._refs: Dict[str, None] = {}  # the oldest first

    def add(self, answer: Answer) -> None:
        if answer.ref:
            self._refs[answer.ref] = None
            while len(self._refs) > _REMEMBER:
                del self._refs[next(iter(self._refs))]

    def __contains__(self, answer: Answer) -> bool:
        return answer.ref in self._refs


class Outbox:
    """A queue that can drop from its front.

    :ivar last: when what was put last has left, or is lost
    """

    def __init__(self) -> None:
        self._waiting: Deque[Answer] = deque()
        self._bytes = 0
        self.last: Optional[asyncio.Future[None]] = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, answer: Answer) -> None:
        self._waiting.append(answer)
        self._bytes += answer.size
        self.last = answer.settled

    def take(self, most: int = _BATCH) -> List[Answer]:
        """What can be published at once, in so many answers at most."""
        batch: List[Answer] = []
        size = 0
        while self._waiting and len(batch) < most and size < _BATCH_BYTES:
            batch.append(self._pop())
            size += batch[-1].size
        return batch

    def drop_excess(self) -> List[Answer]:
        """Drop the oldest while too many, too large or too old wait."""
        dropped: List[Answer] = []
        while self._waiting and (
            len(self._waiting) > KEEP
            or self._bytes > KEEP_BYTES
            or time.monotonic() - self._waiting[0].since > KEEP_SECONDS
        ):
            dropped.append(self._pop())
        return dropped

    def clear(self) -> List[Answer]:
        """Drop everything."""
        return [self._pop() for _ in range(len(self._waiting))]

    def _pop(self) -> Answer:
        answer = self._waiting.popleft()
        self._bytes -= answer.size
        return answer
