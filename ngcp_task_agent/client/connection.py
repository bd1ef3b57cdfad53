"""Connection: a subscription to one channel, and a way to publish.

Two links to Redis, as one that has subscribed may not publish.  The loss of
the subscription is the end, for what is published meanwhile is lost.  The
other link is made anew when it is needed: a server may close idle ones.
"""

from __future__ import annotations

import asyncio
from typing import Callable, Optional, Set

from redis.exceptions import ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.redis.connection import (
    Link,
    LinkError,
    ignore,
)
from ngcp_task_agent.backends.redis.dial import Dial
from ngcp_task_agent.client.errors import ConnectionLost, RedisUnavailable

OnMessage = Callable[[bytes], None]


class Connection:
    """Open until lost or closed.

    :param dial: makes connections to Redis
    :param server: what errors call it
    :param on_message: takes what arrives on the channel
    :param ping_interval: seconds of silence after which Redis is asked
        whether it is still there; it is lost after two of them
    """

    def __init__(
        self,
        dial: Dial,
        server: str,
        channel: str,
        on_message: OnMessage,
        ping_interval: float,
    ) -> None:
        self._dial = dial
        self._server = server
        self._channel = channel
        self._on_message = on_message
        self._interval = ping_interval
        self._reader: Optional[Link] = None
        self._writer: Optional[Link] = None
        self._writing = asyncio.Lock()
        self._publishing: Set[asyncio.Future[None]] = set()
        self._watcher: Optional[asyncio.Task[None]] = None
        #: done when the subscription is lost; its result says why
        self.lost: asyncio.Future[str] = (
            asyncio.get_running_loop().create_future()
        )

    async def open(self, timeout: float) -> None:
        """Connect, subscribe, and wait until Redis has confirmed it.

        :raises RedisUnavailable: also after ``timeout`` seconds
        """
        try:
            await asyncio.wait_for(self._open(timeout), timeout)
        except asyncio.TimeoutError:
            await self.close()
            reason = LinkError(f"no answer within {timeout:g} s")
            raise self._unavailable(reason) from None
        except LinkError as error:
            await self.close()
            raise self._unavailable(error) from None
        except (RedisUnavailable, asyncio.CancelledError):
            await self.close()
            raise

    async def _open(self, timeout: float) -> None:
        link = await Link.open(
            self._dial, lambda _, body: self._on_message(body), timeout
        )
        self._reader = link
        await link.subscribe([self._channel], timeout)
        self._watcher = background.start(self._watch(link))

    async def publish(
        self, channel: str, message: bytes, timeout: float
    ) -> None:
        """Publish a message.

        How many have received it is not told: Redis does not know who sits
        on a replica.

        :raises RedisUnavailable: when it was not sent
        :raises ConnectionLost: when nobody knows whether it was sent
        """
        # On its own: a reply that nobody awaits would be the next one's.
        publishing = asyncio.ensure_future(
            self._publish(channel, message, timeout)
        )
        self._publishing.add(publishing)
        publishing.add_done_callback(self._published)
        await asyncio.wait({publishing})
        if publishing.cancelled():
            raise ConnectionLost(self.lost.result())
        publishing.result()

    def _published(self, publishing: asyncio.Future[None]) -> None:
        self._publishing.discard(publishing)
        if not publishing.cancelled():
            # Perhaps nobody waits any longer to hear how it went.
            publishing.exception()

    async def _publish(
        self, channel: str, message: bytes, timeout: float
    ) -> None:
        async with self._writing:
            if self.lost.done():
                raise ConnectionLost(self.lost.result())
            try:
                if not self._writer or not self._writer.is_open:
                    self._writer = await Link.open(self._dial, ignore, timeout)
                self._writer.check()
            except LinkError as error:
                raise self._unavailable(error) from None
            try:
                reply = await self._writer.ask(
                    "PUBLISH", channel, message, timeout=timeout
                )
            except LinkError as error:
                raise ConnectionLost(
                    f"the connection to Redis at {self._server} broke while "
                    f"the request was being sent: {error}"
                ) from None
            if isinstance(reply, ResponseError):
                refusal = LinkError(f"refuses to publish: {reply}")
                raise self._unavailable(refusal)

    async def close(self) -> None:
        """Close at once; a second time does nothing."""
        if self._watcher:
            await background.end(self._watcher)
        self._lose("it was closed")
        publishing = set(self._publishing)
        for task in publishing:
            task.cancel()
        if publishing:
            await asyncio.wait(publishing)
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
            self.lost.set_result(
                f"the connection to Redis at {self._server} is lost: {reason}"
            )

    def _unavailable(self, error: LinkError) -> RedisUnavailable:
        if str(error).startswith("refuses "):
            return RedisUnavailable(f"Redis at {self._server} {error}")
        return RedisUnavailable(
            f"Redis at {self._server} cannot be reached: {error}"
        )
