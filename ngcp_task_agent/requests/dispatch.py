"""Dispatcher: checks each message in the protocol's order, then its task."""

from __future__ import annotations

import time
from typing import Callable, Dict, FrozenSet, Mapping, Tuple, Union

from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.errors import Duplicate, NoReplyAddress, Rejected
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.protocol.messages import Malformed, Request, parse_request
from ngcp_task_agent.requests.counters import Counters
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.task import Task

REMEMBER = 600.0  # seconds that a request's uuid is remembered
REMEMBER_MOST = 100_000  # uuids; a flood must not fill the memory

# Tasks by name, for each backend's name and control channel.
Routes = Mapping[Tuple[str, str], Mapping[str, Task]]


class Dispatcher:
    """Takes messages from all backends; neither blocks nor raises.

    :param identity: returns who this node is now
    :param max_request: maximum bytes of a message
    :param max_response: maximum bytes of a message
    """

    def __init__(
        self,
        identity: Callable[[], Identity],
        max_request: int,
        max_response: int,
    ) -> None:
        self._identity = identity
        self.max_request = max_request
        self.max_response = max_response
        self.counters = Counters()
        self._routes: Routes = {}
        self._channels: FrozenSet[str] = frozenset()
        # When each request was seen, the oldest first; see _check_new().
        self._seen: Dict[int, float] = {}
        # Those of a moment share their time: a float for each would take more
        # than a quarter of the memory.
        self._moment = 0.0
        self._places: Dict[Tuple[str, str], int] = {}

    def set_routes(self, routes: Routes) -> None:
        self._routes = routes
        self._channels = frozenset(channel for _, channel in routes)
        names = {name for tasks in routes.values() for name in tasks}
        self.counters.keep(names)

    def tasks(self, where: Tuple[str, str]) -> Mapping[str, Task]:
        """Return the tasks of a backend and control channel, by name."""
        return self._routes.get(where, {})

    def receive(self, arrival: Arrival) -> None:
        """Check a message and hand it to its task, or answer it."""
        try:
            self._receive(arrival)
        except Exception:
            # One message must not stop the service for all others.
            journal.record(
                journal.BUG, "a message could not be handled: a bug", bug=True
            )

    def _receive(self, arrival: Arrival) -> None:
        node = self._identity()
        try:
            request = parse_request(arrival.body, self.max_request)
        except Malformed as fault:
            reply, _ = self._reply(arrival, fault, node)
            reply.rejected(str(fault))
            return
        try:
            why = _why_foreign(arrival, request, node)
        except Rejected as refusal:
            reply, _ = self._reply(arrival, request, node)
            reply.rejected(str(refusal))
            return
        if why and not journal.is_logged(journal.REQUEST_IGNORED):
            # Most messages are for other nodes: no work beyond this.
            self.counters.total["ignored"] += 1
            return
        reply, nowhere = self._reply(arrival, request, node)
        if why:
            reply.ignored(f"{request.dst[:200]!r}: {why}")
            return
        try:
            if nowhere:
                raise Rejected(nowhere)
            place = (arrival.backend.name, arrival.channel)
            task = self.tasks(place).get(request.task)
            if task:
                reply.task_counts = self.counters.of(request.task)
            self._check_new(place, request.uuid)
            if task is None:
                raise Rejected(f"unknown task '{request.task}'")
        except Duplicate as refusal:
            reply.rejected(str(refusal), "duplicates")
            return
        except Rejected as refusal:
            reply.rejected(str(refusal))
            return
        task.take(request, reply)

    def _check_new(self, place: Tuple[str, str], uuid: str) -> None:
        seen, now = self._seen, time.monotonic()
        # One number of place and uuid: texts would take three times the
        # memory.
        number = self._places.setdefault(place, len(self._places))
        key = number << 128 | int(uuid.replace("-", ""), 16)
        while seen:
            oldest = next(iter(seen))
            if now - seen[oldest] <= REMEMBER and len(seen) < REMEMBER_MOST:
                break
            del seen[oldest]
        if key in seen:
            raise Duplicate("duplicate request")
        if now > self._moment:
            self._moment = now + 0.1
        seen[key] = self._moment

    def _reply(
        self, arrival: Arrival, sent: Union[Request, Malformed], node: Identity
    ) -> Tuple[Reply, str]:
        """Return the reply, and why it cannot be sent, or ""."""
        address, nowhere = None, ""
        try:
            address = arrival.backend.reply_address(sent.options)
        except NoReplyAddress as fault:
            nowhere = str(fault)
        if address in self._channels:
            nowhere = (
                f"'{address}' is a control channel of this agent: answers "
                "must not become requests"
            )
            address = None
        limit, counts = self.max_response, self.counters.total
        reply = Reply(
            arrival.backend, address, sent.origin, node.name, limit, counts
        )
        return reply, nowhere


def _why_foreign(arrival: Arrival, request: Request, node: Identity) -> str:
    """Say why a request is not for this node; empty if it is.

    :raises DestinationError: when its ``dst`` is malformed
    """
    target = destination.parse(request.dst)
    if not target.matches(node, request.src, arrival.via_own_server):
        return "not this node"
    if arrival.one_way and not node.is_called(request.src):
        return "Redis is a replica, and the request is not from this node"
    return ""
