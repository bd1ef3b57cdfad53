"""Call: one request and its responses."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import (
    Any,
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Deque,
    List,
    Optional,
    Union,
)

from ngcp_task_agent.client.errors import ConnectionLost
from ngcp_task_agent.client.inquiry import Ask, Inquiry
from ngcp_task_agent.client.outcome import RequestOutcome, Tally
from ngcp_task_agent.client.progress import LiveFeed, LiveLine, LiveLines
from ngcp_task_agent.client.requests import OutgoingRequest
from ngcp_task_agent.client.responses import Message, ReceivedResponse
from ngcp_task_agent.client.waiting import CallState, Clock, Patience

_PUBLISH_TIMEOUT = 5.0  # seconds
_GRACE = 0.05  # seconds to read what arrived while this process was stopped
_BURST = 32  # responses in a row
_LONGEST = 3600.0  # seconds to wait at a stretch


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
        limit: Optional[float] = None,
        ask: Optional[Ask] = None,
        feed: Optional[LiveFeed] = None,
    ) -> None:
        """
        :param publish: sends the request, within a number of seconds
        :param lost: done when the connection is lost, with the reason
        :param drain: delivers messages that have arrived and are not yet
            parsed
        :param limit: seconds that the task may run by this node's
            configuration; 0 without a limit, None if unknown
        :param ask: runs a built-in task; None to ask nothing
        :param feed: live output
        """
        self.request = request
        self.patience = patience
        self._tally = tally
        self._publish = publish
        self._lost = lost
        self._drain = drain
        self._clock = Clock()
        self._inquiry = Inquiry(request, patience, tally, limit, ask)
        self._fresh: Deque[ReceivedResponse] = deque()
        self._news: Optional[asyncio.Future[None]] = None
        self._feed = feed

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
            () if self._is_satisfied else self._tally.missing,
        )

    def stop(self) -> None:
        """Stop waiting: the iteration ends."""
        self._clock.end()
        self._inquiry.cancel()
        self._wake()

    def take(self, message: Message) -> None:
        """Count a message that has arrived."""
        if self._clock.state is not CallState.OPEN:
            return
        response = self._tally.take(message, self.seconds)
        if response:
            self._fresh.append(response)
            self._wake()

    def follow(self) -> AsyncIterator[Union[ReceivedResponse, LiveLine]]:
        """Iterate over the responses and, with ``live``, over the output.

        The lines of a node come before its ending.  Those of a node without
        live output all come then, as does the rest of them if an iteration is
        broken off and another one follows.

        :raises RedisUnavailable: and ConnectionLost: as the iteration over
            the call itself
        """
        return self._follow(self._feed.lines) if self._feed else self

    async def lines(self) -> AsyncIterator[LiveLine]:
        """Iterate over the lines of output only; see follow().

        Without ``live`` they all come at the endings.
        """
        feed = self._feed
        lines = feed.lines if feed else LiveLines(self.request.uuid)
        items = self._follow(lines)
        try:
            async for item in items:
                if isinstance(item, LiveLine):
                    yield item
        finally:
            await items.aclose()

    @property
    def live_lost(self) -> str:
        """Why there is no more live output; empty if there is."""
        return self._feed.lost if self._feed else ""

    async def _follow(
        self, lines: LiveLines
    ) -> AsyncGenerator[Union[ReceivedResponse, LiveLine], None]:
        try:
            while True:
                await self._wait(lines)
                while lines:
                    yield lines.pop()
                if self._fresh:
                    response = self._fresh.popleft()
                    for line in lines.end(response):
                        yield line
                    yield response
                elif self._clock.state is CallState.ENDED:
                    break
            for line in lines.close():
                yield line
        finally:
            if self._feed:
                await self._feed.close()

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> ReceivedResponse:
        """
        :raises RedisUnavailable: when the request could not be sent
        :raises ConnectionLost: when no more answers can arrive
        """
        await self._wait()
        if not self._fresh:
            raise StopAsyncIteration
        return self._fresh.popleft()

    async def _wait(self, lines: Optional[LiveLines] = None) -> None:
        """Send the request; wait for a response, a line, or the end."""
        clock = self._clock
        if clock.state is CallState.NEW:
            await self._send()
        # A flood of responses must neither starve timers and signals
        if len(self._fresh) % _BURST == 0:
            await asyncio.sleep(0)
        # nor outlast the timeout.
        while clock.state is CallState.OPEN and (
            clock.seconds >= self._inquiry.timeout
            or not (self._fresh or (lines and self._left > 0))
        ):
            self._inquiry.begin(clock.seconds)
            left = self._left
            if self._is_satisfied:
                self.stop()
            elif left > 0 and not self._lost.done():
                await self._listen(
                    min(left, self._inquiry.until_due(clock.seconds)),
                    lines,
                )
            else:
                await asyncio.sleep(_GRACE)
                await self._drain()
                if self._lost.done() and not self._fresh:
                    self.stop()
                    await self._close_feed()
                    raise ConnectionLost(self._lost.result())
                if self._left <= 0:
                    self.stop()
        if clock.state is CallState.ENDED:
            await self._close_feed()

    async def _close_feed(self) -> None:
        if self._feed and not self._feed.is_closed:
            # The last lines come over another connection than the ending.
            await asyncio.sleep(_GRACE)
            await self._feed.close()

    @property
    def _left(self) -> float:
        """How many seconds to wait for more; 0 or less at the end."""
        seconds, timeout = self.seconds, self._inquiry.timeout
        if self._inquiry.is_under_way:
            # Its answer may change the outcome, and comes soon.
            return timeout - seconds
        return self.patience.left(seconds, timeout, self._tally)

    async def _send(self) -> None:
        if self._feed:
            await self._feed.open(min(self._inquiry.timeout, _PUBLISH_TIMEOUT))
            if self._clock.state is not CallState.NEW:
                return  # it was stopped
        # Answers can arrive before Redis confirms that the request is sent.
        self._clock.start()
        try:
            await self._publish(min(self._inquiry.timeout, _PUBLISH_TIMEOUT))
        except BaseException:
            self.stop()
            raise

    @property
    def _is_satisfied(self) -> bool:
        expect = self.patience.expect
        return expect is not None and self._tally.concluded >= expect

    async def _listen(
        self, seconds: float, lines: Optional[LiveLines]
    ) -> None:
        """Wait for anything to happen.

        :param seconds: at most; can be infinite
        """
        self._news = asyncio.get_running_loop().create_future()
        if lines is not None:
            lines.wake = self._wake
        events: List[asyncio.Future[Any]] = [self._news, self._lost]
        await asyncio.wait(
            [*events, *self._inquiry.tasks],
            timeout=max(0.0, min(seconds, _LONGEST)),
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _wake(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)
