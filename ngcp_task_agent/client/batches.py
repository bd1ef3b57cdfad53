"""Batches: runs a task on a few nodes at a time.

First ``ngcp.ping`` finds the nodes: once for each group
of targets with the same options.  Later a node is addressed by its name, with
the options of the groups that it belongs to.  It does not answer if they no
longer hold: if it has lost its active state, for instance.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import deque
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Deque,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from ngcp_task_agent.client import fleet
from ngcp_task_agent.client.addressing import Group, groups_of, target_of
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.client.outcome import RequestOutcome, Verdict
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.client.waiting import Patience
from ngcp_task_agent.display import in_order
from ngcp_task_agent.protocol.messages import LONGEST

if TYPE_CHECKING:
    from ngcp_task_agent.client.client import Client

# Each is asked by a request of its own.
_MOST_GROUPS = 32
# A node that is too slow to answer the ping is left out: be more patient.
_TIMES_SETTLE = 3
# A node that has accepted the ping is there, whether or not the ping ends.
_PING_TIMEOUT = 5.0  # seconds
_LONGEST_PAUSE = 1e8  # seconds; event loops cannot wait for centuries

_SHARE = re.compile(r"([1-9][0-9]?|100)%")
# The worst first.
_ORDER = (Verdict.ERROR, Verdict.UNFINISHED, Verdict.REJECTED)


class _Turn(NamedTuple):
    """A node to reach.

    :ivar dst: the targets that address it
    """

    name: str
    dst: str


class Batches:
    """The batches of a run: an asynchronous iterator over their outcomes.

    Its attributes say at any time how far the run is.

    :ivar names: of the nodes to reach, in this order; empty until the nodes
        have been asked
    :ivar missing: names in the ``dst`` that should have answered and have not
    """

    def __init__(
        self,
        client: Client,
        task: str,
        dst: str,
        data: Any,
        *,
        size: Union[int, str],
        max_failures: int,
        pause: float,
        limit: Optional[int],
        patience: Patience,
        channel: Optional[str],
        options: Optional[Mapping[str, Any]],
    ) -> None:
        """The parameters are those of Client.batches(), which makes it."""
        _check(size, max_failures, pause, limit, patience)
        # Raises now if it cannot be sent.
        client.send(task, dst, data, channel=channel, options=options)
        self.names: Tuple[str, ...] = ()
        self.missing: Tuple[str, ...] = ()
        self._client = client
        self._task, self._data = task, data
        self._channel, self._options = channel, options
        self._size = size
        self._max_failures = max_failures
        self._pause = pause
        self._limit = limit
        self._patience = patience
        self._groups = groups_of(dst)
        if len(self._groups) > _MOST_GROUPS:
            raise InvalidRequest(
                f"dst: more than {_MOST_GROUPS} different options"
            )
        self._has_asked = False
        self._ahead: Deque[_Turn] = deque()
        self._left_out: Tuple[str, ...] = ()
        self._failures: Dict[str, Verdict] = {}  # of what has ended
        self._latest: Tuple[str, ...] = ()
        self._call: Optional[Call] = None

    @property
    def latest(self) -> Tuple[str, ...]:
        """The nodes of the latest batch."""
        return self._latest

    @property
    def outcome(self) -> RequestOutcome:
        """The outcome of the latest batch, so far or final.

        Its ``missing_nodes`` are all of the batch that are silent.
        """
        assert self._call, "no batch has begun"
        outcome = self._call.outcome
        answered = {node.node for node in outcome.nodes}
        return replace(
            outcome,
            missing_nodes=tuple(n for n in self._latest if n not in answered),
        )

    @property
    def failures(self) -> Dict[str, Verdict]:
        """What is wrong with nodes, by their names.

        ``REJECTED``; ``UNFINISHED`` for a node that is silent, or has not
        ended; ``ERROR`` for a task that ended in error, a name that several
        nodes have, or a node that has answered in the turn of another.
        """
        if not self._call:
            return dict(self._failures)
        return {**self._failures, **_failures(self.outcome, self._latest)}

    @property
    def not_reached(self) -> Tuple[str, ...]:
        """The nodes that were there and that no request has been sent to."""
        return (*(turn.name for turn in self._ahead), *self._left_out)

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
        if not await self.begin():
            raise StopAsyncIteration
        async for _ in self.responses():
            pass
        return self.outcome

    async def begin(self) -> bool:
        """Begin the next batch; return whether there is one.

        Iterate over its responses() before the next call of this.  So does
        the iteration over the batches.

        :raises RedisUnavailable: and InvalidRequest: as the iteration
        """
        if not self._has_asked:
            self._plan(await self._ask())
            self._has_asked = True
        if self._call:
            self._failures = self.failures
            early = {node.node for node in self._call.outcome.nodes}
            if not early <= set(self._latest):
                self._ahead = deque(
                    turn for turn in self._ahead if turn.name not in early
                )
        if not self._ahead or len(self.failures) > self._max_failures:
            return False
        if self._call:
            await asyncio.sleep(self._pause)
        turns = self._next()
        self._latest = tuple(turn.name for turn in turns)
        self._call = self._client.send(
            self._task,
            ",".join(turn.dst for turn in turns),
            self._data,
            patience=self._patience_for_all,
            channel=self._channel,
            options=self._options,
        )
        return True

    async def responses(self) -> AsyncIterator[ReceivedResponse]:
        """Send the request of the latest batch, and iterate over responses.

        Ends when all its nodes have ended or rejected, or are silent.

        :raises RedisUnavailable: as the iteration over batches
        """
        assert self._call, "no batch has begun"
        ahead = set(self._latest)
        async for response in self._call:
            yield response
            if response.status is not Status.ACCEPTED:
                ahead.discard(response.node)
            if not ahead:
                self._call.stop()

    def stop(self) -> None:
        """Stop waiting for the latest batch."""
        if self._call:
            self._call.stop()

    @property
    def _patience_for_all(self) -> Patience:
        """The patience with a batch, which ends early if all have ended."""
        mine = self._patience
        return replace(mine, settle=max(mine.settle, mine.answer_timeout))

    async def _ask(self) -> Sequence[RequestOutcome]:
        """Ask who is there; return the answers for each group."""
        patience = replace(
            self._patience,
            timeout=self._patience.answer_timeout + _PING_TIMEOUT,
            settle=self._patience.settle * _TIMES_SETTLE,
        )
        pings = [
            asyncio.ensure_future(
                self._client.run(
                    fleet.PING,
                    group.dst,
                    patience=patience,
                    channel=self._channel,
                )
            )
            for group in self._groups
        ]
        try:
            return await asyncio.gather(*pings)
        finally:
            for ping in pings:
                ping.cancel()
            await asyncio.gather(*pings, return_exceptions=True)

    def _plan(self, outcomes: Sequence[RequestOutcome]) -> None:
        """Plan which nodes to reach, from the answers for each group."""
        self.missing = tuple(
            dict.fromkeys(
                name for outcome in outcomes for name in outcome.missing_nodes
            )
        )
        targets = _targets(self._groups, outcomes)
        doubled = _doubled(outcomes)
        self._left_out = tuple(sorted(doubled, key=in_order))
        self._failures = {
            **dict.fromkeys(self.missing, Verdict.UNFINISHED),
            **dict.fromkeys(self._left_out, Verdict.ERROR),
        }
        names = sorted(targets.keys() - doubled, key=in_order)
        if self._limit is not None and self._limit < len(names):
            chosen = set(random.sample(names, self._limit))
            names = [name for name in names if name in chosen]
        turns = [_Turn(name, ",".join(targets[name])) for name in names]
        for turn in turns:
            if len(turn.dst) > LONGEST["dst"]:
                raise InvalidRequest(
                    f"dst: the options are too long to address {turn.name} "
                    "alone"
                )
        self.names = tuple(names)
        self._ahead.extend(turns)

    def _next(self) -> List[_Turn]:
        """Take the nodes of the next batch, as many as a request can name."""
        turns: List[_Turn] = []
        left = LONGEST["dst"]
        size = _number(self._size, len(self.names))
        while self._ahead and len(turns) < size:
            left -= len(self._ahead[0].dst) + bool(turns)
            if left < 0:
                break
            turns.append(self._ahead.popleft())
        return turns


def _check(
    size: Union[int, str],
    max_failures: int,
    pause: float,
    limit: Optional[int],
    patience: Patience,
) -> None:
    """
    :raises InvalidRequest: for a value out of its range
    """
    if not (
        _SHARE.fullmatch(size)
        if isinstance(size, str)
        else isinstance(size, int) and size > 0
    ):
        raise InvalidRequest(
            "size must be a whole number from 1, or a text from '1%' to '100%'"
        )
    if not (isinstance(max_failures, int) and max_failures >= 0):
        raise InvalidRequest("max_failures must be a whole number from 0")
    if not (isinstance(pause, (int, float)) and 0 <= pause <= _LONGEST_PAUSE):
        raise InvalidRequest("pause must be a number of seconds from 0")
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise InvalidRequest("limit must be a whole number from 1")
    if patience.expect is not None:
        raise InvalidRequest(
            "expect cannot be given: a batch waits for its own nodes"
        )


def _number(size: Union[int, str], count: int) -> int:
    """Return how many of ``count`` nodes a batch has."""
    if isinstance(size, int):
        return size
    return max(1, math.ceil(int(size[:-1]) * count / 100))


def _targets(
    groups: Sequence[Group], outcomes: Sequence[RequestOutcome]
) -> Dict[str, List[str]]:
    """Return what addresses each node that has answered, by its name."""
    targets: Dict[str, List[str]] = {}
    for group, outcome in zip(groups, outcomes):
        # A server that only one machine can reach may have several agents:
        # "local" is all of them, which cannot be one's turn.
        as_it_is = group.is_local and len(outcome.nodes) == 1
        for node in outcome.nodes:
            targets.setdefault(node.node, []).extend(
                group.targets
                if as_it_is
                else [target_of(node.node, group.options)]
            )
    return targets


def _doubled(outcomes: Sequence[RequestOutcome]) -> Set[str]:
    """Return the names that several nodes have; case does not matter."""
    nodes = [node for outcome in outcomes for node in outcome.nodes]
    spelt: Dict[str, Set[str]] = {}
    for node in nodes:
        spelt.setdefault(node.node.lower(), set()).add(node.node)
    return {node.node for node in nodes if node.doubled}.union(
        *(names for names in spelt.values() if len(names) > 1)
    )


def _failures(
    outcome: RequestOutcome, names: Sequence[str]
) -> Dict[str, Verdict]:
    """Return what is wrong with a batch, see Batches.failures.

    :param names: of its nodes
    """
    found: Dict[str, Verdict] = {}
    mine = set(names)
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
    silent = mine.difference(node.node for node in outcome.nodes)
    return {**found, **dict.fromkeys(sorted(silent), Verdict.UNFINISHED)}
