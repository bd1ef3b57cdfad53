"""Writer: publishes answers in their order, and keeps them while it cannot.

They wait, within limits, until Redis is back.  An answer that was handed to a
connection which then broke may have been delivered: it is sent again only if
it is known not to be, for a client that gets two endings counts wrong.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from redis.exceptions import ResponseError

from ngcp_task_agent import background, journal
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.base import LEAVING, in_thread
from ngcp_task_agent.backends.redis_call import Caller
from ngcp_task_agent.backends.redis_delivery import Delivery, Outcome
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    is_own_server,
    no_push,
)
from ngcp_task_agent.backends.redis_outbox import (
    KEEP_SECONDS,
    Answer,
    Encode,
    Outbox,
    Part,
)
from ngcp_task_agent.backends.redis_receipts import Receipts

_ROLE_EVERY = 1.0  # seconds
_SHORT_LIVED = 1.0  # seconds
LONGEST_CONNECT = 5.0  # seconds


class Writer:
    """Publishes what send() is given, from start() to stop().

    :param name: the backend's, for the journal
    :param options: the backend's
    :param timeout: seconds for Redis to answer
    :param receipts: of what is published
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
        receipts: Receipts,
        reader_is_up: Callable[[], bool],
    ) -> None:
        self._name = name
        self._options = options
        self._timeout = timeout
        self._receipts = receipts
        self._reader_is_up = reader_is_up
        self._caller = Caller(
            options, timeout, receipts.channel, self._tell_down
        )
        self._connect_within = min(timeout, LONGEST_CONNECT)
        self._outbox = Outbox()
        self._more: Optional[asyncio.Future[None]] = None
        self._retry = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._link: Optional[Link] = None
        self._linked = 0.0
        self._was_of_use = False
        self._proves = False  # it can publish with receipts
        self._in_doubt: Optional[Delivery] = None
        self._published = 0  # messages
        self._encoding: Optional[asyncio.Task[None]] = None
        # Those of large answers, until they have left or are lost.
        self._left: Dict[Answer, asyncio.Future[None]] = {}
        self._holds = True
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
        size = sum(map(len, messages))
        self._put(Answer(channel, ref, size, messages=messages))

    async def send_large(
        self, channel: str, encode: Encode, size: int, ref: Optional[str]
    ) -> None:
        """Publish what takes long to make; returns when it has left.

        Or when it is lost, or hold_nobody() was called.

        :param encode: makes the messages, in a thread
        :param size: bytes that are kept until then
        """
        answer = Answer(channel, ref, size, encode=encode)
        if self._put(answer) and self._holds:
            left = asyncio.get_running_loop().create_future()
            self._left[answer] = left
            await asyncio.wait({left})

    def hold_nobody(self) -> None:
        """From now on nobody waits until a large answer has left."""
        self._holds = False
        for answer in list(self._left):
            self._settle(answer)

    def _put(self, answer: Answer) -> bool:
        if not self._outbox.put(answer):
            self._tell_lost(answer, "is lost, as one before it")
            return False
        self._wake()
        self._empty.clear()
        if self._caller.is_overdue or not self._is_linked:
            self._drop_excess()
        return not answer.is_lost

    def _wake(self) -> None:
        if self._more and not self._more.done():
            self._more.set_result(None)

    def redis_is_back(self) -> None:
        """The reader has found Redis: try at once."""
        self._retry.set()

    async def redis_is_away(self, reason: str) -> None:
        """The reader has lost Redis: trust no connection that is idle."""
        if self._link and not self._caller.is_busy:
            await self._link.close(reason)

    async def stop(self, timeout: float) -> None:
        """Publish what waits, and end.

        :param timeout: seconds; they begin anew while answers leave
        """
        for _ in range(LEAVING):
            published = self._published
            try:
                await asyncio.wait_for(self._empty.wait(), timeout)
                break
            except asyncio.TimeoutError:
                if self._published == published:
                    break
        for task in (self._task, self._encoding):
            if task:
                await background.end(task)
        self._lose_doubtful("the backend has stopped")
        for answer in self._outbox.clear():
            self._tell_lost(answer, "is lost: the backend has stopped")
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
        if self._in_doubt:
            await self._settle_doubt(link, self._in_doubt)
            return
        self._encode_next()
        pause = self._outbox.pause()
        if pause == 0:
            await self._publish(link)
            return
        if not self._outbox:
            self._empty.set()
        pause = every if pause is None else min(pause, every)
        self._more = asyncio.get_running_loop().create_future()
        events: List[asyncio.Future[Any]] = [self._more, link.closed]
        await asyncio.wait(
            events, timeout=pause, return_when=asyncio.FIRST_COMPLETED
        )

    async def _connect(self, backoff: Backoff) -> Link:
        lived = time.monotonic() - self._linked
        if self._link and lived < _SHORT_LIVED and not self._was_of_use:
            # A server that only says hello is away.
            reason = self._link.closed.result()
            self._link = None
            raise LinkError(reason)
        self._link = None
        # Should the reader find Redis meanwhile, another attempt is due.
        self._retry.clear()
        link = await Link.open(self._options, no_push, self._connect_within)
        self._link = link
        self._linked = time.monotonic()
        self._was_of_use = False
        self._looked = 0.0
        backoff.connected()
        await self._note_database(link)
        self._proves = await self._can_prove(link)
        self._tell_up()
        return link

    async def _pause(self, seconds: float) -> None:
        """Wait for the next attempt; meanwhile what gets too old goes."""
        end = time.monotonic() + seconds
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

    def _encode_next(self) -> None:
        """Make messages of the large answer whose turn it is."""
        answer = self._outbox.to_encode()
        if answer and not self._encoding:
            self._encoding = background.start(self._encode(answer))

    async def _encode(self, answer: Answer) -> None:
        assert answer.encode
        messages = await in_thread(answer.encode)
        self._encoding = None
        self._outbox.encoded(answer, messages)
        self._wake()

    async def _publish(self, link: Link) -> None:
        """Publish as much as may be on its way at once."""
        batch = self._outbox.take()
        receipt = self._receipts.issue(link.server) if self._proves else None
        delivery = Delivery(link, batch, self._receipts, receipt)
        try:
            replies = await self._caller.call(
                link, delivery.commands(), delivery.size
            )
            outcome = delivery.read(replies)
        except LinkError as error:
            # None of it was sent, or Redis has taken none.
            await link.close(str(error))
            self._put_back(batch)
            raise
        except asyncio.CancelledError:
            for answer, _ in batch:
                self._lose(answer, "may be lost: the backend has stopped")
            raise
        if outcome is None:
            self._in_doubt = delivery
        else:
            self._sort(outcome, link)

    async def _settle_doubt(self, link: Link, delivery: Delivery) -> None:
        """Find out what became of the last batch: its connection broke."""
        try:
            outcome = await delivery.find_out(link, self._caller)
        except LinkError as error:
            await link.close(str(error))
            raise
        if self._in_doubt:
            self._in_doubt = None
            self._sort(outcome, delivery.link)

    def _sort(self, outcome: Outcome, link: Link) -> None:
        self._published += len(outcome.published)
        self._was_of_use |= bool(outcome.published)
        if not outcome.unknown:
            self._tell_up()
        for answer, reason in outcome.refused.items():
            self._lose(answer, f"is lost: Redis refuses it: {reason}")
        for answer, _ in outcome.unknown:
            reason = link.closed.result()
            self._lose(answer, f"may be lost: the connection broke: {reason}")
        self._put_back(outcome.again)
        for answer, _ in outcome.published:
            if not answer.messages:
                self._settle(answer)

    def _put_back(self, parts: Sequence[Part]) -> None:
        for answer in self._outbox.put_back(parts):
            self._tell_lost(answer, "is lost, as another one to it")

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

    async def _can_prove(self, link: Link) -> bool:
        """Whether it can be found out what was carried out on this link.

        Tries all that this takes, with an empty receipt and nobody to kill.
        """
        await link.identify(self._timeout)
        if link.server is None:
            self._receipts.impossible("INFO or CLIENT ID", link.anonymous)
            return False
        steps: List[Dict[str, Sequence[Any]]] = [
            {
                "CLIENT KILL": ("CLIENT", "KILL", "ID", link.id),
                "PUBLISH": ("PUBLISH", self._receipts.channel, ""),
                "EXEC": ("EXEC",),
            },
            # Only now: who may begin one and not end it is stuck in it.
            {"MULTI": ("MULTI",), "EXEC": ("EXEC",)},
        ]
        for step in steps:
            replies = await self._caller.call(link, list(step.values()))
            for what, reply in zip(step, replies):
                is_error = isinstance(reply, ResponseError)
                if is_error and "without MULTI" not in str(reply):
                    self._receipts.impossible(what, reply)
                    return False
        return self._is_linked

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

    def _tell_up(self) -> None:
        if self._told_down:
            self._told_down = False
            journal.record(
                journal.BACKEND_UP,
                f"backend {self._name}: answers can be sent again, "
                f"{len(self._outbox)} were kept",
                backend=self._name,
            )

    def _drop_excess(self) -> None:
        if self._in_doubt and self._in_doubt.age > KEEP_SECONDS:
            self._lose_doubtful("Redis is away for too long")
        for answer in self._outbox.drop_excess():
            self._tell_lost(
                answer,
                "is lost: Redis is away for too long, or too much waits",
            )

    def _lose_doubtful(self, reason: str) -> None:
        if self._in_doubt:
            for answer, _ in self._in_doubt.parts:
                self._lose(answer, f"may be lost: {reason}")
            self._in_doubt = None

    def _lose(self, answer: Answer, reason: str) -> None:
        """Give up an answer of which a part was to be sent."""
        if not answer.is_lost:
            self._outbox.discard(answer)
            self._tell_lost(answer, reason)

    def _tell_lost(self, answer: Answer, reason: str) -> None:
        journal.record(
            journal.ANSWER_LOST,
            f"backend {self._name}: an answer to request {answer.ref} "
            f"{reason}",
            backend=self._name,
            task_uuid=answer.ref,
        )
        self._settle(answer)

    def _settle(self, answer: Answer) -> None:
        """Whoever waits for this answer to leave waits no longer."""
        left = self._left.pop(answer, None)
        if left and not left.done():
            left.set_result(None)
