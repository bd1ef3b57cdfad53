"""Subscriber: listens on the control channels, on one connection at a time."""

from __future__ import annotations

import asyncio
from typing import AbstractSet, Callable, Optional

from ngcp_task_agent import background
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis.connection import (
    LONGEST_CONNECT,
    Link,
    LinkError,
    Refused,
    State,
)
from ngcp_task_agent.backends.redis.dial import Dial
from ngcp_task_agent.backends.redis.server import (
    Server,
    identify,
    is_private,
)

# Of two ping intervals, in which a dead server must be noticed: one for the
# silence before the ping, one for its answer, and some for the agent itself.
_PART = 0.9


class Subscriber:
    """Subscribed from start() to stop(), as far as Redis is there.

    :param on_message: takes each message's channel and body
    :param on_change: called when the state or the server may have changed
    :ivar channels: what it is to listen to
    :ivar reason: why the state is AWAY
    :ivar is_refused: waiting does not help
    :ivar server: what is known of the server
    :ivar tried: set when the first attempt has ended
    """

    def __init__(
        self,
        dial: Dial,
        ping_interval: float,
        on_message: Callable[[str, bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._interval = ping_interval * _PART
        self._within = min(2 * self._interval, LONGEST_CONNECT)
        self._on_message = on_message
        self._on_change = on_change
        self._link: Optional[Link] = None
        self._task: Optional[asyncio.Task[None]] = None
        self._backoff = Backoff()
        self.channels: AbstractSet[str] = frozenset()
        self.tried = asyncio.Event()
        self.state, self.reason, self.is_refused = State.CONNECTING, "", False
        self.server = Server()

    @property
    def address(self) -> Optional[str]:
        """The address of the server, while subscribed to it over TCP."""
        ends = self._link and self._link.ends
        return str(ends[1][0]) if ends else None

    def start(self, channels: AbstractSet[str]) -> None:
        """Begin to listen; tries until stop()."""
        self.channels = channels
        self._task = background.start(self._run())

    async def listen(self, channels: AbstractSet[str]) -> None:
        """Change the channels; those that stay lose no message."""
        before, self.channels = self.channels, channels
        link = self._link
        if not link:
            return  # the next one begins with them
        try:
            await link.subscribe(channels - before, self._within)
            for channel in before - channels:
                await link.ask("UNSUBSCRIBE", channel, timeout=self._within)
        except LinkError as error:
            await link.close(str(error))

    async def stop(self) -> None:
        """Take no more messages, and disconnect."""
        self._move(State.STOPPED)
        if self._task:
            await background.end(self._task)

    def identified(self, server: Server) -> None:
        """The server was asked again, over another link."""
        self.server = server._replace(is_private=self.server.is_private)
        self._on_change()

    async def _run(self) -> None:
        while True:
            try:
                link = await Link.open(self._dial, self._receive, self._within)
                try:
                    await self._begin(link)
                    await link.watch(self._interval)
                finally:
                    self._link = None
                    await link.close("it was closed")
                    if link.has_held:
                        self._backoff.succeeded()
            except LinkError as error:
                self._move(State.AWAY, str(error), isinstance(error, Refused))
            await asyncio.sleep(self._backoff.next())

    async def _begin(self, link: Link) -> None:
        """See what server it is, and subscribe to all control channels."""
        server = await identify(link, self._within)
        if server.mode == "sentinel":
            raise Refused(
                "it is a Redis Sentinel, which carries no requests: give the "
                "address of Redis itself"
            )
        private = await is_private(link, self._within)
        subscribed: AbstractSet[str] = frozenset()
        while subscribed != self.channels:
            # What is wanted may change meanwhile.
            subscribed = self.channels
            await link.subscribe(subscribed, self._within)
        self._link = link
        self.server = server._replace(is_private=private)
        self._move(State.UP)

    def _receive(self, channel: bytes, body: bytes) -> None:
        self._backoff.succeeded()
        name = channel.decode(errors="replace")
        if name in self.channels:
            self._on_message(name, body)

    def _move(
        self, state: State, reason: str = "", is_refused: bool = False
    ) -> None:
        if self.state is not State.STOPPED:
            self.state, self.reason = state, reason
            self.is_refused = is_refused
            self._on_change()
        self.tried.set()
