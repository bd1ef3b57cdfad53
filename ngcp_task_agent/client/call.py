"""Call: one request and its responses."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Deque,
    List,
    Optional,
    Union,
)

from ngcp_task_agent.client.errors import ConnectionLost
from ngcp_task_agent.client.outcome import RequestOutcome, Tally
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.client.requests import OutgoingRequest
from ngcp_task_agent.client.responses import Message, ReceivedResponse
from ngcp_task_agent.client.waiting import CallState, Clock, Patience

_PUBLISH_TIMEOUT = 5.0  # seconds
_GRACE = 0.05  # seconds to read what arrived while this process was stopped
_BURST = 32  # responses in a row


class Call:
    """One request: an asynchronous iterator over its responses.

    The iteration ends when there is nothing more to wait for; ``outcome`` is
    the request's outcome so far, at any time.
    """

    def __init__(
        self,
        request: OutgoingRequest,
        patience: Patience,
        tally: Tally,
        publish: Callable[[float], Awaitable[None]],
        lost: asyncio.Future[str],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        """
        :param publish: sends the request, within a number of seconds
        :param lost: done when the connection is lost, with the reason
        :param drain: delivers messages that have arrived and are not yet
            parsed
        """
        self.request = request
        self.patience = patience
        self._tally = tally
        self._publish = publish
        self._lost = lost
        self._drain = drain
        self._clock = Clock()
        self._fresh: Deque[ReceivedResponse] = deque()
        self._news: Optional[asyncio.Future[None]] = None

    @property
    def seconds(self) -> float:
        """From sending the request until now, or until the call ended."""
        return self._clock.seconds

    @property
    def outcome(self) -> RequestOutcome:
        """The request's outcome so far."""
        return RequestOutcome(
            self.request,
            self._tally.nodes,
            self.patience.expect,
            self.seconds,
        )

    def stop(self) -> None:
        """Stop waiting: the iteration ends."""
        self._clock.end()
        self._wake()

    def take(self, message: Message) -> None:
        """Count a message that has arrived."""
        if self._clock.state is not CallState.OPEN:
            return
        response = self._tally.take(message, self.seconds)
        if response:
            self._fresh.append(response)
            self._wake()

    async def follow(
        self,
    ) -> AsyncIterator[Union[ReceivedResponse, LiveLine]]:
        """Iterate over the responses, and over the lines of output.

        :raises RedisUnavailable: and ConnectionLost: as the iteration over
            the call itself
        """
        async for response in self:
            yield response
            if response.data:
                for text in response.data.splitlines():
                    yield LiveLine(response.node, "stdout", text)

    async def lines(self) -> AsyncIterator[LiveLine]:
        """Iterate over the lines of output only; see follow()."""
        async for item in self.follow():
            if isinstance(item, LiveLine):
                yield item

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> ReceivedResponse:
        """
        :raises RedisUnavailable: when the request could not be sent
        :raises ConnectionLost: when no more answers can arrive
        """
        clock = self._clock
        if clock.state is CallState.NEW:
            await self._send()
        # A flood of responses must neither starve timers and signals
        if len(self._fresh) % _BURST == 0:
            await asyncio.sleep(0)
        # nor outlast the timeout.
        while clock.state is CallState.OPEN and (
            not self._fresh or clock.seconds >= self.patience.timeout
        ):
            left = self.patience.left(clock.seconds, self._tally)
            if self._is_satisfied:
                self.stop()
            elif left > 0 and not self._lost.done():
                await self._listen(left)
            else:
                await asyncio.sleep(_GRACE)
                await self._drain()
                if self._lost.done() and not self._fresh:
                    self.stop()
                    raise ConnectionLost(self._lost.result())
                if self.patience.left(clock.seconds, self._tally) <= 0:
                    self.stop()
        if not self._fresh:
            raise StopAsyncIteration
        return self._fresh.popleft()

    async def _send(self) -> None:
        # Answers can arrive before Redis confirms that the request is sent.
        self._clock.start()
        try:
            await self._publish(min(self.patience.timeout, _PUBLISH_TIMEOUT))
        except BaseException:
            self.stop()
            raise

    @property
    def _is_satisfied(self) -> bool:
        expect = self.patience.expect
        return expect is not None and self._tally.concluded >= expect

    async def _listen(self, seconds: float) -> None:
        """Wait for a response or for the loss of the connection."""
        self._news = asyncio.get_running_loop().create_future()
        events: List[asyncio.Future[Any]] = [self._news, self._lost]
        await asyncio.wait(
            events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )

    def _wake(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)
