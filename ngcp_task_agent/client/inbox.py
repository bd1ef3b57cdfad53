"""Inbox: receives first, parses later.

Redis drops a subscriber when 32 MB wait for it (client-output-buffer-limit),
and several agents can send large answers at once.  So large messages are only
stored while more arrive, and are parsed in the next pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Callable, Deque, Optional

from ngcp_task_agent import background
from ngcp_task_agent.client import responses
from ngcp_task_agent.client.responses import Message

_LARGE = 32768  # bytes; smaller ones are parsed in less than a millisecond
_PAUSE = 0.05  # seconds without a large message


class Inbox:
    """Turns message bodies into messages.

    :param deliver: called with each message
    :param limit: bytes that may wait
    """

    def __init__(self, deliver: Callable[[Message], None], limit: int) -> None:
        self._deliver = deliver
        self._limit = limit
        self._waiting: Deque[bytes] = deque()
        self._size = 0
        self._arrived = 0.0
        self._reader: Optional[asyncio.Task[None]] = None

    def put(self, body: bytes) -> None:
        """Take a body from the network."""
        if len(body) <= _LARGE:
            self._parse(body)
            return
        self._arrived = asyncio.get_running_loop().time()
        self._waiting.append(body)
        self._size += len(body)
        while self._size > self._limit:
            self._parse_next()
        if not self._reader or self._reader.done():
            self._reader = background.start(self._parse_in_pauses())

    async def drain(self) -> None:
        """Deliver all that waits now, but nothing that arrives meanwhile."""
        for _ in range(len(self._waiting)):
            if self._waiting:
                self._parse_next()
            await asyncio.sleep(0)

    async def close(self) -> None:
        if self._reader:
            await background.end(self._reader)

    async def _parse_in_pauses(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            pause = self._arrived + _PAUSE - loop.time()
            if pause <= 0:
                self._parse_next()
            await asyncio.sleep(max(0.0, pause))

    def _parse_next(self) -> None:
        body = self._waiting.popleft()
        self._size -= len(body)
        self._parse(body)

    def _parse(self, body: bytes) -> None:
        message = responses.parse(body)
        if message:
            self._deliver(message)
