"""Delivery: a batch of answers on its way over one connection.

With a receipt it is a transaction.  Should the connection break, this finds
out over the next one whether Redis has carried it out: it kills what Redis
may still have of the broken one, publishes another receipt, and waits until
that is heard.  Had the first been published, it would have been heard before.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from redis.exceptions import ExecAbortError, ResponseError

from ngcp_task_agent.backends.redis_call import Caller
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    is_for_good,
)
from ngcp_task_agent.backends.redis_outbox import KEEP_SECONDS, Answer, Part
from ngcp_task_agent.backends.redis_receipts import Receipt, Receipts

# Seconds of silence after which nobody waits for a receipt: it was sent to
# whoever listens when it was published.
_SILENCE = 4.0


class Outcome(NamedTuple):
    """What became of the parts of a delivery: each is in one of these.

    :ivar published: Redis has delivered them
    :ivar refused: why Redis will not deliver them, by their answers
    :ivar again: they were not published, and can be
    :ivar unknown: the connection broke, and nobody can tell
    :ivar trouble: why Redis has not published those of ``again``
    :ivar transacts: False if it does so without a transaction
    :ivar is_stuck: the connection is in a transaction that cannot be ended
    """

    published: List[Part]
    refused: Dict[Answer, str]
    again: List[Part]
    unknown: List[Part]
    trouble: str = ""
    transacts: bool = True
    is_stuck: bool = False


class Refusal(NamedTuple):
    """Why deliveries have to do without receipts.

    :ivar what: the command that Redis refuses
    :ivar is_for_good: it will not do otherwise on this connection
    """

    what: str
    why: str
    is_for_good: bool


async def find_refusal(
    link: Link, receipts: Receipts, caller: Caller, timeout: float
) -> Optional[Refusal]:
    """What is refused of that which receipts need, if anything.

    Tries it, with an empty receipt and nobody to kill.

    :param timeout: seconds for Redis to say who it is
    :raises LinkError: when the link is closed, or Redis does not say so for
        a while
    """
    await link.identify(timeout)
    if link.server is None:
        return Refusal("INFO or CLIENT ID", link.anonymous, True)
    steps: List[Dict[str, Sequence[Any]]] = [
        {
            "CLIENT KILL": ("CLIENT", "KILL", "ID", link.id),
            "PUBLISH": ("PUBLISH", receipts.channel, ""),
            "EXEC": ("EXEC",),
        },
        # Only now: who may begin one and not end it is stuck in it.
        {"MULTI": ("MULTI",), "EXEC": ("EXEC",)},
    ]
    for step in steps:
        replies = await caller.call(link, list(step.values()), is_safe=True)
        for what, reply in zip(step, replies):
            is_error = isinstance(reply, ResponseError)
            if is_error and "without MULTI" not in str(reply):
                if what == "EXEC" and "MULTI" in step:
                    await link.close(f"{what}: {reply}")
                return Refusal(what, str(reply), is_for_good(reply))
    return None


class Delivery:
    """Some answers that are published at once.

    :param link: the connection
    :param parts: the messages
    :param receipt: one that was issued for them; None to publish them one by
        one, and not to know what became of those without a reply
    :ivar size: bytes of the messages
    """

    def __init__(
        self,
        link: Link,
        parts: Sequence[Part],
        receipts: Receipts,
        receipt: Optional[Receipt],
    ) -> None:
        self.link = link
        self.parts = list(parts)
        self.size = sum(len(message) for _, message in parts)
        self._receipts = receipts
        self._receipt = receipt

    @property
    def has_receipt(self) -> bool:
        return self._receipt is not None

    @property
    def age(self) -> float:
        """Seconds since the oldest answer was to be sent."""
        return time.monotonic() - min(a.since for a, _ in self.parts)

    def commands(self) -> List[Sequence[Any]]:
        """What Redis is to carry out."""
        publish: List[Sequence[Any]] = [
            ("PUBLISH", answer.channel, message)
            for answer, message in self.parts
        ]
        if self._receipt is None:
            return publish
        return [("MULTI",), *publish, self._publish(self._receipt), ("EXEC",)]

    def read(self, replies: Sequence[Any]) -> Optional[Outcome]:
        """What the replies tell; None for nothing, but find_out() may.

        There are fewer than commands when the connection broke.
        """
        if self._receipt is None:
            return self._sort(replies)
        if replies and isinstance(replies[0], ResponseError):
            # No transaction any more: they were published one by one.
            outcome = self._sort(replies[1 : len(self.parts) + 1])
            return outcome._replace(transacts=False, trouble=str(replies[0]))
        if len(replies) < len(self.parts) + 3:
            return None
        self._receipts.forget(self._receipt)
        _, *queued, _, executed = replies
        if isinstance(executed, list):
            return self._sort(executed[: len(self.parts)])
        # One of them is refused, so Redis has published none.
        outcome = self._sort(queued)
        again = [part for part in self.parts if part[0] not in outcome.refused]
        outcome = outcome._replace(published=[], again=again)
        if not isinstance(executed, ExecAbortError):
            return outcome._replace(
                trouble=str(executed), transacts=False, is_stuck=True
            )
        if outcome.trouble or not outcome.refused:
            # Such as for want of memory, which a transaction might take.
            return outcome._replace(
                trouble=outcome.trouble or str(executed), transacts=False
            )
        return outcome

    async def find_out(self, link: Link, caller: Caller) -> Outcome:
        """Ask over another connection what became of all.

        Takes as long as Redis takes to answer, and as whoever listens takes
        to hear it, but gives up when that one is silent.

        :raises LinkError: when that one breaks, too, or Redis refuses it for
            a while
        """
        assert self._receipt
        heard = self._receipt.heard
        is_over = heard.done() or await self._is_over(link, caller)
        self._receipts.forget(self._receipt)
        if heard.done() and heard.result():
            return Outcome(self.parts, {}, [], [])
        if is_over and not heard.done():
            return Outcome([], {}, self.parts, [])
        return Outcome([], {}, [], self.parts)

    async def _is_over(self, link: Link, caller: Caller) -> bool:
        """Make sure that what is not yet heard never will be."""
        marker = self._receipts.issue(link.server)
        if marker is None or link.server != self.link.server:
            return False
        try:
            replies = await caller.call(
                link,
                [
                    ("CLIENT", "KILL", "ID", self.link.id),
                    self._publish(marker),
                ],
                is_safe=True,
            )
            if len(replies) < 2:
                raise LinkError(link.closed.result())
            for reply in replies:
                if isinstance(reply, ResponseError):
                    if is_for_good(reply):
                        return False
                    raise LinkError(str(reply))
            end = time.monotonic() + KEEP_SECONDS
            while not marker.heard.done() and time.monotonic() < end:
                await asyncio.wait({marker.heard}, timeout=_SILENCE)
                if self._receipts.silent >= _SILENCE:
                    break
        finally:
            self._receipts.forget(marker)
        return marker.heard.done() and marker.heard.result()

    def forget(self) -> None:
        """Nobody wants to know any more what became of it."""
        if self._receipt:
            self._receipts.forget(self._receipt)

    def _publish(self, receipt: Receipt) -> Sequence[Any]:
        return ("PUBLISH", self._receipts.channel, receipt.token)

    def _sort(self, replies: Sequence[Any]) -> Outcome:
        outcome = Outcome([], {}, [], self.parts[len(replies) :])
        trouble = ""
        for part, reply in zip(self.parts, replies):
            if not isinstance(reply, ResponseError):
                outcome.published.append(part)
            elif is_for_good(reply):
                outcome.refused[part[0]] = str(reply)
            else:
                outcome.again.append(part)
                trouble = str(reply)
        # What is too late now: none may come after what follows it.
        passed = {answer.ref for answer, _ in outcome.published}
        for part in [p for p in outcome.again if p[0].ref in passed]:
            outcome.again.remove(part)
            outcome.refused[part[0]] = trouble
        return outcome._replace(trouble=trouble)
