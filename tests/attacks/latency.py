"""Measure how long others wait for ``accepted`` during each kind of flood.

Absolute figures depend on the machine and its load.

    make attack-latency
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from tests.attacks.load import (
    REGEX_BOMB,
    REGEX_SCHEMA,
    UNIQUE_BOMB,
    UNIQUE_SCHEMA,
    WIDE,
    Pings,
    memory,
)
from tests.integration.conftest import ConfigFolder
from tests.parts import Client, Daemon, RedisServer, wait_for

WAIT = 60.0  # seconds for the last pings
TASKS = 5


class Flood(NamedTuple):
    """
    :param rate: requests a second
    :param fields: of each request
    :param tasks: how many tasks take turns
    :param options: of these tasks
    """

    rate: float
    fields: Dict[str, Any] = {}
    tasks: int = 0
    options: Dict[str, Any] = {}


REGEX = ({"data": {"n": REGEX_BOMB}}, {"data_schema": REGEX_SCHEMA})
UNIQUE = ({"data": {"n": UNIQUE_BOMB}}, {"data_schema": UNIQUE_SCHEMA})
WORDS = (
    {"data": {"extra_args": REGEX_BOMB}},
    {"broker_extra_args": ["(a|a)*b"]},
)
SLOW = {"broker_args": "600", "max_queued": 1000}

FLOODS = {
    "nothing": Flood(0),
    "regular expression": Flood(50, REGEX[0], 1, REGEX[1]),
    "the same, five tasks": Flood(50, REGEX[0], TASKS, REGEX[1]),
    "uniqueItems": Flood(50, UNIQUE[0], 1, UNIQUE[1]),
    "the same, five tasks ": Flood(50, UNIQUE[0], TASKS, UNIQUE[1]),
    "extra_args": Flood(50, WORDS[0], 1, WORDS[1]),
    "1 MB each": Flood(5, {"data": WIDE}, 1, SLOW),
    "rejected": Flood(500, {"task": "unknown"}),
    "ignored": Flood(1000, {"dst": "another"}),
    "accepted": Flood(100, {}, 1),
}


def measure(flood: Flood, seconds: float) -> List[str]:
    """Return the cells of one row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = RedisServer(folder)
        server.start()
        config = ConfigFolder(folder / "config", server.port)
        config.agent(node={"name": "sp1"}, stop_timeout=1)
        config.task("ping", "true", max_queued=10_000)
        for number in range(flood.tasks):
            run = "sleep" if flood.options is SLOW else "true"
            config.task(f"task{number}", run, **flood.options)
        daemon = Daemon(config.path, log_level="info")
        client = Client(server)
        try:
            wait_for(lambda: "has started" in daemon.text())
            with Pings(server, within=WAIT) as pings:
                send(client, flood, seconds)
            peak = memory(daemon)
        finally:
            client.close()
            daemon.stop()
            server.stop()
    waits = sorted(pings.seconds)
    answered = [wait for wait in waits if wait < math.inf]
    return [
        *(
            f"{waits[int(len(waits) * part)] * 1e3:.0f}"
            for part in (0.5, 0.99)
        ),
        f"{waits[-1] * 1e3:.0f}",
        f"{len(answered)}/{len(waits)}",
        str(peak),
    ]


def send(client: Client, flood: Flood, seconds: float) -> None:
    texts = []
    for number in range(max(1, flood.tasks)):
        request = client.request(f"task{number}", **flood.fields)
        # Nobody hears the answers.
        request["options"] = {"feedback_channel": "nobody"}
        # What is sent costs this process as little as possible.
        texts.append(json.dumps({**request, "uuid": "UUID"}))
    begin = time.monotonic()
    for number in range(int(flood.rate * seconds)):
        text = texts[number % len(texts)]
        client.publish(text.replace("UUID", str(uuid.uuid4()), 1))
        time.sleep(max(0, begin + number / flood.rate - time.monotonic()))
    time.sleep(max(0, begin + seconds - time.monotonic()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each")
    parser.add_argument("floods", nargs="*", help=f"of {', '.join(FLOODS)}")
    arguments = parser.parse_args()
    head = ["flood", "a second", "p50 ms", "p99", "worst", "answered"]
    print("{:22} {:>8} {:>7} {:>7} {:>7} {:>9} {:>7}".format(*head, "RSS MB"))
    for name in arguments.floods or FLOODS:
        flood = FLOODS[name]
        cells = [name, f"{flood.rate:g}", *measure(flood, arguments.seconds)]
        line = "{:22} {:>8} {:>7} {:>7} {:>7} {:>9} {:>7}".format(*cells)
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
