"""Outbox: the answers that are still to be published, in their order.

Large answers have a lane of their own, so that no small answer waits behind
them, and in it a queue for each channel.  They leave no faster than a
subscriber can take them: Redis drops a client that has 32 MB waiting, and
what was sent to it is lost.  They are made into messages only when their turn
comes, one at a time: that takes six times their size.
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
_BATCH_BYTES = 256 << 10

_LARGE_RATE = 32 << 20  # bytes a second
# Connections that may break under a large answer before others go first.
_BREAKS = 2
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
    :ivar breaks: how many connections broke while it was on its way
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
        self.breaks = 0
        self.is_lost = False


# A message, and the answer that it is of.
Part = Tuple[Answer, bytes]


class Outbox:
    """Two lanes of answers; what is taken has to be landed, or put back.

    A large answer overtakes no small one, which may be to the same request.
    """

    def __init__(self) -> None:
        self._small: Deque[Answer] = deque()
        self._large: Dict[str, Deque[Answer]] = {}  # by channel
        self._count = 0
        self._bytes = 0
        # The large answer that is made into messages, or that leaves.
        self._current: Optional[Answer] = None
        # When a channel may have its next large message.
        self._ready: Dict[str, float] = {}
        # What was taken and is neither landed nor put back.
        self._on_way: Dict[bool, List[Part]] = {False: [], True: []}
        # The requests of which an answer was dropped, the oldest first.
        self._cut_off: Dict[Optional[str], None] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits, nor is on its way."""
        return not self._count and not any(self._on_way.values())

    @property
    def has_large(self) -> bool:
        return bool(self._large)

    def put(self, answer: Answer) -> bool:
        """Put an answer behind the others.

        :returns: False for one that must not be sent: an answer before it
            was dropped, and an ending without its beginning tells nothing
        """
        if answer.ref in self._cut_off:
            answer.is_lost = True
            return False
        self._queue(answer).append(answer)
        self._count += 1
        self._bytes += answer.size
        return True

    def to_encode(self) -> Optional[Answer]:
        """The large answer whose turn it is, if it is no messages yet."""
        if self._current is None and self._large:
            self._current = self._choose()
        current = self._current
        return current if current and not current.messages else None

    def encoded(self, answer: Answer, messages: Sequence[bytes]) -> None:
        """These are the messages of to_encode()."""
        answer.encode = None
        if not answer.is_lost:
            answer.messages.extend(messages)
            self._grow(answer, sum(map(len, messages)) - answer.size)

    def pause(self, is_large: bool) -> Optional[float]:
        """Seconds until something can be taken; None for nothing yet."""
        if not is_large:
            return 0.0 if self._small else None
        current = self._current
        if not current or not current.messages or self._overtakes(current):
            return None
        ready = self._ready.get(current.channel, 0.0)
        return max(0.0, ready - time.monotonic())

    def take(self, is_large: bool) -> List[Part]:
        """What can be published now, at once."""
        batch: List[Part] = []
        if is_large and self._current and self.pause(True) == 0:
            self._note_ready(self._current)
            batch.append(self._take(self._current))
        size = 0
        while (
            not is_large
            and self._small
            and len(batch) < _BATCH
            and size < _BATCH_BYTES
        ):
            batch.append(self._take(self._small[0]))
            size += len(batch[-1][1])
        self._on_way[is_large] = batch
        return batch

    def landed(self, is_large: bool) -> None:
        """It is known what became of all that was taken of a lane."""
        self._on_way[is_large] = []

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
                self._queue(answer).appendleft(answer)
                self._count += 1
            answer.messages.appendleft(message)
            self._grow(answer, len(message))
            if answer.is_large:
                self._current = answer
            if answer.is_large and answer.breaks >= _BREAKS:
                # Perhaps it is what breaks them.
                self._current = None
                queue = self._queue(answer)
                queue.remove(answer)
                queue.append(answer)
        return dropped

    def discard(self, answer: Answer) -> None:
        """Give up what is left of an answer."""
        answer.is_lost = True
        if answer.messages:
            self._remove(answer)
            self._bytes -= answer.size

    def drop_excess(self) -> List[Answer]:
        """Take the oldest out while too many, too large or too old wait.

        With an answer go the later ones to the same request.
        """
        dropped: List[Answer] = []
        since = time.monotonic() - KEEP_SECONDS
        while self._count:
            oldest = self._oldest()
            if (
                self._count <= KEEP
                and self._bytes <= KEEP_BYTES
                and oldest.since >= since
            ):
                break
            dropped.append(self._drop(oldest))
        if dropped:
            for answer in self._all():
                if answer.ref in self._cut_off:
                    dropped.append(self._drop(answer))
        while len(self._cut_off) > _REMEMBER:
            del self._cut_off[next(iter(self._cut_off))]
        return dropped

    def clear(self) -> List[Answer]:
        """Take everything out."""
        rest = self._all()
        for answer in rest:
            answer.is_lost = True
        self._small.clear()
        self._large.clear()
        self._current = None
        self._count = self._bytes = 0
        return rest

    def _all(self) -> List[Answer]:
        return [*self._small, *itertools.chain(*self._large.values())]

    def _oldest(self) -> Answer:
        firsts = [queue[0] for queue in self._large.values()]
        if self._small:
            firsts.append(self._small[0])
        return min(firsts, key=lambda answer: answer.number)

    def _queue(self, answer: Answer) -> Deque[Answer]:
        if answer.is_large:
            return self._large.setdefault(answer.channel, deque())
        return self._small

    def _remove(self, answer: Answer) -> None:
        queue = self._queue(answer)
        queue.remove(answer)
        if answer.is_large and not queue:
            del self._large[answer.channel]
        if self._current is answer:
            self._current = None
        self._count -= 1

    def _choose(self) -> Answer:
        """The first answer of the channel that can have it the soonest.

        Those that may break connections come last.
        """
        now = time.monotonic()
        firsts = [queue[0] for queue in self._large.values()]
        return min(
            firsts,
            key=lambda answer: (
                answer.breaks >= _BREAKS,
                max(now, self._ready.get(answer.channel, 0.0)),
                answer.number,
            ),
        )

    def _note_ready(self, answer: Answer) -> None:
        now = time.monotonic()
        self._ready = {c: t for c, t in self._ready.items() if t > now}
        self._ready[answer.channel] = (
            now + len(answer.messages[0]) / _LARGE_RATE
        )

    def _overtakes(self, answer: Answer) -> bool:
        before = [first for first, _ in self._on_way[False][:1]]
        before += list(itertools.islice(self._small, 1))
        return any(first.number < answer.number for first in before)

    def _take(self, answer: Answer) -> Part:
        message = answer.messages.popleft()
        if not answer.messages:
            self._remove(answer)
        self._grow(answer, -len(message))
        return answer, message

    def _drop(self, answer: Answer) -> Answer:
        answer.is_lost = True
        self._remove(answer)
        self._bytes -= answer.size
        if answer.ref is not None:
            self._cut_off[answer.ref] = None
        return answer

    def _grow(self, answer: Answer, size: int) -> None:
        answer.size += size
        self._bytes += size
