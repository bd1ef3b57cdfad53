"""Which nodes a ``dst`` matches, and how to address each by its name.

``ngcp.ping`` finds the nodes: once for each group of targets with the same
options.  Later a node is addressed by its name, with the options of the groups
that it belongs to.  It does not answer if they no longer hold: if it has lost
its active state, for instance.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import (
    Awaitable,
    Callable,
    Dict,
    List,
    NamedTuple,
    Sequence,
    Set,
    Tuple,
)

from ngcp_task_agent.client.outcome import RequestOutcome
from ngcp_task_agent.client.waiting import Patience
from ngcp_task_agent.protocol.destination import is_local

# Asks the nodes that a ``dst`` matches whether they are there.
Ping = Callable[[Patience, str], Awaitable[RequestOutcome]]

# A node that is too slow to answer the ping is left out: be more patient.
_TIMES_SETTLE = 3
# A node that has accepted the ping is there, whether or not the ping ends.
_PING_TIMEOUT = 5.0  # seconds

# Brackets make these stand for themselves.
_SPECIAL = re.compile(r"[*?[]|^\s|\s\Z")
# Nothing does that for these.
_SEPARATOR = re.compile("[,|]")


class Group(NamedTuple):
    """The targets of a ``dst`` that have the same options.

    :ivar is_local: they are ``local`` or ``localhost``
    :ivar options: as in ``state=active;role=proxy``; can be empty
    """

    is_local: bool
    options: str
    targets: Tuple[str, ...]

    @property
    def dst(self) -> str:
        return ",".join(self.targets)


class Matches(NamedTuple):
    """The nodes that a ``dst`` matches.

    :ivar addresses: the ``dst`` of each node that has answered, by its name
    :ivar doubled: names that several of these have; case does not matter
    :ivar missing: names in the ``dst`` that should have answered and have not
    """

    addresses: Dict[str, str]
    doubled: Set[str]
    missing: Tuple[str, ...]


async def find_nodes(
    groups: Sequence[Group], ping: Ping, patience: Patience
) -> Matches:
    """Ask each group who is there."""
    patience = replace(
        patience,
        timeout=patience.answer_timeout + _PING_TIMEOUT,
        settle=patience.settle * _TIMES_SETTLE,
    )
    pings = [asyncio.ensure_future(ping(patience, g.dst)) for g in groups]
    try:
        outcomes = await asyncio.gather(*pings)
    finally:
        for task in pings:
            task.cancel()
        await asyncio.gather(*pings, return_exceptions=True)
    targets: Dict[str, List[str]] = {}
    spelt: Dict[str, str] = {}
    doubled: Set[str] = set()
    for group, outcome in zip(groups, outcomes):
        # A server that only one machine can reach may have several agents:
        # "local" is all of them, which cannot be one's turn.
        as_it_is = group.is_local and len(outcome.nodes) == 1
        for node in outcome.nodes:
            name = node.node
            targets.setdefault(name, []).extend(
                group.targets if as_it_is else [target_of(name, group.options)]
            )
            other = spelt.setdefault(name.lower(), name)
            if node.doubled or other != name:
                doubled.update((name, other))
    return Matches(
        {name: ",".join(its) for name, its in targets.items()},
        doubled,
        tuple(dict.fromkeys(n for o in outcomes for n in o.missing_nodes)),
    )


def groups_of(dst: str) -> List[Group]:
    """Divide a valid ``dst``."""
    groups: Dict[Tuple[bool, str], List[str]] = {}
    for target in map(str.strip, dst.split(",")):
        pattern, _, options = target.partition("|")
        key = is_local(pattern.strip()), options.strip()
        groups.setdefault(key, []).append(target)
    return [Group(*key, tuple(targets)) for key, targets in groups.items()]


def target_of(name: str, options: str) -> str:
    """Return the target for the node of this name, if the options hold.

    A ``,`` or ``|`` in the name is replaced by a ``?``.
    """
    if is_local(name):
        pattern = f"[{name[0]}]{name[1:]}"
    else:
        pattern = _SEPARATOR.sub("?", _SPECIAL.sub(r"[\g<0>]", name))
    return f"{pattern}|{options}" if options else pattern
