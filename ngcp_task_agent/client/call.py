"""Call: one request on its way, and how long to wait for its answers."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Deque, List, Optional

from ngcp_task_agent.client.connection import Connection
from ngcp_task_agent.client.errors import ConnectionLost, InvalidRequest
from ngcp_task_agent.client.inbox import Inbox
from ngcp_task_agent.client.outcome import Outcome, Tally
from ngcp_task_agent.client.requests import Request
from ngcp_task_agent.client.responses import Message, Response

# A little more than the time that a task has by default: its agent then ends
# it and says so, which tells more than a client that gave up before.
TIMEOUT = 310.0
# Agents say at once whether they take a request.
ANSWER_TIMEOUT = 5.0
SETTLE = 0.3

_PUBLISH_WITHIN = 5.0  # seconds
_GRACE = 0.05  # seconds for what has arrived while this process stood still
_BURST = 32  # responses that are taken in a row


@dataclass(frozen=True)
class Patience:
    """How long to wait for the answers to a request; times in seconds.

    :param timeout: for everything
    :param answer_timeout: for the first node to answer at all
    :param settle: for more nodes, when all that accepted have ended
    :param expect: end as soon as so many nodes have ended or rejected, and
        wait for them until the timeout
    """

    timeout: float = TIMEOUT
    answer_timeout: float = ANSWER_TIMEOUT
    settle: float = SETTLE
    expect: Optional[int] = None

    def check(self) -> None:
        """
        :raises InvalidRequest: naming what is out of its range
        """
        for name in ("timeout", "answer_timeout", "settle"):
            value = getattr(self, name)
            # Not the largest number: a loop cannot wait for centuries.
            if not (isinstance(value, (int, float)) and 0 < value <= 1e8):
                raise InvalidRequest(
                    f"{name} must be a number of seconds greater than 0"
                )
        expect = self.expect
        if expect is not None and not (isinstance(expect, int) and expect > 0):
            raise InvalidRequest("expect must be a number of nodes from 1")


class Call:
    """One request on its way: an asynchronous iterator of its responses.

    Ends without an exception when there is nothing more to wait for; what
    has become of the request is in ``outcome``, at any time.
    """

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        request: Request,
        body: bytes,
        channel: str,
        patience: Patience,
        tally: Tally,
    ) -> None:
        self.request = request
        self.patience = patience
        self._connection = connection
        self._inbox = inbox
        self._body = body
        self._channel = channel
        self._tally = tally
        self._fresh: Deque[Response] = deque()
        self._news: Optional[asyncio.Future[None]] = None
        self._loop = asyncio.get_running_loop()
        self._sent: Optional[float] = None
        self._heard = 0.0
        self._taken = 0
        self._closing: Optional[float] = None
        self._ended: Optional[float] = None

    @property
    def seconds(self) -> float:
        """Since the sending; when the call has ended, until then."""
        if self._sent is None:
            return 0.0
        return (self._ended or self._loop.time()) - self._sent

    @property
    def outcome(self) -> Outcome:
        """What is known now."""
        return Outcome(
            self.request,
            self._tally.nodes,
            self.patience.expect,
            self.seconds,
        )

    def stop(self) -> None:
        """Wait no longer: the iteration ends."""
        if self._ended is None:
            self._ended = self._loop.time()
        self._wake()

    def take(self, message: Message) -> None:
        """Count what has arrived; the connection calls it."""
        if self._sent is None or self._ended is not None:
            return
        response = self._tally.take(message, self.seconds)
        # A chunk is a sign of life too, but not what one waits for.
        if response:
            self._heard = self._loop.time()
            self._fresh.append(response)
            self._wake()

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Response:
        """
        :raises RedisUnavailable: when the request could not be sent
        :raises ConnectionLost: when no answers can come any more
        """
        if self._sent is None and self._ended is None:
            await self._send()
        self._taken += 1
        if self._taken % _BURST == 0:
            # What flows without a pause must not starve clocks and signals.
            await asyncio.sleep(0)
        if self._is_overdue():
            # Nor outlast the timeout; but what came in time counts.
            await self._inbox.empty()
            self.stop()
        while not self._fresh:
            if self._is_satisfied:
                self.stop()
            if self._ended is not None:
                raise StopAsyncIteration
            wait = self._wait()
            lost = self._connection.lost
            if wait > 0 and not lost.done():
                await self._listen(wait)
                continue
            # The end; but what came in time must count, though this process
            # was not there to read it.
            await self._listen(_GRACE)
            await self._inbox.empty()
            if self._fresh or self._is_satisfied:
                continue
            if lost.done():
                self.stop()
                raise ConnectionLost(lost.result())
            if self._wait() <= 0:
                self.stop()
        return self._fresh.popleft()

    async def _send(self) -> None:
        # Answers can come before Redis has told that the request is sent.
        self._sent = self._heard = self._loop.time()
        try:
            await self._connection.publish(
                self._channel,
                self._body,
                min(self.patience.timeout, _PUBLISH_WITHIN),
            )
        except BaseException:
            self.stop()
            raise

    @property
    def _is_satisfied(self) -> bool:
        expect = self.patience.expect
        return expect is not None and self._tally.concluded >= expect

    def _is_overdue(self) -> bool:
        """Whether the timeout has passed, and some time since it was seen.

        In that time what came while this process stood still is read.
        """
        now = self._loop.time()
        if self.seconds < self.patience.timeout:
            return False
        if self._closing is None:
            self._closing = now + _GRACE
        return now >= self._closing

    def _wait(self) -> float:
        """How many seconds to wait for more; not above 0 at the end."""
        patience, tally = self.patience, self._tally
        left = patience.timeout - self.seconds
        if not tally.answered:
            return min(left, patience.answer_timeout - self.seconds)
        if patience.expect is not None or tally.running:
            return left
        return min(left, patience.settle - (self._loop.time() - self._heard))

    async def _listen(self, seconds: float) -> None:
        """Wait for news, or the loss of the connection, for that long."""
        self._news = self._loop.create_future()
        events: List[asyncio.Future[Any]] = [self._news]
        if not self._connection.lost.done():
            events.append(self._connection.lost)
        await asyncio.wait(
            events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )

    def _wake(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)
