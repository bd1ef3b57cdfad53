"""LiveLane: a connection for live output, which can be lost.

It is apart from the answers, which therefore never wait for it.  It takes
little at a time and refuses the rest, so that neither the agent's memory nor
the server's time fills up with the output of many tasks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Callable, Deque, List, Tuple

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.redis.link import Link, LinkError
from ngcp_task_agent.backends.redis.reconnector import Reconnector, State
from ngcp_task_agent.backends.redis.subscriber import Subscriber
from ngcp_task_agent.logs import journal

LIVE_RATE = 4 << 20  # bytes a second, of all tasks
QUEUED = 1 << 20  # bytes that may wait; a message can exceed them
_BATCH_BYTES = 256 << 10  # what is published at once
_BATCH = 50  # messages


class LiveLane(Reconnector):
    """Publishes at the server to which the subscriber is subscribed.

    Connects only when there will be something to send, and drops it when that
    is not possible.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        super().__init__()
        self._subscriber = subscriber
        self._server = subscriber.server
        self._queue: Deque[Tuple[str, bytes]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._is_wanted = False  # a connection

    def connect(self) -> None:
        """Connect, unless it has; never waits."""
        self._is_wanted = True
        self._wake.set()

    def send(self, channel: str, encode: Callable[[], bytes]) -> bool:
        """Publish a message unless there is no room; never waits."""
        if self._bytes > QUEUED or self.state in (State.AWAY, State.STOPPED):
            self.connect()
            return False
        message = encode()
        self._queue.append((channel, message))
        self._bytes += len(message)
        self._wake.set()
        return True

    async def stop(self) -> None:
        await super().stop()
        self._clear()

    async def _open(self) -> Link:
        while not self._queue and not self._is_wanted:
            self._wake.clear()
            await self._wake.wait()
        self._is_wanted = False
        server, address = self._server, self._subscriber.address
        return await Link.open(server.dial, server.timeout, address=address)

    async def _use(self, link: Link) -> None:
        link.closed.add_done_callback(lambda _: self._wake.set())
        self._is_wanted = False
        self._move(State.UP)
        while True:
            link.check()
            if self._queue:
                await self._publish(link)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _publish(self, link: Link) -> None:
        address = self._subscriber.address
        if address and link.ends and link.ends[1][0] != address:
            # The name stands for several; this one need not be the same.
            raise LinkError("it goes to another address of the server")
        commands: List[Tuple[str, str, bytes]] = []
        size = 0
        while self._queue and len(commands) < _BATCH and size < _BATCH_BYTES:
            channel, message = self._queue.popleft()
            commands.append(("PUBLISH", channel, message))
            size += len(message)
        self._bytes -= size
        replies = await link.call(commands, self._server.timeout)
        self._backoff.succeeded()
        refusals = [r for r in replies if isinstance(r, ResponseError)]
        if refusals:
            # Once: clients choose the channels.
            text = f"Redis refuses live output: {refusals[0]}"
            self._server.say("live", "refused", journal.BACKEND_NOTE, text)
        await asyncio.sleep(size / LIVE_RATE)

    def _failed(self, error: Exception, pause: float) -> None:
        self._clear()
        # That a connection is lost is no news if there is another at once.
        if pause:
            self._move(State.AWAY, str(error))

    def _clear(self) -> None:
        self._queue.clear()
        self._bytes = 0
