"""Connection: a subscription to one channel, and a way to publish.

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
from ngcp_task_agent.backends.redis.dial import Dial
from ngcp_task_agent.backends.redis.link import Link, LinkError, OnMessage
from ngcp_task_agent.client.errors import ConnectionLost, RedisUnavailable

_NO_PASSWORD = (
    "; give the password in REDISCLI_AUTH, in the URL or in the backend's file"
)
_SPARE_PASSWORD = "; the password was that in REDISCLI_AUTH"
# What a port without TLS makes of a client with TLS (Redis waits for more),
# and the other way round.
_NO_TLS = ("no answer within", "WRONG_VERSION_NUMBER", "closed by", "reset by")
_TLS = ("closed by", "reset by")
_USE_NO_TLS = (
    "; if that port is without TLS, use redis://, or leave 'tls' out of the "
    "backend's file"
)
_USE_TLS = (
    "; if that port wants TLS, use rediss://, or give 'tls' in the backend's "
    "file"
)
# What servers say, old and new ones, that were given one and want none,
_WANTS_NONE = ("without any password", "no password is set")
# or another one.
_WRONG_PASSWORD = ("invalid password", "invalid username-password pair")


class Connection:
    """Open until lost or closed.

    :param dial: makes connections to Redis
    :param server: its name in errors
    :param on_message: takes what arrives on the channel
    :param ping_interval: seconds of silence after which Redis is pinged; it
        is lost after two of them
    :param has_tls: None if there is no such choice
    :param has_password: whether ``dial`` gives one
    :param spare: makes connections without a password, for a server that says
        it wants none
    :ivar lost: done when the subscription is lost; its result says why
    """

    def __init__(
        self,
        dial: Dial,
        server: str,
        channel: str,
        on_message: Callable[[bytes], None],
        ping_interval: float,
        has_tls: Optional[bool] = None,
        has_password: bool = True,
        spare: Optional[Dial] = None,
    ) -> None:
        self._dial = dial
        self._spare = spare
        self._has_tls = has_tls
        self._has_password = has_password
        self._server = server
        self._channel = channel
        self._on_message = on_message
        self._interval = ping_interval
        self._reader: Optional[Link] = None
        self._writer: Optional[Link] = None
        self._writing = asyncio.Lock()
        self._tasks: Set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()

    async def open(self, timeout: float) -> None:
        """Connect, subscribe, and wait until Redis has confirmed it.

        :raises RedisUnavailable: also after ``timeout`` seconds
        """
        end = time.monotonic() + timeout
        try:
            link = self._reader = await self._link(
                timeout, lambda _, body: self._on_message(body)
            )
            await link.subscribe([self._channel], end - time.monotonic())
        except LinkError as error:
            await self.close()
            raise self._unavailable(error) from None
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
                    self._writer = await self._link(timeout)
            except LinkError as error:
                raise self._unavailable(error) from None
            words = ("PUBLISH", channel, message)
            try:
                reply = await self._writer.ask(*words, timeout=timeout)
            except LinkError as error:
                raise ConnectionLost(
                    f"the connection to Redis at {self._server} broke while "
                    f"the request was being sent: {error}"
                ) from None
            if isinstance(reply, ResponseError):
                refusal = LinkError(
                    f"refuses to publish to {channel}: {reply}"
                )
                raise self._unavailable(refusal)

    async def _link(
        self, timeout: float, on_message: Optional[OnMessage] = None
    ) -> Link:
        """Connect within ``timeout`` seconds, if need be without a password.

        :raises LinkError: when that fails
        """
        end = time.monotonic() + timeout
        take = on_message or _ignore
        try:
            return await Link.open(self._dial, timeout, take)
        except LinkError as error:
            if not self._spare or not any(
                w in str(error) for w in _WANTS_NONE
            ):
                raise
        self._dial, self._spare = self._spare, None
        return await Link.open(self._dial, end - time.monotonic(), take)

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
            self.lost.set_result(
                f"the connection to Redis at {self._server} is lost: {reason}"
            )

    def _unavailable(self, error: LinkError) -> RedisUnavailable:
        refuses = str(error).startswith("refuses ")
        why = f"{error}" if refuses else f"cannot be reached: {error}"
        is_wrong = any(sign in why for sign in _WRONG_PASSWORD)
        if "Authentication required" in why or (
            is_wrong and not self._has_password
        ):
            why = why.rstrip(".") + _NO_PASSWORD
        elif is_wrong and self._spare:
            why = why.rstrip(".") + _SPARE_PASSWORD
        elif self._has_tls and any(sign in why for sign in _NO_TLS):
            why = why.rstrip(".") + _USE_NO_TLS
        elif self._has_tls is False and any(sign in why for sign in _TLS):
            why = why.rstrip(".") + _USE_TLS
        return RedisUnavailable(f"Redis at {self._server} {why}")


def _ignore(channel: bytes, body: bytes) -> None:
    """Nothing is subscribed."""
