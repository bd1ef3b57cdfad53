"""Connection: a subscription to one channel, and a way to publish.

Two links to Redis, as one that has subscribed may not publish.  The loss of
the subscription is the end, for what is published meanwhile is lost.  The
other link is made anew when it is needed: a server may close idle ones.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, List, Mapping, Optional, Set

from redis.exceptions import ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    LoginRefused,
    describe_server,
)
from ngcp_task_agent.client.errors import ConnectionLost, RedisUnavailable

OnMessage = Callable[[bytes], None]


class Connection:
    """Open until lost or closed.

    :param options: a ``redis`` backend's
    :param on_message: takes what arrives on the channel
    :param ping_interval: seconds of silence after which Redis is asked
        whether it is still there; it is lost after two of them
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        channel: str,
        on_message: OnMessage,
        ping_interval: float,
    ) -> None:
        self._options = options
        self._server = describe_server(options)
        self._channel = channel
        self._on_message = on_message
        self._interval = ping_interval
        loop = asyncio.get_running_loop()
        self._subscribed: asyncio.Future[str] = loop.create_future()
        self._reader: Optional[Link] = None
        self._writer: Optional[Link] = None
        self._writing = asyncio.Lock()
        self._publishing: Set[asyncio.Future[None]] = set()
        self._watcher: Optional[asyncio.Task[None]] = None
        #: done when the subscription is lost; its result says why
        self.lost: asyncio.Future[str] = loop.create_future()

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
        self._watcher = background.start(self._watch())

    async def _open(self, timeout: float) -> None:
        self._reader = await Link.open(self._options, self._on_push, timeout)
        await self._reader.send("SUBSCRIBE", self._channel)
        events: List[asyncio.Future[str]] = [
            self._subscribed,
            self._reader.closed,
        ]
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        if not self._subscribed.done():
            raise LinkError(self._reader.closed.result())
        refused = self._subscribed.result()
        if refused:
            raise self._refuses(f"to subscribe to {self._channel}: {refused}")

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
                if not self._writer or self._writer.closed.done():
                    self._writer = await Link.open(
                        self._options, _ignore, timeout
                    )
                replies = await self._writer.call(
                    [("PUBLISH", channel, message)], timeout
                )
            except LinkError as error:
                raise self._unavailable(error) from None
            if not replies:
                reason = self._writer.closed.result()
                raise ConnectionLost(
                    f"the connection to Redis at {self._server} broke while "
                    f"the request was being sent: {reason}"
                )
            if isinstance(replies[0], ResponseError):
                raise self._refuses(f"to publish: {replies[0]}")

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

    async def _watch(self) -> None:
        """Wait for the loss of the subscription.

        Nothing but a ping tells a stalled server or a cut cable.
        """
        assert self._reader
        link = self._reader
        pinged = 0.0
        while not link.closed.done():
            silent = time.monotonic() - link.heard
            if silent >= 2 * self._interval:
                self._lose(f"no answer within {silent:.0f} s")
                return
            if silent >= self._interval and pinged < link.heard:
                pinged = time.monotonic()
                try:
                    await asyncio.wait_for(link.send("PING"), self._interval)
                except (LinkError, asyncio.TimeoutError):
                    self._lose("a ping cannot be sent")
                    return
            steps = 1 if silent < self._interval else 2
            await asyncio.wait(
                {link.closed}, timeout=steps * self._interval - silent
            )
        self._lose(link.closed.result())

    def _on_push(self, push: Any) -> None:
        if isinstance(push, ResponseError):
            # Such as a user that may not subscribe to the channel.
            if not self._subscribed.done():
                self._subscribed.set_result(str(push))
            elif self._reader:
                self._reader.refuse(str(push))
            return
        kind = push[0] if isinstance(push, list) else b""
        if kind == b"message":
            self._on_message(push[2])
        elif kind == b"subscribe" and not self._subscribed.done():
            self._subscribed.set_result("")

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(
                f"the connection to Redis at {self._server} is lost: {reason}"
            )

    def _unavailable(self, error: LinkError) -> RedisUnavailable:
        if isinstance(error, LoginRefused):
            return self._refuses(f"the login: {error}")
        return RedisUnavailable(
            f"Redis at {self._server} is not to be reached: {error}"
        )

    def _refuses(self, what: str) -> RedisUnavailable:
        return RedisUnavailable(f"Redis at {self._server} refuses {what}")


def _ignore(push: Any) -> None:
    """Nothing is pushed to a link that has not subscribed."""
