"""Lane: a connection over which answers leave in their order.

Small and large answers have a lane each: on a slow line a large one would hold
up the others.  Large ones leave no faster than a subscriber should read: Redis
drops a client that has 32 MB waiting, and what was sent to it is lost.  They
overtake no small answer, which may be to the same request, and are made into
messages when their turn comes: that takes six times their size in memory.
"""

from __future__ import annotations

import asyncio
import time

from ngcp_task_agent.backends import outbox
from ngcp_task_agent.backends.base import in_thread
from ngcp_task_agent.backends.redis.link import (
    Link,
    LinkError,
    wait_for_any,
)
from ngcp_task_agent.backends.redis.publisher import NotPublished, Publisher
from ngcp_task_agent.backends.redis.reconnector import Reconnector, State
from ngcp_task_agent.backends.redis.subscriber import Subscriber
from ngcp_task_agent.logs import journal

LARGE_RATE = 8 << 20  # bytes a second, to a channel

# What is published at once: enough to be fast, little enough to have its
# reply in time over a slow network.
_BATCH = 100
_BATCH_BYTES = 256 << 10
_MOST_DOUBLINGS = 4  # of the time that a batch has to be carried out


class Lane(Reconnector):
    """Publishes at the server to which the subscriber is subscribed.

    :param rate: for large answers: it connects for them only, makes them in a
        thread, and sends so many bytes a second to a channel
    :ivar published: messages, to see whether some leave
    """

    def __init__(
        self, subscriber: Subscriber, losses: outbox.Losses, rate: float = 0.0
    ) -> None:
        super().__init__()
        self.outbox = outbox.Outbox(losses, "Redis")
        self.published = 0
        self._content = "large answers" if rate else "answers"
        self._subscriber = subscriber
        self._server = subscriber.server
        self._losses = losses
        self._publisher = Publisher(self._server, losses)
        self._rate = rate
        self._free: dict[str, float] = {}  # when a channel may have more
        self._batch: list[outbox.Answer] = []  # what is on its way
        self._failures = 0
        self._until = 0.0  # when the batch is given up
        self._wake = asyncio.Event()

    def send(self, answer: outbox.Answer) -> None:
        """Publish an answer; never waits."""
        self.outbox.put(answer)
        self._wake.set()
        if self.state is State.AWAY:
            self.outbox.drop_excess()

    async def stop(self) -> None:
        await super().stop()
        for answer in self._batch:
            self._losses.add(answer, outbox.STOPPED, is_certain=False)
        self.outbox.clear()

    async def _open(self) -> Link:
        while self._rate and not self._batch and not self.outbox.first:
            self._wake.clear()
            await self._wake.wait()
        server, address = self._server, self._subscriber.address
        return await Link.open(server.dial, server.timeout, address=address)

    async def _use(self, link: Link) -> None:
        link.closed.add_done_callback(lambda _: self._wake.set())
        await self._server.select_database(link)
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + self._server.ping_interval
                await self._refresh(link)
            if not self._batch:
                self._succeeded()
                await self._take()
            if self._batch:
                try:
                    await self._publish(link)
                except NotPublished as error:
                    await self._pause(error)
            else:
                link.check()
                await self._sleep(due - time.monotonic())

    async def _sleep(self, seconds: float) -> None:
        """Wait for an answer, or the end of the link."""
        # No wait_for() or wait(): they take as long as all else.
        self._wake.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _refresh(self, link: Link) -> None:
        address = self._subscriber.address
        if address and link.ends and link.ends[1][0] != address:
            # The name stands for several; this one need not be the same.
            raise LinkError("it goes to another address of the server")
        if self._subscriber.state is State.UP:
            await self._server.identify(link)
        await self._publisher.refresh(link)

    async def _take(self) -> None:
        first = self.outbox.first
        if first and first.after:
            await wait_for_any(first.after, timeout=outbox.KEEP_SECONDS)
            if not first.after.done():
                self._losses.add(first, self.outbox.too_late)
        if self._rate:
            self._batch = self.outbox.take(1, 1)
            for answer in self._batch:
                answer.messages = await in_thread(answer.encode)
        else:
            self._batch = self.outbox.take(_BATCH, _BATCH_BYTES)
            for answer in self._batch:
                answer.messages = answer.encode()

    async def _publish(self, link: Link) -> None:
        """Publish the batch; of a large answer the next message."""
        parts = [(a, message) for a in self._batch for message in a.messages]
        if self._rate:
            del parts[1:]
            (answer, message), now = parts[0], time.monotonic()
            self._free = {c: t for c, t in self._free.items() if t > now}
            due = self._free.get(answer.channel, now)
            self._free[answer.channel] = due + len(message) / self._rate
            await asyncio.sleep(due - now)
        failures = min(self._failures, _MOST_DOUBLINGS)
        await self._publisher.publish(link, parts, failures)
        self._backoff.succeeded()
        self._succeeded()
        self.published += len(parts)
        for answer, _ in parts:
            answer.messages = answer.messages[1:]
            if not answer.messages and not answer.settled.done():
                answer.settled.set_result(None)
        # Of an answer that is lost no more is sent.
        self._batch = [a for a in self._batch if not a.settled.done()]

    def _succeeded(self) -> None:
        self._failures = 0
        if self.state is not State.UP:
            self._move(State.UP)
            kept = f"{len(self.outbox) + len(self._batch)} were kept"
            text = f"{self._content} can be sent again, {kept}"
            self._server.say(self._content, "", journal.BACKEND_UP, text)

    def _failed(self, error: Exception, pause: float) -> None:
        now = time.monotonic()
        if not self._failures:
            self._until = now + outbox.KEEP_SECONDS
        self._failures += 1
        if self._batch and now >= self._until:
            self._publisher.give_up(self._batch, str(error))
            self._batch = []
        # That a connection is lost is no news if there is another at once.
        if pause or self.state is not State.UP:
            self._move(State.AWAY, str(error))
        if pause and self._subscriber.state is State.UP:
            text = f"{self._content} cannot be sent: {error}"
            kind = journal.BACKEND_DOWN
            self._server.say(self._content, "away", kind, text)

    def _wait_on(self) -> None:
        self.outbox.drop_excess()
