"""Reply: the answers to one request, in the protocol's order.

The only place that sends answers and logs the outcome of a request.  An answer
out of order is a bug and raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import time
from dataclasses import dataclass
from typing import Callable, Counter, Optional

from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.brokers.base import OnOutput, Result
from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.lines import cut
from ngcp_task_agent.protocol.messages import Origin, Response
from ngcp_task_agent.requests.counters import Durations
from ngcp_task_agent.requests.live_output import LiveOutput

# More output than this is encoded in a thread and sent at a limited rate.
AT_ONCE_BYTES = 65536

# How much of a result's detail a reason repeats, and the journal.
DETAIL = 300  # characters
LOGGED_DETAIL = 1000  # bytes


class _State(enum.Enum):
    OPEN = "nothing sent"
    ACCEPTED = "accepted sent"
    ENDED = "all sent"


@dataclass(eq=False)
class Reply:
    """Answers one request.

    :param address: where the backend sends the answers; None to only log them
    :param node: this node's name
    :param max_response: maximum bytes of one message
    :param counts: requests, by outcome
    :ivar live_address: where the backend sends live output, if anywhere
    :ivar task_counts: the same, of a task's requests
    :ivar durations: of a task's requests
    """

    backend: Backend
    address: Optional[str]
    origin: Origin
    node: str
    max_response: int
    counts: Counter[str]
    task_counts: Optional[Counter[str]] = None
    durations: Optional[Durations] = None
    live_address: Optional[str] = None

    def __post_init__(self) -> None:
        self._state = _State.OPEN
        self._begin = time.monotonic()
        self._live: Optional[LiveOutput] = None

    @property
    def has_ended(self) -> bool:
        return self._state is _State.ENDED

    def ignored(self, reason: str) -> None:
        """Stay silent: the request is not for this node."""
        self._step(_State.OPEN, _State.ENDED)
        more = f": {reason}"
        self._record(journal.REQUEST_IGNORED, "ignored", more, reason=reason)

    def rejected(self, reason: str, also: str = "") -> None:
        """
        :param also: another counter for it
        """
        self._step(_State.OPEN, _State.ENDED)
        unsent = "" if self.address else " (no answer sent)"
        more = f"{unsent}: {reason}"
        self._record(journal.REQUEST_REJECTED, "rejected", more, reason=reason)
        if also:
            self._count(also)
        response = Response(self.origin, self.node, "rejected", reason)
        self._send(response, self.backend.send_rejection)

    def accepted(self) -> None:
        """Send ``accepted``: the work is about to begin."""
        self._step(_State.OPEN, _State.ACCEPTED)
        response = Response(self.origin, self.node, "accepted")
        self._send(response, self.backend.send)
        self._record(journal.REQUEST_ACCEPTED, "accepted")

    def live_output(self) -> Optional[OnOutput]:
        """Return what takes the work's output; None if no client wants it."""
        if self.live_address is None:
            return None
        self._live = LiveOutput(
            self.backend, self.live_address, self.origin, self.node
        )
        return self._live.write

    async def ended(self, result: Result) -> None:
        """Send the result of the work.

        Returns when the answer is queued; a large one, when it is sent.
        """
        self._step(_State.ACCEPTED, _State.ENDED)
        if self._live:
            self._live.end()
            # It has another connection; let what it has to send leave first.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        duration = time.monotonic() - self._begin
        if self.durations:
            self.durations.add(duration)
        kind, status, more = journal.TASK_DONE, "done", ""
        reason, detail = result.error, None
        if reason:
            kind, status, more = journal.TASK_ERROR, "error", f": {reason}"
            if result.detail:
                detail = cut(result.detail, LOGGED_DETAIL)
                more += f": {detail}"
                reason += f": {result.detail[:DETAIL]}"
        response = Response(
            self.origin,
            self.node,
            status,
            reason,
            result.data,
            result.unused,
        )
        size = len(result.data)
        if size <= AT_ONCE_BYTES:
            self._send(response, self.backend.send)
        more = f" after {duration:.3f} s{more}"
        self._record(
            kind,
            status,
            more,
            reason=result.error or None,
            duration=duration,
            exit_status=result.exit_status,
            detail=detail,
        )
        if size > AT_ONCE_BYTES and self.address is not None:
            await self.backend.send_large(
                self.address,
                functools.partial(response.encode, self.max_response),
                size,
                self.origin.uuid,
            )

    def bug(self) -> str:
        """Log the current exception; return a reason for the client."""
        journal.record(
            journal.BUG,
            f"task {self.origin.task}, request {self.origin.uuid}: a bug",
            bug=True,
            task=self.origin.task,
            task_uuid=self.origin.uuid,
            task_src=self.origin.src,
        )
        return "the agent has failed; see its journal"

    def _step(self, before: _State, after: _State) -> None:
        if self._state is not before:
            raise AssertionError(f"{after} when {self._state}")
        self._state = after

    def _send(self, response: Response, send: Callable[..., None]) -> None:
        if self.address is not None:
            messages = response.encode(self.max_response)
            send(self.address, messages, self.origin.uuid)

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if self.task_counts is not None:
            self.task_counts[what] += 1

    def _record(
        self,
        kind: journal.Kind,
        status: str,
        more: str = "",
        *,
        reason: Optional[str] = None,
        duration: Optional[float] = None,
        exit_status: Optional[int] = None,
        detail: Optional[str] = None,
    ) -> None:
        self._count(status)
        origin = self.origin
        journal.record(
            kind,
            f"{status} {origin.task or 'a message'} from "
            f"{origin.src or 'an unknown client'}, "
            f"request {origin.uuid}{more}",
            task=origin.task,
            task_uuid=origin.uuid,
            task_src=origin.src,
            task_status=status,
            task_reason=reason,
            task_duration_usec=(
                None if duration is None else int(duration * 1e6)
            ),
            task_exit_status=exit_status,
            task_stderr=detail,
        )
