"""The outcome of a request, node by node."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from ngcp_task_agent.client.requests import OutgoingRequest
from ngcp_task_agent.client.responses import (
    Joiner,
    Message,
    ReceivedResponse,
    Status,
    TooMuch,
)


class Verdict(enum.Enum):
    """The outcome in a word; if several apply, the first of these."""

    UNANSWERED = "unanswered"  # no node has answered
    ERROR = "error"  # a task ended in error, or two nodes have one name
    UNFINISHED = "unfinished"  # a node is missing or has not ended
    REJECTED = "rejected"  # a node has rejected the request
    DONE = "done"  # everything went well


@dataclass(frozen=True)
class NodeOutcome:
    """The outcome on one node; times in seconds after sending.

    :ivar status: ``accepted`` for a node whose task has not ended
    :ivar unused: the task could make nothing of the request's data
    :ivar doubled: several nodes have this name; the worst of their outcomes
    """

    node: str
    status: Status
    reason: str = ""
    data: Optional[str] = None
    accepted: Optional[float] = None
    ended: Optional[float] = None
    unused: bool = False
    doubled: bool = False


@dataclass(frozen=True)
class RequestOutcome:
    """The outcome of a request, so far or final.

    :ivar nodes: in the order of their first answers
    :ivar expected: how many nodes should end or reject, if given
    :ivar seconds: from sending the request until now, or until the end
    :ivar missing_nodes: the names in ``dst``, as written there, of nodes that
        have not answered; see ngcp-task-agent-protocol(7)
    """

    request: OutgoingRequest
    nodes: Tuple[NodeOutcome, ...]
    expected: Optional[int]
    seconds: float
    missing_nodes: Tuple[str, ...] = ()

    def having(self, status: Status) -> Tuple[NodeOutcome, ...]:
        """Return the nodes with this status."""
        return tuple(n for n in self.nodes if n.status is status)

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
        if self.failed or any(node.doubled for node in self.nodes):
            return Verdict.ERROR
        if self.missing_nodes:
            return Verdict.UNFINISHED
        # Once the expected number has ended, the others do not matter.
        if self.missing if self.expected else self.unfinished:
            return Verdict.UNFINISHED
        return Verdict.REJECTED if self.rejected else Verdict.DONE

    @property
    def succeeded(self) -> bool:
        return self.verdict is Verdict.DONE


class Tally:
    """Counts the answers to one request, by the names nodes give themselves.

    By the protocol a node sends one ``rejected``, or one ``accepted`` and one
    ending.  If it sends more, the first ending counts, and ``accepted``
    overrides ``rejected``: an agent can listen through several backends.

    :param max_data: bytes of memory for everything that is kept
    :ivar running: how many nodes have accepted and not ended
    :ivar latest: when the last response came, in seconds after sending
    """

    def __init__(self, max_data: int) -> None:
        self.running = 0
        self.latest = 0.0
        self._max_data = max_data
        self._joiner = Joiner(max_data)
        self._nodes: Dict[str, NodeOutcome] = {}

    @property
    def nodes(self) -> Tuple[NodeOutcome, ...]:
        return tuple(self._nodes.values())

    @property
    def answered(self) -> int:
        """How many nodes have answered at all."""
        return len(self._nodes)

    @property
    def concluded(self) -> int:
        """How many nodes have ended or rejected."""
        return len(self._nodes) - self.running

    def take(
        self, message: Message, seconds: float
    ) -> Optional[ReceivedResponse]:
        """Count a message; return the response if it changes anything.

        :param seconds: since the request was sent
        """
        node = self._nodes.get(message.src)
        if node and not _is_news(node, message.status):
            return None
        try:
            whole = self._joiner.take(message)
        except TooMuch:
            if not node:
                return None  # this may be a flood
            whole = message._replace(
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
        self.latest = seconds
        was_running = node is not None and node.status is Status.ACCEPTED
        is_running = whole.status is Status.ACCEPTED
        self.running += is_running - was_running
        self._nodes[whole.src] = NodeOutcome(
            whole.src,
            whole.status,
            "" if is_running else whole.reason,
            whole.data,
            seconds if is_running else node.accepted if node else None,
            None if is_running else seconds,
        )
        if whole.status.is_ending:
            self._joiner.forget(whole.src)
        return ReceivedResponse(
            whole.src, whole.status, whole.reason, whole.data, seconds
        )


def _is_news(node: NodeOutcome, status: Status) -> bool:
    if node.status is Status.REJECTED:
        return status is not Status.REJECTED
    return node.status is Status.ACCEPTED and status.is_ending
