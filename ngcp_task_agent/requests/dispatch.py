"""Dispatcher: what arrives, checked in the protocol's order, to its task."""

from __future__ import annotations

import collections
import time
from typing import Callable, Counter, Dict, FrozenSet, Mapping, Optional, Tuple

from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.errors import NoReplyAddress, Rejected
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node.identity import Identity
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.messages import (
    Malformed,
    Origin,
    Request,
    parse_request,
)
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.task import Task

_REMEMBER = 600.0  # seconds that a request's uuid is remembered
_REMEMBER_MOST = 100_000  # uuids, so that a flood does not fill the memory

# Tasks by name, by the backend's name and the control channel.
Routes = Mapping[Tuple[str, str], Mapping[str, Task]]


class Dispatcher:
    """Takes arrivals from all backends; neither blocks nor raises.

    :param identity: tells who this node is now
    :param max_request: bytes of a message
    :param max_response: bytes of a message
    :ivar counts: of requests, by what became of them
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
        self.counts: Counter[str] = collections.Counter()
        self._routes: Routes = {}
        self._channels: FrozenSet[str] = frozenset()
        # Seen uuids and when, the oldest first.
        self._seen: Dict[Tuple[str, str, str], float] = {}

    def set_routes(self, routes: Routes) -> None:
        """From now on these tasks get the requests."""
        self._routes = routes
        self._channels = frozenset(channel for _, channel in routes)

    def receive(self, arrival: Arrival) -> None:
        """Check a message and hand it to its task, or answer it."""
        try:
            self._receive(arrival)
        except Exception:
            # One message must not end the service for all the others.
            journal.record(
                journal.BUG, "a message could not be handled: a bug", bug=True
            )

    def _receive(self, arrival: Arrival) -> None:
        node = self._identity()
        try:
            request = parse_request(arrival.body, self.max_request)
        except Malformed as fault:
            reply, _ = self._reply(arrival, fault.origin, fault.options, node)
            reply.rejected(str(fault))
            return
        reply, nowhere = self._reply(
            arrival, request.origin, request.options, node
        )
        try:
            target = destination.parse(request.dst)
            if not target.matches(node, request.src, arrival.via_own_server):
                self._ignore(
                    request, f"{request.dst[:200]!r} is not this node"
                )
                return
            if arrival.one_way and not node.is_called(request.src):
                self._ignore(
                    request,
                    "Redis is a replica, and the request is not of this node",
                )
                return
            if nowhere:
                raise Rejected(nowhere)
            self._check_new(arrival, request)
            task = self._task(arrival, request)
        except Rejected as refusal:
            reply.rejected(str(refusal))
            return
        task.take(request, reply)

    def _ignore(self, request: Request, why: str) -> None:
        self.counts["ignored"] += 1
        journal.record(
            journal.REQUEST_IGNORED,
            f"ignored {request.task} from {request.src}, request "
            f"{request.uuid}: {why}",
            task=request.task,
            task_uuid=request.uuid,
            task_src=request.src,
            task_status="ignored",
        )

    def _check_new(self, arrival: Arrival, request: Request) -> None:
        now = time.monotonic()
        while self._seen:
            oldest = next(iter(self._seen))
            if (
                now - self._seen[oldest] <= _REMEMBER
                and len(self._seen) < _REMEMBER_MOST
            ):
                break
            del self._seen[oldest]
        key = (arrival.backend.name, arrival.channel, request.uuid.lower())
        if key in self._seen:
            raise Rejected("duplicate request")
        self._seen[key] = now

    def _task(self, arrival: Arrival, request: Request) -> Task:
        route = self._routes.get((arrival.backend.name, arrival.channel), {})
        try:
            return route[request.task]
        except KeyError:
            raise Rejected(f"unknown task '{request.task}'") from None

    def _reply(
        self,
        arrival: Arrival,
        origin: Origin,
        options: Mapping[str, object],
        node: Identity,
    ) -> Tuple[Reply, str]:
        """The reply, and why there is nowhere to send it, if so."""
        address: Optional[str] = None
        nowhere = ""
        try:
            address = arrival.backend.reply_address(options)
        except NoReplyAddress as fault:
            nowhere = str(fault)
        if address in self._channels:
            nowhere = (
                f"'{address}' is a control channel of this agent: answers "
                "must not become requests"
            )
            address = None
        reply = Reply(
            arrival.backend,
            address,
            origin,
            node.name,
            self.max_response,
            self.counts,
        )
        return reply, nowhere
