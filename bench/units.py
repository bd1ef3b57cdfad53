"""What a run costs as a unit: the broker ``systemd`` against ``command``.

In a booted Debian, whose Redis the load reaches from outside; both take their
requests in turn, in each round:

    make bench-units RELEASE=bookworm
"""

from __future__ import annotations

import re
from functools import partial

import redis

from bench import load
from bench.__main__ import figure, in_turn
from tests.system.machine import UNIT, Here

ROUNDS, REQUESTS = 5, 200
AT_ONCE = (1, 8)
CHANNEL = "ngcp-task-agent-redis"
_WIDTH = 50
HEADING = (
    "Runs of /bin/true.  Ratios: median, least and greatest of the rounds.\n\n"
    f"{'':{_WIDTH}}{'systemd':>10}{'command':>10}"
    f"{'ratio':>8}{'least':>8}{'most':>8}"
)


class _Server:
    """The Redis of the machine, which shares its loopback with us."""

    def connect(self) -> redis.Redis[bytes]:
        return redis.Redis()


def compare(node: Here) -> None:
    """Measure on a node, and print."""
    brokers = ("systemd", "command")
    for broker in brokers:
        node.task(f"as-{broker}", "/bin/true", broker=broker)
    node.systemctl("reload", UNIT)

    def run(broker: str, at_once: int) -> load.Figures:
        before = _processor(node)
        task = f"as-{broker}"
        found = load.run(_Server(), CHANNEL, task, at_once, REQUESTS)
        used = _processor(node) - before
        return {
            "requests/s": found["requests/s"],
            "done p50, ms": found["done p50, ms"],
            "processor for a request, ms": used / REQUESTS * 1e3,
        }

    print(f"\n{node.out('systemctl', '--version').splitlines()[0]}")
    print(HEADING)
    for broker in brokers:
        run(broker, 8)
    for n in AT_ONCE:
        of = [partial(run, broker, n) for broker in brokers]
        systemd, command = in_turn(ROUNDS, of)
        for name in systemd:
            print(
                figure(f"{n} at once: {name}", systemd[name], command[name]),
                flush=True,
            )


def _processor(node: Here) -> float:
    """Return the seconds of processor time that the machine has used."""
    text = node.read("/sys/fs/cgroup/cpu.stat")
    found = re.search("^usage_usec ([0-9]+)$", text, re.M)
    assert found, text
    return int(found.group(1)) / 1e6
