"""Outbox: answers that wait while they cannot leave, and those that are lost.

For any backend whose server can be away.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Callable, Optional, Sequence

from ngcp_task_agent.logs import journal

# What is kept while the server is away.
KEEP = 1000
KEEP_BYTES = 64 << 20
KEEP_SECONDS = 60.0

_REMEMBER = 10_000  # requests of which an answer is lost

STOPPED = "the backend has stopped"


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Answer:
    """One answer to a request.

    :ivar encode: makes its messages: one, or several chunks
    :ivar size: bytes of memory until then
    :ivar ref: the request's uuid
    :ivar is_rejection: whether it is the only answer; its ref may be the uuid
        of another request
    :ivar after: done when the answers that it must not overtake have left
    :ivar settled: done when it has left, or is lost
    :ivar messages: made, but not sent
    """

    channel: str
    encode: Callable[[], Sequence[bytes]]
    size: int
    ref: Optional[str]
    after: Optional[asyncio.Future[None]] = None
    made: float = field(default_factory=lambda: time.monotonic())
    settled: asyncio.Future[None] = field(default_factory=_future)
    messages: Sequence[bytes] = ()
    is_rejection: bool = False


class Losses:
    """Logs lost answers, and remembers their requests.

    No later answers to these are sent: an ending is useless without its
    beginning.

    :param backend: its name, for the journal
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._refs: dict[str, None] = {}  # the oldest first

    def add(self, answer: Answer, why: str, is_certain: bool = True) -> None:
        """Log that an answer is, or may be, lost, unless it is settled."""
        if answer.settled.done():
            return
        answer.settled.set_result(None)
        kind = journal.ANSWER_LOST
        if answer.is_rejection:
            kind = journal.REJECTION_LOST
        elif is_certain and answer.ref:
            self._refs[answer.ref] = None
            if len(self._refs) > _REMEMBER:
                del self._refs[next(iter(self._refs))]
        is_lost = "is lost" if is_certain else "may be lost"
        journal.record(
            kind,
            f"backend {self._backend}: an answer to request {answer.ref} "
            f"{is_lost}: {why}",
            backend=self._backend,
            task_uuid=answer.ref,
        )

    def drop_if_cut_off(self, answer: Answer) -> bool:
        """Drop an answer after a lost one; return whether it is settled."""
        if answer.ref in self._refs and not answer.is_rejection:
            self.add(answer, "one before it is lost")
        return answer.settled.done()


class Outbox:
    """A queue that can drop from its front.

    :param server: what keeps answers from leaving, such as ``Redis``
    :ivar last: done when the answer that was put last is settled
    """

    def __init__(self, losses: Losses, server: str) -> None:
        self.last = _future()
        self.last.set_result(None)
        self.too_late = f"{server} is away for too long, or too much waits"
        self._losses = losses
        self._waiting: deque[Answer] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Optional[Answer]:
        return self._waiting[0] if self._waiting else None

    def put(self, answer: Answer) -> None:
        if not self._losses.drop_if_cut_off(answer):
            self.last = answer.settled
            self._waiting.append(answer)
            self._bytes += answer.size

    def take(self, most: int, most_bytes: int) -> list[Answer]:
        """The next batch; its last answer may exceed the bytes."""
        batch: list[Answer] = []
        size = 0
        while self._waiting and len(batch) < most and size < most_bytes:
            answer = self._pop()
            if not self._losses.drop_if_cut_off(answer):
                batch.append(answer)
                size += answer.size
        return batch

    def drop_excess(self) -> None:
        """Drop the oldest while too many, too large or too old wait."""
        while self.first and (
            len(self._waiting) > KEEP
            or self._bytes > KEEP_BYTES
            or time.monotonic() - self.first.made > KEEP_SECONDS
        ):
            self._losses.add(self._pop(), self.too_late)

    def clear(self) -> None:
        """Give up all answers."""
        while self._waiting:
            self._losses.add(self._pop(), STOPPED)

    def _pop(self) -> Answer:
        answer = self._waiting.popleft()
        self._bytes -= answer.size
        return answer
