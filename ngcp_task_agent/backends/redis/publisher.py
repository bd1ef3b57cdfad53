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
from ngcp_task_agent.backends.redis.connection import Link, LinkError, State
from ngcp_task_agent.backends.redis.producer import (
    Busy,
    Elsewhere,
    Message,
    NotPublished,
    Producer,
    is_busy,
)

# Seconds that Redis has to answer, beside those for a batch's size.  It costs
# nothing to try too early: what was carried out is not repeated.
_TIMEOUT = 3.0
_MOST_DOUBLINGS = 4  # of that, for a batch that had no reply in time
_PLAIN_TIMEOUT = 20.0  # the same for what is not sent again
_SLOWEST = 512 << 10  # bytes a second of the slowest line that is of use
_TRIES = 32  # ids until one belongs to this node of a cluster

#: How messages are lost, by their positions in the batch.
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
        self._link: Optional[Link] = None
        self._producer = Producer(ping_interval)
        self._backoff = Backoff()
        self._retry = asyncio.Event()
        self.state, self.reason = State.CONNECTING, ""
        self.mode, self.refusal = Mode.UNKNOWN, ""

    def retry(self) -> None:
        """Redis is there: try at once."""
        self._retry.set()

    async def close(self) -> None:
        """Close the connection."""
        if self._link:
            await self._link.close("it was closed")

    async def connected(self) -> Link:
        """Connect if need be, and find out how messages can leave.

        :raises LinkError: when this attempt fails
        """
        try:
            if not self._link or not self._link.is_open:
                if self._link and self._link.has_held:
                    self._backoff.succeeded()
                self._link = None
                self._link = await self._connect()
                if self.mode is Mode.AT_MOST_ONCE:
                    self.mode = Mode.UNKNOWN
            if self.mode is Mode.UNKNOWN:
                await self._find_mode(self._link)
        except (LinkError, Busy) as error:
            self.state, self.reason = State.AWAY, str(error)
            self._on_change()
            raise LinkError(str(error)) from None
        if self.state is not State.UP:
            self.state = State.UP
            self._on_change()
        return self._link

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
                await self._producer.publish(link, (), self._timeout)
            else:
                await self._find_mode(link)
        except Busy:
            pass
        except NotPublished:
            self.mode = Mode.UNKNOWN

    async def publish(self, messages: Sequence[Message], until: float) -> Lost:
        """Publish a batch, however many connections that takes.

        :param until: when to give up, on the monotonic clock
        """
        extra = sum(len(body) for _, body in messages) / _SLOWEST
        attempt = 0
        in_doubt = False  # it may have been carried out
        while True:
            try:
                link = await self.connected()
                if self.mode is Mode.AT_MOST_ONCE:
                    return await self._publish_plainly(link, messages, extra)
                if not in_doubt:
                    self._producer.next()
                try:
                    refused = await self._producer.publish(
                        link, messages, (self._timeout + extra) * 2**attempt
                    )
                except LinkError:
                    in_doubt = True
                    raise
                self._backoff.succeeded()
                return dict.fromkeys(refused, "is lost: Redis refuses it")
            except (LinkError, Busy) as error:
                reason = str(error)
            except NotPublished as error:
                self.mode = Mode.UNKNOWN
                if in_doubt and not error.is_certain:
                    return _all(messages, f"may be lost: {error}")
                in_doubt, reason = False, str(error)
            if time.monotonic() >= until:
                how = "may be lost" if in_doubt else "is lost"
                return _all(messages, f"{how}: {reason}")
            attempt = min(attempt + 1, _MOST_DOUBLINGS)
            await self.pause(until)

    async def _find_mode(self, link: Link) -> None:
        """Begin as a new producer, if Redis lets us."""
        for _ in range(_TRIES):
            self._producer = Producer(self._ping_interval)
            self._producer.next()
            try:
                await self._producer.publish(link, (), self._timeout)
                self.mode, self.refusal = Mode.EXACTLY_ONCE, ""
                break
            except Busy:
                raise
            except NotPublished as error:
                self.mode, self.refusal = Mode.AT_MOST_ONCE, str(error)
                if not isinstance(error, Elsewhere):
                    break
        self._on_change()

    async def _publish_plainly(
        self, link: Link, messages: Sequence[Message], extra: float
    ) -> Lost:
        """
        :raises Busy: when Redis has taken none
        """
        commands = [("PUBLISH", *message) for message in messages]
        try:
            replies = await link.call(commands, _PLAIN_TIMEOUT + extra)
        except LinkError as error:
            return _all(
                messages, f"may be lost: the connection broke: {error}"
            )
        errors = [r for r in replies if isinstance(r, ResponseError)]
        if len(errors) == len(replies) and all(map(is_busy, errors)):
            raise Busy(str(errors[0]))
        self._backoff.succeeded()
        return {
            position: f"is lost: Redis refuses it: {reply}"
            for position, reply in enumerate(replies)
            if isinstance(reply, ResponseError)
        }


def _all(messages: Sequence[Message], how: str) -> Lost:
    return dict.fromkeys(range(len(messages)), how)
