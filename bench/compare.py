"""Compare the agent's speed with floor.py's, the bare minimum of the work.

Both run in turn on the same private Redis.  Absolute figures depend on the
machine and its load: compare the ratios (median, least and greatest).

    make bench
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Dict, List

from tests.parts import CHANNEL, Daemon, RedisServer, wait_for

HERE = Path(__file__).parent
FLOOR_CHANNEL = "floor"
TASK = f"""\
name: bench
backend: redis
backend_options: {{control_channel: {CHANNEL}}}
broker: command
broker_options: {{run: /bin/true}}
max_queued: 1000
"""
Figures = Dict[str, float]


def load(
    server: RedisServer, channel: str, at_once: int, requests: int
) -> Figures:
    """Keep ``at_once`` requests open until ``requests`` are done."""
    publisher = server.connect()
    feedback = f"bench-{uuid.uuid4()}"
    answers = server.connect().pubsub(ignore_subscribe_messages=True)
    answers.subscribe(feedback)
    answers.get_message(timeout=5)
    sent: Dict[str, float] = {}
    accepted: List[float] = []
    done: List[float] = []

    def send() -> None:
        ref = str(uuid.uuid4())
        request = {
            "uuid": ref,
            "task": "bench",
            "src": "bench",
            "dst": "*",
            "options": {"feedback_channel": feedback},
        }
        sent[ref] = time.perf_counter()
        publisher.publish(channel, json.dumps(request))

    begin = time.perf_counter()
    for _ in range(at_once):
        send()
    while len(done) < requests:
        message = answers.get_message(timeout=10)
        assert message, "no answer within 10 s"
        answer = json.loads(message["data"])
        took = time.perf_counter() - sent[answer["ref"]]
        if answer["status"] == "accepted":
            accepted.append(took)
            continue
        assert answer["status"] == "done", answer
        done.append(took)
        if len(sent) < requests:
            send()
    total = time.perf_counter() - begin
    answers.connection_pool.disconnect()
    publisher.connection_pool.disconnect()
    return {
        "requests/s": requests / total,
        "accepted ms": statistics.median(accepted) * 1e3,
        "done ms": statistics.median(done) * 1e3,
    }


def compare(
    server: RedisServer, at_once: int, requests: int, times: int
) -> None:
    rounds: List[Dict[str, Figures]] = []
    for _ in range(times):
        rounds.append(
            {
                who: load(server, channel, at_once, requests)
                for who, channel in (
                    ("agent", CHANNEL),
                    ("floor", FLOOR_CHANNEL),
                )
            }
        )
    print(f"\n{at_once} at once:")
    for figure in rounds[0]["agent"]:
        ratios = sorted(
            r["agent"][figure] / r["floor"][figure] for r in rounds
        )
        agent = statistics.median(r["agent"][figure] for r in rounds)
        floor = statistics.median(r["floor"][figure] for r in rounds)
        print(
            f"  {figure:12} agent {agent:8.2f}  floor {floor:8.2f}  "
            f"ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 8, 64])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config"
        server = RedisServer(folder)
        server.start()
        for part, text in (
            ("backends/redis.yml", f"port: {server.port}\n"),
            ("tasks/bench.yml", TASK),
        ):
            (config / part).parent.mkdir(parents=True)
            (config / part).write_text(text)
        daemon = Daemon(config, log_level="info")
        floor = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "floor.py")),
                *(str(server.port), FLOOR_CHANNEL),
            ]
        )
        try:
            for channel in (CHANNEL, FLOOR_CHANNEL):
                wait_for(lambda c=channel: server.subscribers(c))
                load(server, channel, 1, 20)
            for at_once in arguments.at_once:
                compare(server, at_once, arguments.requests, arguments.rounds)
        finally:
            daemon.stop()
            floor.terminate()
            floor.wait()
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
