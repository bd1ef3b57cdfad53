"""How long to wait for the answers to a request."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Optional

from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.client.outcome import Tally

# A little longer than a task may run: the agent then gives up first, and says
# why.
LONGER = 10.0
TIMEOUT = 300.0 + LONGER  # by default
# Agents answer at once whether they accept a request.
ANSWER_TIMEOUT = 5.0
SETTLE = 0.3


@dataclass(frozen=True)
class Patience:
    """How long to wait for the answers to a request; times in seconds.

    :param timeout: for everything; None for as long as the task may run, and
        a little longer
    :param answer_timeout: for the first node to answer at all, for all whose
        names the ``dst`` gives, and for as many as ``expect`` says
    :param settle: for more nodes, when all that accepted have ended
    :param expect: stop as soon as this many nodes have ended or rejected,
        and wait for them until the timeout
    :raises InvalidRequest: for a value out of its range
    """

    timeout: Optional[float] = None
    answer_timeout: float = ANSWER_TIMEOUT
    settle: float = SETTLE
    expect: Optional[int] = None

    def __post_init__(self) -> None:
        for name in ("timeout", "answer_timeout", "settle"):
            value = getattr(self, name)
            if name == "timeout" and value is None:
                continue
            # Event loops cannot wait for centuries.
            if not (isinstance(value, (int, float)) and 0 < value <= 1e8):
                raise InvalidRequest(
                    f"{name} must be a number of seconds greater than 0"
                )
        expect = self.expect
        if expect is not None and not (isinstance(expect, int) and expect > 0):
            raise InvalidRequest("expect must be a whole number from 1")

    def left(self, seconds: float, timeout: float, tally: Tally) -> float:
        """Return how many seconds to wait for more; 0 or less at the end.

        :param seconds: since the request was sent
        :param timeout: for everything; can be infinite
        """
        end = timeout
        if tally.answered < (self.expect or 1):
            end = min(end, self.answer_timeout)
        elif self.expect is None and not tally.running:
            quiet = tally.latest + self.settle
            if tally.has_missing:
                quiet = max(quiet, self.answer_timeout)
            end = min(end, quiet)
        return end - seconds


class CallState(enum.Enum):
    """The states of a call, in their order."""

    NEW = "not sent yet"
    OPEN = "sent; answers count"
    ENDED = "answers no longer count"


class Clock:
    """The state of a call, and how long it has been open."""

    def __init__(self) -> None:
        self.state = CallState.NEW
        self._now = asyncio.get_running_loop().time
        self._sent = self._ended = 0.0

    @property
    def seconds(self) -> float:
        """From sending until now, or until the end."""
        is_open = self.state is CallState.OPEN
        return (self._now() if is_open else self._ended) - self._sent

    def start(self) -> None:
        self._sent = self._now()
        self.state = CallState.OPEN

    def end(self) -> None:
        if self.state is CallState.OPEN:
            self._ended = self._now()
        self.state = CallState.ENDED
