"""Subscriber: listens on the control channels, on one connection at a time."""

from __future__ import annotations

from typing import AbstractSet, Callable, Optional

from ngcp_task_agent.backends.redis.link import (
    Link,
    LinkError,
    Refused,
)
from ngcp_task_agent.backends.redis.reconnector import Reconnector, State
from ngcp_task_agent.backends.redis.server import Server
from ngcp_task_agent.logs import journal


class Subscriber(Reconnector):
    """
    :param on_message: takes each message's channel and body
    :param on_up: called when all channels are subscribed
    """

    def __init__(
        self,
        server: Server,
        on_message: Callable[[str, bytes], None],
        on_up: Callable[[], None],
    ) -> None:
        super().__init__()
        self.server = server
        self._on_message = on_message
        self._on_up = on_up
        # A dead server must be noticed within two ping intervals: one of
        # silence, one for the ping's answer, and some time for the agent.
        self._silence = 0.9 * server.ping_interval
        self._link: Optional[Link] = None  # while subscribed
        self._channels: AbstractSet[str] = frozenset()

    @property
    def address(self) -> Optional[str]:
        """The address of the server, while subscribed to it over TCP."""
        ends = self._link and self._link.ends
        return str(ends[1][0]) if ends else None

    async def listen(self, channels: AbstractSet[str]) -> None:
        """Change the channels; those that stay lose no message."""
        before, self._channels = self._channels, channels
        link, timeout = self._link, self.server.timeout
        if not link:
            return  # the next one begins with them
        try:
            await link.subscribe(channels - before, timeout)
            for channel in before - channels:
                await link.ask("UNSUBSCRIBE", channel, timeout=timeout)
        except LinkError as error:
            await link.close(str(error))

    async def _open(self) -> Link:
        timeout = min(2 * self._silence, self.server.timeout)
        return await Link.open(self.server.dial, timeout, self._receive)

    async def _use(self, link: Link) -> None:
        server = self.server
        await server.identify(link)
        await server.find_clients(link)
        subscribed: AbstractSet[str] = frozenset()
        while subscribed != self._channels:
            # They may change meanwhile.
            subscribed = self._channels
            await link.subscribe(subscribed, server.timeout)
        self._link = link
        try:
            self._move(State.UP)
            channels = ", ".join(sorted(subscribed))
            channels = channels or "no channel, as no task uses it"
            text = f"subscribed at {server.place}: {channels}"
            server.say("subscription", "up", journal.BACKEND_UP, text)
            self._on_up()
            await link.watch(self._silence)
        finally:
            self._link = None

    def _failed(self, error: Exception, pause: float) -> None:
        # Once for an outage, and for each reason that does not pass.
        if self.state is not State.AWAY or isinstance(error, Refused):
            text = f"{self.server.place} is away: {error}"
            kind = journal.BACKEND_DOWN
            self.server.say("subscription", str(error), kind, text)
        self._move(State.AWAY, str(error))

    def _receive(self, channel: bytes, body: bytes) -> None:
        self._backoff.succeeded()
        name = channel.decode(errors="replace")
        if name in self._channels:
            self._on_message(name, body)
