"""Session: a subscription to one channel, and a way to publish.

Two links to Redis, as one that has subscribed may not publish.  The loss of
the subscription is the end, for what is published meanwhile is lost.  The
other link is made anew when it is needed: a server may close idle ones.
"""

from __future__ import annotations

import asyncio
import time
from typing import Callable, Optional, Set

from redis.exceptions import ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.redis.link import Link, LinkError
from ngcp_task_agent.client.endpoint import Endpoint
from ngcp_task_agent.client.errors import ConnectionLost


class Session:
    """Open until lost or closed.

    :param on_message: takes what arrives on the channel
    :param ping_interval: seconds of silence after which Redis is pinged; it
        is lost after two of them
    :ivar lost: done when the subscription is lost; its result says why
    """

    def __init__(
        self,
        endpoint: Endpoint,
        channel: str,
        on_message: Callable[[bytes], None],
        ping_interval: float,
    ) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._on_message = on_message
        self._interval = ping_interval
        self._reader: Optional[Link] = None
        self._writer: Optional[Link] = None
        self._writing = asyncio.Lock()
        self._tasks: Set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()

    def beside(
        self, channel: str, on_message: Callable[[bytes], None]
    ) -> Session:
        """Make another session with the same server."""
        return Session(self._endpoint, channel, on_message, self._interval)

    async def open(self, timeout: float) -> None:
        """Connect, subscribe, and wait until Redis has confirmed it.

        :raises RedisUnavailable: also after ``timeout`` seconds
        """
        end = time.monotonic() + timeout
        try:
            link = self._reader = await self._endpoint.connect(
                timeout, lambda _, body: self._on_message(body)
            )
            await link.subscribe([self._channel], end - time.monotonic())
        except LinkError as error:
            await self.close()
            raise self._endpoint.unavailable(error) from None
        except asyncio.CancelledError:
            await self.close()
            raise
        self._tasks.add(background.start(self._watch(link)))

    async def publish(
        self, channel: str, message: bytes, timeout: float
    ) -> None:
        """Publish a message.

        How many have received it is not returned: Redis does not know who
        is subscribed on a replica.

        :raises RedisUnavailable: when it was not sent
        :raises ConnectionLost: when it may have been sent
        """
        # In a task, as to be cancelled while it sends would break the link,
        # and with it the other requests.
        task = asyncio.ensure_future(self._publish(channel, message, timeout))
        self._tasks.add(task)
        task.add_done_callback(self._published)
        await asyncio.wait({task})
        if task.cancelled():
            raise ConnectionLost(self.lost.result())
        task.result()

    def _published(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # publish() may have been cancelled

    async def _publish(
        self, channel: str, message: bytes, timeout: float
    ) -> None:
        async with self._writing:
            if self.lost.done():
                raise ConnectionLost(self.lost.result())
            try:
                if not self._writer or self._writer.closed.done():
                    self._writer = await self._endpoint.connect(timeout)
            except LinkError as error:
                raise self._endpoint.unavailable(error) from None
            words = ("PUBLISH", channel, message)
            try:
                reply = await self._writer.ask(*words, timeout=timeout)
            except LinkError as error:
                raise ConnectionLost(
                    f"{self._connection} broke while the request was being "
                    f"sent: {error}"
                ) from None
            if isinstance(reply, ResponseError):
                refusal = LinkError(
                    f"refuses to publish to {channel}: {reply}"
                )
                raise self._endpoint.unavailable(refusal)

    async def close(self) -> None:
        """Close at once; a second time does nothing."""
        self._lose("it was closed")
        await asyncio.gather(*map(background.end, self._tasks))
        for link in (self._reader, self._writer):
            if link:
                await link.close("it was closed")

    async def _watch(self, link: Link) -> None:
        try:
            await link.watch(self._interval)
        except LinkError as error:
            self._lose(str(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(f"{self._connection} is lost: {reason}")

    @property
    def _connection(self) -> str:
        return f"the connection to Redis at {self._endpoint.name}"
