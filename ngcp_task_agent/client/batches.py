"""Batches: runs a task on a few nodes at a time."""

from __future__ import annotations

import asyncio
import math
import random
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import (
    AsyncIterator,
    Callable,
    Dict,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from ngcp_task_agent.client.addressing import (
    Matches,
    Ping,
    find_nodes,
    groups_of,
)
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.client.outcome import RequestOutcome, Verdict
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.client.waiting import Patience
from ngcp_task_agent.display import in_order
from ngcp_task_agent.protocol.messages import LONGEST

# Each is asked by a request of its own.
_MOST_GROUPS = 32
_LONGEST_PAUSE = 1e8  # seconds; event loops cannot wait for centuries

_SHARE = re.compile(r"([1-9][0-9]?|100)%")
# The worst first.
_ORDER = (Verdict.ERROR, Verdict.UNFINISHED, Verdict.REJECTED)


@dataclass(frozen=True)
class Pace:
    """How many nodes at a time, and when to stop: see Client.batches().

    :raises InvalidRequest: for a value out of its range
    """

    size: Union[int, str]
    max_failures: int
    pause: float
    limit: Optional[int]

    def __post_init__(self) -> None:
        if not (
            _SHARE.fullmatch(self.size)
            if isinstance(self.size, str)
            else isinstance(self.size, int) and self.size > 0
        ):
            raise InvalidRequest(
                "size must be a whole number from 1, or a text from '1%' to "
                "'100%'"
            )
        most = self.max_failures
        if not (isinstance(most, int) and most >= 0):
            raise InvalidRequest("max_failures must be a whole number from 0")
        pause, limit = self.pause, self.limit
        if not (
            isinstance(pause, (int, float)) and 0 <= pause <= _LONGEST_PAUSE
        ):
            raise InvalidRequest("pause must be a number of seconds from 0")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise InvalidRequest("limit must be a whole number from 1")

    def size_of(self, count: int) -> int:
        """Return how many of ``count`` nodes a batch has."""
        if isinstance(self.size, int):
            return self.size
        return max(1, math.ceil(int(self.size[:-1]) * count / 100))

    def choose(self, names: Sequence[str]) -> Sequence[str]:
        """Choose nodes at random, as many as the limit allows."""
        if self.limit is None or self.limit >= len(names):
            return names
        return random.sample(names, self.limit)


class Batch(NamedTuple):
    """Some nodes, and the request that runs the task on them."""

    names: Tuple[str, ...]
    call: Call

    @property
    def outcome(self) -> RequestOutcome:
        """The outcome so far, or the final one.

        Its ``missing_nodes`` are all of the batch that are silent.
        """
        outcome = self.call.outcome
        answered = {node.node for node in outcome.nodes}
        return replace(
            outcome,
            missing_nodes=tuple(n for n in self.names if n not in answered),
        )

    @property
    def failures(self) -> Dict[str, Verdict]:
        """What is wrong with nodes so far; see Batches.failures."""
        outcome = self.outcome
        found: Dict[str, Verdict] = {}
        mine = set(self.names)
        for node in outcome.nodes:
            if (
                node.status is Status.ERROR
                or node.doubled
                or node.node not in mine
            ):
                found[node.node] = Verdict.ERROR
            elif node.status is Status.ACCEPTED:
                found[node.node] = Verdict.UNFINISHED
            elif node.status is Status.REJECTED:
                found[node.node] = Verdict.REJECTED
        silent = sorted(outcome.missing_nodes)
        return {**found, **dict.fromkeys(silent, Verdict.UNFINISHED)}

    async def responses(self) -> AsyncIterator[ReceivedResponse]:
        """Send the request, and iterate over responses.

        Ends when all nodes have ended or rejected, or are silent.

        :raises RedisUnavailable: as the iteration over batches
        """
        ahead = set(self.names)
        async for response in self.call:
            yield response
            if response.status is not Status.ACCEPTED:
                ahead.discard(response.node)
            if not ahead:
                self.call.stop()


class Batches:
    """The batches of a run: an asynchronous iterator over their outcomes.

    Its attributes say at any time how far the run is.

    :ivar names: of the nodes to reach, in this order; empty until the nodes
        have been asked
    :ivar missing: names in the ``dst`` that should have answered and have not
    """

    def __init__(
        self,
        send: Callable[[Patience, str], Call],
        ping: Ping,
        dst: str,
        patience: Patience,
        pace: Pace,
    ) -> None:
        """
        :param send: makes the request to a ``dst``
        :raises InvalidRequest: when it cannot be sent
        """
        if patience.expect is not None:
            raise InvalidRequest(
                "expect cannot be given: a batch waits for its own nodes"
            )
        # A batch ends early if all its nodes have ended.
        for_all = replace(
            patience, settle=max(patience.settle, patience.answer_timeout)
        )
        self._send = partial(send, for_all)
        self._send(dst)  # raises now if it cannot be sent
        groups = groups_of(dst)
        if len(groups) > _MOST_GROUPS:
            raise InvalidRequest(
                f"dst: more than {_MOST_GROUPS} different options"
            )
        self._find = partial(find_nodes, groups, ping, patience)
        self._pace = pace
        self.names: Tuple[str, ...] = ()
        self.missing: Tuple[str, ...] = ()
        # The dst of each node, by its name; None until they have been asked.
        self._ahead: Optional[Dict[str, str]] = None
        self._left_out: Tuple[str, ...] = ()
        self._failures: Dict[str, Verdict] = {}  # before the latest batch
        self._latest: Optional[Batch] = None

    @property
    def failures(self) -> Dict[str, Verdict]:
        """What is wrong with nodes, by their names.

        ``REJECTED``; ``UNFINISHED`` for a node that is silent, or has not
        ended; ``ERROR`` for a task that ended in error, a name that several
        nodes have, or a node that has answered in the turn of another.
        """
        latest = self._latest.failures if self._latest else {}
        return {**self._failures, **latest}

    @property
    def not_reached(self) -> Tuple[str, ...]:
        """The nodes that were there and that no request has been sent to."""
        return (*(self._ahead or ()), *self._left_out)

    @property
    def verdict(self) -> Verdict:
        """The worst of all outcomes; ``UNANSWERED`` if no node is there."""
        worst = set(self.failures.values())
        if not self.names and Verdict.ERROR not in worst:
            return Verdict.UNANSWERED
        if not worst:
            return Verdict.UNFINISHED if self._ahead else Verdict.DONE
        return min(worst, key=_ORDER.index)

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> RequestOutcome:
        """
        :raises RedisUnavailable: when a request was not sent, or when the
            answers cannot be received (ConnectionLost)
        :raises InvalidRequest: when the name and options of a node are too
            long to address it; then nothing has been done
        """
        batch = await self.begin()
        if not batch:
            raise StopAsyncIteration
        async for _ in batch.responses():
            pass
        return batch.outcome

    async def begin(self) -> Optional[Batch]:
        """Begin the next batch; return None after the last.

        Iterate over its responses() before you call this again.

        :raises RedisUnavailable: and InvalidRequest: as the iteration
        """
        if self._ahead is None:
            self._ahead = self._plan(await self._find())
        if self._latest:
            self._failures = self.failures
            for node in self._latest.outcome.nodes:
                # It may have answered before its turn.
                self._ahead.pop(node.node, None)
        if not self._ahead or len(self._failures) > self._pace.max_failures:
            return None
        if self._latest:
            await asyncio.sleep(self._pace.pause)
        size = self._pace.size_of(len(self.names))
        turns = _take(self._ahead, size)
        call = self._send(",".join(turns.values()))
        self._latest = Batch(tuple(turns), call)
        return self._latest

    def _plan(self, matches: Matches) -> Dict[str, str]:
        """Return the ``dst`` of each node to reach, in their order."""
        addresses, doubled, missing = matches
        chosen = self._pace.choose(list(addresses.keys() - doubled))
        names = tuple(sorted(chosen, key=in_order))
        self.missing = missing
        self._left_out = tuple(sorted(doubled, key=in_order))
        self._failures = {
            **dict.fromkeys(missing, Verdict.UNFINISHED),
            **dict.fromkeys(self._left_out, Verdict.ERROR),
        }
        for name in names:
            if len(addresses[name]) > LONGEST["dst"]:
                raise InvalidRequest(
                    f"dst: the options are too long to address {name} alone"
                )
        self.names = names
        return {name: addresses[name] for name in names}


def _take(ahead: Dict[str, str], size: int) -> Dict[str, str]:
    """Take the nodes of the next batch, as many as a request can name."""
    taken: Dict[str, str] = {}
    room = LONGEST["dst"] + 1
    for name, dst in ahead.items():
        room -= len(dst) + 1
        if room < 0 or len(taken) == size:
            break
        taken[name] = dst
    for name in taken:
        del ahead[name]
    return taken
