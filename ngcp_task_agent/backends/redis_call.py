"""Call: ask Redis something that must not be asked twice.

A server that was stalled goes on where it stopped.  So a connection on which
something is on its way is given up only when it is known to be dead.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, List, Mapping, Optional, Sequence

from ngcp_task_agent import background
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis_link import Link, LinkError, no_push
from ngcp_task_agent.backends.redis_outbox import KEEP_SECONDS

_SLOWEST = 128 << 10  # bytes a second, of a line that is still of use
# Seconds for a connection to answer when the server has answered another.
_GRACE = 1.0
# Seconds without any progress, of a connection that is safe to give up.
_STANDSTILL = 3.0


class Caller:
    """Calls that wait for a server that is stalled, one at a time.

    :param options: the backend's, for a connection to compare with
    :param timeout: seconds in which Redis should answer
    :param channel: where nobody minds an empty message
    :param on_overdue: told when it does not
    :ivar is_busy: a call waits for its replies
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        timeout: float,
        channel: bytes,
        on_overdue: Callable[[str], None],
    ) -> None:
        self._options = options
        self._timeout = timeout
        self._channel = channel
        self._on_overdue = on_overdue
        self._is_safe = False
        self._overdue: Optional[asyncio.TimerHandle] = None
        self._doubt: Optional[asyncio.Task[None]] = None
        self.is_busy = False

    @property
    def is_overdue(self) -> bool:
        return self._doubt is not None

    async def call(
        self,
        link: Link,
        commands: Sequence[Sequence[Any]],
        is_safe: bool,
        size: int = 0,
    ) -> List[Any]:
        """As Link.call().

        :param is_safe: it can be found out later what was carried out, so
            that a connection on which nothing moves is given up soon
        :param size: bytes of the commands
        :raises LinkError: when nothing was sent
        """
        # A slow line is not a dead one.
        extra = size / _SLOWEST
        wait = self._timeout + extra
        if is_safe:
            wait = min(self._timeout, _STANDSTILL)
        self._is_safe = is_safe
        self._wait(link, wait)
        self.is_busy = True
        try:
            return await link.call(commands, KEEP_SECONDS + extra)
        finally:
            self.is_busy = False
            if self._overdue:
                self._overdue.cancel()
            if self._doubt:
                await background.end(self._doubt)
                self._doubt = None

    def _wait(self, link: Link, wait: float) -> None:
        self._overdue = asyncio.get_running_loop().call_later(
            wait, self._look, link, link.unsent, wait
        )

    def _look(self, link: Link, before: int, wait: float) -> None:
        if self._is_safe and link.unsent != before:
            self._wait(link, wait)
            return
        self._on_overdue(f"no answer within {wait:g} s")
        self._doubt = background.start(self._find_out(link))

    async def _find_out(self, link: Link) -> None:
        """Whether the server is stalled, or this connection alone is dead.

        As after a firewall has forgotten it, which tells nobody.
        """
        backoff = Backoff()
        while not link.closed.done():
            other: Optional[Link] = None
            try:
                other = await Link.open(self._options, no_push, self._timeout)
                # A server can be told to answer all but PUBLISH for a while.
                is_answered = await other.call(
                    [("PUBLISH", self._channel, "")], KEEP_SECONDS
                )
            except LinkError:
                is_answered = []
            finally:
                if other:
                    await other.close("it was for a test")
            if is_answered:
                # What it had stalled is answered now, or never.
                if not self._is_safe:
                    await asyncio.sleep(_GRACE)
                link.give_up("it alone gets no answer")
            else:
                await asyncio.sleep(backoff.next())
