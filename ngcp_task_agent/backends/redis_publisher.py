"""Publisher: one connection over which the answers of a lane leave."""

from __future__ import annotations

import asyncio
import time
from typing import Any, List, Mapping, Optional, Protocol

from redis.exceptions import ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.redis_call import Caller
from ngcp_task_agent.backends.redis_delivery import (
    Delivery,
    Outcome,
    Refusal,
    find_refusal,
)
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    is_own_server,
    no_push,
)
from ngcp_task_agent.backends.redis_outbox import KEEP_SECONDS, Part
from ngcp_task_agent.backends.redis_receipts import Receipts

# In seconds: how often the role is asked for, and how long it is believed
# without a connection;
_ROLE_EVERY = 1.0
_ROLE_KNOWN = 3.0
# what a connection has to hold, not to count as a failure;
_SHORT_LIVED = 1.0
# until what Redis has refused for a while is tried again.
_PROVE_AGAIN = 5.0
_TROUBLE = 0.5
LONGEST_CONNECT = 5.0  # seconds


class Lane(Protocol):
    """Where a publisher gets its answers, and what it says of them."""

    @property
    def is_needed(self) -> bool:
        """Whether there is a reason to be connected."""

    def pause(self) -> Optional[float]:
        """Seconds until something can be taken; None until wake()."""

    def take(self) -> List[Part]:
        """What is to be published at once."""

    def landed(self, outcome: Outcome, why: str) -> None:
        """This became of what was taken.

        :param why: the reason for which something is unknown
        """

    def down(self, reason: str) -> None:
        """Answers cannot be sent."""

    def up(self) -> None:
        """They can."""

    def note(self, text: str) -> None:
        """Something about the server that the administrator should know."""

    def drop_excess(self) -> None:
        """Time has passed, and some may have become too old."""


class Publisher:
    """Publishes what is in its lane, from start() to stop().

    :param options: the backend's
    :param timeout: seconds for Redis to answer
    :param receipts: the backend's
    :param lane: where the answers are
    :param asks_role: it finds out whether an own server is a master
    :ivar tried: set when it is connected, or has failed to be
    :ivar is_away: it is not connected, and has failed to be
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        timeout: float,
        receipts: Receipts,
        lane: Lane,
        asks_role: bool,
    ) -> None:
        self._options = options
        self._timeout = timeout
        self._connect_within = min(timeout, LONGEST_CONNECT)
        self._receipts = receipts
        self._lane = lane
        self._caller = Caller(options, timeout, receipts.channel, self._fails)
        self._more: Optional[asyncio.Future[None]] = None
        self._retry = asyncio.Event()
        self._link: Optional[Link] = None
        self._linked = 0.0
        self._was_of_use = False
        self._backoff = Backoff()
        self._proves = False  # it can publish with receipts
        self._proves_from = 0.0  # when to see whether it can
        self._in_doubt: Optional[Delivery] = None
        self._notes_database = asks_role
        self._asks_role = asks_role and is_own_server(options)
        self._ping_interval: float = options.get("ping_interval", 10)
        self._looked = 0.0
        self._looks_from = 0.0
        self._task: Optional[asyncio.Task[None]] = None
        self.is_away = asks_role
        self._was_own_master = False
        self.tried = asyncio.Event()

    @property
    def is_own_master(self) -> bool:
        """Whether the server is this machine's and no replica.

        For a while it is still believed without a connection: whoever reads
        would notice another server, and a master that becomes a replica
        rarely keeps its clients.
        """
        is_fresh = time.monotonic() - self._looked < _ROLE_KNOWN
        has_asked = self._is_linked and self._looked >= self._linked
        return self._was_own_master and (has_asked or is_fresh)

    @property
    def is_stuck(self) -> bool:
        """Whether nothing leaves."""
        return self.is_away or self._caller.is_overdue

    @property
    def _is_linked(self) -> bool:
        return self._link is not None and not self._link.closed.done()

    def start(self) -> None:
        self._task = background.start(self._run())

    def wake(self) -> None:
        """There is more in the lane."""
        if self._more and not self._more.done():
            self._more.set_result(None)

    def redis_is_back(self) -> None:
        """The reader has found Redis: try at once."""
        self._retry.set()

    async def redis_is_away(self, reason: str) -> None:
        """The reader has lost Redis: trust no connection that is idle."""
        self._was_own_master = False
        if self._link and not self._caller.is_busy:
            await self._link.close(reason)

    def drop_old(self) -> None:
        """Give up what was to be sent long ago, if it may have been sent."""
        if self._in_doubt and self._in_doubt.age > KEEP_SECONDS:
            self._give_up("Redis is away for too long")

    async def stop(self) -> None:
        """End at once."""
        if self._task:
            await background.end(self._task)
        self._give_up("the backend has stopped")
        if self._link:
            await self._link.close("the agent has stopped")

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except LinkError as error:
                self.tried.set()
                if self._lane.is_needed or self._in_doubt:
                    self._fails(str(error))
                is_refused = self._is_linked
                await self._pause(
                    _TROUBLE if is_refused else self._backoff.next()
                )

    async def _work(self) -> None:
        """One round: connect if need be, publish what waits, or wait.

        :raises LinkError: when Redis is away, or refuses something for a
            while
        """
        every = _ROLE_EVERY if self._asks_role else self._ping_interval
        if not self._is_linked:
            has_reason = self._lane.is_needed or self._in_doubt
            if not has_reason and not self.is_away:
                await self._wait(None)
                return
            await self._connect()
        assert self._link
        link = self._link
        if time.monotonic() >= self._looks_from:
            await self._look(link)
            self._looks_from = time.monotonic() + every
        self.tried.set()
        if not self._proves and time.monotonic() >= self._proves_from:
            await self._prove(link)
        if self._in_doubt:
            await self._settle_doubt(link, self._in_doubt)
            return
        pause = self._lane.pause()
        if pause == 0:
            await self._publish(link)
        else:
            if self._is_linked:
                self._works()
            await self._wait(every if pause is None else min(pause, every))

    async def _wait(self, seconds: Optional[float]) -> None:
        """Wait until there is more, or something else to do."""
        self._more = asyncio.get_running_loop().create_future()
        events: List[asyncio.Future[Any]] = [self._more]
        if self._is_linked:
            assert self._link
            events.append(self._link.closed)
        await asyncio.wait(
            events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )

    async def _pause(self, seconds: float) -> None:
        """Wait for the next attempt; meanwhile what gets too old goes."""
        if self._is_linked:
            # That the reader has found Redis is no news.
            self._retry.clear()
        end = time.monotonic() + seconds
        while True:
            self._lane.drop_excess()
            left = end - time.monotonic()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._retry.wait(), min(left, 1.0))
                return
            except asyncio.TimeoutError:
                pass

    async def _connect(self) -> None:
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
        self._looks_from = 0.0
        self._proves = False
        self._proves_from = 0.0
        self._backoff.connected()
        if self._notes_database:
            await self._note_database(link)

    async def _publish(self, link: Link) -> None:
        """Publish as much as may be on its way at once."""
        batch = self._lane.take()
        receipt = self._receipts.issue(link.server) if self._proves else None
        delivery = Delivery(link, batch, self._receipts, receipt)
        try:
            replies = await self._caller.call(
                link,
                delivery.commands(),
                is_safe=delivery.has_receipt,
                size=delivery.size,
            )
        except LinkError:
            # None of it was sent.
            delivery.forget()
            self._lane.landed(Outcome([], {}, batch, []), "")
            raise
        except asyncio.CancelledError:
            self._in_doubt = delivery
            raise
        outcome = delivery.read(replies)
        if outcome is None:
            self._in_doubt = delivery
            return
        self._land(outcome, delivery)
        if outcome.is_stuck:
            await link.close(outcome.trouble)
        if not outcome.transacts:
            self._cannot_prove(Refusal("transactions", outcome.trouble, False))
        elif outcome.trouble:
            raise LinkError(outcome.trouble)

    async def _settle_doubt(self, link: Link, delivery: Delivery) -> None:
        """Find out what became of the last batch: its connection broke."""
        outcome = await delivery.find_out(link, self._caller)
        if self._in_doubt:
            self._in_doubt = None
            for answer, _ in outcome.again:
                answer.breaks += 1
            self._land(outcome, delivery)

    def _land(self, outcome: Outcome, delivery: Delivery) -> None:
        why = ""
        if outcome.unknown:
            reason = delivery.link.closed.result()
            why = f"the connection broke: {reason}"
        elif outcome.published:
            self._was_of_use = True
            self._backoff.succeeded()
            self._works()
        self._lane.landed(outcome, why)

    def _works(self) -> None:
        self.is_away = False
        self._lane.up()

    def _fails(self, reason: str) -> None:
        self.is_away = True
        self._lane.down(reason)

    def _give_up(self, why: str) -> None:
        """Whether it was published is not found out."""
        delivery, self._in_doubt = self._in_doubt, None
        if delivery:
            delivery.forget()
            self._lane.landed(Outcome([], {}, [], delivery.parts), why)

    async def _look(self, link: Link) -> None:
        """See whether the server answers; ask an own one for its role.

        A firewall forgets a connection that is silent for long, and tells
        nobody: the next answer would be lost.
        """
        question = "ROLE" if self._asks_role else "PING"
        replies = await link.call([(question,)], self._timeout)
        if not replies:
            return
        self._looked = time.monotonic()
        role = replies[0]
        self._was_own_master = isinstance(role, list) and role[0] == b"master"
        if self._asks_role and isinstance(role, ResponseError):
            self._asks_role = False
            self._lane.note(
                f"does not tell its role ({role}): 'local' then matches by "
                "the request's src alone"
            )

    async def _note_database(self, link: Link) -> None:
        """Say once that a configured database does not exist."""
        self._notes_database = False
        database = self._options.get("db", 0)
        if not database:
            return
        replies = await link.call([("SELECT", database)], self._timeout)
        if replies and isinstance(replies[0], ResponseError):
            self._lane.note(
                f"has no database {database} ({replies[0]}); pub/sub does "
                "not depend on it"
            )

    async def _prove(self, link: Link) -> None:
        """See whether answers can be published with receipts.

        :raises LinkError: when Redis is away, or refuses it for a while and
            something is in doubt
        """
        try:
            refusal = await find_refusal(
                link, self._receipts, self._caller, self._timeout
            )
        except LinkError as error:
            if not self._is_linked or self._in_doubt:
                raise
            refusal = Refusal("INFO or CLIENT ID", str(error), False)
        if refusal:
            self._cannot_prove(refusal)
        else:
            self._proves = self._is_linked

    def _cannot_prove(self, refusal: Refusal) -> None:
        """Do without, for a while or until there is another connection."""
        self._proves = False
        self._proves_from = time.monotonic() + _PROVE_AGAIN
        if refusal.is_for_good:
            self._proves_from = float("inf")
        self._receipts.impossible(refusal.what, refusal.why)
