"""Publisher: one attempt after another to publish a batch."""

from __future__ import annotations

from typing import Awaitable, Callable, Dict, Optional, Sequence

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.redis.connection import Link, LinkError
from ngcp_task_agent.backends.redis.outbox import Loss
from ngcp_task_agent.backends.redis.producer import (
    Cause,
    Message,
    NotPublished,
    Producer,
    not_published,
)

# Seconds that Redis has to answer, beside those for a batch's size.  It costs
# nothing to try too early: what was carried out is not repeated.
_TIMEOUT = 3.0
_PLAIN_TIMEOUT = 20.0  # the same for what is not sent again
_SLOWEST = 512 << 10  # bytes a second of the slowest line that is of use
_TRIES = 32  # ids until one belongs to this node of a cluster


#: Of the messages of a batch, by their positions.
Lost = Dict[int, Loss]


class Publisher:
    """Publishes batches over one connection after another.

    Where Redis does not run the producer's script, it is tried again with
    each batch, and messages leave by plain PUBLISH, at most once.

    :param connect: opens a link, or raises LinkError
    :param ping_interval: seconds in which refresh() is called, as a rule
    :ivar refusal: why messages leave at most once; empty if exactly once
    :ivar is_in_doubt: the last batch may have been published
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Link]], ping_interval: float
    ) -> None:
        self._connect = connect
        self._ping_interval = ping_interval
        self._timeout = min(_TIMEOUT, 2 * ping_interval)
        self._link: Optional[Link] = None
        self._producer: Optional[Producer] = None
        self.refusal = ""
        self.is_in_doubt = False

    async def connected(self) -> Link:
        """Connect if need be.

        :raises LinkError: when this attempt fails
        """
        if not self._link or not self._link.is_open:
            self._link = None
            self._link = await self._connect()
        return self._link

    async def close(self) -> None:
        """Close the connection."""
        if self._link:
            await self._link.close("it was closed")

    async def refresh(self, link: Link) -> None:
        """Keep the producer known, and try again what was refused.

        :raises LinkError: when the link is lost
        """
        if self.is_in_doubt:
            return  # the number must stay
        try:
            if self._producer:
                self._producer.next()
                await self._producer.publish(link, (), self._timeout)
            else:
                await self._begin(link, _TRIES)
        except NotPublished as error:
            if error.cause is not Cause.LATER:
                self._producer = None

    async def publish(
        self, link: Link, messages: Sequence[Message], attempt: int
    ) -> Lost:
        """Try to publish a batch, or to find out whether it was published.

        :param attempt: for this batch, from 0; later ones have more time
        :raises NotPublished: to be tried again
        :raises LinkError: the same
        """
        size = sum(len(body) for _, body in messages)
        extra = size / _SLOWEST
        if not self.is_in_doubt:
            if not self._producer or self._producer.may_be_forgotten:
                # The next refresh() tries as many ids as it takes.
                await self._begin(link, 1 if self.refusal else _TRIES)
            if not self._producer:
                return await self._publish_plainly(link, messages, extra)
            self._producer.next()
        assert self._producer, "it is kept while a batch is in doubt"
        try:
            refused = await self._producer.publish(
                link, messages, (self._timeout + extra) * 2**attempt
            )
        except LinkError:
            self.is_in_doubt = True
            raise
        except NotPublished as error:
            if error.cause is Cause.LATER:
                raise
            self._producer = None
            was_in_doubt, self.is_in_doubt = self.is_in_doubt, False
            if was_in_doubt and error.cause is not Cause.NOT_STORED:
                return _all(messages, Loss(str(error), is_certain=False))
            raise
        self.is_in_doubt = False
        return {
            position: Loss(f"Redis refuses it: {why}")
            for position, why in refused.items()
        }

    def give_up(self, reason: str) -> Loss:
        """Try the last batch no more."""
        was_in_doubt, self.is_in_doubt = self.is_in_doubt, False
        return Loss(reason, is_certain=not was_in_doubt)

    async def _begin(self, link: Link, tries: int) -> None:
        """Begin as a new producer, if Redis lets us.

        :raises NotPublished: when it may let us later
        """
        self._producer = None
        for _ in range(tries):
            producer = Producer(self._ping_interval)
            producer.next()
            try:
                await producer.publish(link, (), self._timeout)
                self._producer, self.refusal = producer, ""
                return
            except NotPublished as error:
                if error.cause is Cause.LATER:
                    raise
                self.refusal = str(error)
                if error.cause is not Cause.ELSEWHERE:
                    return

    async def _publish_plainly(
        self, link: Link, messages: Sequence[Message], extra: float
    ) -> Lost:
        commands = [("PUBLISH", *message) for message in messages]
        try:
            replies = await link.call(commands, _PLAIN_TIMEOUT + extra)
        except LinkError as error:
            loss = Loss(f"the connection broke: {error}", is_certain=False)
            return _all(messages, loss)
        errors = {
            position: not_published("PUBLISH", reply)
            for position, reply in enumerate(replies)
            if isinstance(reply, ResponseError)
        }
        if len(errors) == len(messages) and all(
            error.cause is Cause.LATER for error in errors.values()
        ):
            raise errors[0]
        return {
            position: Loss(f"Redis refuses it: {error}")
            for position, error in errors.items()
        }


def _all(messages: Sequence[Message], loss: Loss) -> Lost:
    return dict.fromkeys(range(len(messages)), loss)
