"""The aftermath: what must not be left over, or grow, once all is healed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

from tests.chaos.agent import Agent, commands_of
from tests.chaos.world import World
from tests.parts import WITHIN

_GIVE_BACK = 30.0  # seconds to close unused connections
_MORE_DESCRIPTORS = 2  # for example, for a large answer
# asyncio's default executor starts its threads one by one, up to this many.
_MORE_THREADS = min(32, (os.cpu_count() or 1) + 4) + 1


class Footprint(NamedTuple):
    """The resources of a process; ``rss`` in KiB."""

    descriptors: Dict[str, str]
    threads: int
    rss: int


def footprint(agent: Agent) -> Footprint:
    process = Path(f"/proc/{agent.pid}")
    descriptors = {}
    for file in (process / "fd").iterdir():
        try:
            descriptors[file.name] = os.readlink(file)
        except OSError:
            pass  # closed in the meantime
    status = dict(
        line.split(":", 1)
        for line in (process / "status").read_text().splitlines()
    )
    return Footprint(
        descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0])
    )


def growth(agent: Agent, before: Footprint) -> Iterator[str]:
    """List what an agent uses more of than before."""
    most = len(before.descriptors) + _MORE_DESCRIPTORS
    deadline = time.monotonic() + _GIVE_BACK
    while True:
        now = footprint(agent)
        if len(now.descriptors) <= most or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if len(now.descriptors) > most:
        yield (
            f"{agent.node}: {len(before.descriptors)} descriptors before, "
            f"{len(now.descriptors)} after: "
            f"{sorted(now.descriptors.values())}"
        )
    if now.threads > before.threads + _MORE_THREADS:
        yield (
            f"{agent.node}: {before.threads} threads before, {now.threads} "
            "after"
        )


def commands_left(src: str) -> List[str]:
    """List commands that still run, or are zombies."""
    deadline = time.monotonic() + WITHIN
    while True:
        left = [f"{pid} ({state})" for pid, state in commands_of(src)]
        if not left or time.monotonic() > deadline:
            return [f"a command is left: {each}" for each in left]
        time.sleep(0.2)


def zombies(agent: Agent) -> Iterator[str]:
    """List children of an agent that answers and has nothing to do."""
    for pid in agent.children():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        yield f"{agent.node} has a child: {stat}"


def keys_for_ever(world: World) -> Iterator[str]:
    connection = world.server.connect()
    for key in connection.scan_iter():
        if connection.ttl(key) == -1:
            yield f"the key {key!r} has no expiry"
    connection.connection_pool.disconnect()


def log_trouble(agent: Agent) -> Iterator[str]:
    for line in agent.journal.stray[:5]:
        yield f"{agent.node} wrote what is no record: {line}"
    for line in agent.journal.bugs[:5]:
        yield f"{agent.node} has a bug: {line}"


def observer_trouble(world: World) -> Iterator[str]:
    """Redis drops a subscriber that receives too much at once."""
    for observer in world.observers:
        dropped = observer.sessions - 1 - world.restarts
        if dropped > 0:
            yield f"Redis has dropped a subscriber {dropped} times"
        for text in observer.strange[:3]:
            yield f"published, but no response: {text}"
