"""Reply: the answers to one request, in the protocol's order.

A request is answered by one ``rejected``, or by one ``accepted`` and then
exactly one of ``done`` and ``error``.  This is the one place that sends
answers, and it holds to that; what would break it is a bug and raises.
"""

from __future__ import annotations

import enum
import functools
import time
from typing import Counter, Optional

from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.brokers.base import Result
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Origin, Response

# Bytes of output that become JSON within about a millisecond.
_SMALL = 65536


class _State(enum.Enum):
    OPEN = "nothing sent"
    ACCEPTED = "accepted sent"
    ENDED = "all sent"


class Reply:
    """Answers one request.

    :param address: where the backend is to send the answers; None for a
        request that cannot be answered: then only the journal tells
    :param node: this node's name
    :param max_response: bytes of one message
    :param counts: of answers, by their status
    """

    def __init__(
        self,
        backend: Backend,
        address: Optional[str],
        origin: Origin,
        node: str,
        max_response: int,
        counts: Counter[str],
    ) -> None:
        self._backend = backend
        self._address = address
        self._origin = origin
        self._node = node
        self._max_response = max_response
        self._counts = counts
        self._state = _State.OPEN
        self._begin = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be sent."""
        return self._state is _State.ENDED

    def rejected(self, reason: str) -> None:
        """The request is refused."""
        self._step(_State.OPEN, _State.ENDED)
        self._record(journal.REQUEST_REJECTED, "rejected", f": {reason}")
        self._send(Response(self._origin, self._node, "rejected", reason))

    def accepted(self) -> None:
        """The work is about to begin."""
        self._step(_State.OPEN, _State.ACCEPTED)
        self._send(Response(self._origin, self._node, "accepted"))
        self._record(journal.REQUEST_ACCEPTED, "accepted")

    async def ended(self, result: Result) -> None:
        """The work ended, well or not.

        Returns when the answer is on its way; a large one, when it has left.
        """
        self._step(_State.ACCEPTED, _State.ENDED)
        duration = time.monotonic() - self._begin
        status, reason = "done", ""
        if result.error:
            status, reason = "error", result.error
            if result.detail:
                reason += f": {result.detail}"
        response = Response(
            self._origin, self._node, status, reason, result.data
        )
        size = len(result.data)
        if size <= _SMALL:
            self._send(response)
        self._record(
            journal.TASK_ERROR if result.error else journal.TASK_DONE,
            status,
            f" after {duration:.3f} s"
            + (f": {result.error}" if result.error else ""),
            duration,
            result.exit_status,
        )
        if size > _SMALL and self._address is not None:
            await self._backend.send_large(
                self._address,
                functools.partial(response.encode, self._max_response),
                size,
                self._origin.uuid,
            )

    def _step(self, before: _State, after: _State) -> None:
        if self._state is not before:
            raise AssertionError(f"{after} when {self._state}")
        self._state = after

    def _send(self, response: Response) -> None:
        if self._address is not None:
            messages = response.encode(self._max_response)
            self._backend.send(self._address, messages, self._origin.uuid)

    def _record(
        self,
        kind: journal.Kind,
        status: str,
        more: str = "",
        duration: Optional[float] = None,
        exit_status: Optional[int] = None,
    ) -> None:
        self._counts[status] += 1
        origin = self._origin
        unsent = "" if self._address else " (to the journal alone)"
        journal.record(
            kind,
            f"{status} {origin.task or 'a message'} from "
            f"{origin.src or 'somebody'}, request {origin.uuid}{unsent}{more}",
            task=origin.task,
            task_uuid=origin.uuid,
            task_src=origin.src,
            task_status=status,
            task_duration_usec=(
                None if duration is None else int(duration * 1e6)
            ),
            task_exit_status=exit_status,
        )
