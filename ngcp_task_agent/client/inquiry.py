"""Inquiry: what a call asks the agents besides, while it waits.

Which node a missing name belongs to, and how long the task may run.  Both by
built-in tasks, see ngcp-task-agent-protocol(7); without an answer nothing
changes.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    List,
    Optional,
    Set,
)

from ngcp_task_agent import background
from ngcp_task_agent.client import fleet, waiting
from ngcp_task_agent.client.errors import ClientError
from ngcp_task_agent.client.outcome import RequestOutcome, Tally
from ngcp_task_agent.client.requests import OutgoingRequest
from ngcp_task_agent.client.responses import Status
from ngcp_task_agent.client.waiting import Patience
from ngcp_task_agent.protocol.messages import LONGEST

#: Runs a built-in task: its name, the dst, and how long to wait.
Ask = Callable[[str, str, Patience], Awaitable[RequestOutcome]]

_ANSWER = 1.0  # seconds
_MOST_NAMES = 32  # that are asked for at once
_MOST_ROUNDS = 3
_EARLY = 5.0  # seconds before the end to ask how long the task may run
_SPECIAL = re.compile(r"[,|*?[\]\s]")


class Inquiry:
    """Asks what is due, in the background.

    :param limit: seconds that the task may run by this node's configuration;
        0 without a limit, None if unknown
    :param ask: None to ask nothing
    :ivar tasks: what is under way
    :ivar timeout: seconds to wait for everything; infinite without a limit
    """

    def __init__(
        self,
        request: OutgoingRequest,
        patience: Patience,
        tally: Tally,
        limit: Optional[float],
        ask: Optional[Ask],
    ) -> None:
        self._request = request
        self._tally = tally
        self._ask = ask
        self._settle = patience.settle
        self._rounds = 0
        self._asked = 0  # how many nodes had answered
        self.tasks: Set[asyncio.Task[None]] = set()
        self.timeout = waiting.TIMEOUT
        # When to ask how long the task may run, in seconds after sending.
        self._limit_at = math.inf
        if patience.timeout is not None:
            self.timeout = patience.timeout
        elif limit is not None:
            self.timeout = _with_margin(0.0, limit)
        else:
            self._limit_at = self.timeout - min(_EARLY, self.timeout / 2)

    @property
    def is_under_way(self) -> bool:
        """Whether an answer is to come that may change how the call ends."""
        tally = self._tally
        return bool(self.tasks and (tally.has_missing or tally.running))

    def until_due(self, seconds: float) -> float:
        """Return in how many seconds there is something to ask.

        :param seconds: since the request was sent
        """
        if not self._ask or self.tasks:
            return math.inf
        due = math.inf
        if (
            self._tally.has_missing
            and self._tally.answered > self._asked
            and self._rounds < _MOST_ROUNDS
        ):
            due = self._tally.latest + self._settle
        if self._tally.running:
            due = min(due, self._limit_at)
        return due - seconds

    def begin(self, seconds: float) -> None:
        """Ask what is due."""
        if not self._ask or self.until_due(seconds) > 0:
            return
        if seconds >= self._limit_at:
            self._limit_at = math.inf
            self._start(self._find_limit(self._ask))
            return
        self._rounds += 1
        self._asked = self._tally.answered
        self._start(self._find_names(self._ask))

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _start(self, question: Coroutine[object, object, None]) -> None:
        task = background.start(question)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _find_names(self, ask: Ask) -> None:
        """Find the nodes that answer by another of their names.

        Each name has a request of its own: a node that answers it has that
        name, even if its agent is older and rejects the request.
        """
        patience = Patience(_ANSWER, _ANSWER, expect=1)
        names = self._tally.missing[:_MOST_NAMES]
        outcomes = await asyncio.gather(
            *(_outcome(ask(fleet.PING, name, patience)) for name in names)
        )
        for name, outcome in zip(names, outcomes):
            for node in outcome.nodes if outcome else ():
                if self._tally.has_answered(node.node):
                    self._tally.found(name)

    async def _find_limit(self, ask: Ask) -> None:
        """Wait as long as the nodes that have not ended say they may run."""
        running = {
            node.node: node.accepted or 0.0
            for node in self._tally.nodes
            if node.status is Status.ACCEPTED
        }
        outcome = await _outcome(
            ask(
                fleet.DESCRIBE,
                _dst_of(running, self._request.dst),
                Patience(2 * _ANSWER, _ANSWER, expect=len(running)),
            )
        )
        ends: List[float] = [
            _with_margin(running[task.node], task.timeout)
            for task in (fleet.tasks_of(outcome) if outcome else ())
            if task.node in running
            and task.name == self._request.task
            and task.timeout is not None
        ]
        self.timeout = max([self.timeout, *ends])


async def _outcome(
    asked: Awaitable[RequestOutcome],
) -> Optional[RequestOutcome]:
    try:
        return await asked
    except ClientError:
        return None


def _with_margin(begin: float, limit: float) -> float:
    """Return when to give up a task: after its agent has.

    Not before the default: a request can wait for its turn.
    """
    if not limit:
        return math.inf
    return max(waiting.TIMEOUT, begin + limit + waiting.LONGER)


def _dst_of(names: Iterable[str], otherwise: str) -> str:
    """Address nodes by name, if a ``dst`` can hold that."""
    dst = ",".join(names)
    if any(map(_SPECIAL.search, names)) or len(dst) > LONGEST["dst"]:
        return otherwise
    return dst
