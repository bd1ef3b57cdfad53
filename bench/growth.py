"""Growth: how much memory an agent takes as it answers more requests.

It remembers the uuids of requests, up to a number, and that takes memory.
What it takes beyond that would one day fill the machine.  It forgets them
after 10 minutes: with fewer than 170 requests a second, more is explained here
than it remembers.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Callable, Dict

from bench import load, processes
from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.dispatch import Dispatcher
from tests.parts import CHANNEL
from tests.unit.fakes import FakeBackend

STEP = 20_000  # requests between two looks; the first are the warm-up
REQUESTS = 200_000  # twice as many as are remembered
MOST = 2.0  # MB that may be left unexplained


def measure(run: Callable[[int], object], pss: Callable[[], float]) -> float:
    """Run all requests; return the MB that the agent has grown by.

    Shows what it takes after each step.

    :param run: runs a number of requests
    :param pss: returns the agent's memory in MB
    """
    looks: Dict[int, float] = {}
    for done in range(STEP, REQUESTS + 1, STEP):
        run(STEP)
        looks[done] = pss()
        line = f"after {done:,} requests: {looks[done]:.2f} MB"
        print(line, file=sys.stderr)
    return looks[REQUESTS] - looks[STEP]


def of_uuids() -> float:
    """Return how many of these MB remembering the uuids explains."""
    words = [sys.executable, "-m", "bench.growth"]
    return float(subprocess.check_output(words, env=processes.environment()))


def main() -> None:
    """Print it: a dispatcher that rejects every request remembers as many."""
    logging.disable()
    node, backend = Identity("bench", frozenset({"bench"}), {}), FakeBackend()
    dispatcher = Dispatcher(lambda: node, 1 << 20, 8 << 20)
    before = 0.0
    for number in range(1, REQUESTS + 1):
        body = json.dumps(load.request("no such task", "bench")).encode()
        # As in a backend, each message brings the channel's name anew.
        channel = f"{CHANNEL}-growth".encode().decode()
        dispatcher.receive(Arrival(backend, channel, body))
        backend.sent.clear()
        if number == STEP:
            before = processes.pss(os.getpid())
    assert dispatcher.counters.total["rejected"] == REQUESTS
    print(processes.pss(os.getpid()) - before)


if __name__ == "__main__":
    main()
