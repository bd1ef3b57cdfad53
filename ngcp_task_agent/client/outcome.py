"""Outcome: what became of a request, node by node."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Dict, Optional, Tuple

from ngcp_task_agent.client.requests import Request
from ngcp_task_agent.client.responses import (
    Joiner,
    Message,
    Response,
    Status,
    TooMuch,
)


class Verdict(enum.Enum):
    """The outcome in a word; of several that hold, the first."""

    UNANSWERED = "unanswered"  # no node has answered
    ERROR = "error"  # a task ended in error
    UNFINISHED = "unfinished"  # a node accepted, or was expected, in vain
    REJECTED = "rejected"  # a node has rejected the request
    DONE = "done"  # all is well


@dataclass(frozen=True)
class NodeOutcome:
    """What one node made of the request; times in seconds after sending.

    :ivar status: ``accepted`` for a node whose task has not ended
    """

    node: str
    status: Status
    reason: str = ""
    data: Optional[str] = None
    accepted: Optional[float] = None
    ended: Optional[float] = None


@dataclass(frozen=True)
class Outcome:
    """What became of a request, at the end or as far as it is known.

    :ivar nodes: in the order in which they answered first
    :ivar expected: how many nodes were to end or to reject, if given
    :ivar seconds: from the sending until now, or until the end
    """

    request: Request
    nodes: Tuple[NodeOutcome, ...]
    expected: Optional[int]
    seconds: float

    def having(self, *statuses: Status) -> Tuple[NodeOutcome, ...]:
        """The nodes in one of these states."""
        return tuple(n for n in self.nodes if n.status in statuses)

    @property
    def done(self) -> Tuple[NodeOutcome, ...]:
        return self.having(Status.DONE)

    @property
    def failed(self) -> Tuple[NodeOutcome, ...]:
        return self.having(Status.ERROR)

    @property
    def rejected(self) -> Tuple[NodeOutcome, ...]:
        return self.having(Status.REJECTED)

    @property
    def unfinished(self) -> Tuple[NodeOutcome, ...]:
        """The nodes that accepted and have not ended."""
        return self.having(Status.ACCEPTED)

    @property
    def nobody_answered(self) -> bool:
        return not self.nodes

    @property
    def all_rejected(self) -> bool:
        return bool(self.nodes) and len(self.rejected) == len(self.nodes)

    @property
    def missing(self) -> int:
        """How many of the expected nodes have neither ended nor rejected."""
        concluded = len(self.nodes) - len(self.unfinished)
        return max(0, (self.expected or 0) - concluded)

    @property
    def verdict(self) -> Verdict:
        if not self.nodes:
            return Verdict.UNANSWERED
        if self.failed:
            return Verdict.ERROR
        # Who waits for so many nodes does not wait for any more.
        waits = self.missing if self.expected else self.unfinished
        if waits:
            return Verdict.UNFINISHED
        return Verdict.REJECTED if self.rejected else Verdict.DONE

    @property
    def succeeded(self) -> bool:
        return self.verdict is Verdict.DONE


class Tally:
    """Counts the answers to one request.

    Knows nodes by the names they give themselves.  By the protocol a node
    sends one ``rejected``, or one ``accepted`` and one ending; whatever else
    comes is settled so: the first ending stands, and who accepts in one
    place (an agent can listen through several backends) has not rejected.

    :param max_data: bytes of memory for all that is kept
    """

    def __init__(self, max_data: int) -> None:
        self._max_data = max_data
        self._joiner = Joiner(max_data)
        self._nodes: Dict[str, NodeOutcome] = {}
        #: how many nodes have accepted and not ended
        self.running = 0

    @property
    def nodes(self) -> Tuple[NodeOutcome, ...]:
        return tuple(self._nodes.values())

    @property
    def answered(self) -> int:
        """How many nodes have said anything."""
        return len(self._nodes)

    @property
    def concluded(self) -> int:
        """How many nodes have ended or rejected."""
        return len(self._nodes) - self.running

    def take(self, message: Message, seconds: float) -> Optional[Response]:
        """Count a message; returns the response, where it says anything new.

        :param seconds: since the sending of the request
        """
        node = self._nodes.get(message.src)
        if node and not _is_news(node, message.status):
            return None
        try:
            whole = self._joiner.take(message)
        except TooMuch:
            if not node:
                return None  # of a flood
            whole = replace(
                message,
                status=Status.ERROR,
                reason=(
                    f"its answer ({message.status.value}) was dropped: all "
                    f"answers together exceed {self._max_data} bytes of "
                    "memory (up to four for a character)"
                ),
                data="",
            )
        if not whole:
            return None
        self._nodes[whole.src] = _after(node, whole, seconds)
        was_running = node is not None and node.status is Status.ACCEPTED
        self.running += (whole.status is Status.ACCEPTED) - was_running
        if whole.status.is_ending:
            self._joiner.forget(whole.src)
        return Response(
            whole.src, whole.status, whole.reason, whole.data, seconds
        )


def _is_news(node: NodeOutcome, status: Status) -> bool:
    if node.status is Status.REJECTED:
        return status is not Status.REJECTED
    return node.status is Status.ACCEPTED and status.is_ending


def _after(
    node: Optional[NodeOutcome], response: Message, seconds: float
) -> NodeOutcome:
    accepted = node.accepted if node else None
    if response.status is Status.ACCEPTED:
        return NodeOutcome(response.src, Status.ACCEPTED, accepted=seconds)
    return NodeOutcome(
        response.src,
        response.status,
        response.reason,
        response.data,
        accepted,
        seconds,
    )
