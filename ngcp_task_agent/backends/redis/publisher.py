"""Publisher: batches of messages leave, in order, over its connection.

Each is published exactly once (producer.py).  Where the server does not run
the script, it is published at most once, by plain PUBLISH.
"""

from __future__ import annotations

import asyncio
import time
from typing import Awaitable, Callable, Optional, Sequence

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis.connection import Link, LinkError, State
from ngcp_task_agent.backends.redis.producer import (
    Busy,
    Elsewhere,
    Lost,
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


class Publisher:
    """Publishes, over one connection after another.

    :param connect: opens a link, or raises LinkError
    :param ping_interval: seconds in which refresh() is called
    :param on_change: called when anything below may have changed, and every
        second while away
    :ivar reason: why the state is AWAY
    :ivar refusal: why messages leave at most once; empty if exactly once
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
        # None where the script was refused: it is tried with each batch.
        self._producer: Optional[Producer] = None
        self._backoff = Backoff()
        self._retry = asyncio.Event()
        self.state, self.reason = State.CONNECTING, ""
        self.refusal = ""

    def retry(self) -> None:
        """Redis is there: try at once."""
        self._retry.set()

    async def close(self) -> None:
        """Close the connection."""
        if self._link:
            await self._link.close("it was closed")

    async def connected(self) -> Link:
        """Connect if need be.

        :raises LinkError: when this attempt fails
        """
        if not self._link or not self._link.is_open:
            if self._link and self._link.has_held:
                self._backoff.succeeded()
            self._link = None
            try:
                self._link = await self._connect()
            except LinkError as error:
                self._move(State.AWAY, str(error))
                raise
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
            if self._producer:
                self._producer.next()
                await self._producer.publish(link, (), self._timeout)
            else:
                await self._begin(link)
        except Busy:
            pass
        except NotPublished:
            self._producer = None
        self._move(State.UP)

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
                producer = self._producer
                if not producer or (
                    producer.may_be_forgotten and not in_doubt
                ):
                    # The next refresh() tries as many ids as it takes.
                    tries = 1 if self.refusal else _TRIES
                    producer = await self._begin(link, tries)
                if not producer:
                    lost = await self._publish_plainly(link, messages, extra)
                else:
                    if not in_doubt:
                        producer.next()
                    try:
                        lost = await producer.publish(
                            link,
                            messages,
                            (self._timeout + extra) * 2**attempt,
                        )
                    except LinkError:
                        in_doubt = True
                        raise
                self._backoff.succeeded()
                self._move(State.UP)
                return lost
            except (LinkError, Busy) as error:
                reason = str(error)
                if attempt:
                    self._move(State.AWAY, reason)
            except NotPublished as error:
                self._producer = None
                if in_doubt and not error.is_certain:
                    return _all(messages, f"may be lost: {error}")
                in_doubt, reason = False, str(error)
            if time.monotonic() >= until:
                how = "may be lost" if in_doubt else "is lost"
                return _all(messages, f"{how}: {reason}")
            attempt = min(attempt + 1, _MOST_DOUBLINGS)
            await self.pause(until)

    async def _begin(
        self, link: Link, tries: int = _TRIES
    ) -> Optional[Producer]:
        """Begin as a new producer, if Redis lets us.

        :raises Busy: when it may let us later
        """
        self._producer = None
        for _ in range(tries):
            producer = Producer(self._ping_interval)
            producer.next()
            try:
                await producer.publish(link, (), self._timeout)
                self._producer, self.refusal = producer, ""
                break
            except Busy:
                raise
            except NotPublished as error:
                self.refusal = str(error)
                if not isinstance(error, Elsewhere):
                    break
        self._on_change()
        return self._producer

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
        return {
            position: f"is lost: Redis refuses it: {reply}"
            for position, reply in enumerate(replies)
            if isinstance(reply, ResponseError)
        }

    def _move(self, state: State, reason: str = "") -> None:
        if (self.state, self.reason) != (state, reason):
            self.state, self.reason = state, reason
            self._on_change()


def _all(messages: Sequence[Message], how: str) -> Lost:
    return dict.fromkeys(range(len(messages)), how)
