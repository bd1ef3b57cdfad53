"""Lanes: answers leave in their order, small ones and large ones apart.

Each lane has a connection of its own: on a slow line a large answer would
hold up the others.  Large ones leave no faster than a subscriber should read:
Redis drops a client that has 32 MB waiting, and what was sent to it is lost.
They overtake no small answer, which may be to the same request, and are made
into messages when their turn comes: that takes six times their size.
"""

from __future__ import annotations

import asyncio
import time
from typing import (
    Any,
    Awaitable,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Tuple,
)

from ngcp_task_agent import background
from ngcp_task_agent.backends.backoff import Backoff
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
    CutOff,
    Loss,
    Outbox,
)
from ngcp_task_agent.backends.redis.producer import NotPublished
from ngcp_task_agent.backends.redis.publisher import Publisher
from ngcp_task_agent.logs import journal

_MOST_DOUBLINGS = 4  # of the time that a batch has to be carried out
_LARGE_RATE = 8 << 20  # bytes a second, to a channel
_TOO_LATE = Loss("Redis is away for too long, or too much waits")
_AS_BEFORE = Loss("one before it is lost")
_STOPPED = "the backend has stopped"

Part = Tuple[Answer, bytes]  # a message of an answer


class Lane:
    """The lane of small answers, from start() to stop().

    :param name: the backend's, for the journal
    :param publisher: for this lane alone
    :param ping_interval: seconds
    :param cut_off: shared by all lanes
    :param on_change: called when the state or the publisher's refusal may
        have changed
    :param identify: looks at the server over each new link, and then each
        ping interval
    :ivar reason: why the state is AWAY
    :ivar published: messages, to see whether some leave
    :ivar tried: set when the first attempt to connect has ended
    """

    def __init__(
        self,
        name: str,
        publisher: Publisher,
        ping_interval: float,
        cut_off: CutOff,
        on_change: Callable[[], None],
        identify: Optional[Callable[[Link], Awaitable[None]]] = None,
    ) -> None:
        self._name = name
        self._ping_interval = ping_interval
        self._cut_off = cut_off
        self._on_change = on_change
        self._identify = identify
        self._backoff = Backoff()
        self._more = asyncio.get_running_loop().create_future()
        self._retry = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None
        # What is on its way: the messages of some answers.
        self._batch: List[Part] = []
        self.publisher = publisher
        self.outbox = Outbox()
        self.state, self.reason = State.CONNECTING, ""
        self.published = 0
        self.tried = asyncio.Event()

    def __len__(self) -> int:
        """How many answers have not left."""
        return len(self.outbox) + len({answer for answer, _ in self._batch})

    def start(self) -> None:
        """Begin to publish."""
        self._task = background.start(self._run())

    def send(self, answer: Answer) -> None:
        """Publish an answer; never waits."""
        if answer in self._cut_off:
            self._settle(answer, _AS_BEFORE)
            return
        self.outbox.put(answer)
        if not self._more.done():
            self._more.set_result(None)
        self._drop_excess()

    def retry(self) -> None:
        """Redis is there: try at once."""
        self._retry.set()

    async def stop(self) -> None:
        """End at once."""
        if self._task:
            await background.end(self._task)
        await self.publisher.close()
        for answer, _ in self._batch:
            self._settle(answer, Loss(_STOPPED, is_certain=False))
        for answer in self.outbox.clear():
            self._settle(answer, Loss(_STOPPED))

    async def _run(self) -> None:
        link: Optional[Link] = None
        due = until = 0.0
        attempt = 0
        while True:
            try:
                await self._wait_for_need()
                before, link = link, await self._connected()
                if link is not before or time.monotonic() >= due:
                    due = time.monotonic() + self._ping_interval
                    if self._identify:
                        await self._identify(link)
                    await self.publisher.refresh(link)
                    self._on_change()
                if not self._batch:
                    self._move(State.UP)
                    self.tried.set()
                    await self._take()
                    until, attempt = time.monotonic() + KEEP_SECONDS, 0
                if self._batch:
                    await self._publish(link, attempt)
                else:
                    seconds = max(0.0, due - time.monotonic())
                    await self._wait(link, seconds)
            except (LinkError, NotPublished) as error:
                self.tried.set()
                if self._batch and time.monotonic() >= until:
                    self._give_up(str(error))
                attempt = min(attempt + 1, _MOST_DOUBLINGS)
                if link and not link.is_open:
                    if link.has_held:
                        self._backoff.succeeded()
                    link = None
                await self._pause(str(error))

    async def _connected(self) -> Link:
        try:
            return await self.publisher.connected()
        except LinkError as error:
            self._move(State.AWAY, str(error))
            raise

    async def _wait_for_need(self) -> None:
        """Wait until there is a reason to be connected: there always is."""

    async def _take(self) -> None:
        """Make the next batch of what waits."""
        for answer in self.outbox.take():
            if answer in self._cut_off:
                self._settle(answer, _AS_BEFORE)
            else:
                self._batch += [(answer, m) for m in answer.encode()]

    async def _publish(self, link: Link, attempt: int) -> None:
        """Publish the batch, or some of it."""
        await self._publish_these(link, self._batch[:], attempt)

    async def _publish_these(
        self, link: Link, parts: Sequence[Part], attempt: int
    ) -> None:
        messages = [(answer.channel, message) for answer, message in parts]
        refusal = self.publisher.refusal
        lost = await self.publisher.publish(link, messages, attempt)
        self._backoff.succeeded()
        self._move(State.UP)
        if refusal != self.publisher.refusal:
            self._on_change()
        self.published += len(parts)
        self._land(parts, lost)

    def _give_up(self, reason: str) -> None:
        loss = self.publisher.give_up(reason)
        lost = dict.fromkeys(range(len(self._batch)), loss)
        self._land(self._batch[:], lost)

    def _land(self, parts: Sequence[Part], lost: Dict[int, Loss]) -> None:
        """It is known what became of these, the first of the batch."""
        del self._batch[: len(parts)]
        for position, loss in lost.items():
            self._settle(parts[position][0], loss)
        # Of an answer that is lost no more is sent.
        self._batch = [p for p in self._batch if not p[0].settled.done()]
        rest = {answer for answer, _ in self._batch}
        for answer, _ in parts:
            if answer not in rest:
                self._settle(answer)

    async def _wait(self, link: Link, seconds: float) -> None:
        """Wait until there is something else to do."""
        if not self.outbox:
            self._more = asyncio.get_running_loop().create_future()
            await wait_for_any(self._more, link.closed, timeout=seconds)
        link.check()

    async def _pause(self, reason: str) -> None:
        """Wait until another attempt is due."""
        left = self._backoff.next()
        if left:
            self._move(State.AWAY, reason)
        self._retry.clear()
        while left > 0 and not self._retry.is_set():
            self._drop_excess()
            begin = time.monotonic()
            try:
                await asyncio.wait_for(self._retry.wait(), min(left, 1.0))
            except asyncio.TimeoutError:
                left -= time.monotonic() - begin

    def _drop_excess(self) -> None:
        """Give up what is too much, or too old, to be kept while away."""
        if self.state is State.AWAY:
            for answer in self.outbox.drop_excess():
                self._settle(answer, _TOO_LATE)

    def _settle(self, answer: Answer, loss: Optional[Loss] = None) -> None:
        if answer.settled.done():
            return
        answer.settled.set_result(None)
        if loss and loss.is_certain:
            self._cut_off.add(answer)
        if loss:
            journal.record(
                journal.ANSWER_LOST,
                f"backend {self._name}: an answer to request {answer.ref} "
                f"{loss}",
                backend=self._name,
                task_uuid=answer.ref,
            )

    def _move(self, state: State, reason: str = "") -> None:
        if (self.state, self.reason) != (state, reason):
            self.state, self.reason = state, reason
            self._on_change()


class LargeLane(Lane):
    """Connects for an answer only; sends one message at a time, at a rate."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # When a channel may have its next message.
        self._free: Dict[str, float] = {}

    async def _wait_for_need(self) -> None:
        while not self._batch and not self.outbox:
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    async def _take(self) -> None:
        for answer in self.outbox.take(1):
            # Should the lane be stopped meanwhile, this one is on its way.
            self._batch = [(answer, b"")]
            if answer.after:
                await asyncio.wait({answer.after}, timeout=KEEP_SECONDS)
            if answer.after and not answer.after.done():
                self._settle(answer, _TOO_LATE)
            elif answer in self._cut_off:
                self._settle(answer, _AS_BEFORE)
            else:
                messages = await in_thread(answer.encode)
                self._batch = [(answer, message) for message in messages]
                continue
            self._batch = []

    async def _publish(self, link: Link, attempt: int) -> None:
        answer, message = self._batch[0]
        now = time.monotonic()
        self._free = {c: t for c, t in self._free.items() if t > now}
        await asyncio.sleep(self._free.get(answer.channel, now) - now)
        await self._publish_these(link, self._batch[:1], attempt)
        self._free[answer.channel] = (
            time.monotonic() + len(message) / _LARGE_RATE
        )
