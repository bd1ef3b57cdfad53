"""Writer: publishes answers in their order, and keeps them while it cannot.

They wait, within limits, until Redis is back.  An answer that was handed to a
connection which then broke may have been delivered: it is sent again only if
it is known not to be, for a client that gets two endings counts wrong.  Large
answers have a connection of their own: on a slow line the others would wait
behind them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from ngcp_task_agent import background, journal
from ngcp_task_agent.backends.base import LEAVING, in_thread
from ngcp_task_agent.backends.redis_delivery import Outcome
from ngcp_task_agent.backends.redis_outbox import (
    Answer,
    Encode,
    Outbox,
    Part,
)
from ngcp_task_agent.backends.redis_publisher import Publisher
from ngcp_task_agent.backends.redis_receipts import Receipts


class Writer:
    """Publishes what send() is given, from start() to stop().

    :param name: the backend's, for the journal
    :param options: the backend's
    :param timeout: seconds for Redis to answer
    :param receipts: of what is published
    :param reader_is_up: whether the administrator knows Redis to be there;
        else the reader has already told the journal
    :ivar tried: set when it is connected, or has failed to be
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        timeout: float,
        receipts: Receipts,
        reader_is_up: Callable[[], bool],
    ) -> None:
        self._name = name
        self._reader_is_up = reader_is_up
        self._outbox = Outbox()
        self._settled = asyncio.Event()
        self._settled.set()
        self._published = 0  # messages
        self._encoding: Optional[asyncio.Task[None]] = None
        # Those of large answers, until they have left or are lost.
        self._left: Dict[Answer, asyncio.Future[None]] = {}
        self._holds = True
        self._told_down: Set[bool] = set()  # of which lane
        small, large = (
            Publisher(
                options,
                timeout,
                receipts,
                _Lane(self, self._outbox, is_large),
                asks_role=not is_large,
            )
            for is_large in (False, True)
        )
        self._publishers = small, large
        self.tried = small.tried

    @property
    def is_own_master(self) -> bool:
        """Whether the server is this machine's and no replica."""
        return self._publishers[0].is_own_master

    def start(self) -> None:
        for publisher in self._publishers:
            publisher.start()

    def send(
        self, channel: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Publish messages; never waits."""
        size = sum(map(len, messages))
        self._put(Answer(channel, ref, size, messages=messages))

    async def send_large(
        self, channel: str, encode: Encode, size: int, ref: Optional[str]
    ) -> None:
        """Publish what takes long to make; returns when it has left.

        Or when it is lost, or hold_nobody() was called.

        :param encode: makes the messages, in a thread
        :param size: bytes that are kept until then
        """
        answer = Answer(channel, ref, size, encode=encode)
        if self._put(answer) and self._holds:
            left = asyncio.get_running_loop().create_future()
            self._left[answer] = left
            await asyncio.wait({left})

    def hold_nobody(self) -> None:
        """From now on nobody waits until a large answer has left."""
        self._holds = False
        for answer in list(self._left):
            self._settle(answer)

    def redis_is_back(self) -> None:
        """The reader has found Redis: try at once."""
        for publisher in self._publishers:
            publisher.redis_is_back()

    async def redis_is_away(self, reason: str) -> None:
        """The reader has lost Redis: trust no connection that is idle."""
        for publisher in self._publishers:
            await publisher.redis_is_away(reason)

    async def stop(self, timeout: float) -> None:
        """Publish what waits, and end.

        :param timeout: seconds; they begin anew while answers leave
        """
        for _ in range(LEAVING):
            published = self._published
            try:
                await asyncio.wait_for(self._settled.wait(), timeout)
                break
            except asyncio.TimeoutError:
                if self._published == published:
                    break
        if self._encoding:
            await background.end(self._encoding)
        for publisher in self._publishers:
            await publisher.stop()
        for answer in self._outbox.clear():
            self._tell_lost(answer, "is lost: the backend has stopped")

    def _put(self, answer: Answer) -> bool:
        if not self._outbox.put(answer):
            self._tell_lost(answer, "is lost, as one before it")
            return False
        self._settled.clear()
        self._wake()
        if any(publisher.is_stuck for publisher in self._publishers):
            self.drop_excess()
        return not answer.is_lost

    def _wake(self) -> None:
        for publisher in self._publishers:
            publisher.wake()

    def encode_next(self) -> None:
        """Make messages of the large answer whose turn it is."""
        answer = self._outbox.to_encode()
        if answer and not self._encoding:
            self._encoding = background.start(self._encode(answer))

    async def _encode(self, answer: Answer) -> None:
        assert answer.encode
        messages = await in_thread(answer.encode)
        self._encoding = None
        self._outbox.encoded(answer, messages)
        self._wake()

    def landed(self, outcome: Outcome, why: str) -> None:
        """This became of what was taken; ``why`` something is unknown."""
        self._published += len(outcome.published)
        for answer, reason in outcome.refused.items():
            self._lose(answer, f"is lost: Redis refuses it: {reason}")
        for answer, _ in outcome.unknown:
            self._lose(answer, f"may be lost: {why}")
        for answer in self._outbox.put_back(outcome.again):
            self._tell_lost(answer, "is lost, as another one to it")
        for answer, _ in outcome.published:
            if not answer.messages:
                self._settle(answer)
        self._note_settled()
        # What must not overtake these can leave now.
        self._wake()

    def drop_excess(self) -> None:
        """Give up what is too much, or too old, to be kept."""
        for publisher in self._publishers:
            publisher.drop_old()
        for answer in self._outbox.drop_excess():
            self._tell_lost(
                answer,
                "is lost: Redis is away for too long, or too much waits",
            )
        self._note_settled()

    def tell_down(self, is_large: bool, reason: str) -> None:
        """The answers of a lane cannot be sent."""
        if is_large not in self._told_down and self._reader_is_up():
            if not self._told_down:
                journal.record(
                    journal.BACKEND_DOWN,
                    f"backend {self._name}: answers cannot be sent: {reason}",
                    backend=self._name,
                )
            self._told_down.add(is_large)

    def tell_up(self, is_large: bool) -> None:
        """The answers of a lane can be sent."""
        if is_large in self._told_down:
            self._told_down.remove(is_large)
            if not self._told_down:
                journal.record(
                    journal.BACKEND_UP,
                    f"backend {self._name}: answers can be sent again, "
                    f"{len(self._outbox)} were kept",
                    backend=self._name,
                )

    def note(self, text: str) -> None:
        """Something about the server that the administrator should know."""
        journal.record(
            journal.BACKEND_NOTE,
            f"backend {self._name}: Redis {text}",
            backend=self._name,
        )

    def _lose(self, answer: Answer, reason: str) -> None:
        """Give up an answer of which a part was to be sent."""
        if not answer.is_lost:
            self._outbox.discard(answer)
            self._tell_lost(answer, reason)

    def _tell_lost(self, answer: Answer, reason: str) -> None:
        journal.record(
            journal.ANSWER_LOST,
            f"backend {self._name}: an answer to request {answer.ref} "
            f"{reason}",
            backend=self._name,
            task_uuid=answer.ref,
        )
        self._settle(answer)

    def _settle(self, answer: Answer) -> None:
        """Whoever waits for this answer to leave waits no longer."""
        left = self._left.pop(answer, None)
        if left and not left.done():
            left.set_result(None)

    def _note_settled(self) -> None:
        if self._outbox.is_settled:
            self._settled.set()


class _Lane:
    """What a publisher sees of a writer."""

    def __init__(self, writer: Writer, outbox: Outbox, is_large: bool) -> None:
        self._writer = writer
        self._outbox = outbox
        self._is_large = is_large

    @property
    def is_needed(self) -> bool:
        # The connection for small answers has to stand when one comes.
        return not self._is_large or self._outbox.has_large

    def pause(self) -> Optional[float]:
        if self._is_large:
            self._writer.encode_next()
        return self._outbox.pause(self._is_large)

    def take(self) -> List[Part]:
        return self._outbox.take(self._is_large)

    def landed(self, outcome: Outcome, why: str) -> None:
        self._outbox.landed(self._is_large)
        self._writer.landed(outcome, why)

    def down(self, reason: str) -> None:
        self._writer.tell_down(self._is_large, reason)

    def up(self) -> None:
        self._writer.tell_up(self._is_large)

    def note(self, text: str) -> None:
        self._writer.note(text)

    def drop_excess(self) -> None:
        self._writer.drop_excess()
