"""Writer: publishes answers in their order, and keeps them while it cannot.

An answer that was handed to a connection which then broke is not sent again:
Redis may well have delivered it, and a client that gets two endings counts
wrong.  It is logged.  All others wait, within limits, until Redis is back.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, List, Mapping, Optional, Sequence

from redis.exceptions import ResponseError

from ngcp_task_agent import background, journal
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    is_own_server,
)
from ngcp_task_agent.backends.redis_outbox import Answer, Outbox

_ROLE_EVERY = 1.0  # seconds
_SHORT_LIVED = 1.0  # seconds


class Writer:
    """Publishes what send() is given, from start() to stop().

    :param name: the backend's, for the journal
    :param options: the backend's
    :param timeout: seconds for Redis to answer
    :param reader_is_up: whether the administrator knows Redis to be there;
        else the reader has already told the journal
    :ivar tried: set when it is connected, or has failed to be
    :ivar is_own_master: the server is this machine's and no replica
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        timeout: float,
        reader_is_up: Callable[[], bool],
    ) -> None:
        self._name = name
        self._options = options
        self._timeout = timeout
        self._reader_is_up = reader_is_up
        self._outbox = Outbox()
        self._more: Optional[asyncio.Future[None]] = None
        self._retry = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._link: Optional[Link] = None
        self._linked = 0.0
        self._asks_role = is_own_server(options)
        self._ping_interval: float = options.get("ping_interval", 10)
        self._looked = 0.0
        self._told_down = False
        self._told_database = False
        self._task: Optional[asyncio.Task[None]] = None
        self.is_own_master = False
        self.tried = asyncio.Event()

    @property
    def _is_linked(self) -> bool:
        return self._link is not None and not self._link.closed.done()

    def start(self) -> None:
        self._task = background.start(self._run())

    def send(
        self, channel: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Publish messages; never waits."""
        self._outbox.put(channel, messages, ref)
        if self._more and not self._more.done():
            self._more.set_result(None)
        self._empty.clear()
        if not self._is_linked:
            self._drop_excess()

    def redis_is_back(self) -> None:
        """The reader has found Redis: try at once."""
        self._retry.set()

    async def redis_is_away(self, reason: str) -> None:
        """The reader has lost Redis: trust no connection."""
        if self._link:
            await self._link.close(reason)

    async def stop(self, timeout: float) -> None:
        """Publish what waits, for that many seconds at most, and end."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except asyncio.TimeoutError:
            pass
        if self._task:
            await background.end(self._task)
        for answer in self._outbox.clear():
            self._lost(answer, "the agent has stopped")
        if self._link:
            await self._link.close("the agent has stopped")

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._work(backoff)
            except LinkError as error:
                self.tried.set()
                self._tell_down(str(error))
                await self._pause(backoff.next())

    async def _work(self, backoff: Backoff) -> None:
        """One round: connect if need be, publish what waits, or wait.

        :raises LinkError: when Redis is away
        """
        if not self._is_linked:
            self.is_own_master = False
            link = await self._connect(backoff)
        else:
            assert self._link
            link = self._link
        every = _ROLE_EVERY if self._asks_role else self._ping_interval
        if time.monotonic() - self._looked >= every:
            await self._look(link)
        self.tried.set()
        pause = self._outbox.pause()
        if pause == 0:
            await self._publish(link)
            return
        if pause is None:
            self._empty.set()
            pause = every
        pause = min(pause, every)
        self._more = asyncio.get_running_loop().create_future()
        events: List[asyncio.Future[Any]] = [self._more, link.closed]
        await asyncio.wait(
            events, timeout=pause, return_when=asyncio.FIRST_COMPLETED
        )

    async def _connect(self, backoff: Backoff) -> Link:
        if self._link and time.monotonic() - self._linked < _SHORT_LIVED:
            # A server that only says hello is away.
            reason = self._link.closed.result()
            self._link = None
            raise LinkError(reason)
        self._link = None
        link = await Link.open(self._options, _no_push, self._timeout)
        self._link = link
        self._linked = time.monotonic()
        self._looked = 0.0
        backoff.connected()
        await self._note_database(link)
        if self._told_down:
            self._told_down = False
            journal.record(
                journal.BACKEND_UP,
                f"backend {self._name}: answers can be sent again, "
                f"{len(self._outbox)} were kept",
                backend=self._name,
            )
        return link

    async def _pause(self, seconds: float) -> None:
        """Wait for the next attempt; meanwhile what gets too old goes."""
        end = time.monotonic() + seconds
        self._retry.clear()
        while True:
            self._drop_excess()
            left = end - time.monotonic()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._retry.wait(), min(left, 1.0))
                return
            except asyncio.TimeoutError:
                pass

    async def _publish(self, link: Link) -> None:
        """Publish as much as may be on its way at once."""
        batch = self._outbox.take()
        try:
            replies = await link.call(
                [("PUBLISH", a.channel, a.message) for a in batch],
                self._timeout,
            )
        except LinkError:
            # None of it was sent.
            self._outbox.put_back(batch)
            raise
        for answer, reply in zip(batch, replies):
            if isinstance(reply, ResponseError):
                self._lost(answer, f"Redis refuses it: {reply}")
        for answer in batch[len(replies) :]:
            reason = link.closed.result()
            self._lost(answer, f"the connection broke meanwhile: {reason}")

    async def _look(self, link: Link) -> None:
        """See whether the server answers; ask an own one for its role.

        A firewall forgets a connection that is silent for long, and tells
        nobody: the next answer would be lost.
        """
        question = "ROLE" if self._asks_role else "PING"
        replies = await link.call([(question,)], self._timeout)
        self._looked = time.monotonic()
        role = replies[0] if replies else None
        self.is_own_master = isinstance(role, list) and role[0] == b"master"
        if self._asks_role and isinstance(role, ResponseError):
            self._asks_role = False
            self._note(
                f"does not tell its role ({role}): 'local' then matches by "
                "the request's src alone"
            )

    async def _note_database(self, link: Link) -> None:
        """Say once that a configured database does not exist."""
        database = self._options.get("db", 0)
        if not database or self._told_database:
            return
        self._told_database = True
        replies = await link.call([("SELECT", database)], self._timeout)
        if replies and isinstance(replies[0], ResponseError):
            self._note(
                f"has no database {database} ({replies[0]}); pub/sub does "
                "not depend on it"
            )

    def _note(self, text: str) -> None:
        journal.record(
            journal.BACKEND_NOTE,
            f"backend {self._name}: Redis {text}",
            backend=self._name,
        )

    def _tell_down(self, reason: str) -> None:
        if not self._told_down and self._reader_is_up():
            self._told_down = True
            journal.record(
                journal.BACKEND_DOWN,
                f"backend {self._name}: answers cannot be sent: {reason}",
                backend=self._name,
            )

    def _drop_excess(self) -> None:
        for answer in self._outbox.drop_excess():
            self._lost(answer, "Redis has been away for too long")

    def _lost(self, answer: Answer, reason: str) -> None:
        journal.record(
            journal.ANSWER_LOST,
            f"backend {self._name}: an answer to request {answer.ref} is "
            f"lost: {reason}",
            backend=self._name,
            task_uuid=answer.ref,
        )


def _no_push(reply: Any) -> None:
    """Nothing is pushed to a connection that has not subscribed."""
