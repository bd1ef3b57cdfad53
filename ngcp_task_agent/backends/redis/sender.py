"""Senders: the lanes in which answers leave, one for small, one for large.

On a slow line a large answer would hold up the others, so it has a connection
of its own.  It leaves no faster than a subscriber can read: Redis drops a
client that has 32 MB waiting, and what was sent to it is lost.
"""

from __future__ import annotations

import asyncio
import time
from typing import Awaitable, Callable, Dict, List, Optional

from ngcp_task_agent import background, journal
from ngcp_task_agent.backends.base import in_thread
from ngcp_task_agent.backends.redis.connection import (
    Link,
    LinkError,
    State,
    wait_for_any,
)
from ngcp_task_agent.backends.redis.outbox import (
    KEEP_SECONDS,
    Answer,
    Outbox,
)
from ngcp_task_agent.backends.redis.producer import Message
from ngcp_task_agent.backends.redis.publisher import Publisher

LARGE = 256 << 10  # bytes of an answer that others must not wait behind
_LARGE_RATE = 32 << 20  # bytes a second
_TOO_LATE = "is lost: Redis is away for too long, or too much waits"

Look = Callable[[Link], Awaitable[None]]


class Sender:
    """Publishes small answers in their order, from start() to stop().

    :param name: the backend's, for the journal
    :param publisher: for this lane alone
    :param ping_interval: seconds
    :param look: called with each new link, and then each ping interval; may
        raise LinkError
    :ivar published: messages, to see whether some leave
    :ivar tried: set when the first attempt to connect has ended
    """

    def __init__(
        self, name: str, publisher: Publisher, ping_interval: float, look: Look
    ) -> None:
        self._name = name
        self._publisher = publisher
        self._ping_interval = ping_interval
        self._look = look
        self._more = asyncio.get_running_loop().create_future()
        self._on_way: List[Answer] = []
        self._task: Optional[asyncio.Task[None]] = None
        self.outbox = Outbox()
        self.published = 0
        self.tried = asyncio.Event()

    def __len__(self) -> int:
        """How many answers have not left."""
        return len(self.outbox) + len(self._on_way)

    def start(self) -> None:
        """Begin to publish."""
        self._task = background.start(self._run())

    def send(self, answer: Answer) -> None:
        """Publish an answer; never waits."""
        if self.outbox.has_cut_off(answer):
            self._settle(answer, "is lost, as one before it")
            return
        self.outbox.put(answer)
        if not self._more.done():
            self._more.set_result(None)
        self.drop_excess()

    def drop_excess(self) -> None:
        """Give up what is too much, or too old, to be kept while away."""
        if self._publisher.state is State.AWAY:
            for answer in self.outbox.drop_excess():
                self._settle(answer, _TOO_LATE)

    async def stop(self) -> None:
        """End at once."""
        if self._task:
            await background.end(self._task)
        await self._publisher.close()
        for answer in self._on_way:
            self._settle(answer, "may be lost: the backend has stopped")
        for answer in self.outbox.clear():
            self._settle(answer, "is lost: the backend has stopped")

    async def _run(self) -> None:
        looked_at: Optional[Link] = None
        due = 0.0
        while True:
            try:
                link = await self._publisher.connected()
                now = time.monotonic()
                if link is not looked_at or now >= due:
                    await self._look(link)
                    await self._publisher.refresh(link)
                    looked_at, due = link, now + self._ping_interval
            except LinkError:
                self.tried.set()
                await self._publisher.pause()
                continue
            self.tried.set()
            if self.outbox:
                await self._publish_next()
            else:
                await self._wait_for_more(link, due)

    async def _wait_for_more(self, link: Link, until: float) -> None:
        self._more = asyncio.get_running_loop().create_future()
        left = max(0.0, until - time.monotonic())
        await wait_for_any(self._more, link.closed, timeout=left)

    async def _publish_next(self) -> None:
        self._on_way = self.outbox.take()
        parts = [(a, m) for a in self._on_way for m in a.encode()]
        messages = [(answer.channel, message) for answer, message in parts]
        lost = await self._publish(messages)
        how = {
            answer: lost[n] for n, (answer, _) in enumerate(parts) if n in lost
        }
        for answer in self._on_way:
            self._settle(answer, how.get(answer))
        self._on_way = []

    async def _publish(self, messages: List[Message]) -> Dict[int, str]:
        """How some are lost, if they are, by their positions."""
        until = time.monotonic() + KEEP_SECONDS
        lost = await self._publisher.publish(messages, until)
        self.published += len(messages)
        return lost

    def _settle(self, answer: Answer, how_lost: Optional[str] = None) -> None:
        if answer.left.done():
            return  # stop() was called twice
        if how_lost:
            journal.record(
                journal.ANSWER_LOST,
                f"backend {self._name}: an answer to request {answer.ref} "
                f"{how_lost}",
                backend=self._name,
                task_uuid=answer.ref,
            )
        answer.left.set_result(None)


class LargeSender(Sender):
    """Publishes large answers, one at a time, at a rate.

    They overtake no small answer, which may be to the same request.  They are
    made into messages when their turn comes: that takes six times their size.
    """

    def __init__(self, name: str, publisher: Publisher, small: Sender) -> None:
        super().__init__(name, publisher, float("inf"), _look_at_nothing)
        self._small = small
        self._ready = 0.0  # when the next message may leave

    async def _run(self) -> None:
        while True:
            if not self.outbox:
                self._more = asyncio.get_running_loop().create_future()
                await self._more
            try:
                await self._publisher.connected()
            except LinkError:
                await self._publisher.pause()
            else:
                await self._publish_next()

    async def _publish_next(self) -> None:
        self._on_way = self.outbox.take(1)
        for answer in self._on_way:
            self._settle(answer, await self._publish_large(answer))
        self._on_way = []

    async def _publish_large(self, answer: Answer) -> Optional[str]:
        """How it is lost, if it is."""
        if answer.after:
            await asyncio.wait({answer.after}, timeout=KEEP_SECONDS)
            if not answer.after.done():
                return _TOO_LATE
        if self._small.outbox.has_cut_off(answer):
            return "is lost, as one before it"
        for message in await in_thread(answer.encode):
            await asyncio.sleep(self._ready - time.monotonic())
            lost = await self._publish([(answer.channel, message)])
            if lost:
                return lost[0]
            self._ready = time.monotonic() + len(message) / _LARGE_RATE
        return None


async def _look_at_nothing(link: Link) -> None:
    """The other lane looks at the server."""
