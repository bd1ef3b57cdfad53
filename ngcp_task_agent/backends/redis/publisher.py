"""Publisher: batches of messages leave, in order, over its connection.

Each is published exactly once (producer.py).  Where the server does not run
the script, it is published at most once, by plain PUBLISH.
"""

from __future__ import annotations

import asyncio
import enum
import time
from typing import Awaitable, Callable, Dict, Optional, Sequence

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis.connection import (
    Link,
    LinkError,
    State,
    patience,
)
from ngcp_task_agent.backends.redis.producer import (
    Elsewhere,
    Message,
    NotPublished,
    Passing,
    Producer,
    is_passing,
)

# Seconds that Redis has to answer, beside those for a batch's size.  It costs
# nothing to try too early: what was carried out is not repeated.
_TIMEOUT = 3.0
_MOST_DOUBLINGS = 4  # of that, for a batch that had no reply in time
_PLAIN_TIMEOUT = 20.0  # the same for what is not sent again
_TRIES = 32  # ids until one belongs to this node of a cluster

#: Why messages are lost, by their positions in the batch.
Lost = Dict[int, str]


class Mode(enum.Enum):
    """How messages leave."""

    UNKNOWN = "to be found out"
    EXACTLY_ONCE = "by the script"
    AT_MOST_ONCE = "by plain PUBLISH"


class Publisher:
    """Publishes, over one connection after another.

    :param connect: opens a link, or raises LinkError
    :param ping_interval: seconds in which refresh() is called
    :param on_change: called when state or mode may have changed, and every
        second while away
    :ivar link: the last one
    :ivar reason: why the state is AWAY
    :ivar refusal: why the mode is AT_MOST_ONCE
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        ping_interval: float,
        on_change: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._ping_interval = ping_interval
        self._timeout = min(_TIMEOUT, 2 * ping_interval)
        self._on_change = on_change
        self._producer = Producer(ping_interval)
        self._backoff = Backoff()
        self._retry = asyncio.Event()
        self.link: Optional[Link] = None
        self.state, self.reason = State.CONNECTING, ""
        self.mode, self.refusal = Mode.UNKNOWN, ""

    def retry(self) -> None:
        """Redis is there: try at once."""
        self._retry.set()

    async def close(self) -> None:
        """Close the connection."""
        if self.link:
            await self.link.close("it was closed")

    async def connected(self) -> Link:
        """Connect if need be, and find out how messages can leave.

        :raises LinkError: when this attempt fails
        """
        try:
            if self.link is None or not self.link.is_open:
                if self.link and self.link.has_held:
                    self._backoff.succeeded()
                self.link = None
                self.link = await self._connect()
                if self.mode is Mode.AT_MOST_ONCE:
                    self.mode = Mode.UNKNOWN
            if self.mode is Mode.UNKNOWN:
                await self._find_mode(self.link)
        except (LinkError, Passing) as error:
            self.state, self.reason = State.AWAY, str(error)
            self._on_change()
            raise LinkError(str(error)) from None
        if self.state is not State.UP:
            self.state = State.UP
            self._on_change()
        return self.link

    async def pause(self, until: float = float("inf")) -> None:
        """Wait until another attempt is due, but not longer than ``until``."""
        now = time.monotonic()
        end = min(now + self._backoff.next(), until)
        self._retry.clear()
        while end > now and not self._retry.is_set():
            self._on_change()
            try:
                await asyncio.wait_for(self._retry.wait(), min(end - now, 1))
            except asyncio.TimeoutError:
                now = time.monotonic()

    async def refresh(self, link: Link) -> None:
        """Keep the producer known, and try again what was refused.

        :raises LinkError: when the link is lost
        """
        try:
            if self.mode is Mode.EXACTLY_ONCE:
                self._producer.next()
                await self._producer.publish(link, [], self._timeout)
            else:
                await self._find_mode(link)
        except Passing:
            pass
        except NotPublished:
            self.mode = Mode.UNKNOWN

    async def publish(self, messages: Sequence[Message], until: float) -> Lost:
        """Publish a batch, however many connections that takes.

        :param until: when to give up, on the monotonic clock
        """
        attempt = 0
        in_doubt = False  # it may have been carried out
        while True:
            try:
                link = await self.connected()
                if self.mode is Mode.AT_MOST_ONCE:
                    return await self._publish_plainly(link, messages)
                if not in_doubt:
                    self._producer.next()
                try:
                    refused = await self._producer.publish(
                        link, messages, self._timeout * 2**attempt
                    )
                except LinkError:
                    in_doubt = True
                    raise
                self._backoff.succeeded()
                return dict.fromkeys(refused, "is lost: Redis refuses it")
            except (LinkError, Passing) as error:
                reason = str(error)
            except NotPublished as error:
                self.mode = Mode.UNKNOWN
                if in_doubt and not error.is_certain:
                    return _all(messages, f"may be lost: {error}")
                in_doubt = False
                continue
            if time.monotonic() >= until:
                certainty = "may be" if in_doubt else "is"
                return _all(messages, f"{certainty} lost: {reason}")
            attempt = min(attempt + 1, _MOST_DOUBLINGS)
            await self.pause(until)

    async def _find_mode(self, link: Link) -> None:
        """Begin as a new producer, if Redis lets us."""
        for _ in range(_TRIES):
            self._producer = Producer(self._ping_interval)
            self._producer.next()
            try:
                await self._producer.publish(link, [], self._timeout)
            except Passing:
                raise
            except NotPublished as error:
                self.mode, self.refusal = Mode.AT_MOST_ONCE, str(error)
                if not isinstance(error, Elsewhere):
                    break
            else:
                self.mode, self.refusal = Mode.EXACTLY_ONCE, ""
                break
        self._on_change()

    async def _publish_plainly(
        self, link: Link, messages: Sequence[Message]
    ) -> Lost:
        """
        :raises Passing: when Redis will take them later
        """
        size = sum(len(body) for _, body in messages)
        try:
            replies = await link.call(
                [("PUBLISH", *message) for message in messages],
                patience(_PLAIN_TIMEOUT, size),
            )
        except LinkError as error:
            return _all(
                messages, f"may be lost: the connection broke: {error}"
            )
        refused = {
            position: reply
            for position, reply in enumerate(replies)
            if isinstance(reply, ResponseError)
        }
        if len(refused) == len(messages) and all(
            map(is_passing, refused.values())
        ):
            raise Passing(str(refused[0]))
        self._backoff.succeeded()
        return {
            position: f"is lost: Redis refuses it: {reply}"
            for position, reply in refused.items()
        }


def _all(messages: Sequence[Message], reason: str) -> Lost:
    return dict.fromkeys(range(len(messages)), reason)
