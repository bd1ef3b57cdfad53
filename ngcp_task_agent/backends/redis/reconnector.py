"""Reconnector: one link after another."""

from __future__ import annotations

import asyncio
import enum
import time
from abc import ABC, abstractmethod
from typing import Optional

from ngcp_task_agent import background
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis.link import Link, LinkError, wait_for_any

HELD = 1.0  # seconds until a link counts as a success for the backoff


class State(enum.Enum):
    """CONNECTING leads to UP or AWAY, these to each other, all to STOPPED."""

    CONNECTING = "connecting"  # for the first time
    UP = "subscribed"
    AWAY = "away"
    STOPPED = "stopped"


class Reconnector(ABC):
    """Uses one link after another, from start() to stop().

    :ivar why: the reason if its state is AWAY
    :ivar tried: done when the first attempt has succeeded or failed
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.state = State.CONNECTING
        self.why = ""
        self.tried: asyncio.Future[None] = loop.create_future()
        self._backoff = Backoff()
        self._retry: asyncio.Future[None] = loop.create_future()
        self._task: Optional[asyncio.Task[None]] = None

    @abstractmethod
    async def _open(self) -> Link:
        """Connect, as soon as there is a reason to."""

    @abstractmethod
    async def _use(self, link: Link) -> None:
        """Use a link until it raises LinkError."""

    @abstractmethod
    def _failed(self, error: Exception, pause: float) -> None:
        """Another attempt is due in ``pause`` seconds."""

    def _wait_on(self) -> None:  # noqa: B027
        """Called each second of a pause."""

    def start(self) -> None:
        if self.state is not State.STOPPED:
            self._task = background.start(self._run())

    def retry(self) -> None:
        """End a pause: the server is there."""
        if not self._retry.done():
            self._retry.set_result(None)

    async def stop(self) -> None:
        """Disconnect at once; can be called again."""
        self._move(State.STOPPED)
        if self._task:
            await background.end(self._task)

    def _move(self, state: State, why: str = "") -> None:
        if self.state is not State.STOPPED:
            self.state, self.why = state, why
        if not self.tried.done():
            self.tried.set_result(None)

    async def _run(self) -> None:
        while True:
            try:
                link = await self._open()
                opened = time.monotonic()
                try:
                    await self._use(link)
                finally:
                    await link.close("it was closed")
                    if time.monotonic() - opened >= HELD:
                        self._backoff.succeeded()
            except LinkError as error:
                await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        pause = self._backoff.next()
        self._failed(error, pause)
        self._retry = asyncio.get_running_loop().create_future()
        end = time.monotonic() + pause
        while pause > 0 and not self._retry.done():
            self._wait_on()
            await wait_for_any(self._retry, timeout=min(pause, 1.0))
            pause = end - time.monotonic()
