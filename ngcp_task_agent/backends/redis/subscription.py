"""Subscription: a link on which messages arrive.

The replies to its own commands come among them, so it sends one at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, Optional

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.redis.connection import (
    Link,
    LinkError,
    Refused,
    wait_for_any,
)
from ngcp_task_agent.backends.redis.dial import Dial

OnMessage = Callable[[bytes, bytes], None]


class Subscription:
    """A link to Redis until it is lost.

    :param on_message: takes each message's channel and body
    :param ping_interval: seconds of silence after which Redis is asked
        whether it is still there, and in which it has to answer
    :ivar link: set by open()
    """

    link: Link

    def __init__(self, on_message: OnMessage, ping_interval: float) -> None:
        self._on_message = on_message
        self._interval = ping_interval
        self._commanding = asyncio.Lock()
        self._replies_due = 0
        self._reply: Optional[asyncio.Future[Any]] = None

    @classmethod
    async def open(
        cls,
        dial: Dial,
        on_message: OnMessage,
        ping_interval: float,
        timeout: float,
    ) -> Subscription:
        """Connect; subscribe() has to follow.

        :raises LinkError: also when it takes longer than ``timeout`` seconds
        """
        made = cls(on_message, ping_interval)
        made.link = await Link.open(dial, made._on_push, timeout)
        return made

    async def subscribe(self, *channels: str) -> None:
        """Returns when messages of these channels arrive.

        :raises Refused: by Redis
        :raises LinkError: when the link is lost
        """
        reply = await self._command("SUBSCRIBE", *channels)
        if isinstance(reply, ResponseError):
            raise Refused(str(reply))

    async def unsubscribe(self, *channels: str) -> None:
        """
        :raises LinkError: when the link is lost
        """
        await self._command("UNSUBSCRIBE", *channels)

    async def watch(self) -> None:
        """Wait until the link is lost.

        Only a ping shows that a server is stalled, or a cable cut.

        :raises LinkError: then, saying why
        """
        while True:
            silent = time.monotonic() - self.link.heard
            if silent >= self._interval:
                # That it is refused is an answer, too.
                await self._command("PING")
            else:
                await wait_for_any(
                    self.link.closed, timeout=self._interval - silent
                )
                self.link.check()

    async def _command(self, name: str, *channels: str) -> Any:
        """Send a command; its last reply, or the error that refuses it."""
        async with self._commanding:
            self._replies_due = max(1, len(channels))
            reply = self._reply = asyncio.get_running_loop().create_future()
            await self.link.send(name, *sorted(channels))
            await wait_for_any(reply, self.link.closed, timeout=self._interval)
            if not reply.done():
                self.link.check()
                raise LinkError(f"no answer within {self._interval:g} s")
            return reply.result()

    def _on_push(self, push: Any) -> None:
        kind, channel, body = push if _is_triple(push) else (b"", b"", b"")
        if kind == b"message":
            if isinstance(channel, bytes) and isinstance(body, bytes):
                self._on_message(channel, body)
            return
        self._replies_due -= 1
        is_last = self._replies_due <= 0 or isinstance(push, ResponseError)
        if is_last and self._reply and not self._reply.done():
            self._reply.set_result(push)


def _is_triple(push: Any) -> bool:
    return isinstance(push, list) and len(push) == 3
