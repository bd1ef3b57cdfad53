"""The storm: random faults; a seed decides which, when and how long."""

from __future__ import annotations

import random
import time
from typing import (
    Collection,
    Counter,
    Iterator,
    List,
    NamedTuple,
    Optional,
    TextIO,
)

import redis

from tests.chaos.faults import (
    KINDS,
    OF_ALL,
    OF_LINES,
    End,
    Fault,
    Missed,
    heal,
)
from tests.chaos.tasks import NODES
from tests.chaos.world import World

_PHASE = (5.0, 15.0)  # seconds of a pace
_SLOW = (0.5, 3.0)  # seconds between faults
_FAST = (0.01, 0.15)
_RETRY = 0.02  # seconds until healing is retried
_HEAL = 120.0  # seconds to end all lasting faults
_PROXIED = range(1, len(NODES))


class Window(NamedTuple):
    """The time of a fault, in unix time.

    :ivar cause: see Kind
    :ivar node: None if it hits all
    """

    begin: float
    end: float
    cause: str
    kind: str
    node: Optional[str]


def plan(seed: int, minutes: float, kinds: Collection[str]) -> Iterator[Fault]:
    """Return the faults of a run, in order."""
    dice = random.Random(seed)
    at, end, is_fast = 2.0, minutes * 60, False
    while at < end:
        change = at + dice.uniform(*_PHASE)
        weights = [KINDS[kind].weights[is_fast] for kind in kinds]
        while at < min(change, end) and any(weights):
            kind = dice.choices(list(kinds), weights)[0]
            nodes = _PROXIED if kind in OF_LINES else range(len(NODES))
            lasts = KINDS[kind].fast if is_fast else KINDS[kind].slow
            yield Fault(
                at,
                kind,
                dice.choice(nodes),
                dice.uniform(*lasts),
                dice.random(),
            )
            at += dice.uniform(*(_FAST if is_fast else _SLOW))
        at = max(at, change) if not any(weights) else at
        is_fast = not is_fast


class _Active(NamedTuple):
    until: float  # monotonic
    begin: float  # unix
    fault: Fault
    end: End


class Storm:
    """Runs the planned faults.

    :param log: called with a line for each
    :ivar windows: of the faults so far
    :ivar counts: of the faults so far, by kind
    :ivar missed: faults that were not possible, such as a command to a stalled
        server
    """

    def __init__(self, world: World, log: TextIO) -> None:
        self._world = world
        self._log = log
        self._active: List[_Active] = []
        self.windows: List[Window] = []
        self.counts: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    def run(self, faults: Iterator[Fault], seconds: float) -> None:
        """Run all faults; return after them, or this many seconds if later."""
        begin = time.monotonic()
        for fault in faults:
            self._wait(begin + fault.at)
            self._begin(fault)
        self._wait(begin + seconds)

    def heal(self) -> None:
        """End all lasting faults."""
        self._active = [a._replace(until=0) for a in self._active]
        deadline = time.monotonic() + _HEAL
        while self._active:
            self._wait(time.monotonic() + _RETRY)
            assert time.monotonic() < deadline, f"no end: {self._active}"
        # A fault that failed half-way is not ended elsewhere.
        for command in heal(self._world):
            self._world.server.command(*command)

    def _wait(self, until: float) -> None:
        """Wait, and end faults whose time is over."""
        while True:
            now = time.monotonic()
            due = [a for a in self._active if a.until <= now]
            for active in due:
                self._end(active)
            now = time.monotonic()
            if now >= until:
                return
            times = [max(a.until, now + _RETRY) for a in self._active]
            time.sleep(max(0.0, min([until, *times]) - now))

    def _begin(self, fault: Fault) -> None:
        kind = KINDS[fault.kind]
        if any(
            a.fault.kind == fault.kind and _where(a.fault) == _where(fault)
            for a in self._active
        ):
            self._note("missed", fault)
            return
        begin = time.time()
        try:
            end = kind.begin(self._world, fault)
        except (redis.RedisError, Missed):
            self._note("missed", fault)
            return
        self.counts[fault.kind] += 1
        self._note("begin", fault)
        until = time.monotonic() + fault.seconds
        self._active.append(
            _Active(until, begin, fault, end or (lambda: True))
        )

    def _end(self, active: _Active) -> None:
        try:
            if not active.end():
                return
        except redis.RedisError:
            return
        self._active.remove(active)
        if active.fault.seconds:
            self._note("end", active.fault)
        self.windows.append(
            Window(
                active.begin,
                time.time(),
                KINDS[active.fault.kind].cause,
                active.fault.kind,
                _where(active.fault),
            )
        )

    def _note(self, what: str, fault: Fault) -> None:
        if what == "missed":
            self.missed[fault.kind] += 1
        self._log.write(
            f"{time.time():.3f} {what} {fault.kind} "
            f"{_where(fault) or 'all'} {fault.seconds:.3f} {fault.pick:.3f}\n"
        )
        self._log.flush()


def _where(fault: Fault) -> Optional[str]:
    if fault.kind in OF_ALL:
        return None
    return NODES[fault.node]
